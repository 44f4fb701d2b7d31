"""Looking, without changing anything: windows with eligible rows, and the archives of a table."""

import heapq
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

from archiver_pipeline.codec.documents import decode_document
from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.domain.layout import (
    RECEIPT_SUFFIX,
    BatchState,
    StoredBatch,
)
from archiver_pipeline.domain.manifest import Receipt
from archiver_pipeline.domain.protection import (
    Protection,
    is_protected,
    longest_protection,
    protections_in_force,
)
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.domain.windows import (
    Window,
    WindowUnit,
    end_of_eligible,
    floor_to_unit,
    next_start,
    start_of_day,
    window_containing,
    window_starting,
)
from archiver_pipeline.engine.archived import list_stored
from archiver_pipeline.engine.holds import HeldRows, count_held_rows, with_holds
from archiver_pipeline.engine.protection import read_protections, session_protections
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.work import run_all
from archiver_pipeline.errors import ManifestError
from archiver_pipeline.postgres.catalog import inspect_table, table_name
from archiver_pipeline.postgres.connection import source_errors
from archiver_pipeline.postgres.eligible import oldest_eligible, source_clock
from archiver_pipeline.storage.document_cache import DocumentCache, DocumentVersion
from archiver_pipeline.storage.s3 import S3Store


@dataclass(frozen=True, slots=True)
class DateRange:
    """Windows to take: from the day `start` to the end of the day `end`; None is open."""

    start: date | None = None
    end: date | None = None


def eligible_windows(session: ArchiveSession, shape: TableShape, dates: DateRange) -> Iterator[Window]:
    """Every window that lies wholly before the cutoff, holds a row that is under no legal hold, and is not protected,
    oldest first.

    Raises ManifestError when a protection cannot be read, and what `with_holds` does.
    """
    with source_errors(session.primary):
        protections = session_protections(session)
        shape = with_holds(session, shape)
    for window in windows_with_rows(session, shape, dates):
        if not is_protected(window, protections):
            yield window


def windows_with_rows(session: ArchiveSession, shape: TableShape, dates: DateRange) -> Iterator[Window]:
    """Every window that lies wholly before the cutoff and holds a row, protected or not, oldest first. Rows that the
    holds of `shape` cover do not count.

    Costs one look at the timestamp's index per window that holds rows, none for empty ones.
    """
    unit, first = WindowUnit(session.settings.window), session.settings.first_window
    with source_errors(session.primary):
        end = end_of_due(session, dates)
        after = _first_boundary(unit, dates.start) if dates.start else None
        while oldest := oldest_eligible(session.connection, shape, end, after=after):
            window = window_containing(unit, oldest, first=first)
            if window.end > end:
                return
            yield window
            after = window.end


def find_held_rows(session: ArchiveSession, *, most_rows: int) -> HeldRows:
    """Rows in windows wholly older than retention that stay because of legal holds. Takes no lock, changes nothing."""
    with source_errors(session.primary):
        shape = with_holds(session, inspect_table(session.connection, session.settings))
        end = end_of_due(session, DateRange())
    return count_held_rows(session, shape, end, most_rows=most_rows)


def due_windows(session: ArchiveSession, shape: TableShape, dates: DateRange) -> Iterator[Window]:
    """Every eligible window, and those with a batch that an interrupted run left pending, oldest first.

    After the last delete of a window committed, only its pending batch is left to say that a receipt is missing. It is
    settled although the window is protected: it holds row versions that were proved before any came back.
    """
    pending = sorted(_pending_windows(session, dates), key=_start)
    seen: set[Window] = set()
    for window in heapq.merge(pending, eligible_windows(session, shape, dates), key=_start):
        if window not in seen:
            seen.add(window)
            yield window


def _pending_windows(session: ArchiveSession, dates: DateRange) -> Iterator[Window]:
    unit, first = WindowUnit(session.settings.window), session.settings.first_window
    for batch in list_stored(session.store, session.name):
        day = date.fromisoformat(batch.window_key[: len("2026-01-31")])
        within = (dates.start is None or dates.start <= day) and (dates.end is None or day <= dates.end)
        if batch.state is BatchState.pending and within:
            yield window_containing(unit, moment_of_key(batch.window_key), first=first)


