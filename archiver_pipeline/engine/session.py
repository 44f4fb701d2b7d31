"""What one run holds on to for one table: settings, connections, store, lock, staging folder."""

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from time import monotonic
from typing import TypeVar

from archiver_pipeline.config.effective import DatabaseSettings, SourceSettings, StoreSettings, TableSettings
from archiver_pipeline.domain.batch_size import DeletePace
from archiver_pipeline.domain.layout import DataFormat, key_part
from archiver_pipeline.domain.lock import LockName
from archiver_pipeline.domain.table import TableName, TableShape
from archiver_pipeline.engine.audit import trail_of
from archiver_pipeline.engine.holds import HoldSources
from archiver_pipeline.engine.pool import Pool
from archiver_pipeline.engine.progress import Progress, SilentProgress
from archiver_pipeline.engine.table_lock import acquire_lock
from archiver_pipeline.engine.throttle import Throttle, looks_at_source
from archiver_pipeline.engine.work import DeleteWatch, run_all
from archiver_pipeline.postgres.advisory_lock import AdvisoryTableLock
from archiver_pipeline.postgres.catalog import table_name
from archiver_pipeline.postgres.connection import Connection, connect
from archiver_pipeline.postgres.copy_out import RowStream
from archiver_pipeline.postgres.partitions import PartitionSession
from archiver_pipeline.storage.s3 import S3Store

_RESERVED_CONNECTIONS = 3
_MOST_WORKERS_UNASKED = 4
_PRIVATE_FOLDER = 0o700
_FOLDER_HEX_DIGITS = 12

Source = TypeVar("Source")
Result = TypeVar("Result")


def workers_of(settings: TableSettings) -> int:
    """Batches at once in a run of this table. Twice the cores keeps them busy while others wait for the network; more
    than that asks too much of a source unless it is configured."""
    wanted = settings.workers or min(2 * _cores(), _MOST_WORKERS_UNASKED)
    return max(1, min(wanted, settings.connection_pool_size - _reserved(settings)))


def _cores() -> int:
    """The cores that this process may use, which in a container are often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def connections_of_run(settings: TableSettings) -> int:
    """Connections to the database that a run of this table has at most: one for each worker, the main thread's, the
    lock's, one that tells the time of receipts, and with a throttle or allowed hours one that looks."""
    return workers_of(settings) + _reserved(settings)


def _reserved(settings: TableSettings) -> int:
    return _RESERVED_CONNECTIONS + looks_at_source(settings)


