"""Costing: what the configured tables hold, measured cheaply, as loads to price. Reads only."""

import math
from dataclasses import dataclass

from archiver_pipeline.config.effective import DatabaseSettings, SourceSettings, TableSettings
from archiver_pipeline.domain.cost import DAYS_PER_MONTH, Load, batches_of
from archiver_pipeline.domain.measure import TableMeasure
from archiver_pipeline.domain.windows import WindowUnit
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline.postgres.connection import Connection, connect, source_errors
from archiver_pipeline.postgres.measure import measure_table

_LONGEST_STATEMENT = "30s"
_WINDOW_DAYS = {WindowUnit.hour: 1 / 24, WindowUnit.day: 1.0, WindowUnit.week: 7.0, WindowUnit.month: 30.4}


@dataclass(frozen=True, slots=True)
class MeasuredTable:
    """One table and its loads: `backlog` is eligible now, `growth` becomes eligible each month."""

    measure: TableMeasure
    backlog: Load
    growth: Load


def open_read_only(source: SourceSettings) -> Connection:
    """A connection on which no statement can write, take longer than 30 s, or read a whole table instead of an index:
    the planner would, for the first rows of many that it takes to be all over the table and that are at its end."""
    return connect(
        source,
        default_transaction_read_only="on",
        statement_timeout=_LONGEST_STATEMENT,
        enable_seqscan="off",
        enable_bitmapscan="off",
    )


def measure_configured(
    database: DatabaseSettings,
    settings: TableSettings,
    *,
    compression_ratio: float,
    batch_size: int | None = None,
) -> MeasuredTable:
    """Measure one table where it is read from. `batch_size` overrides the table's own.

    Raises what `inspect_table` raises, and SourceError when an estimate takes longer than 30 s.
    """
    source = database.replica or database.primary
    with source_errors(source), open_read_only(source) as connection:
        measure = measure_table(
            connection, inspect_table(connection, settings, with_warnings=False), settings.retention_days
        )
    size = batch_size or settings.batch_size
    unit_days = _WINDOW_DAYS[WindowUnit(settings.window)]
    return MeasuredTable(
        measure,
        _load(measure, measure.eligible_rows, measure.eligible_days / unit_days, size, compression_ratio),
        _load(measure, measure.month_rows, DAYS_PER_MONTH / unit_days, size, compression_ratio),
    )


def _load(measure: TableMeasure, rows: float, windows: float, batch_size: int, compression_ratio: float) -> Load:
    return Load(
        rows=rows,
        rows_bytes=rows * measure.row_bytes,
        batches=batches_of(rows, batch_size, math.ceil(windows)),
        compression_ratio=compression_ratio,
        key_bytes=measure.key_bytes,
    )
