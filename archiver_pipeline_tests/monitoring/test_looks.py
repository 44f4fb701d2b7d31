"""What each look sees, and what it makes of what it cannot see."""

import threading
import time
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType
from dagster._daemon.types import DaemonHeartbeat
from prometheus_client import generate_latest

from archiver_pipeline.errors import ManifestError, NetworkError
from archiver_pipeline.monitoring.archived import TableArchives
from archiver_pipeline.monitoring.health import health_of
from archiver_pipeline.monitoring.metrics import registry_of
from archiver_pipeline.monitoring.monitor import Monitor
from archiver_pipeline.monitoring.recorded import TableRuns
from archiver_pipeline.monitoring.watch import Watch
from archiver_pipeline.orchestration.alert_state import ChannelState, write_channel
from archiver_pipeline.orchestration.history import table_history
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.cli.workplace import PASSWORD_VARIABLE, SECRET_VARIABLE, wait_until
from archiver_pipeline_tests.orchestration.running import RANGE_END, RANGE_START, due_keys
from archiver_pipeline_tests.orchestration.table_job import table_job
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
REPORT = "appdb__public__audit_logs.report"


def touch() -> None:
    pass


def test_a_receipt_that_cannot_be_read_hides_the_sum_until_it_can(archiving, audit):
    archiving.archive()
    receipts = [key for key in archiving.bucket.keys("archives/") if key.endswith(".receipt.json")]
    kept = archiving.bucket.read(receipts[-1])
    store, archives = S3Store(archiving.store_settings()), TableArchives(archiving.settings())

    overwrite(archiving, receipts[-1], b"{}")
    with pytest.raises(ManifestError, match=receipts[-1]):
        archives.look(store, touch)
    assert archives.published is None

    overwrite(archiving, receipts[-1], kept)
    archives.look(store, touch)
    assert archives.published.rows == OLD_ROWS
    assert archives.published.batches == {"deleted": len(receipts), "absent": 0, "superseded": 0}

    # A receipt is read once: what becomes of it later changes no counter, nor does its expiry.
    overwrite(archiving, receipts[0], b"{}")
    archiving.bucket.client.delete_object(Bucket=archiving.bucket.bucket, Key=receipts[-1])
    before = archives.published
    archives.look(store, touch)
    assert archives.published.rows == before.rows
    assert (before.pending, archives.published.pending) == (0, 1)


def overwrite(archiving, key, data):
    archiving.bucket.client.put_object(Bucket=archiving.bucket.bucket, Key=key, Body=data)


def test_a_report_that_is_repeated_counts_once(workplace, instance, monkeypatch):
    use_environment(workplace, monkeypatch)
    settings, keys = workplace.loaded().tables[0], due_keys(workplace)
    job = dg.reconstructable(table_job)
    tags = {RANGE_START: keys[0], RANGE_END: keys[-1]}
    first = dg.execute_job(job, instance, tags=tags, run_config=QUIET)
    options = dg.ReexecutionOptions(first.run_id, step_selection=[REPORT])
    assert first.success
    assert dg.execute_job(job, instance, tags=tags, run_config=QUIET, reexecution_options=options).success

    runs = TableRuns(settings)
    runs.look(instance, touch)
    assert runs.published.runs["success"] == 2
    assert set(runs.published.reports.values()) == {1}
    history = table_history(instance, settings)
    assert len(history.runs) == 2
    assert [figures.rows for figures in history.reported] == [OLD_ROWS]


def use_environment(workplace, monkeypatch):
    monkeypatch.setenv("ARCHIVER_CONFIG", str(workplace.config_path))
    monkeypatch.setenv("DAGSTER_HOME", str(workplace.dagster_home))
    for variable in (PASSWORD_VARIABLE, SECRET_VARIABLE):
        monkeypatch.setenv(variable, workplace.environment[variable])


def test_a_daemon_is_missed_only_where_it_is_needed(workplace, instance, monkeypatch):
    use_environment(workplace, monkeypatch)
    monitor = Monitor(workplace.loaded())
    assert daemon_of(monitor) == ("not needed", False)

    location = RegisteredCodeLocationOrigin("archiver_pipeline")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), "due_appdb")
    instance.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING))
    assert daemon_of(monitor) == ("silent", True)

    for kind in instance.get_required_daemon_types():
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), kind, daemon_id=None))
    assert daemon_of(monitor) == ("alive", False)
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - 3600, "SENSOR", daemon_id=None))
    assert daemon_of(monitor) == ("silent", True)


def daemon_of(monitor):
    """What /health says of the daemon, and whether it is a reason."""
    monitor.dagster.look_once()
    health = health_of(monitor, datetime.now(UTC))
    return health.document["dagster"]["daemon"], any("daemon gives no sign" in reason for reason in health.reasons)


def test_alerts_that_a_channel_did_not_take_are_told_and_are_no_reason(workplace, instance, monkeypatch):
    workplace.document["notifications"] = {"enabled": True, "slack": {"webhook_url": "https://hooks.invalid/x"}}
    workplace.write()
    use_environment(workplace, monkeypatch)
    now = datetime.now(UTC)
    write_channel(instance, ChannelState("slack").after(None, now).after("nobody answers", now))
    monitor = Monitor(workplace.loaded())
    monitor.runs_read.look_once()

    text = generate_latest(registry_of(monitor)).decode()
    for line in (
        'archiver_alerts_sent_total{channel="slack"} 1.0',
        'archiver_alert_failures_total{channel="slack"} 1.0',
    ):
        assert line in text.splitlines()
    health = health_of(monitor, now)
    assert health.document["alerts"]["slack"]["problem"] == "nobody answers"
    assert not [reason for reason in health.reasons if "slack" in reason]


def test_a_look_that_fails_is_told_without_words_of_strangers():
    failures = iter([NetworkError("nobody answers"), ValueError("password=hunter2"), None])

    def look(_):
        if error := next(failures):
            raise error
        return 7

    watch = Watch("something", look, interval_seconds=60, retry_seconds=60, timeout_seconds=60)
    assert watch.problem == "not looked at yet"
    seen = []
    for _ in range(3):
        watch.look_once()
        seen.append((watch.value, watch.problem))
    assert seen == [(None, "nobody answers"), (None, "failed with ValueError"), (7, None)]


def test_what_was_seen_goes_stale_while_a_look_hangs():
    hangs, ends = threading.Event(), threading.Event()

    def look(_):
        if hangs.is_set():
            ends.wait()
        return True

    watch = Watch("something", look, interval_seconds=0.01, retry_seconds=0.01, timeout_seconds=0.2)
    watch.start()
    wait_until(lambda: watch.problem is None, what="it is seen")
    hangs.set()
    wait_until(lambda: watch.problem, what="it is stale")
    assert watch.problem.startswith("no answer for ")
    hangs.clear()
    ends.set()
    wait_until(lambda: watch.problem is None, what="it is seen again")
    watch.stop()