@dataclass(eq=False)
class ArchiveSession:
    """One run's hold on one table. Everything opens on first use; `close` gives everything back.

    Whoever only looks at many tables in turn gives them one `shared_store`: to make one costs more than to ask it.
    """

    settings: TableSettings
    database: DatabaseSettings
    store_settings: StoreSettings
    run_id: str
    progress: Progress = field(default_factory=SilentProgress)
    stopping: threading.Event = field(default_factory=threading.Event)
    shared_store: InitVar[S3Store | None] = None
    job: str = ""
    known_pace: DeletePace | None = None
    """What the deletes of the table's last attempt took, as far as whoever opens the session knows."""

    def __post_init__(self, shared_store: S3Store | None) -> None:
        self.progress = self.progress.of_run(self.run_id)
        self.name: TableName = table_name(self.settings)
        self.format = DataFormat(self.settings.format)
        self.workers = workers_of(self.settings)
        self.store = shared_store or S3Store(self.store_settings, connections=self.workers + 1)
        self.audit = trail_of(self.store, self.name, self.database, self.settings, run_id=self.run_id, job=self.job)
        self.row_streams: Pool[RowStream] = Pool(lambda: RowStream(self.reader, **self._limits()))
        self.connections: Pool[Connection] = Pool(lambda: connect(self.primary, **self._limits()))
        self.hold_sources = HoldSources(self.database.holds, self.settings, self.name, self.primary)
        self._delete_sessions: Pool[PartitionSession] | None = None
        self._delete_shape: TableShape | None = None
        self._opening = threading.Lock()
        self.telling_time = threading.Lock()
        self.delete_watch = DeleteWatch()
        self._turns = threading.Lock()
        self._next_turn_at = 0.0
        self.store_encrypts = False
        """Whether the store was seen to encrypt as the table demands."""
        self._connection: Connection | None = None
        self._lock: AdvisoryTableLock | None = None
        self.throttle = Throttle(
            self.settings, self.database, self.name, self.progress, self.stopping, self._require_lock_if_taken
        )

    @property
    def primary(self) -> SourceSettings:
        """Where rows are deleted."""
        return self.database.primary

    @property
    def reader(self) -> SourceSettings:
        """Where rows are read: the replica when there is one."""
        return self.database.replica or self.database.primary

    @property
    def connection(self) -> Connection:
        """An autocommit connection to the primary for the main thread."""
        if self._connection is None or self._connection.closed:
            self._connection = connect(self.primary)
        return self._connection

    @property
    def lock(self) -> AdvisoryTableLock:
        """The table lock, taken on first use. Raises LockHeldError when another run has it."""
        if self._lock is None:
            name = LockName(self.name, self.store_settings.bucket, self.store_settings.prefix)
            self._lock = acquire_lock(self.database.lock_of(self.settings), self.primary, name, self.run_id)
        return self._lock

    def _require_lock_if_taken(self) -> None:
        if self._lock is not None:
            self._lock.require_held()

    def delete_sessions(self, shape: TableShape) -> Pool[PartitionSession]:
        """Connections that delete rows of this shape. Workers ask at once, and a later plan may have found another."""
        with self._opening:
            if self._delete_sessions is None or self._delete_shape != shape:
                if self._delete_sessions is not None:
                    self._delete_sessions.close()
                self._delete_sessions = Pool(lambda: PartitionSession(self.primary, shape, **self._limits()))
                self._delete_shape = shape
            return self._delete_sessions

    def staging_folder(self, attempt_id: str) -> Path:
        """The attempt's private folder for staged files; made when missing."""
        folder = self.staging_root / attempt_id
        folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
        return folder

    def remove_other_staging(self, attempt_id: str | None) -> None:
        """Remove staged files of this table's other attempts. Only under the table lock: no other attempt is alive."""
        self.lock.require_held()
        parent = self.staging_root
        for folder in parent.iterdir() if parent.exists() else ():
            if folder.name != attempt_id:
                shutil.rmtree(folder)

    def pause_between_batches(self) -> None:
        """Wait `sleep_between_batches`, or less when the run is being stopped."""
        self.stopping.wait(self.settings.sleep_between_batches_seconds)

    @property
    def is_unhurried(self) -> bool:
        """Whether the run rests between batches: then nothing else of it needs to be at full speed."""
        return self.settings.sleep_between_batches_seconds > 0

    def await_turn(self) -> None:
        """Spread the batches that several workers begin evenly over `sleep_between_batches`: at once they would be
        felt, however short each is."""
        spacing = self.settings.sleep_between_batches_seconds / self.workers
        with self._turns:
            now = monotonic()
            turn_at = max(now, self._next_turn_at)
            self._next_turn_at = turn_at + spacing
        self.stopping.wait(turn_at - now)

    def rest_as_long_as(self, worked_seconds: float) -> None:
        """Give the source at least as much time without work, up to `sleep_between_batches`."""
        self.stopping.wait(min(worked_seconds, self.settings.sleep_between_batches_seconds))

    def for_each(
        self, items: tuple[Source, ...], work: Callable[[Source], Result], *, quietly: bool = False
    ) -> tuple[Result, ...]:
        """Do `work` on every item with the run's worker threads; results come in the items' order. `quietly` does one
        at a time in a run that rests between batches, unless `workers` is configured.

        The first error stops the rest: queued items are not begun, running statements are cancelled.
        """
        workers = 1 if quietly and self.is_unhurried and self.settings.workers is None else self.workers
        return run_all(items, work, workers, self.stopping, self._cancel_all)

    def close_workers(self) -> None:
        """Give back the connections of the worker threads: each step has a kind of its own, and those of the last one
        would count against `connection_pool_size` beside those of the next. Not while a worker works."""
        self.row_streams.close()
        self.connections.close()
        self.hold_sources.close()
        if self._delete_sessions is not None:
            self._delete_sessions.close()

    def close(self) -> None:
        """Give back connections and the lock. Safe to repeat."""
        self.close_workers()
        self.throttle.close()
        if self._connection is not None:
            self._connection.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _cancel_all(self) -> None:
        self.row_streams.cancel_all()
        self.connections.cancel_all()
        if self._delete_sessions is not None:
            self._delete_sessions.cancel_all()

    def _limits(self) -> dict[str, str]:
        """Settings of every connection that reads or deletes rows; a timeout of 0 is none."""
        return {"statement_timeout": f"{self.settings.statement_timeout_seconds}s"}

    @property
    def staging_root(self) -> Path:
        """Where this table is staged: apart for every source and store, so that two configurations never meet."""
        root = Path(self.settings.staging_dir or Path(tempfile.gettempdir()) / f"archiver-{os.getuid()}")
        source, store = self.primary, self.store_settings
        ends = repr((source.host, source.port, source.dbname, store.endpoint, store.bucket, store.prefix))
        apart = hashlib.sha256(ends.encode()).hexdigest()[:_FOLDER_HEX_DIGITS]
        return root.joinpath(apart, *map(key_part, (self.name.database, self.name.schema, self.name.table)))
