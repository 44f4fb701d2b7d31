"""The looks that are taken at databases, store and Dagster. Each raises ArchiverError when it cannot see."""

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorStatus

from archiver_pipeline.config.effective import DatabaseSettings, TableSettings
from archiver_pipeline.domain.windows import WindowUnit, eligible_since, window_containing
from archiver_pipeline.engine.backlog import Backlog, measure_backlog
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ArchiverError, NetworkError
from archiver_pipeline.monitoring.watch import Touch
from archiver_pipeline.orchestration.launch import open_instance
from archiver_pipeline.postgres.advisory_lock import is_locked
from archiver_pipeline.postgres.catalog import server_version
from archiver_pipeline.postgres.connection import connect, source_errors
from archiver_pipeline.postgres.maintenance import table_bytes
from archiver_pipeline.storage.s3 import S3Store

ELIGIBLE_COUNTED_ROWS = 100_000


def reach_database(database: DatabaseSettings, _: Touch) -> int:
    """Connect to the primary, and to the replica when rows are read there; the primary's version number."""
    if database.replica is not None:
        with connect(database.replica) as replica:
            server_version(replica)
    with connect(database.primary) as connection:
        return server_version(connection)


def reach_store(store: S3Store, _: Touch) -> bool:
    """True when the bucket can be listed."""
    store.require_bucket()
    return True


@dataclass(frozen=True, slots=True)
class TableState:
    """How a table stands in its database. `due_since` is when its oldest eligible row could first be archived."""

    backlog: Backlog
    due_since: datetime | None
    table_bytes: int
    lock_held: bool


def look_at_tables(
    store: S3Store, database: DatabaseSettings, touch: Touch
) -> Mapping[TableSettings, TableState | ArchiverError]:
    """How every table of a database stands; for one that cannot be asked, why.

    Raises NetworkError when the database or the store does not answer: that is no trait of a table.
    """
    seen: dict[TableSettings, TableState | ArchiverError] = {}
    for table in database.tables:
        try:
            seen[table] = _look_at_table(store, database, table)
        except NetworkError:
            raise
        except ArchiverError as error:
            seen[table] = error
        touch()
    return seen


def _look_at_table(store: S3Store, database: DatabaseSettings, table: TableSettings) -> TableState:
    session = ArchiveSession(table, database, store.settings, run_id="monitor", shared_store=store)
    with contextlib.closing(session), source_errors(session.primary):
        backlog = measure_backlog(session, most_rows=ELIGIBLE_COUNTED_ROWS)
        size_bytes = table_bytes(session.connection, session.name)
        lock_held = is_locked(session.connection, session.name)
    return TableState(backlog, _due_since(table, backlog), size_bytes, lock_held)


def _due_since(table: TableSettings, backlog: Backlog) -> datetime | None:
    if backlog.oldest_row is None:
        return None
    window = window_containing(WindowUnit(table.window), backlog.oldest_row, first=table.first_window)
    return eligible_since(window, table.retention_days)


@dataclass(frozen=True, slots=True)
class DaemonState:
    """Whether Dagster's daemon must be there, because a sensor or a schedule is running, and when it was last seen.

    `silent` are the parts of it that have gone without a heartbeat for too long.
    """

    is_expected: bool
    silent: tuple[str, ...]
    last_heartbeat: datetime | None


class DagsterEye:
    """Dagster's storage, opened at the first look: it may be down when the monitor starts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._instance: dg.DagsterInstance | None = None
        self._opening = threading.Lock()

    @property
    def instance(self) -> dg.DagsterInstance:
        with self._opening:
            if self._instance is None:
                self._instance = open_instance(self._folder)
            return self._instance

    def look(self, _: Touch) -> DaemonState:
        """How the daemon stands. Raises when the storage does not answer."""
        instance = self.instance
        running = instance.all_instigator_state(instigator_statuses={InstigatorStatus.RUNNING})
        statuses = instance.get_daemon_statuses()
        beats = [status.last_heartbeat.timestamp for status in statuses.values() if status.last_heartbeat]
        return DaemonState(
            is_expected=bool(running),
            silent=tuple(sorted(kind.lower() for kind, status in statuses.items() if not status.healthy)),
            last_heartbeat=datetime.fromtimestamp(max(beats), UTC) if beats else None,
        )
