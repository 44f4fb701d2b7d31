"""How long rows stay in their table, and archives in the store, at least."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

RETENTION_FLOOR_DAYS = 7
"""No table gives away rows younger than this unless its configuration says why: a slip of the pen must not cost rows
that an application still works with."""
LEAST_REASON_CHARACTERS = 10
"""What a reason for going below the floor has at least."""


@dataclass(frozen=True, slots=True)
class FloorOverride:
    """A retention below the floor, on purpose. `reason` is as the configuration has it."""

    retention_days: int
    reason: str

    def __str__(self) -> str:
        return f"retention_days {self.retention_days} is below the floor of {RETENTION_FLOOR_DAYS}: {self.reason}"


def floor_override(retention_days: int, reason: str | None) -> FloorOverride | None:
    """What is in force of a table's override: None when its retention does not need one."""
    if retention_days >= RETENTION_FLOOR_DAYS or reason is None:
        return None
    return FloorOverride(retention_days, reason)


def is_past_retention(last_row_at: datetime, days: int, now: datetime) -> bool:
    """Whether a row of this time is more than `days` old at `now`. Both times are aware."""
    earliest = datetime.min.replace(tzinfo=UTC)
    return last_row_at < now - min(timedelta(days=days), now - earliest)
