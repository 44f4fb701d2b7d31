"""When an archive must wait for the database's other work: signals, their limits, and what they say together."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Signal(StrEnum):
    """What is measured, named as its limit is configured."""

    replication_lag_seconds = "replication_lag_seconds"
    replication_lag_bytes = "replication_lag_bytes"
    wal_bytes_per_second = "wal_bytes_per_second"
    pending_wal_files = "pending_wal_files"
    dead_row_percent = "dead_row_percent"
    blocked_sessions = "blocked_sessions"
    query_ms = "query_ms"
    longest_transaction_seconds = "longest_transaction_seconds"
    probe = "probe"


@dataclass(frozen=True, slots=True)
class ThrottleSettings:
    """Which signals count, and how long is waited. `probe` is SQL that gives one boolean (true: wait) or one number
    (above its limit: wait); the signal `probe` is in `limits` when there is one.

    From `shrink_at_percent` of a limit on one batch is worked on at a time. Signals are read at most every
    `poll_seconds`; no reading takes longer than `timeout_seconds`.
    """

    limits: tuple[tuple[Signal, float], ...]
    probe: str = ""
    shrink_at_percent: float = 75.0
    poll_seconds: float = 2.0
    max_pause_seconds: float = 600.0
    timeout_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Reading:
    """One signal as it was read. `problem` says why it could not be: then nothing is known, and nothing may go on."""

    signal: Signal
    limit: float
    value: float = math.nan
    problem: str = ""

    @property
    def is_over(self) -> bool:
        return bool(self.problem) or not self.value <= self.limit

    @property
    def share(self) -> float:
        """The part of its limit that is used up; infinite where nothing is known."""
        if self.is_over:
            return max(self.value / self.limit, 1.0) if self.limit and not self.problem else math.inf
        return self.value / self.limit if self.limit and self.value > 0 else 0.0

    def __str__(self) -> str:
        if self.problem:
            return f"{self.signal} can't be read: {self.problem}"
        if self.value == math.inf:
            return f"{self.signal} says to wait"
        return f"{self.signal} is {_number(self.value)}, its limit {_number(self.limit)}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all readings say together: `over` are those above their limits, `pressed` those near them or above."""

    over: tuple[Reading, ...] = ()
    pressed: tuple[Reading, ...] = ()

    @property
    def reason(self) -> str:
        """Why the archive waits, for people; empty when it does not."""
        return "; ".join(map(str, self.over))


def judge(readings: Iterable[Reading], shrink_at_percent: float) -> Verdict:
    """Hold readings against their limits."""
    known = tuple(readings)
    over = tuple(reading for reading in known if reading.is_over)
    pressed = tuple(reading for reading in known if reading.is_over or reading.share >= shrink_at_percent / 100 > 0)
    return Verdict(over, pressed)


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long an attempt waited in all, in seconds, and for what: seconds by signal. Signals that were over their
    limits at once share the time."""

    seconds: float = 0.0
    by_signal: tuple[tuple[str, float], ...] = ()

    def __add__(self, other: "Pauses") -> "Pauses":
        sums = dict(self.by_signal)
        for signal, seconds in other.by_signal:
            sums[signal] = sums.get(signal, 0.0) + seconds
        return Pauses(self.seconds + other.seconds, tuple(sorted(sums.items())))

    @classmethod
    def of(cls, seconds: float, verdict: Verdict) -> "Pauses":
        """One wait."""
        share = seconds / max(1, len(verdict.over))
        return cls(seconds, tuple(sorted((reading.signal.value, share) for reading in verdict.over)))


NO_PAUSES = Pauses()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:,.2f}"
