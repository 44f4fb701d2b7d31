"""What is held back, remembered, and told later; what is unusual. No archive runs here."""

import logging
from datetime import UTC, datetime
from types import SimpleNamespace

import dagster as dg
import pytest
import yaml

from archiver_pipeline.config.enums import VacuumStrategy
from archiver_pipeline.config.loading import load_config
from archiver_pipeline.domain.alert import Activity, Alert, AlertKind, Severity
from archiver_pipeline.domain.alert_policy import Verdict
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.backlog import Backlog
from archiver_pipeline.orchestration.alert_looks import tell_of_whole_look
from archiver_pipeline.orchestration.alert_thresholds import Past, unusual_of
from archiver_pipeline.orchestration.alerting import Alerts
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.digest import send_held
from archiver_pipeline.orchestration.sensors import due_sensor
from archiver_pipeline_tests.orchestration.documents import config_of, database, table
from archiver_pipeline_tests.orchestration.test_alerts import NAME, texts
from archiver_pipeline_tests.plugins.listening import Answer

LOG = logging.getLogger("test")


@pytest.fixture
def alerting(tmp_path, listener):
    """Loads a configuration with a Slack webhook at the listener and these settings besides."""

    def configure(**settings):
        path = config_of(tmp_path, database("appdb", table())).path
        document = yaml.safe_load(path.read_text())
        document["notifications"] = {"enabled": True, "slack": {"webhook_url": listener.hook}} | settings
        path.write_text(yaml.safe_dump(document))
        return load_config(path, environ={}, cwd=tmp_path)

    return configure


@pytest.fixture
def memory():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def small(kind, severity=Severity.info):
    return Alert(kind, severity, Activity.archive, NAME, f"a {kind.value} message", "happened")


def test_what_quiet_hours_hold_back_is_told_after_them(alerting, memory, listener):
    hour = datetime.now(UTC).hour
    config = alerting(quiet_hours_start=(hour - 1) % 24, quiet_hours_end=(hour + 2) % 24, send_on_threshold=True)
    alerts = Alerts(config.notifications)
    assert alerts.tell(memory, small(AlertKind.succeeded)).verdict is Verdict.quiet
    assert alerts.tell(memory, small(AlertKind.threshold)).verdict is Verdict.quiet
    assert alerts.tell(memory, small(AlertKind.failed)).verdict is Verdict.send
    now = datetime.now(UTC)
    listener.answers = [Answer(400)]
    [refused] = send_held(config, alerts, memory, now, log=LOG)
    [taken] = send_held(config, alerts, memory, now, log=LOG)
    assert (refused.error is None, taken.error is None) == (False, True)
    assert send_held(config, alerts, memory, now, log=LOG) == ()
    said = texts(listener.posted[-1])
    assert said[0].endswith("2 messages of the quiet hours")
    assert "a succeeded message" in said[2] and "a threshold message" in said[2]


def test_the_rate_limit_holds_back_and_counts(alerting, memory, listener):
    settings = alerting(rate_limit_hours=1).notifications
    verdicts = [Alerts(settings).tell(memory, small(AlertKind.failed)).verdict for _ in range(3)]
    assert verdicts == [Verdict.send, Verdict.repeated, Verdict.repeated]
    Alerts(settings).tell(memory, small(AlertKind.succeeded))
    assert "it had failed 3 times since" in texts(listener.posted[1])[-1]


def test_without_an_instance_nothing_is_remembered(alerting, listener):
    alerts = Alerts(alerting(rate_limit_hours=1).notifications)
    assert [alerts.tell(None, small(AlertKind.failed)).verdict for _ in range(2)] == [Verdict.send] * 2


class BrokenStorage:
    """An instance whose storage is away."""

    @property
    def daemon_cursor_storage(self):
        raise OSError("database secret-of-storage is away")


def test_a_broken_storage_of_dagster_does_not_stop_a_failure_from_being_told(alerting, listener, caplog):
    told = Alerts(alerting().notifications).tell(BrokenStorage(), small(AlertKind.failed))
    assert (told.summary, len(listener.posted)) == ("sent", 1)
    assert "what was told before could not be read: OSError" in caplog.text
    assert "secret-of-storage" not in caplog.text


