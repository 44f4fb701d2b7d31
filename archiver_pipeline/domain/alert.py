"""One message to people: what happened, whether rows are safe, what to do next. Each channel renders it its own way."""

from dataclasses import dataclass, replace
from enum import StrEnum


class AlertKind(StrEnum):
    """What a message is about; decides whether it is wanted."""

    started = "started"
    succeeded = "succeeded"
    failed = "failed"
    threshold = "threshold"
    digest = "digest"
    held_back = "held_back"
    test = "test"


class Activity(StrEnum):
    """What was going on: a success of one says nothing about the others."""

    archive = "archive"
    restore = "restore"
    validate = "validate"
    alerts = "alerts"


class Severity(StrEnum):
    """How it looks: `good` is green, `info` grey."""

    info = "info"
    good = "good"
    warning = "warning"
    error = "error"


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and a value for people."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Alert:
    """`subject` is the table as `database.schema.table`, or what else it is about; `title` alone must say it.

    `reason` tells messages of one kind apart, so that a rate limit of one does not silence another: an error's name.
    `safety` says what became of rows; empty where none was at stake. No text holds row content or a secret.
    """

    kind: AlertKind
    severity: Severity
    activity: Activity
    subject: str
    title: str
    happened: str
    reason: str = ""
    safety: str = ""
    next_steps: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    link: str | None = None

    @property
    def topic(self) -> str:
        """Messages of one subject and topic repeat each other."""
        return ":".join(part for part in (self.activity.value, self.kind.value, self.reason) if part)

    def noting(self, *notes: str) -> "Alert":
        """The message with more notes at its end."""
        return replace(self, notes=(*self.notes, *notes))
