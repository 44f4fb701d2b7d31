"""Looking, without changing anything: windows with eligible rows, and the archives of a table."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice

from archiver_pipeline.domain.layout import (
    RECEIPT_SUFFIX,
    BatchState,
    StoredBatch,
    group_batches,
    listing_prefix,
)
from archiver_pipeline.domain.manifest import Receipt
from archiver_pipeline.domain.table import TableName, TableShape
from archiver_pipeline.domain.windows import (
    Window,
    WindowUnit,
    end_of_eligible,
    floor_to_unit,
    start_of_day,
    window_containing,
)
from archiver_pipeline.engine.reconcile import read_receipt
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.postgres.catalog import inspect_table
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
    end = _end_of_eligible(session, dates)
    after = floor_to_unit(unit, start_of_day(dates.start)) if dates.start else None
    while oldest := oldest_eligible(session.connection, shape, end, after=after):
        window = window_containing(unit, oldest, first=first)
        if window.end > end:
            return
        yield window
        after = window.end


def find_oldest_windows(session: ArchiveSession, limit: int) -> list[Window]:
    """The oldest windows with something to archive, at most `limit`; empty: the table was asked and has none."""
    shape = inspect_table(session.connection, session.settings)
    return list(islice(eligible_windows(session, shape, DateRange()), limit))


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
    stored = list_stored(session, session.name)
    with ThreadPoolExecutor(session.workers * 2) as threads:
        receipts = list(threads.map(lambda batch: _receipt(session, batch), stored))
    return [ArchivedBatch(batch, receipt) for batch, receipt in zip(stored, receipts, strict=True)]


def list_stored(session: ArchiveSession, name: TableName) -> list[StoredBatch]:
    """Every batch of the table by the listing alone."""
    prefix = listing_prefix(session.store_settings.prefix, name)
    return group_batches(session.store.list_objects(prefix))


def _receipt(session: ArchiveSession, batch: StoredBatch) -> Receipt | None:
    if batch.state is not BatchState.receipted:
        return None
    return read_receipt(session, batch.stem + RECEIPT_SUFFIX)
