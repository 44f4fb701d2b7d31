"""`archiver alert`, what `archiver check` says of channels, and what commands tell that no hook can."""

import os
import socket

import dagster as dg
import pytest

from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.names import PROCESS_TAG, asset_key
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.plugins.listening import PASSWORD, USER, Answer, SmtpListener

WEBHOOK_VARIABLE, TEAMS_VARIABLE, MAIL_VARIABLE = "TEST_WEBHOOK", "TEST_TEAMS", "TEST_MAIL_PASSWORD"
NAME = "appdb.public.audit_logs"


@pytest.fixture
def alerting(workplace, listener):
    """A Slack webhook at the listener; call it to change more of `notifications`."""

    def configure(**settings):
        workplace.document.setdefault("notifications", {}).update(settings)
        workplace.write()

    workplace.environment[WEBHOOK_VARIABLE] = listener.hook
    configure(enabled=True, slack={"webhook_url_env": WEBHOOK_VARIABLE}, send_on_success=False)
    return configure


def alert_lines(workplace):
    return [finding for finding in workplace.run("check", "--json").json if finding["subject"].startswith("alerts")]


def test_every_channel_is_tried_and_each_outcome_told(alerting, workplace, listener, certificate):
    mail = SmtpListener(certificate)
    workplace.environment |= {TEAMS_VARIABLE: f"http://127.0.0.1:{free_port()}/x", MAIL_VARIABLE: PASSWORD}
    email = {"smtp_host": "127.0.0.1", "smtp_port": mail.port, "ca_file": str(certificate), "username": USER}
    email |= {"password_env": MAIL_VARIABLE, "from": "archiver@example.com", "to": "dba@example.com"}
    alerting(teams={"webhook_url_env": TEAMS_VARIABLE}, email=email)
    found = workplace.run("alert", "test")
    mail.stop()
    assert found.code == 7
    assert found.stdout.splitlines() == [
        "sent     slack: incoming webhook",
        "NOT SENT teams: teams could not be reached: connection refused",
        f"sent     email: dba@example.com by 127.0.0.1:{mail.port} (STARTTLS)",
    ]
    assert (listener.titles, [m["Subject"] for m in mail.received]) == (["Test message of archiver"],) * 2
    levels = {line["subject"]: (line["level"], line["message"]) for line in alert_lines(workplace)}
    assert levels["alerts slack"][0] == "ok"
    assert "incoming webhook; last sent 20" in levels["alerts slack"][1]
    assert levels["alerts teams"][0] == "warning"
    assert "1 not sent" in levels["alerts teams"][1]


def test_a_variable_that_is_not_set_fails_the_check_and_no_run(alerting, workplace):
    del workplace.environment[WEBHOOK_VARIABLE]
    checked = workplace.run("check")
    assert checked.code == 3
    assert f"FAILED  alerts slack: environment variable {WEBHOOK_VARIABLE} is not set" in checked.stdout
    ran = workplace.run("run")
    assert ran.code == 0
    assert "no alert goes there" in ran.stderr


def test_without_notifications_it_says_what_to_do(workplace):
    found = workplace.run("alert", "test")
    assert (found.code, "notifications.enabled is false" in found.error) == (3, True)


def test_a_digest_is_shown_and_sent(alerting, workplace, listener):
    shown = workplace.run("alert", "digest", "--dry-run")
    assert shown.code == 0
    assert f"STUCK: {NAME}: no run, last success never; 48 rows wait" in shown.stdout
    assert listener.posted == []
    sent = workplace.run("alert", "digest", "--json")
    assert sent.json["deliveries"] == [{"channel": "slack", "error": None}]
    assert listener.titles == ["Digest: 1 stuck, 0 rows archived"]


def test_rate_limits_hold_across_processes_and_the_all_clear_says_so(alerting, workplace, listener):
    alerting(rate_limit_hours=4, send_on_success=True)
    with workplace.hold_lock():
        assert [workplace.run("run").code for _ in range(2)] == [4, 4]
    assert listener.titles == [f"Archive of {NAME} failed: another run holds the table's lock"]
    assert workplace.run("run", "--limit", "10").code == 0
    assert "it had failed 2 times since" in listener.posted[-1].text


@pytest.mark.parametrize("face", [[], ["--direct"]])
def test_a_database_that_is_away_is_told_though_there_is_no_run(alerting, workplace, listener, face):
    workplace.document["databases"][0]["port"] = free_port()
    workplace.write()
    assert workplace.run("run", *face).code == 7
    assert len(listener.posted) == 1
    assert "can't be reached" in listener.titles[0]


def test_a_listener_that_is_away_changes_no_exit_code_and_no_output(alerting, workplace, listener):
    alerting(send_on_success=True)
    listener.answers = [Answer(404)] * 9
    found = workplace.run("run", "--json")
    assert found.code == 0
    assert len(found.json["reports"]) == 1
    assert "alert not sent by slack: slack answered with HTTP 404" in found.stderr


def test_a_run_that_was_killed_is_told_by_the_next_command(alerting, workplace, listener):
    key = asset_key(workplace.loaded().tables[0])
    job = build_definitions(workplace.loaded()).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.from_config(str(workplace.dagster_home)) as instance:
        run = instance.create_run_for_job(
            job.get_subset(asset_selection={key}),
            asset_selection=frozenset({key}),
            tags={PROCESS_TAG: f"{socket.gethostname()}/{os.getpid()}/0.00"},
            status=dg.DagsterRunStatus.STARTED,
        )
    found = workplace.run("run")
    assert (found.code, run.run_id in found.stderr) == (0, True)
    assert listener.titles == [f"Archive of {NAME} failed: the run was killed"]