def moment_of_key(window_key: str) -> datetime:
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


def end_of_due(session: ArchiveSession, dates: DateRange) -> datetime:
    """The end of the last whole window that is old enough, by the source's clock, and within the dates."""
    unit = WindowUnit(session.settings.window)
    end = end_of_eligible(unit, source_clock(session.connection).astimezone(UTC), session.settings.retention_days)
    if dates.end is None:
        return end
    return min(end, floor_to_unit(unit, start_of_day(dates.end) + timedelta(days=1)))


@dataclass(frozen=True, slots=True)
class ArchivedBatch:
    """One batch as the store has it. The receipt is None unless the batch has one and receipts were read.

    `protection` is the one that keeps restored rows of its window in the table for longest, None when none does.
    """

    stored: StoredBatch
    receipt: Receipt | None
    protection: Protection | None = None


def find_archives(
    store: S3Store, settings: TableSettings, dates: DateRange, state: BatchState | None, now: datetime
) -> list[ArchivedBatch]:
    """The table's batches of windows that hold a day of `dates`, by the listing alone, in key order.

    All states are taken when `state` is None; protections are those in force at `now`. The first window holds every
    older day. Raises StoreError when a listing is not whole, ManifestError when a protection cannot be read.
    """
    name = table_name(settings)
    protections = protections_in_force(read_protections(store, name), now)
    found = []
    for batch in list_stored(store, name):
        window = window_of_batch(settings, batch.window_key)
        if (state is None or batch.state is state) and _holds_a_day(window, dates):
            found.append(ArchivedBatch(batch, None, longest_protection(window, protections)))
    return found


def read_receipts(
    store: S3Store,
    found: Sequence[ArchivedBatch],
    threads: int,
    on_read: Callable[[], None] = lambda: None,
    *,
    cache: DocumentCache | None = None,
) -> list[ArchivedBatch]:
    """The batches with the receipts of those that have one, expired ones too; `on_read` is called after each, from many
    threads.

    A receipt that is in the cache under the ETag that was listed is not read again. The store should have a connection
    per thread. Raises StoreError or ManifestError, which names the receipt, when one cannot be read: a part is never
    shown as the whole.
    """
    known = cache.read([_version(batch.stored) for batch in found if batch.stored.has_receipt]) if cache else {}
    fresh: dict[DocumentVersion, bytes] = {}

    def read(batch: ArchivedBatch) -> ArchivedBatch:
        if batch.stored.has_receipt:
            version = _version(batch.stored)
            data = known.get(version)
            if data is None:
                data = fresh[version] = store.read_document(version.key)
            batch = replace(batch, receipt=_receipt(batch.stored, data))
            on_read()
        return batch

    try:
        return list(run_all(tuple(found), read, threads, threading.Event(), cancel=lambda: None))
    finally:
        if cache and fresh:
            cache.write(fresh)


def _version(batch: StoredBatch) -> DocumentVersion:
    return DocumentVersion(batch.stem + RECEIPT_SUFFIX, batch.receipt_etag)


def _receipt(batch: StoredBatch, data: bytes) -> Receipt:
    key = batch.stem + RECEIPT_SUFFIX
    receipt = decode_document(Receipt, data, key=key)
    if receipt.batch_id != batch.batch_id:
        raise ManifestError(f"{key} is the receipt of another batch", hint="was it copied here?")
    return receipt


def window_of_batch(settings: TableSettings, window_key: str) -> Window:
    """The window that a key names. Its length is that of the configured unit, for a key of hours an hour."""
    is_hour = len(window_key) > len("2026-01-31")
    unit = WindowUnit.hour if is_hour else WindowUnit(settings.window)
    unit = WindowUnit.day if unit is WindowUnit.hour and not is_hour else unit
    start = floor_to_unit(unit, moment_of_key(window_key))
    return window_starting(unit, start, first=settings.first_window)


def _holds_a_day(window: Window, dates: DateRange) -> bool:
    ends_late_enough = dates.start is None or start_of_day(dates.start) < window.end
    if dates.end is None or window.open_start:
        return ends_late_enough
    return ends_late_enough and window.start < start_of_day(dates.end) + timedelta(days=1)
