"""Looking, without changing anything: windows with eligible rows, and the archives of a table."""

import heapq
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice

from archiver_pipeline.domain.layout import (
    RECEIPT_SUFFIX,
    BatchState,
    StoredBatch,
)
from archiver_pipeline.domain.manifest import Receipt
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.domain.windows import (
    Window,
    WindowUnit,
    end_of_eligible,
    floor_to_unit,
    next_start,
    start_of_day,
    window_containing,
)
from archiver_pipeline.engine.archived import list_stored, read_receipt
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline.postgres.connection import source_errors
from archiver_pipeline.postgres.eligible import oldest_eligible, source_clock


@dataclass(frozen=True, slots=True)
class DateRange:
    """Windows to take: from the day `start` to the end of the day `end`; None is open."""

    start: date | None = None
    end: date | None = None


def eligible_windows(session: ArchiveSession, shape: TableShape, dates: DateRange) -> Iterator[Window]:
    """Every window that lies wholly before the cutoff and holds a row, oldest first.

    Costs one look at the timestamp's index per window that holds rows, none for empty ones.
    """
    unit, first = WindowUnit(session.settings.window), session.settings.first_window
    with source_errors(session.primary):
        end = _end_of_eligible(session, dates)
        after = _first_boundary(unit, dates.start) if dates.start else None
        while oldest := oldest_eligible(session.connection, shape, end, after=after):
            window = window_containing(unit, oldest, first=first)
            if window.end > end:
                return
            yield window
            after = window.end


def due_windows(session: ArchiveSession, shape: TableShape, dates: DateRange) -> Iterator[Window]:
    """Every eligible window, and those with a batch that an interrupted run left pending, oldest first.

    After the last delete of a window committed, only its pending batch is left to say that a receipt is missing.
    """
    pending = sorted(_pending_windows(session, dates), key=_start)
    seen: set[Window] = set()
    for window in heapq.merge(pending, eligible_windows(session, shape, dates), key=_start):
        if window not in seen:
            seen.add(window)
            yield window


def find_oldest_windows(session: ArchiveSession, limit: int) -> list[Window]:
    """The oldest due windows, at most `limit`; empty: table and store were asked and have none."""
    with source_errors(session.primary):
        shape = inspect_table(session.connection, session.settings)
    return list(islice(due_windows(session, shape, DateRange()), limit))


def _pending_windows(session: ArchiveSession, dates: DateRange) -> Iterator[Window]:
    unit, first = WindowUnit(session.settings.window), session.settings.first_window
    for batch in list_stored(session.store, session.name):
        day = date.fromisoformat(batch.window_key[: len("2026-01-31")])
        within = (dates.start is None or dates.start <= day) and (dates.end is None or day <= dates.end)
        if batch.state is BatchState.pending and within:
            yield window_containing(unit, _moment_of(batch.window_key), first=first)


def _moment_of(window_key: str) -> datetime:
    """The start that a window key names, whatever unit it was made with."""
    return datetime.fromisoformat(window_key if len(window_key) == len("2026-01-31") else f"{window_key}:00").replace(
        tzinfo=UTC
    )


def _start(window: Window) -> datetime:
    return window.start


def _first_boundary(unit: WindowUnit, day: date) -> datetime:
    """The first boundary at or after the beginning of the day: windows are taken whole or not at all."""
    start = start_of_day(day)
    floor = floor_to_unit(unit, start)
    return floor if floor == start else next_start(unit, floor)


def _end_of_eligible(session: ArchiveSession, dates: DateRange) -> datetime:
    """The end of the last whole window that is old enough and within the dates."""
    unit = WindowUnit(session.settings.window)
    end = end_of_eligible(unit, source_clock(session.connection).astimezone(UTC), session.settings.retention_days)
    if dates.end is None:
        return end
    return min(end, floor_to_unit(unit, start_of_day(dates.end) + timedelta(days=1)))


@dataclass(frozen=True, slots=True)
class ArchivedBatch:
    """One batch as the store has it. The receipt is None unless the batch is receipted."""

    stored: StoredBatch
    receipt: Receipt | None


def list_archives(session: ArchiveSession) -> list[ArchivedBatch]:
    """Every batch of the table in key order, with receipts read in parallel.

    Raises StoreError or ManifestError when anything cannot be read: a part is never shown as the whole.
    """
    stored = list_stored(session.store, session.name)
    with ThreadPoolExecutor(session.workers * 2) as threads:
        receipts = list(threads.map(lambda batch: _receipt(session, batch), stored))
    return [ArchivedBatch(batch, receipt) for batch, receipt in zip(stored, receipts, strict=True)]


def _receipt(session: ArchiveSession, batch: StoredBatch) -> Receipt | None:
    if batch.state is not BatchState.receipted:
        return None
    return read_receipt(session.store, batch.stem + RECEIPT_SUFFIX)
