"""Notifications: what must be written together, what only warns, what is in force."""

from datetime import timedelta
from pathlib import Path

import pytest

from archiver_pipeline.domain.alert import AlertKind
from archiver_pipeline.domain.alert_policy import QuietHours
from archiver_pipeline_tests.config.conftest import MINIMAL

TEAMS = "teams: {webhook_url_env: HOOK}"
MAIL = "smtp_host: h, from: a@b.c, to: d@e.f"


def notifications(lines: str) -> str:
    return f"{MINIMAL}notifications: {{{lines}}}\n"


@pytest.mark.parametrize(
    ("lines", "places"),
    [
        ("enabled: true", {"enabled"}),
        ("enabled: true, slack: {enabled: false, webhook_url_env: HOOK}", {"enabled"}),
        ("enabled: true, slack: {}", {"slack.webhook_url_env"}),
        ("enabled: true, slack: {token_env: T}", {"slack.channel"}),
        ("enabled: true, slack: {token_env: T, channel: c, webhook_url_env: HOOK}", {"slack.token_env"}),
        ("enabled: true, slack: {webhook_url: hunter2}", {"slack.webhook_url"}),
        ("enabled: true, teams: {}", {"teams.webhook_url_env"}),
        ("enabled: true, teams: {webhook_url: hunter2}", {"teams.webhook_url"}),
        ("enabled: true, email: {}", {"email.smtp_host", "email.from", "email.to"}),
        ("enabled: true, email: {smtp_host: h, from: nobody, to: d@e.f}", {"email.from"}),
        ("enabled: true, email: {smtp_host: h, from: a@b.c, to: [d@e.f, 'g@h.i, j@k.l']}", {"email.to[1]"}),
        (f"enabled: true, email: {{{MAIL}, username: u}}", {"email.password_env"}),
        (f"enabled: true, email: {{{MAIL}, password_env: P}}", {"email.username"}),
        (f"enabled: true, quiet_hours_start: 22, {TEAMS}", {"quiet_hours_end"}),
        (f"enabled: true, quiet_hours_end: 0, {TEAMS}", {"quiet_hours_start"}),
        (f"enabled: true, quiet_hours_start: 0, quiet_hours_end: 0, {TEAMS}", {"quiet_hours_end"}),
        ("enabled: true, slack: {webhook_url: {a: b}}", {"slack.webhook_url"}),
        ("dagster_url: dagster.example.com", {"dagster_url"}),
        ("threshold_factor: 1", {"threshold_factor"}),
    ],
)
def test_what_does_not_go_together(problems, lines, places):
    found = problems(notifications(lines), HOOK="https://hooks.example.com/x", T="xoxb", P="p")
    assert set(found) == {f"notifications.{place}" for place in places}
    assert "hunter2" not in str(found)


def test_without_enabled_nothing_is_demanded(load):
    loaded = load(notifications("slack: {}, email: {smtp_host: h}, quiet_hours_start: 22"))
    assert loaded.warnings == ()
    assert not loaded.notifications.enabled
    assert loaded.notifications.slack is loaded.notifications.email is None


@pytest.mark.parametrize(
    ("channel", "where"),
    [
        ("slack: {webhook_url_env: NOT_SET}", "slack"),
        ("slack: {token_env: NOT_SET, channel: c}", "slack"),
        (TEAMS.replace("HOOK", "NOT_SET"), "teams"),
        (f"email: {{{MAIL}, username: u, password_env: NOT_SET}}", "email"),
    ],
)
def test_a_variable_that_is_not_set_only_warns(load, channel, where):
    """No run may fail for an alert."""
    loaded = load(notifications(f"enabled: true, {channel}"))
    text = "environment variable NOT_SET is not set; no alert goes there"
    assert loaded.warnings == (f"notifications.{where}: {text}",)
    assert list(loaded.notifications.unready) == [(f"notifications.{where}", text.partition(";")[0])]


def test_a_variable_that_holds_no_url_only_warns_and_is_not_shown(load):
    loaded = load(notifications(f"enabled: true, {TEAMS}"), HOOK="hunter2")
    assert "no URL" in loaded.warnings[0]
    assert "hunter2" not in repr(loaded)


def test_plain_secrets_warn(load):
    text = notifications(
        "enabled: true, slack: {webhook_url: 'https://s/x'}, teams: {webhook_url: 'https://t/x'},"
        f" email: {{{MAIL}, username: u, password: p, use_tls: false}}"
    )
    places = [warning.partition(":")[0] for warning in load(text).warnings]
    assert places == [
        "notifications.slack.webhook_url",
        "notifications.teams.webhook_url",
        "notifications.email.password",
        "notifications.email.use_tls",
    ]


def test_what_is_in_force(load, tmp_path):
    text = notifications(
        f"enabled: true, {TEAMS}, email: {{{MAIL}, smtp_port: 465, ca_file: ca.pem}}, send_on_success: false,"
        " send_on_start: true, rate_limit_hours: 1.5, quiet_hours_start: 22, quiet_hours_end: 0,"
        " dagster_url: 'https://dagster.example.com/', digest_mode: true, digest_hour: 0"
    )
    found = load(text, HOOK="https://hooks.example.com/x").notifications
    assert found.policy.wanted == {AlertKind.failed, AlertKind.started}
    assert (found.policy.quiet_hours, found.policy.rate_limit) == (QuietHours(22, 0), timedelta(minutes=90))
    assert (found.email.implicit_tls, found.email.ca_file) == (True, Path(tmp_path / "ca.pem"))
    assert (found.dagster_url, found.digest_hour) == ("https://dagster.example.com", 0)
    assert found.teams.webhook_url.get_secret_value() == "https://hooks.example.com/x"
