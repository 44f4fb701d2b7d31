"""Preview: what an archive would do. Reads only: takes no lock, writes nothing anywhere."""

import math
from dataclasses import dataclass, replace
from datetime import datetime

from archiver_pipeline.domain.cost import Load, month_dollars, write_dollars
from archiver_pipeline.domain.holds import NO_HOLDS
from archiver_pipeline.domain.protection import longest_protection
from archiver_pipeline.domain.table import TableName, TableShape
from archiver_pipeline.engine.drift import drift_warnings
from archiver_pipeline.engine.holds import with_holds
from archiver_pipeline.engine.inventory import DateRange, windows_with_rows
from archiver_pipeline.engine.plan import cutoff_of, size_of_batches
from archiver_pipeline.engine.protection import session_protections
from archiver_pipeline.engine.report import REMAINING_COUNTED_ROWS
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline.postgres.eligible import Eligible, count_held, measure_eligible

_ASSUMED_ROWS_PER_SECOND = 50_000


@dataclass(frozen=True, slots=True)
class WindowPreview:
    """One window as it would be archived. `rows_bytes` is estimated from a sample of the window's rows."""

    window_key: str
    rows: int
    rows_bytes: int
    batches: int


@dataclass(frozen=True, slots=True)
class ProtectedWindow:
    """One window whose rows are old enough and stay. `until` is exclusive, UTC, ISO 8601; `reason` is for people."""

    window_key: str
    rows: int
    until: str
    reason: str


@dataclass(frozen=True, slots=True)
class HeldWindow:
    """One window with rows that are old enough and stay because of legal holds. `reason` is for people."""

    window_key: str
    rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class ArchivePreview:
    """One table's plan in numbers. Dollars and seconds are estimates; `cutoff` is exclusive, UTC, ISO 8601.

    No number but their own counts what is in `protected` windows, or in `held`.
    """

    table: TableName
    cutoff: str
    windows: tuple[WindowPreview, ...]
    protected: tuple[ProtectedWindow, ...]
    storage_class: str
    warnings: tuple[str, ...]
    seconds: float
    held: tuple[HeldWindow, ...] = ()

    @property
    def rows(self) -> int:
        return sum(window.rows for window in self.windows)

    @property
    def rows_bytes(self) -> int:
        return sum(window.rows_bytes for window in self.windows)

    @property
    def load(self) -> Load:
        """What `archiver cost` would be asked for these windows."""
        return Load(rows=self.rows, rows_bytes=self.rows_bytes, batches=self.batches)

    @property
    def object_bytes(self) -> int:
        return int(self.load.stored_bytes)

    @property
    def batches(self) -> int:
        return sum(window.batches for window in self.windows)

    @property
    def month_dollars(self) -> float:
        return month_dollars(self.load, self.storage_class)

    @property
    def write_dollars(self) -> float:
        return write_dollars(self.load, self.storage_class)


def preview_archive(session: ArchiveSession, dates: DateRange, *, limit_rows: int | None = None) -> ArchivePreview:
    """Windows, rows, bytes, batches, cost and time of an archive that is not made."""
    shape = with_holds(session, inspect_table(session.connection, session.settings))
    cutoff = cutoff_of(session)
    windows, protected, held = _look(session, shape, dates, cutoff, limit_rows)
    rows, batches = sum(window.rows for window in windows), sum(window.batches for window in windows)
    return ArchivePreview(
        table=session.name,
        cutoff=cutoff.isoformat(),
        windows=tuple(windows),
        protected=tuple(protected),
        held=tuple(held),
        storage_class=session.store_settings.storage_class.value,
        warnings=(*shape.warnings, *drift_warnings(session, shape)),
        seconds=rows / _ASSUMED_ROWS_PER_SECOND + _pauses(session, batches),
    )


def _look(
    session: ArchiveSession, shape: TableShape, dates: DateRange, cutoff: datetime, limit_rows: int | None
) -> tuple[list[WindowPreview], list[ProtectedWindow], list[HeldWindow]]:
    """What would be archived until `limit_rows` are reached, and what is protected or held among it."""
    protections = session_protections(session)
    windows: list[WindowPreview] = []
    protected: list[ProtectedWindow] = []
    held: list[HeldWindow] = []
    for window in windows_with_rows(session, replace(shape, holds=NO_HOLDS), dates):
        if limit_rows is not None and sum(taken.rows for taken in windows) >= limit_rows:
            break
        eligible = measure_eligible(session.connection, shape, window, cutoff)
        if held_rows := count_held(session.connection, shape, window, cutoff, REMAINING_COUNTED_ROWS):
            held.append(HeldWindow(window.key, held_rows, shape.holds.reason))
        if not eligible.rows:
            continue
        if protection := longest_protection(window, protections):
            protected.append(ProtectedWindow(window.key, eligible.rows, protection.ends_at, str(protection)))
        else:
            size_bytes, batches = int(eligible.rows * eligible.row_bytes), _batches(session, eligible)
            windows.append(WindowPreview(window.key, eligible.rows, size_bytes, batches))
    return windows, protected, held


def _batches(session: ArchiveSession, eligible: Eligible) -> int:
    return math.ceil(eligible.rows / size_of_batches(session, eligible.row_bytes).rows)


def _pauses(session: ArchiveSession, batches: int) -> float:
    return batches * session.settings.sleep_between_batches_seconds / session.workers
