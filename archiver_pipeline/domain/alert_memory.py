"""What is remembered between messages of one subject: what was told when, what was held back, what is failing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from archiver_pipeline.domain.alert import Activity, Alert, AlertKind

MOST_HELD = 50
MOST_BACKLOGS = 100


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A message that quiet hours held back. `at` is UTC."""

    at: datetime
    title: str


@dataclass(frozen=True, slots=True)
class Failing:
    """Failures of one activity since its last success. `since` is UTC."""

    since: datetime
    failures: int


@dataclass(frozen=True, slots=True)
class AlertMemory:
    """Of one subject. `told` and `repeated` are by topic: when it was told last, how often it was held back since.

    `held` are messages of quiet hours, the newest MOST_HELD of them; `unsent` counts messages that no channel took.
    `backlogs` are rows that were eligible after runs, oldest first, the last MOST_BACKLOGS of them.
    """

    told: Mapping[str, datetime] = field(default_factory=dict)
    repeated: Mapping[str, int] = field(default_factory=dict)
    failing: Mapping[Activity, Failing] = field(default_factory=dict)
    held: tuple[HeldBack, ...] = ()
    unsent: int = 0
    backlogs: tuple[int, ...] = ()

    def told_at(self, alert: Alert) -> datetime | None:
        """When the same was told last."""
        return self.told.get(alert.topic)

    def is_failing(self, activity: Activity) -> bool:
        return activity in self.failing

    def seeing(self, alert: Alert, now: datetime) -> "AlertMemory":
        """After the event itself, told or not: a success ends its activity's failures, so that the next one is a
        first one again."""
        if alert.kind is AlertKind.failed:
            before = self.failing.get(alert.activity, Failing(now, 0))
            return replace(
                self, failing={**self.failing, alert.activity: replace(before, failures=before.failures + 1)}
            )
        if alert.kind is not AlertKind.succeeded:
            return self
        ended = f"{alert.activity.value}:{AlertKind.failed.value}"
        return replace(
            self,
            failing={activity: known for activity, known in self.failing.items() if activity is not alert.activity},
            told={topic: at for topic, at in self.told.items() if not _is_about(topic, ended)},
            repeated={topic: count for topic, count in self.repeated.items() if not _is_about(topic, ended)},
        )

    def sending(self, alert: Alert, now: datetime) -> "AlertMemory":
        """After it was sent."""
        repeated = {topic: count for topic, count in self.repeated.items() if topic != alert.topic}
        return replace(self, told={**self.told, alert.topic: now}, repeated=repeated, unsent=0)

    def repeating(self, alert: Alert) -> "AlertMemory":
        """After the rate limit held it back."""
        return replace(self, repeated={**self.repeated, alert.topic: self.repeated.get(alert.topic, 0) + 1})

    def holding(self, alert: Alert, now: datetime) -> "AlertMemory":
        """After quiet hours held it back."""
        return replace(self, held=(*self.held, HeldBack(now, alert.title))[-MOST_HELD:])

    def failing_to_send(self) -> "AlertMemory":
        """After no channel took it: it counts as never told."""
        return replace(self, unsent=self.unsent + 1)

    def measuring(self, eligible_rows: int) -> "AlertMemory":
        """After a run left so many rows eligible."""
        return replace(self, backlogs=(*self.backlogs, eligible_rows)[-MOST_BACKLOGS:])

    def releasing(self) -> "AlertMemory":
        """After what quiet hours held back was told."""
        return replace(self, held=())


def notes_of(memory: AlertMemory, alert: Alert) -> tuple[str, ...]:
    """What a message that goes out now must say of those that did not, and of what went before. `memory` is from
    before the event."""
    notes = []
    repeated, told_at = memory.repeated.get(alert.topic, 0), memory.told_at(alert)
    if repeated and told_at:
        notes.append(f"{repeated} more like this since {_time(told_at)} were held back by the rate limit.")
    failing = memory.failing.get(alert.activity)
    if failing and alert.kind is AlertKind.failed:
        notes.append(f"It has failed {failing.failures + 1} times in a row since {_time(failing.since)}.")
    if failing and alert.kind is AlertKind.succeeded:
        times = "once" if failing.failures == 1 else f"{failing.failures} times"
        notes.append(f"It works again: it had failed {times} since {_time(failing.since)}.")
    if memory.unsent:
        notes.append(f"{memory.unsent} earlier messages about {alert.subject} could not be sent anywhere.")
    return tuple(notes)


def _is_about(topic: str, prefix: str) -> bool:
    return topic == prefix or topic.startswith(f"{prefix}:")


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