def test_a_sensor_that_cannot_ask_tells_once_an_hour(alerting, memory, listener):
    config = alerting(quiet_hours_start=0, quiet_hours_end=23)
    sensor = due_sensor(config, config.databases[0])
    for _ in range(2):
        with pytest.raises(dg.Failure):
            sensor(dg.build_sensor_context(instance=memory))
    assert listener.titles == ["appdb could not be asked what is due: database or store can't be reached"]
    tell_of_whole_look(Alerts(alerting().notifications), memory, "appdb", log=LOG)
    tell_of_whole_look(Alerts(alerting().notifications), memory, "appdb", log=LOG)
    assert listener.titles[1:] == ["appdb can be asked again what is due"]


def test_jobs_and_schedules_are_there_when_they_are_wanted(alerting):
    definitions = build_definitions(alerting(digest_mode=True, digest_hour=0, quiet_hours_start=22, quiet_hours_end=0))
    schedules = {one.name: one for one in definitions.schedules if "alert" in one.name}
    assert {name: one.cron_schedule for name, one in schedules.items()} == {
        "daily_alert_digest": "0 0 * * *",
        "daily_alert_after_quiet_hours": "0 0 * * *",
    }
    assert {one.default_status for one in schedules.values()} == {dg.DefaultScheduleStatus.RUNNING}
    assert "alert_of_dead_runs" in [one.name for one in definitions.sensors]
    off = build_definitions(alerting(enabled=False))
    assert not [one.name for one in (*off.schedules, *off.sensors, *off.jobs) if "alert" in one.name]


TABLE = TableName("appdb", "public", "audit_logs")
PAST = Past(window_rows=[1000.0] * 5, rows_per_second=[500.0] * 5, backlogs=[10, 20, 30, 40])


def report(rows=1000, seconds=2.0, vacuum="standard", before=100, after=50, reclaim=None):
    return SimpleNamespace(
        windows=(SimpleNamespace(window_key="2026-05-04", rows=rows),),
        rows=rows,
        total_seconds=seconds,
        seconds={"extract": seconds},
        vacuum=vacuum,
        table_bytes_before=before,
        table_bytes_after=after,
        reclaim=reclaim,
    )


def backlog(rows=0, *, is_capped=False):
    return Backlog(TABLE, rows, is_capped, datetime(2026, 1, 1, tzinfo=UTC), datetime.now(UTC))


@pytest.mark.parametrize(
    ("run", "left", "strategy", "topics"),
    [
        (report(), backlog(), "standard", []),
        (report(rows=5001), backlog(), "standard", ["many rows"]),
        (report(reclaim=SimpleNamespace(failed="no pg_repack")), backlog(), "standard", ["space not reclaimed"]),
        (report(rows=199), backlog(), "standard", ["few rows"]),
        (report(rows=0), backlog(), "standard", []),
        (report(seconds=59), backlog(), "standard", []),
        (report(seconds=61), backlog(), "standard", ["slow"]),
        (report(vacuum="standard: skipped, the table was locked"), backlog(), "standard", ["space not reclaimed"]),
        (report(after=100), backlog(), "standard", []),
        (report(after=100, vacuum="full"), backlog(), "full", ["space not reclaimed"]),
        (report(vacuum="nothing to vacuum"), backlog(), "none", []),
        (report(), backlog(50), "standard", ["backlog grows"]),
        (report(), backlog(40), "standard", []),
        (report(), backlog(101), "standard", ["backlog"]),
        (report(), backlog(100, is_capped=True), "standard", ["backlog"]),
    ],
)
def test_what_is_unusual(alerting, run, left, strategy, topics):
    settings = alerting(threshold_rows=100).notifications
    found = unusual_of(run, PAST, left, VacuumStrategy(strategy), settings)
    assert [one.topic for one in found] == topics


def test_without_a_past_nothing_is_unusual(alerting):
    settings = alerting().notifications
    found = unusual_of(report(rows=10**9), Past([1.0] * 4, [], []), backlog(9), VacuumStrategy.STANDARD, settings)
    assert found == ()
