"""Before each batch: whether it may begin. Waits while the database is under pressure, refuses outside allowed hours.

Nothing is held meanwhile: no transaction, no snapshot, no connection of a worker. The table lock is, and is looked at
again before work goes on.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from archiver_pipeline.config.effective import DatabaseSettings, TableSettings
from archiver_pipeline.domain.batch import Plan
from archiver_pipeline.domain.hours import Closed, closed_at
from archiver_pipeline.domain.table import TableName, TableShape
from archiver_pipeline.domain.throttle import NO_PAUSES, Pauses, Reading, ThrottleSettings, Verdict, judge
from archiver_pipeline.engine.progress import Progress
from archiver_pipeline.engine.work import StoppedError
from archiver_pipeline.postgres.pressure import PressureReader

_LOOK_SECONDS = 0.2
_UNTHROTTLED = ThrottleSettings(limits=())


def looks_at_source(settings: TableSettings) -> bool:
    """Whether a run of this table has a connection more, to look whether it may go on."""
    return settings.throttle is not None or settings.allowed_hours is not None


class Throttle:
    """The gate that every batch of one run passes, from many threads.

    A step that was refused once is refused until `begin`.
    """

    def __init__(
        self,
        settings: TableSettings,
        database: DatabaseSettings,
        name: TableName,
        progress: Progress,
        stopping: threading.Event,
        require_lock: Callable[[], None],
    ) -> None:
        self._is_needed = looks_at_source(settings)
        self._settings = settings.throttle or _UNTHROTTLED
        self._hours = settings.allowed_hours
        self._database = database
        self._name = name
        self._progress = progress
        self._stopping = stopping
        self._require_lock = require_lock
        self._reader: PressureReader | None = None
        self._verdict = Verdict()
        self._closed: Closed | None = None
        self._looked_at: float | None = None
        self._refusals: dict[str, str] = {}
        self._deciding = threading.Lock()
        self._alone = threading.Lock()
        self._pauses = NO_PAUSES

    def begin(self) -> None:
        """A new attempt: nothing is refused yet."""
        self._refusals.clear()
        self._looked_at = None

    def take_pauses(self) -> Pauses:
        """How long was waited since this was last asked."""
        with self._deciding:
            taken, self._pauses = self._pauses, NO_PAUSES
        return taken

    @contextmanager
    def batch(self, plan: Plan, step: str) -> Iterator[str]:
        """Around one batch of a step: waits as long as it must, then says why the batch may not begin; empty when it
        may. Near a limit it lets one batch at a time go on.

        Raises StoppedError when the run is being stopped, LockLostError when the table lock was lost meanwhile, and
        NetworkError or its like when the source's clock can't be read.
        """
        if not self._is_needed:
            yield ""
            return
        refusal = self.refusal(plan.shape, step, ignore_hours=plan.ignores_hours)
        if refusal or not self.is_pressed:
            yield refusal
            return
        with self._taking(self._alone):
            # Time has passed while others were at work.
            yield self.refusal(plan.shape, step, ignore_hours=plan.ignores_hours)

    def refusal(self, shape: TableShape, step: str, *, ignore_hours: bool) -> str:
        """As `batch`, for a step that has none."""
        with self._taking(self._deciding):
            return self._refusal(shape, step, ignore_hours=ignore_hours) if self._is_needed else ""

    def closed(self, shape: TableShape, *, ignore_hours: bool) -> Closed | None:
        """Whether this moment is outside the allowed hours, by the source's clock."""
        if self._hours is None or ignore_hours:
            return None
        with self._taking(self._deciding):
            return closed_at(self._hours, self._reader_of(shape).clock())

    def read_once(self, shape: TableShape) -> tuple[Reading, ...]:
        """Every configured signal as it is now."""
        if not self._is_needed:
            return ()
        with self._taking(self._deciding):
            return self._reader_of(shape).read()

    @property
    def is_pressed(self) -> bool:
        """Whether the last look found a signal near its limit or over it."""
        return bool(self._verdict.pressed)

    @property
    def is_closed(self) -> bool:
        """Whether the last look was outside the allowed hours."""
        return self._closed is not None

    def close(self) -> None:
        """Close the connections. Safe to repeat."""
        if self._reader is not None:
            self._reader.close()

    def _refusal(self, shape: TableShape, step: str, *, ignore_hours: bool) -> str:
        if step not in self._refusals:
            self._look(shape, ignore_hours=ignore_hours)
            if self._verdict.over and not self._closed:
                self._pause(shape, step, ignore_hours=ignore_hours)
            if self._closed is not None:
                self._refusals[step] = str(self._closed)
            elif self._verdict.over:
                seconds = self._settings.max_pause_seconds
                self._refusals[step] = f"throttled, and waited {seconds:g} s in vain: {self._verdict.reason}"
        return self._refusals.get(step, "")

    def _look(self, shape: TableShape, *, ignore_hours: bool, again: bool = False) -> None:
        """Hours and signals as they are; as they were, while the last look is not old."""
        now = monotonic()
        if not again and self._looked_at is not None and now - self._looked_at < self._settings.poll_seconds:
            return
        reader = self._reader_of(shape)
        self._closed = None if ignore_hours or self._hours is None else closed_at(self._hours, reader.clock())
        self._verdict = judge(reader.read(), self._settings.shrink_at_percent)
        self._looked_at = monotonic()

    def _pause(self, shape: TableShape, step: str, *, ignore_hours: bool) -> None:
        """Wait until no signal is over its limit, the hours end, or the wait is too long."""
        began = told = monotonic()
        self._progress.archive_paused(self._name, step, self._verdict.reason)
        while self._verdict.over and not self._closed and told - began < self._settings.max_pause_seconds:
            left = self._settings.max_pause_seconds - (told - began)
            waited_for = self._verdict
            self._stopping.wait(min(self._settings.poll_seconds, left))
            self._require_going_on()
            self._look(shape, ignore_hours=ignore_hours, again=True)
            now = monotonic()
            self._pauses += Pauses.of(now - told, waited_for)
            told = now
        self._require_lock()
        if not self._verdict.over:
            self._progress.archive_resumed(self._name, step, told - began)

    def _reader_of(self, shape: TableShape) -> PressureReader:
        if self._reader is None:
            self._reader = PressureReader(self._database.primary, self._database.replica, shape, self._settings)
        return self._reader

    @contextmanager
    def _taking(self, lock: threading.Lock) -> Iterator[None]:
        """Wait for a lock of ours, or for the run to be stopped."""
        self._require_going_on()
        while not lock.acquire(timeout=_LOOK_SECONDS):
            self._require_going_on()
        try:
            self._require_going_on()
            yield
        finally:
            lock.release()

    def _require_going_on(self) -> None:
        if self._stopping.is_set():
            raise StoppedError("the run is being stopped")
