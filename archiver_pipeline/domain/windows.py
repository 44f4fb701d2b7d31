"""Time windows of a table's timestamp column; the same values that Dagster calls partitions.

Every moment is an aware datetime in UTC. `start` is inclusive, `end` is exclusive.
"""

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum


class WindowUnit(StrEnum):
    """The width of a table's windows; weeks start on Monday."""

    hour = "hour"
    day = "day"
    week = "week"
    month = "month"


KEY_FORMATS = {
    WindowUnit.hour: "%Y-%m-%dT%H",
    WindowUnit.day: "%Y-%m-%d",
    WindowUnit.week: "%Y-%m-%d",
    WindowUnit.month: "%Y-%m-%d",
}


@dataclass(frozen=True, slots=True)
class Window:
    """One half-open time range [start, end).

    `open_start` marks the first window of a table: it also takes every row older than `start`.
    """

    unit: WindowUnit
    start: datetime
    end: datetime
    open_start: bool = False

    @property
    def key(self) -> str:
        """The partition key, also part of object names."""
        return self.start.strftime(KEY_FORMATS[self.unit])


def window_starting(unit: WindowUnit, start: datetime, *, first: date) -> Window:
    """The window that begins at `start`, which must lie on a boundary of `unit`."""
    first_start = floor_to_unit(unit, start_of_day(first))
    return Window(unit, start, next_start(unit, start), open_start=start <= first_start)


def window_containing(unit: WindowUnit, moment: datetime, *, first: date) -> Window:
    """The window that holds `moment`; moments before the first window belong to the first one."""
    first_start = floor_to_unit(unit, start_of_day(first))
    return window_starting(unit, max(first_start, floor_to_unit(unit, moment)), first=first)


def window_of_key(unit: WindowUnit, key: str, *, first: date) -> Window:
    """The window that a partition key names.

    Raises ValueError when the key is not one of this unit's keys.
    """
    start = datetime.strptime(key, KEY_FORMATS[unit]).replace(tzinfo=UTC)
    if floor_to_unit(unit, start) != start:
        raise ValueError(f"{key!r} is not the start of a {unit}")
    return window_starting(unit, start, first=first)


def floor_to_unit(unit: WindowUnit, moment: datetime) -> datetime:
    """The last boundary of `unit` at or before `moment`."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit is WindowUnit.hour:
        return midnight.replace(hour=moment.hour)
    if unit is WindowUnit.week:
        return midnight - timedelta(days=moment.weekday())
    if unit is WindowUnit.month:
        return midnight.replace(day=1)
    return midnight


def next_start(unit: WindowUnit, start: datetime) -> datetime:
    """The boundary of `unit` that follows the boundary `start`."""
    if unit is WindowUnit.hour:
        return start + timedelta(hours=1)
    if unit is WindowUnit.month:
        return (start.replace(day=1) + timedelta(days=32)).replace(day=1)
    return start + timedelta(days=7 if unit is WindowUnit.week else 1)


def is_wholly_before(window: Window, cutoff: datetime) -> bool:
    """Whether every moment of the window is older than `cutoff` (exclusive)."""
    return window.end <= cutoff


def partition_end_offset(unit: WindowUnit, retention_days: int) -> int:
    """Dagster's `end_offset` for which only windows wholly older than retention exist.

    A month has at least 28 days, so the monthly offset may hide a window for a few days, never show one early.
    """
    per_unit = {
        WindowUnit.hour: -24 * retention_days,
        WindowUnit.day: -retention_days,
        WindowUnit.week: -math.ceil(retention_days / 7),
        WindowUnit.month: -math.ceil(retention_days / 28),
    }
    return per_unit[unit]


def end_of_eligible(unit: WindowUnit, now: datetime, retention_days: int) -> datetime:
    """The end of the last window that Dagster shows at `now` under `partition_end_offset`: whole and old enough."""
    end = floor_to_unit(unit, now)
    offset = partition_end_offset(unit, retention_days)
    if unit is WindowUnit.month:
        months = end.year * 12 + end.month - 1 + offset
        return end.replace(year=months // 12, month=months % 12 + 1)
    return end + offset * (next_start(unit, end) - end)


def eligible_since(window: Window, retention_days: int) -> datetime:
    """The first moment at which `end_of_eligible` reaches the end of the window."""
    offset = -partition_end_offset(window.unit, retention_days)
    if window.unit is WindowUnit.month:
        months = window.end.year * 12 + window.end.month - 1 + offset
        return window.end.replace(year=months // 12, month=months % 12 + 1)
    return window.end + offset * (next_start(window.unit, window.end) - window.end)


def start_of_day(day: date) -> datetime:
    """Midnight UTC at the beginning of `day`."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
