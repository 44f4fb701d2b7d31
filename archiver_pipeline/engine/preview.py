"""Preview: what an archive would do. Reads only: takes no lock, writes nothing anywhere."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from archiver_pipeline.domain.prices import DEFAULT_COMPRESSION_RATIO, month_dollars, write_dollars
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.inventory import DateRange, eligible_windows
from archiver_pipeline.engine.plan import cutoff_of
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline.postgres.eligible import measure_eligible

_ASSUMED_ROWS_PER_SECOND = 50_000


@dataclass(frozen=True, slots=True)
class WindowPreview:
    """One window as it would be archived. `rows_bytes` is estimated from a sample of the window's rows."""

    window_key: str
    rows: int
    rows_bytes: int
    batches: int


@dataclass(frozen=True, slots=True)
class ArchivePreview:
    """One table's plan in numbers. Dollars and seconds are estimates; `cutoff` is exclusive, UTC, ISO 8601."""

    table: TableName
    cutoff: str
    windows: tuple[WindowPreview, ...]
    storage_class: str
    warnings: tuple[str, ...]
    seconds: float

    @property
    def rows(self) -> int:
        return sum(window.rows for window in self.windows)

    @property
    def rows_bytes(self) -> int:
        return sum(window.rows_bytes for window in self.windows)

    @property
    def object_bytes(self) -> int:
        return int(self.rows_bytes * DEFAULT_COMPRESSION_RATIO)

    @property
    def batches(self) -> int:
        return sum(window.batches for window in self.windows)

    @property
    def month_dollars(self) -> float:
        return month_dollars(self.rows_bytes, self.storage_class)

    @property
    def write_dollars(self) -> float:
        return write_dollars(self.batches, self.storage_class)


def preview_archive(session: ArchiveSession, dates: DateRange, *, limit_rows: int | None = None) -> ArchivePreview:
    """Windows, rows, bytes, batches, cost and time of an archive that is not made."""
    shape = inspect_table(session.connection, session.settings)
    cutoff = cutoff_of(session)
    measured = (
        (window, measure_eligible(session.connection, shape, window, cutoff))
        for window in eligible_windows(session, shape, dates)
    )
    windows = tuple(
        _limited(
            (
                WindowPreview(
                    window.key,
                    eligible.rows,
                    int(eligible.rows * eligible.row_bytes),
                    _batches(session, eligible.rows),
                )
                for window, eligible in measured
            ),
            limit_rows,
        )
    )
    rows, batches = sum(window.rows for window in windows), sum(window.batches for window in windows)
    return ArchivePreview(
        table=session.name,
        cutoff=cutoff.isoformat(),
        windows=windows,
        storage_class=session.store_settings.storage_class.value,
        warnings=shape.warnings,
        seconds=rows / _ASSUMED_ROWS_PER_SECOND + _pauses(session, batches),
    )


def _batches(session: ArchiveSession, rows: int) -> int:
    return math.ceil(rows / session.settings.batch_size)


def _limited(windows: Iterator[WindowPreview], limit_rows: int | None) -> Iterator[WindowPreview]:
    taken = 0
    for window in windows:
        if limit_rows is not None and taken >= limit_rows:
            return
        taken += window.rows
        yield window


def _pauses(session: ArchiveSession, batches: int) -> float:
    return batches * session.settings.sleep_between_batches_seconds / session.workers
