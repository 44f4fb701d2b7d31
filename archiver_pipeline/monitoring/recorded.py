"""What Dagster has recorded of runs, each finished one added up once: how it ended, why, and how long it took."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import dagster as dg

from archiver_pipeline.config.effective import DatabaseSettings, TableSettings
from archiver_pipeline.monitoring.watch import Touch
from archiver_pipeline.orchestration.history import (
    FailedRun,
    PastRun,
    RunFigures,
    read_failure,
    read_figures,
    read_planned,
    read_restored,
    read_runs,
)
from archiver_pipeline.orchestration.names import asset_key
from archiver_pipeline.orchestration.restoring import restored_key

STATUSES = ("success", "failure", "canceled")
_PAGE = 1000
# SQLite gives the numbers of deleted events to new ones: a little of what was read before is read again.
_READ_AGAIN = 50


class RunFollower:
    """The runs that planned to write an asset and were not settled yet."""

    def __init__(self, key: dg.AssetKey) -> None:
        self.key = key
        self._open: dict[str, int] = {}
        self._known: set[str] = set()
        self._position = 0

    @property
    def first_position(self) -> int:
        """Nothing that an open run wrote is at or before it."""
        return min(self._open.values(), default=self._position + 1) - 1

    def read_finished(self, instance: dg.DagsterInstance, touch: Touch) -> list[PastRun]:
        """The open runs that have finished, oldest first. Each comes again until it is settled."""
        self._read_planned(instance, touch)
        found = read_runs(instance, self._open)
        stored = {run.run_id for run in found}
        self._open = {run_id: position for run_id, position in self._open.items() if run_id in stored}
        return [run for run in reversed(found) if run.is_finished]

    def settle(self, run: PastRun) -> None:
        self._open.pop(run.run_id)

    def _read_planned(self, instance: dg.DagsterInstance, touch: Touch) -> None:
        after, is_last = max(0, self._position - _READ_AGAIN), False
        while not is_last:
            page = read_planned(instance, self.key, after=after, limit=_PAGE)
            for plan in page:
                after = plan.position
                if plan.run_id not in self._known:
                    self._known.add(plan.run_id)
                    self._open[plan.run_id] = plan.position
            is_last = len(page) < _PAGE
            touch()
        self._position = max(self._position, after)


@dataclass(frozen=True, slots=True)
class Recorded:
    """All recorded archive runs of a table, added up. `runs` counts by status, `errors` by class of error.

    `step_seconds` and `reports` are sum and count, by step, over the attempts that reported. Times are UTC.
    """

    runs: Mapping[str, int]
    errors: Mapping[str, int]
    step_seconds: Mapping[str, float]
    reports: Mapping[str, int]
    reclaimed_bytes: int
    paused_seconds: float
    last_run_at: datetime | None
    last_success_at: datetime | None
    last_failure: FailedRun | None


class TableRuns:
    """Adds up the archive runs of one table."""

    def __init__(self, settings: TableSettings) -> None:
        self.settings = settings
        self.published: Recorded | None = None
        """None until every stored run was read."""
        self._follower = RunFollower(asset_key(settings))
        self._runs: Counter[str] = Counter(dict.fromkeys(STATUSES, 0))
        self._errors: Counter[str] = Counter()
        self._step_seconds: Counter[str] = Counter()
        self._reports: Counter[str] = Counter()
        self._attempts: set[str] = set()
        self._reclaimed_bytes = 0
        self._paused_seconds = 0.0
        self._last_run_at: datetime | None = None
        self._last_success_at: datetime | None = None
        self._last_failure: FailedRun | None = None

    def look(self, instance: dg.DagsterInstance, touch: Touch) -> None:
        """Add the runs that have finished since the last look. Safe to repeat after any error."""
        finished = self._follower.read_finished(instance, touch)
        figures = read_figures(
            instance, self._follower.key, [run.run_id for run in finished], after=self._follower.first_position
        )
        for run in finished:
            self._add(instance, replace(run, figures=figures.get(run.run_id)))
            self._follower.settle(run)
            touch()
        self.published = self._sum()

    def _add(self, instance: dg.DagsterInstance, run: PastRun) -> None:
        if run.failed:
            self._last_failure = FailedRun(run, read_failure(instance, self.settings, run.run_id))
            self._errors[self._last_failure.failure.error] += 1
        self._runs[_status(run)] += 1
        self._last_run_at = _later(self._last_run_at, run.ended_at)
        if run.succeeded:
            self._last_success_at = _later(self._last_success_at, run.ended_at)
        if run.figures and run.figures.attempt_id not in self._attempts:
            self._attempts.add(run.figures.attempt_id)
            self._add_figures(run.figures)

    def _add_figures(self, figures: RunFigures) -> None:
        for step, seconds in figures.step_seconds.items():
            self._step_seconds[step] += seconds  # type: ignore[assignment]  # a Counter takes fractions, its stub does not
            self._reports[step] += 1
        self._paused_seconds += figures.paused_seconds
        self._reclaimed_bytes += max(0, figures.space_reclaimed_bytes)

    def _sum(self) -> Recorded:
        return Recorded(
            runs=dict(self._runs),
            errors=dict(self._errors),
            step_seconds=dict(self._step_seconds),
            reports=dict(self._reports),
            reclaimed_bytes=self._reclaimed_bytes,
            paused_seconds=self._paused_seconds,
            last_run_at=self._last_run_at,
            last_success_at=self._last_success_at,
            last_failure=self._last_failure,
        )


@dataclass(frozen=True, slots=True)
class Restores:
    """All recorded restores into a database, added up: runs by status, and rows by source table as text."""

    runs: Mapping[str, int]
    rows: Mapping[str, int]


class DatabaseRestores:
    """Adds up the restores into one database."""

    def __init__(self, database: DatabaseSettings) -> None:
        self.database = database
        self.published: Restores | None = None
        self._follower = RunFollower(restored_key(database))
        self._runs: Counter[str] = Counter(dict.fromkeys(STATUSES, 0))
        self._rows: Counter[str] = Counter()

    def look(self, instance: dg.DagsterInstance, touch: Touch) -> None:
        """Add the restores that have finished since the last look. Safe to repeat after any error."""
        for run in self._follower.read_finished(instance, touch):
            restored = read_restored(instance, run.run_id)
            if restored is not None:
                self._rows[restored.source] += restored.rows
            self._runs[_status(run)] += 1
            self._follower.settle(run)
            touch()
        self.published = Restores(dict(self._runs), dict(self._rows))


def _status(run: PastRun) -> str:
    return "success" if run.succeeded else run.status.value.lower()


def _later(known: datetime | None, found: datetime | None) -> datetime | None:
    return max(filter(None, [known, found]), default=None)
