"""Backlog and intake of a table: what an archive would take now, and how fast more of it comes.

Both are looked up in the index of the timestamp column, and counted no further than the caller says.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from archiver_pipeline.domain.protection import unprotected_spans
from archiver_pipeline.domain.table import TableName, TableShape
from archiver_pipeline.domain.windows import WindowUnit
from archiver_pipeline.engine.inventory import DateRange, end_of_due
from archiver_pipeline.engine.protection import session_protections
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline.postgres.connection import source_errors
from archiver_pipeline.postgres.eligible import count_between, first_rows_between, oldest_eligible

_INTAKE_DAYS = 7
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Backlog:
    """Rows that an archive would take now: in windows wholly older than retention, and not protected.

    `eligible_rows` is counted up to the limit that was asked for; `is_capped` when there are more. `oldest_row` is the
    time of the oldest of them; None when there is none. `cutoff` is the end of the last such window, exclusive. UTC.
    """

    table: TableName
    eligible_rows: int
    is_capped: bool
    oldest_row: datetime | None
    cutoff: datetime


def measure_backlog(session: ArchiveSession, *, most_rows: int, shape: TableShape | None = None) -> Backlog:
    """What is left to archive, counting no further than `most_rows`. Takes no lock, changes nothing.

    Give the `shape` when it is known, to spare the look at the catalog. Raises ManifestError when a protection cannot
    be read, and what `inspect_table` raises.
    """
    with source_errors(session.primary):
        shape = shape or inspect_table(session.connection, session.settings)
        cutoff = end_of_due(session, DateRange())
        rows, oldest = 0, None
        for start, end in _spans(session, cutoff):
            oldest = oldest or oldest_eligible(session.connection, shape, end, after=start)
            rows += count_between(session.connection, shape, start, end, most_rows + 1 - rows)
            if rows > most_rows:
                break
    return Backlog(session.name, min(rows, most_rows), rows > most_rows, oldest, cutoff)


def measure_intake(session: ArchiveSession, shape: TableShape, cutoff: datetime, *, most_rows: int) -> float:
    """Rows that become eligible per day: those just younger than `cutoff`, averaged over the days that come next, at
    most seven. When there are more than `most_rows`, over the time that so many of them span."""
    days = min(_INTAKE_DAYS, session.settings.retention_days)
    with source_errors(session.primary):
        rows, last = first_rows_between(session.connection, shape, cutoff, cutoff + timedelta(days=days), most_rows)
    if rows == most_rows and last is not None and last > cutoff:
        return rows * _DAY_SECONDS / (last - cutoff).total_seconds()
    return rows / days


def _spans(session: ArchiveSession, cutoff: datetime) -> list[tuple[datetime | None, datetime]]:
    """The time before the cutoff that is not protected."""
    unit, first = WindowUnit(session.settings.window), session.settings.first_window
    return unprotected_spans(unit, cutoff, session_protections(session), first=first)
