"""Whether a message goes out now: pure decisions over the settings, what was told before, and the time.

A failure that is wanted at all is held back by one thing only: the same failure of the same table, told less than
`rate_limit` ago, without a success since.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from archiver_pipeline.domain.alert import Alert, AlertKind
from archiver_pipeline.domain.alert_memory import AlertMemory

_ALWAYS = frozenset({AlertKind.digest, AlertKind.held_back, AlertKind.test})
_SUMMARIZED = frozenset({AlertKind.started, AlertKind.succeeded})


@dataclass(frozen=True, slots=True)
class QuietHours:
    """Hours of the day, UTC, 0 to 23, from `start_hour` (inclusive) to `end_hour` (exclusive), over midnight when the
    end is the lesser. The two differ."""

    start_hour: int
    end_hour: int

    def hold(self, now: datetime) -> bool:
        """Whether they hold at `now`, which is in UTC."""
        if self.start_hour < self.end_hour:
            return self.start_hour <= now.hour < self.end_hour
        return now.hour >= self.start_hour or now.hour < self.end_hour


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """What people want to be told, and when. A `rate_limit` of zero holds nothing back."""

    wanted: frozenset[AlertKind]
    digest_mode: bool = False
    rate_limit: timedelta = timedelta()
    quiet_hours: QuietHours | None = None


class Verdict(StrEnum):
    """What becomes of a message; all but `send` are silence, and their values say why."""

    send = "send"
    unwanted = "not wanted"
    summarized = "left to the digest"
    quiet = "quiet hours"
    repeated = "rate limit"


def judge(policy: AlertPolicy, memory: AlertMemory, alert: Alert, now: datetime) -> Verdict:
    """Whether to send the message now, given what was told of its subject. `now` is in UTC."""
    if alert.kind in _ALWAYS:
        return Verdict.send
    if alert.kind not in policy.wanted:
        return Verdict.unwanted
    if alert.kind is AlertKind.failed:
        return Verdict.repeated if _is_repeated(policy, memory, alert, now) else Verdict.send
    is_all_clear = alert.kind is AlertKind.succeeded and memory.is_failing(alert.activity)
    is_all_clear &= AlertKind.failed in policy.wanted
    if policy.digest_mode and alert.kind in _SUMMARIZED and not is_all_clear:
        return Verdict.summarized
    if policy.quiet_hours is not None and policy.quiet_hours.hold(now):
        return Verdict.quiet
    if not is_all_clear and _is_repeated(policy, memory, alert, now):
        return Verdict.repeated
    return Verdict.send


def _is_repeated(policy: AlertPolicy, memory: AlertMemory, alert: Alert, now: datetime) -> bool:
    told_at = memory.told_at(alert)
    # A clock that was set back must not silence anything.
    return told_at is not None and timedelta() <= now - told_at < policy.rate_limit
