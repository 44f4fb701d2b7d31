"""What keeps restored rows in their table: time ranges that no archive touches until an end date."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from archiver_pipeline.domain.windows import Window, WindowUnit, window_containing

_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ProtectedRange:
    """Rows from `start` (inclusive) to `end` (exclusive), UTC, ISO 8601; with `open_start` also everything older."""

    start: str
    end: str
    open_start: bool


@dataclass(frozen=True, slots=True)
class Protection:
    """Rows of a table that stay until `ends_at` (exclusive): written before the first of them comes back.

    `reason` says in a word what the rows are: restored. All times are UTC, ISO 8601, by the source's clock.
    """

    format_version: int
    protection_id: str
    database: str
    schema: str
    table: str
    run_id: str
    created_at: str
    ends_at: str
    reason: str
    ranges: list[ProtectedRange]

    def __str__(self) -> str:
        return f"protected until {moment_of(self.ends_at):%Y-%m-%d %H:%M} UTC: {self.reason} rows"


def moment_of(text: str) -> datetime:
    """A time of a protection. Raises ValueError when it is not ISO 8601 in UTC: nothing is guessed about a zone."""
    moment = datetime.fromisoformat(text)
    if moment.utcoffset() != UTC.utcoffset(None):
        raise ValueError(f"{text!r} is not a time in UTC")
    return moment


def protections_in_force(protections: Iterable[Protection], now: datetime) -> list[Protection]:
    """Those that have not ended at `now`, the source's time."""
    return [protection for protection in protections if now < moment_of(protection.ends_at)]


def is_protected(window: Window, protections: Iterable[Protection]) -> bool:
    """Whether any of the protections, all taken to be in force, reaches into the window."""
    return any(_reaches_into(protection, window) for protection in protections)


def longest_protection(window: Window, protections: Sequence[Protection]) -> Protection | None:
    """Of the protections that reach into the window the one that ends last; None when the window is not protected."""
    reaching = [protection for protection in protections if _reaches_into(protection, window)]
    return max(reaching, key=lambda protection: moment_of(protection.ends_at), default=None)


def unprotected_spans(
    unit: WindowUnit, end: datetime, protections: Iterable[Protection], *, first: date
) -> list[tuple[datetime | None, datetime]]:
    """What is left of the time before `end`, a boundary of `unit`, without the windows that any protection reaches
    into: (start, end) in order, start inclusive and None where it is open to the past."""
    ranges = [one for protection in protections for one in protection.ranges]
    windows = [_reached_by(unit, one, first=first) for one in ranges]
    spans: list[tuple[datetime | None, datetime]] = []
    start: datetime | None = None
    for lower, upper in sorted(windows):
        if lower > (start or _EARLIEST):
            spans.append((start, min(lower, end)))
        start = max(upper, start or _EARLIEST)
        if start >= end:
            return spans
    return [*spans, (start, end)]


def _reached_by(unit: WindowUnit, one: ProtectedRange, *, first: date) -> tuple[datetime, datetime]:
    """From the lower bound of the first window that a range reaches into to the end of the last."""
    lowest = window_containing(unit, moment_of(one.start), first=first)
    highest = window_containing(unit, moment_of(one.end) - timedelta(microseconds=1), first=first)
    return _lower(lowest.start, open_start=lowest.open_start or one.open_start), highest.end


def merged_ranges(windows: Iterable[tuple[datetime, datetime, bool]]) -> list[ProtectedRange]:
    """(start, end, open_start) of windows as the fewest ranges: those that touch or overlap become one. In order."""
    merged: list[tuple[datetime, datetime, bool]] = []
    for start, end, open_start in sorted(windows, key=lambda window: _lower(window[0], open_start=window[2])):
        if merged and _lower(start, open_start=open_start) <= merged[-1][1]:
            first, last, is_open = merged[-1]
            merged[-1] = (min(first, start), max(last, end), is_open or open_start)
        else:
            merged.append((start, end, open_start))
    return [
        ProtectedRange(start.astimezone(UTC).isoformat(), end.astimezone(UTC).isoformat(), open_start)
        for start, end, open_start in merged
    ]


def _reaches_into(protection: Protection, window: Window) -> bool:
    """A window that is protected in part is left whole: windows may have had another length when they were archived."""
    return any(
        _lower(moment_of(one.start), open_start=one.open_start) < window.end
        and _lower(window.start, open_start=window.open_start) < moment_of(one.end)
        for one in protection.ranges
    )


def _lower(start: datetime, *, open_start: bool) -> datetime:
    return _EARLIEST if open_start else start
