"""Backlog and intake of a table: what an archive would take now, and how fast more of it comes.

Both are looked up in the index of the timestamp column, and counted no further than the caller says.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from archiver_pipeline.config.effective import DatabaseSettings, StoreSettings, TableSettings
from archiver_pipeline.domain.protection import protections_in_force, unprotected_spans
from archiver_pipeline.domain.table import TableName, TableShape, TimedTable
from archiver_pipeline.domain.windows import WindowUnit, end_of_eligible
from archiver_pipeline.engine.holds import with_holds, with_holds_of
from archiver_pipeline.engine.protection import read_protections
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.postgres.catalog import find_timed_tables, inspect_table, table_name
from archiver_pipeline.postgres.connection import Connection, connect, source_errors
from archiver_pipeline.postgres.eligible import count_between, first_rows_between, oldest_eligible, source_clock
from archiver_pipeline.postgres.lock_holders import LockHolder, find_lock_holders
from archiver_pipeline.storage.s3 import S3Store

_INTAKE_DAYS = 7
_DAY_SECONDS = 86_400
_LOOK_TIMEOUT = "30s"


@dataclass(frozen=True, slots=True)
class Backlog:
    """Rows that an archive would take now: in windows wholly older than retention, not protected and under no hold.

    `eligible_rows` is counted up to the limit that was asked for; `is_capped` when there are more. `oldest_row` is the
    time of the oldest of them; None when there is none. `cutoff` is the end of the last such window, exclusive. UTC.
    """

    table: TableName
    eligible_rows: int
    is_capped: bool
    oldest_row: datetime | None
    cutoff: datetime


@dataclass(frozen=True, slots=True)
class TableLook:
    """Backlog and intake (rows per day) of one table, or why it could not be looked at; who holds its advisory lock."""

    settings: TableSettings
    backlog: Backlog | None = None
    intake_rows_per_day: float = 0.0
    error: ArchiverError | None = None
    holder: LockHolder | None = None


def measure_backlog(session: ArchiveSession, *, most_rows: int, shape: TableShape | None = None) -> Backlog:
    """What is left to archive, counting no further than `most_rows`. Takes no lock, changes nothing.

    Give the `shape` when it is known, to spare the look at the catalog. Raises ManifestError when a protection cannot
    be read, and what `inspect_table` and `with_holds` raise.
    """
    with source_errors(session.primary):
        known = with_holds(session, shape or inspect_table(session.connection, session.settings))
        return _backlog(session.connection, session.store, session.settings, known, most_rows)


def measure_intake(session: ArchiveSession, shape: TableShape, cutoff: datetime, *, most_rows: int) -> float:
    """Rows that become eligible per day: those just younger than `cutoff`, averaged over the days that come next, at
    most seven. When there are more than `most_rows`, over the time that so many of them span."""
    with source_errors(session.primary):
        return _intake(session.connection, session.settings, shape, cutoff, most_rows)


def look_at_tables(
    database: DatabaseSettings, store_settings: StoreSettings, tables: Sequence[TableSettings], *, most_rows: int
) -> Iterator[TableLook]:
    """Backlog and intake of many tables of a database over one connection. A table that cannot be looked at is one with
    an error; when the database or the store does not answer, all are."""
    try:
        store = S3Store(store_settings)
        store.require_bucket()
        connection = connect(database.primary, statement_timeout=_LOOK_TIMEOUT)
    except ArchiverError as error:
        yield from (TableLook(settings, error=error) for settings in tables)
        return
    with contextlib.closing(connection), source_errors(database.primary):
        known = find_timed_tables(connection, tables)
        holders = find_lock_holders(connection, map(table_name, tables))
        for settings in tables:
            name = table_name(settings)
            look = _look(database, connection, store, settings, known.get(name), most_rows)
            yield replace(look, holder=holders.get(name))


def _look(
    database: DatabaseSettings,
    connection: Connection,
    store: S3Store,
    settings: TableSettings,
    known: TimedTable | None,
    most_rows: int,
) -> TableLook:
    try:
        with source_errors(database.primary):
            found = known or inspect_table(connection, settings)
            timed = with_holds_of(connection, database, settings, found)
            backlog = _backlog(connection, store, settings, timed, most_rows)
            return TableLook(settings, backlog, _intake(connection, settings, timed, backlog.cutoff, most_rows))
    except ArchiverError as error:
        return TableLook(settings, error=error)


def _backlog(
    connection: Connection, store: S3Store, settings: TableSettings, timed: TableShape | TimedTable, most_rows: int
) -> Backlog:
    now = source_clock(connection).astimezone(UTC)
    cutoff = end_of_eligible(WindowUnit(settings.window), now, settings.retention_days)
    rows, oldest = 0, oldest_eligible(connection, timed, cutoff, after=None)
    if oldest is None:
        return Backlog(timed.name, 0, False, None, cutoff)
    oldest = None
    for start, end in _unprotected(store, settings, timed.name, now, cutoff):
        oldest = oldest or oldest_eligible(connection, timed, end, after=start)
        rows += count_between(connection, timed, start, end, most_rows + 1 - rows)
        if rows > most_rows:
            break
    return Backlog(timed.name, min(rows, most_rows), rows > most_rows, oldest, cutoff)


def _unprotected(
    store: S3Store, settings: TableSettings, name: TableName, now: datetime, cutoff: datetime
) -> list[tuple[datetime | None, datetime]]:
    """The time before the cutoff that no protection reaches into."""
    protections = protections_in_force(read_protections(store, name), now)
    return unprotected_spans(WindowUnit(settings.window), cutoff, protections, first=settings.first_window)


def _intake(
    connection: Connection,
    settings: TableSettings,
    timed: TableShape | TimedTable,
    cutoff: datetime,
    most_rows: int,
) -> float:
    days = min(_INTAKE_DAYS, settings.retention_days)
    rows, last = first_rows_between(connection, timed, cutoff, cutoff + timedelta(days=days), most_rows)
    if rows == most_rows and last is not None and last > cutoff:
        return rows * _DAY_SECONDS / (last - cutoff).total_seconds()
    return rows / days
