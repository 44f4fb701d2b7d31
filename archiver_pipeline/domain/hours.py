"""Hours in which batches may begin: by the wall clock of a time zone, on some days of the week."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

DAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_PER_DAY = 24 * 60
_LOOK_AHEAD = timedelta(days=8)
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class AllowedHours:
    """`spans` are (first, end) in minutes after midnight, the end exclusive. One that ends at or before its beginning
    goes on into the next day and belongs to the day on which it began. `days` count from Monday, 0.

    What the clock shows decides: an hour that it skips in spring has no time in it, one that it shows twice in autumn
    is open twice.
    """

    spans: tuple[tuple[int, int], ...]
    time_zone: str = "UTC"
    days: frozenset[int] = frozenset(range(7))

    def is_open(self, now: datetime) -> bool:
        """Whether a batch may begin at this moment (aware)."""
        local = now.astimezone(ZoneInfo(self.time_zone))
        minute, today = local.hour * 60 + local.minute, local.weekday()
        return any(self._holds(span, minute, today) for span in self.spans)

    def opens_at(self, now: datetime) -> datetime | None:
        """The first whole minute after `now` (aware) that is open, UTC; None when there is none in a week."""
        moment = now.astimezone(UTC).replace(second=0, microsecond=0)
        while moment < now + _LOOK_AHEAD:
            moment += _MINUTE
            if self.is_open(moment):
                return moment
        return None

    def _holds(self, span: tuple[int, int], minute: int, today: int) -> bool:
        first, end = span
        if first < end:
            return first <= minute < end and today in self.days
        yesterday = (today - 1) % 7
        return (minute >= first and today in self.days) or (minute < end and yesterday in self.days)

    def __str__(self) -> str:
        spans = ", ".join(f"{_clock(first)}-{_clock(end)}" for first, end in self.spans)
        days = "" if len(self.days) == 7 else " on " + ", ".join(DAY_NAMES[day] for day in sorted(self.days))
        return f"{spans} {self.time_zone}{days}"


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


@dataclass(frozen=True, slots=True)
class Closed:
    """Nothing may begin now: which hours, and when they begin again (UTC, None when not within a week)."""

    hours: AllowedHours
    opens_at: datetime | None

    def __str__(self) -> str:
        again = f", the next begin at {self.opens_at:%Y-%m-%d %H:%M} UTC" if self.opens_at else ""
        return f"outside allowed_hours ({self.hours}){again}"


def closed_at(hours: AllowedHours | None, now: datetime) -> Closed | None:
    """None when a batch may begin at `now` (aware)."""
    if hours is None or hours.is_open(now):
        return None
    return Closed(hours, hours.opens_at(now))
