"""Who is told what and when, in force: channels with their secrets, and the policy of their messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import SecretStr

from archiver_pipeline.config.effective import secret_of
from archiver_pipeline.config.models import ArchiverConfig, Email, Notifications, Section, Slack, Teams
from archiver_pipeline.domain.alert import AlertKind
from archiver_pipeline.domain.alert_policy import AlertPolicy, QuietHours
from archiver_pipeline.domain.usual import UsualBounds
from archiver_pipeline.secret_sources.secret import ReferencedSecret


@dataclass(frozen=True)
class SlackSettings:
    """A webhook, or a bot token with its channel. `unready` says why it can't be used; empty when it can."""

    webhook_url: SecretStr | None
    token: SecretStr | None
    channel: str | None
    username: str | None
    api_url: str
    unready: str


@dataclass(frozen=True)
class TeamsSettings:
    """A webhook. `unready` as above."""

    webhook_url: SecretStr | None
    unready: str


@dataclass(frozen=True)
class EmailSettings:
    """One SMTP server. `use_tls` False is plain text; `implicit_tls` begins with TLS, else STARTTLS is demanded.
    Relative `ca_file` is resolved. `unready` as above."""

    host: str
    port: int
    use_tls: bool
    implicit_tls: bool
    ca_file: Path | None
    username: str | None
    password: SecretStr | None
    sender: str
    to: tuple[str, ...]
    unready: str


@dataclass(frozen=True)
class NotificationSettings:
    """Everything that alerts need. A channel that is not written or not enabled is None; without
    `enabled` all are. `threshold_rows` None: no backlog is too long."""

    enabled: bool
    slack: SlackSettings | None
    teams: TeamsSettings | None
    email: EmailSettings | None
    policy: AlertPolicy
    usual: UsualBounds
    threshold_rows: int | None
    digest_hour: int
    dagster_url: str | None

    @property
    def unready(self) -> Iterator[tuple[str, str]]:
        """Key of each channel that can't be used, and why."""
        for key, channel in (("slack", self.slack), ("teams", self.teams), ("email", self.email)):
            if channel is not None and channel.unready:
                yield f"notifications.{key}", channel.unready


def notification_settings(config: ArchiverConfig, environ: Mapping[str, str], base: Path) -> NotificationSettings:
    """Notifications as configured. The configuration must have passed the cross checks; a variable that is not set
    makes its channel unready, and nothing else: no run may fail for an alert."""
    written = config.notifications
    on = written.enabled
    return NotificationSettings(
        enabled=on,
        slack=_slack(written.slack, environ, base) if on and written.slack and written.slack.enabled else None,
        teams=_teams(written.teams, environ, base) if on and written.teams and written.teams.enabled else None,
        email=_email(written.email, environ, base) if on and written.email and written.email.enabled else None,
        policy=_policy(written),
        usual=UsualBounds(factor=written.threshold_factor, least_runs=written.threshold_min_runs),
        threshold_rows=written.threshold_rows,
        digest_hour=written.digest_hour,
        dagster_url=written.dagster_url,
    )


def _policy(written: Notifications) -> AlertPolicy:
    switches = {
        AlertKind.started: written.send_on_start,
        AlertKind.succeeded: written.send_on_success,
        AlertKind.failed: written.send_on_failure,
        AlertKind.threshold: written.send_on_threshold,
    }
    start, end = written.quiet_hours_start, written.quiet_hours_end
    return AlertPolicy(
        wanted=frozenset(kind for kind, wanted in switches.items() if wanted),
        digest_mode=written.digest_mode,
        rate_limit=timedelta(hours=written.rate_limit_hours),
        quiet_hours=QuietHours(start, end) if start is not None and end is not None else None,
    )


def _slack(slack: Slack, environ: Mapping[str, str], base: Path) -> SlackSettings:
    url, missing_url = _secret(slack, "webhook_url", environ, base)
    token, missing_token = _secret(slack, "token", environ, base)
    return SlackSettings(
        webhook_url=url,
        token=token,
        channel=slack.channel,
        username=slack.username,
        api_url=slack.api_url,
        unready=missing_url or missing_token or _not_a_url(url, slack.webhook_url_env),
    )


def _teams(teams: Teams, environ: Mapping[str, str], base: Path) -> TeamsSettings:
    url, missing = _secret(teams, "webhook_url", environ, base)
    return TeamsSettings(url, missing or _not_a_url(url, teams.webhook_url_env))


def _email(email: Email, environ: Mapping[str, str], base: Path) -> EmailSettings:
    password, missing = _secret(email, "password", environ, base)
    implicit = email.smtp_port == 465 if email.implicit_tls is None else email.implicit_tls
    return EmailSettings(
        host=email.smtp_host or "",
        port=email.smtp_port,
        use_tls=email.use_tls,
        implicit_tls=email.use_tls and implicit,
        ca_file=base / email.ca_file.expanduser() if email.ca_file else None,
        username=email.username,
        password=password,
        sender=email.sender or "",
        to=email.to,
        unready=missing,
    )


def _secret(section: Section, key: str, environ: Mapping[str, str], base: Path) -> tuple[SecretStr | None, str]:
    """The secret, and why there is none although a variable is named."""
    name = None if getattr(section, f"{key}_from") else getattr(section, f"{key}_env")
    if name is not None and not environ.get(name):
        return None, f"environment variable {name} {'is empty' if name in environ else 'is not set'}"
    return secret_of(section, key, environ, base), ""


def _not_a_url(url: SecretStr | None, name: str | None) -> str:
    # What is kept elsewhere is not asked for before an alert is sent.
    if url is None or isinstance(url, ReferencedSecret) or url.get_secret_value().startswith(("https://", "http://")):
        return ""
    return f"environment variable {name} holds no URL that begins with https://"
