"""What a channel is, and those that a configuration asks for."""

from collections.abc import Iterator
from typing import Protocol

from archiver_pipeline.config.notifications import NotificationSettings
from archiver_pipeline.domain.alert import Alert
from archiver_pipeline.errors import AlertError


class Channel(Protocol):
    """One way to people. `name` is `slack`, `teams` or `email`; `means` says how it gets there, without a secret."""

    @property
    def name(self) -> str: ...

    @property
    def means(self) -> str: ...

    def send(self, alert: Alert) -> None:
        """Returns when the other side has taken it. Tries again within a bounded time. Raises AlertError."""
        ...


class UnreadyChannel:
    """A channel that is configured and can't be used: sending says why."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.means = reason

    def send(self, alert: Alert) -> None:
        raise AlertError(f"{self.name} is not ready: {self.means}")


def open_channels(settings: NotificationSettings) -> tuple[Channel, ...]:
    """The channels that are enabled. Nothing is connected yet."""
    return tuple(_channels(settings))


def _channels(settings: NotificationSettings) -> Iterator[Channel]:
    """Each is imported only when it is configured: their libraries are slow to import."""
    slack, teams, email = settings.slack, settings.teams, settings.email
    if slack is not None:
        from archiver_pipeline.notify.slack import SlackApiChannel, SlackWebhookChannel  # noqa: PLC0415

        yield _unready("slack", slack.unready) or (
            SlackApiChannel(slack) if slack.token is not None else SlackWebhookChannel(slack)
        )
    if teams is not None:
        from archiver_pipeline.notify.teams import TeamsChannel  # noqa: PLC0415

        yield _unready("teams", teams.unready) or TeamsChannel(teams)
    if email is not None:
        from archiver_pipeline.notify.email import EmailChannel  # noqa: PLC0415

        yield _unready("email", email.unready) or EmailChannel(email)


def _unready(name: str, reason: str) -> Channel | None:
    return UnreadyChannel(name, reason) if reason else None
