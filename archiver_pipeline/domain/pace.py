"""Drain against intake: whether a table gets smaller, and when it will have nothing left to archive."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

DRAIN_DAYS = 7


@dataclass(frozen=True, slots=True)
class Pace:
    """Rows left to archive, rows archived and rows that become eligible per day."""

    backlog_rows: int
    drained_rows_per_day: float
    intake_rows_per_day: float

    @property
    def days_until_drained(self) -> float | None:
        """None when it never is at this pace."""
        if self.backlog_rows == 0:
            return 0.0
        shrinks_by = self.drained_rows_per_day - self.intake_rows_per_day
        return self.backlog_rows / shrinks_by if shrinks_by > 0 else None

    def __str__(self) -> str:
        days = self.days_until_drained
        if days == 0:
            return "nothing is left"
        if days is None:
            return f"never at this pace: {self.intake_rows_per_day:,.0f} rows a day come, {self._drained} go"
        return f"in about {days:,.1f} days: {self._drained} rows a day go, {self.intake_rows_per_day:,.0f} come"

    @property
    def _drained(self) -> str:
        return f"{self.drained_rows_per_day:,.0f}"


def drained_per_day(archived: Iterable[tuple[datetime, int]], now: datetime) -> float:
    """Rows archived per day, out of (when, rows) of past runs: those of the last DRAIN_DAYS, over the days since the
    first of them, at least one."""
    lately = [(when, rows) for when, rows in archived if now - when <= timedelta(days=DRAIN_DAYS)]
    if not lately:
        return 0.0
    days = (now - min(when for when, _ in lately)) / timedelta(days=1)
    return sum(rows for _, rows in lately) / max(days, 1.0)
