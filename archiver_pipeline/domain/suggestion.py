"""Which tables are worth archiving and with which settings: suggestions with reasons, from catalog and estimates."""

import re
from dataclasses import dataclass
from datetime import date, datetime

from archiver_pipeline.domain.measure import TableMeasure
from archiver_pipeline.domain.table import TimestampType
from archiver_pipeline.domain.windows import WindowUnit

DEFAULT_RETENTION_DAYS = 365
DEFAULT_BATCH_ROWS = 10_000
_LARGE_BATCH_ROWS = 50_000
_MOST_BATCH_BYTES = 32 << 20
_LEAST_BATCH_ROWS = 100
_SMALL_ROW_BYTES = 500
_MANY_ROWS_A_DAY = 500_000
_ROWS_A_DAY = ((WindowUnit.hour, 2_000_000), (WindowUnit.day, 20_000), (WindowUnit.week, 2_000))
_MOST_UPDATED_SHARE = 0.01
_TELLING_ROWS = 100
_DAYS_PER_MONTH = 30
_CREATION = re.compile(r"creat|insert|occur|logged|recorded|happen|receiv|event|stamp|^ts$|^time$|^date$|^at$|_ts$")
_LATER = re.compile(
    r"updat|modif|delet|expir|due|birth|valid|until|schedul|last_|seen|login|end(s|ed)?(_|$)|start|finish"
)
_LOG_LIKE = re.compile(r"audit|log|event|histor|journal|trail|activit|trace|telemetr|metric|chang|visit|click")


@dataclass(frozen=True, slots=True)
class TimeColumn:
    """A column that holds a time. `has_clock_default`: rows that do not say get the clock's time."""

    name: str
    type: TimestampType
    is_indexed: bool
    is_not_null: bool
    has_clock_default: bool


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A relation as the catalog shows it. `refusal` says why it cannot be archived, empty when nothing speaks against
    it so far; `referred_by` names tables with foreign keys to it; `inserted` and `updated` count rows since the
    server's statistics were reset."""

    schema: str
    table: str
    refusal: str
    time_columns: tuple[TimeColumn, ...]
    referred_by: tuple[str, ...]
    inserted: int
    updated: int

    @property
    def qualified_name(self) -> str:
        """`schema.table`, for people."""
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Settings for one table, each with its reason. `doubts` say why a person should think twice."""

    timestamp_column: str
    window: WindowUnit
    batch_size: int
    first_window: date
    column_reason: str
    window_reason: str
    batch_reason: str
    first_window_reason: str
    doubts: tuple[str, ...]

    @property
    def is_recommended(self) -> bool:
        """Whether nothing speaks against archiving the table."""
        return not self.doubts


def best_time_column(columns: tuple[TimeColumn, ...]) -> TimeColumn:
    """The column that most likely says when a row was made; the first of equals. Raises ValueError for none."""
    return max(columns, key=_score)


def suggest(found: FoundTable, column: TimeColumn, measure: TableMeasure) -> Suggestion:
    """Settings for a table and why."""
    a_day = _rows_a_day(measure)
    window = _window(a_day, column)
    batch = _batch_rows(measure.row_bytes, a_day)
    first = _first_window(measure)
    return Suggestion(
        timestamp_column=column.name,
        window=window,
        batch_size=batch,
        first_window=first,
        column_reason=_column_reason(column, found.time_columns),
        window_reason=f"about {a_day:,.0f} rows a day",
        batch_reason=_batch_reason(batch, measure.row_bytes),
        first_window_reason=_first_reason(measure),
        doubts=tuple(_doubts(found, column)),
    )


def _score(column: TimeColumn) -> int:
    name = column.name.lower()
    return (
        4 * column.is_indexed
        + 3 * bool(_CREATION.search(name))
        + 2 * column.has_clock_default
        + column.is_not_null
        - 6 * bool(_LATER.search(name))
    )


def _column_reason(column: TimeColumn, columns: tuple[TimeColumn, ...]) -> str:
    facts = {
        "the only column with a time": len(columns) == 1,
        "indexed": column.is_indexed,
        "not indexed, so every batch reads the whole table": not column.is_indexed,
        "never null": column.is_not_null,
        "rows without it stay": not column.is_not_null,
        "set by the clock": column.has_clock_default,
    }
    return ", ".join(fact for fact, holds in facts.items() if holds)


def _rows_a_day(measure: TableMeasure) -> float:
    """The larger of the last month's average and that of the table's whole age."""
    age_days = (measure.newest - measure.oldest).total_seconds() / 86_400 if measure.newest and measure.oldest else 0
    return max(measure.month_rows / _DAYS_PER_MONTH, measure.rows / max(age_days, _DAYS_PER_MONTH))


def _window(rows_a_day: float, column: TimeColumn) -> WindowUnit:
    fitting = (unit for unit, least in _ROWS_A_DAY if rows_a_day >= least)
    window = next(fitting, WindowUnit.month)
    return WindowUnit.day if window is WindowUnit.hour and column.type is TimestampType.date else window


def _batch_rows(row_bytes: float, rows_a_day: float) -> int:
    if row_bytes <= _SMALL_ROW_BYTES and rows_a_day >= _MANY_ROWS_A_DAY:
        return _LARGE_BATCH_ROWS
    most = _MOST_BATCH_BYTES / max(row_bytes, 1.0)
    return DEFAULT_BATCH_ROWS if most >= DEFAULT_BATCH_ROWS else max(_LEAST_BATCH_ROWS, _rounded_down(most))


def _batch_reason(rows: int, row_bytes: float) -> str:
    return f"{rows:,} rows are about {rows * row_bytes / 1e6:,.1f} MB" if row_bytes else "the usual size"


def _rounded_down(number: float) -> int:
    """To one, two or five times a power of ten."""
    power = int("1" + "0" * (len(str(int(number))) - 1))
    return next(step * power for step in (5, 2, 1) if step * power <= number)


def _first_window(measure: TableMeasure) -> date:
    """The first day of the month of the oldest row, so that no empty years are shown; never later than the cutoff."""
    oldest = min(measure.oldest or measure.cutoff, measure.cutoff)
    return date(oldest.year, oldest.month, 1)


def _first_reason(measure: TableMeasure) -> str:
    return f"the oldest row is of {_day(measure.oldest)}; this window also takes everything older"


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d}" if moment else "an unknown day"


def _doubts(found: FoundTable, column: TimeColumn) -> list[str]:
    doubts = []
    if found.referred_by:
        doubts.append(f"foreign keys of {', '.join(found.referred_by)} refer to its rows")
    if _LATER.search(column.name.lower()):
        doubts.append(f"{column.name} does not look like the time at which a row is made")
    if found.inserted >= _TELLING_ROWS and found.updated > found.inserted * _MOST_UPDATED_SHARE:
        doubts.append(f"rows are changed after they are made ({found.updated:,} updates, {found.inserted:,} inserts)")
    elif found.inserted < _TELLING_ROWS and not _LOG_LIKE.search(found.table.lower()):
        doubts.append("neither its name nor the server's statistics show that rows are only ever added")
    return doubts
