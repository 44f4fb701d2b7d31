"""What one restore holds on to: request, target, store, lock. The mirror of `ArchiveSession`."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from archiver_pipeline.config.effective import (
    DatabaseSettings,
    SourceSettings,
    StoreSettings,
    TableSettings,
    WatermarkSettings,
)
from archiver_pipeline.domain.lock import LockName
from archiver_pipeline.domain.restore import RestoredObject, RestoreRequest
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.audit import trail_of
from archiver_pipeline.engine.pool import Pool
from archiver_pipeline.engine.progress import Progress, SilentProgress
from archiver_pipeline.engine.table_lock import acquire_lock
from archiver_pipeline.engine.watermark import Watermark
from archiver_pipeline.engine.work import run_all
from archiver_pipeline.postgres.advisory_lock import AdvisoryTableLock
from archiver_pipeline.postgres.connection import Connection, connect
from archiver_pipeline.storage.s3 import S3Store

_RESERVED_CONNECTIONS = 2
_MOST_WORKERS_UNASKED = 4

Source = TypeVar("Source")
Result = TypeVar("Result")


@dataclass(eq=False)
class RestoreSession:
    """One restore's hold on its target. Everything opens on first use; `close` gives everything back.

    `settings` is the target's entry in the configuration, None when the target is no configured table: then nothing
    will ever archive what is restored, and nothing needs protection.
    """

    request: RestoreRequest
    database: DatabaseSettings
    settings: TableSettings | None
    store_settings: StoreSettings
    watermark_settings: WatermarkSettings
    run_id: str
    progress: Progress = field(default_factory=SilentProgress)
    stopping: threading.Event = field(default_factory=threading.Event)
    job: str = ""

    def __post_init__(self) -> None:
        self.progress = self.progress.of_run(self.run_id)
        self.workers = self._workers()
        self.store = S3Store(self.store_settings, connections=2 * self.workers + 1)
        self.audit = trail_of(
            self.store, self.request.source, self.database, self._source_settings(), run_id=self.run_id, job=self.job
        )
        """The trail of the table whose archives are read."""
        self.connections: Pool[Connection] = Pool(lambda: connect(self.target))
        self._connection: Connection | None = None
        self._lock: AdvisoryTableLock | None = None
        self.watermark: Watermark | None = None
        self.restored: dict[str, RestoredObject] = {}
        """What this session has restored, by batch id: a second try after an error leaves these objects alone."""

    @property
    def name(self) -> TableName:
        """The table that the session works on."""
        return self.request.target

    @property
    def target(self) -> SourceSettings:
        """Where rows are restored to."""
        return self.database.primary

    @property
    def connection(self) -> Connection:
        """An autocommit connection to the target for the main thread."""
        if self._connection is None or self._connection.closed:
            self._connection = connect(self.target)
        return self._connection

    @property
    def lock(self) -> AdvisoryTableLock:
        """The target table's lock, the same that an archive run takes, taken on first use.

        Raises LockHeldError when another run has it.
        """
        if self._lock is None:
            name = LockName(self.name, self.store_settings.bucket, self.store_settings.prefix)
            self._lock = acquire_lock(self.database.lock_of(self.settings), self.target, name, self.run_id)
        return self._lock

    def for_each(self, items: tuple[Source, ...], work: Callable[[Source], Result]) -> tuple[Result, ...]:
        """Do `work` on every item with the session's worker threads, begun in the items' order; results in the same.

        The first error stops the rest: queued items are not begun, running statements are cancelled.
        """
        return run_all(items, work, self.workers, self.stopping, self.connections.cancel_all)

    def close(self) -> None:
        """Give back connections and the lock. Safe to repeat."""
        self.connections.close()
        if self._connection is not None:
            self._connection.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _source_settings(self) -> TableSettings | None:
        """The source's entry in the configuration, None when it is of another database or of none."""
        source = self.request.source
        if source.database != self.database.id:
            return None
        found = (one for one in self.database.tables if (one.schema, one.table) == (source.schema, source.table))
        return next(found, None)

    def _workers(self) -> int:
        wanted = self.settings.workers if self.settings and self.settings.workers else None
        most = wanted or min(2 * (os.cpu_count() or 1), _MOST_WORKERS_UNASKED)
        return max(1, min(most, self.database.connection_pool_size - _RESERVED_CONNECTIONS))
