"""Alerts of real runs: who is told what, once, under every way to run, and that no alert harms a run."""

import logging
from datetime import UTC, datetime

import dagster as dg
import pytest

from archiver_pipeline.domain.alert import Severity
from archiver_pipeline.orchestration.alert_state import read_channels, read_memories
from archiver_pipeline.orchestration.alerting import Alerts
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.digest import make_digest
from archiver_pipeline.orchestration.names import asset_key
from archiver_pipeline.orchestration.untold import TOLD_TAG, tell_untold, untold_sensor
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.cli.faulty_store import damaging_store
from archiver_pipeline_tests.orchestration.running import due_keys, materialize
from archiver_pipeline_tests.plugins.listening import Answer

WEBHOOK_VARIABLE = "TEST_WEBHOOK"
NAME = "appdb.public.audit_logs"
LOG = logging.getLogger("test")


@pytest.fixture
def alerting(workplace, listener):
    """The workplace with a Slack webhook at the listener; call it to change more of `notifications`."""

    def configure(**settings):
        workplace.document.setdefault("notifications", {}).update(settings)
        workplace.write()

    workplace.environment[WEBHOOK_VARIABLE] = listener.hook
    configure(enabled=True, slack={"webhook_url_env": WEBHOOK_VARIABLE}, dagster_url="https://dagster.example.com/")
    yield configure
    for path in workplace.folder.rglob("*"):
        assert not path.is_file() or b"secret-of-the-webhook" not in path.read_bytes(), path


def texts(posted):
    """What a person reads in a Slack message, block by block."""
    found = []
    for block in posted.body["blocks"]:
        parts = [block["text"]] if "text" in block else block.get("fields") or block["elements"]
        found += [part["text"] for part in parts]
    return found


def test_start_success_and_what_is_unusual_are_told_once_each(alerting, workplace, instance, listener):
    alerting(send_on_start=True, send_on_threshold=True, threshold_rows=20)
    key = due_keys(workplace)[0]
    result = materialize(workplace, instance, key)
    assert result.success
    started, succeeded, unusual = map(texts, listener.posted)
    rows = result.asset_materializations_for_node("appdb__public__audit_logs")[0].metadata["rows"].value
    assert started[0].endswith(f"Archiving {rows} rows of {NAME}")
    assert succeeded[0].endswith(f"Archived {rows} rows of {NAME}")
    assert f"*Windows*\n{key}" in succeeded
    assert succeeded[-1] == f"<https://dagster.example.com/runs/{result.run_id}|Open the run in Dagster>"
    assert unusual[0].endswith(f"Unusual run of {NAME}: backlog")
    assert "threshold_rows is 20" in unusual[2]
    assert [event for event in result.all_events if event.event_type_value == "HOOK_ERRORED"] == []
    digest = make_digest(workplace.loaded(), instance, datetime.now(UTC))
    [line] = digest.lines
    assert line.startswith(f"ok: {NAME}: {rows} rows archived, ")
    assert line.endswith(f" rows wait, the oldest from {due_keys(workplace)[0]}")


def test_a_failure_is_told_once_with_what_became_of_rows(alerting, workplace, instance, listener):
    alerting(quiet_hours_start=0, quiet_hours_end=23, digest_mode=True)
    with damaging_store(workplace.bucket.endpoint) as endpoint:
        workplace.document["s3"]["endpoint"] = endpoint
        workplace.write()
        result = materialize(workplace, instance, due_keys(workplace)[0])
    assert not result.success
    [posted] = listener.posted
    said = texts(posted)
    assert said[0].endswith(f"Archive of {NAME} failed: what was read back is not what was read from the table")
    assert "failed in its step verify" in said[1]
    assert "every row that it read is still in the table" in said[2]
    assert "archiver validate --database appdb --table public.audit_logs" in said[3]
    run = instance.get_run_by_id(result.run_id)
    assert run.tags[TOLD_TAG] == "sent"
    assert evaluate_sensor(workplace, instance, run) == "told already: sent"
    assert len(listener.posted) == 1
    digest = make_digest(workplace.loaded(), instance, datetime.now(UTC))
    assert digest.severity is Severity.error
    assert "1 of 1 runs failed, the last because what was read back" in digest.lines[0]


def evaluate_sensor(workplace, instance, run):
    """One tick of the sensor about a failed run; what it says."""
    config = workplace.loaded()
    sensor = untold_sensor(config, Alerts(config.notifications))
    [event] = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE).records
    context = dg.build_run_status_sensor_context(
        sensor_name=sensor.name,
        dagster_event=event.event_log_entry.dagster_event,
        dagster_instance=instance,
        dagster_run=instance.get_run_by_id(run.run_id),
    )
    skip = sensor(context.for_run_failure())
    return skip.skip_message


def dead_run(workplace, instance, **tags):
    """A run that was marked as failed from outside: no hook of it ever ran."""
    job = build_definitions(workplace.loaded()).resolve_implicit_global_asset_job_def()
    own = job.get_subset(asset_selection={asset_key(workplace.loaded().tables[0])})
    key = due_keys(workplace)[0]
    run = instance.create_run_for_job(
        own,
        asset_selection=frozenset({asset_key(workplace.loaded().tables[0])}),
        tags={"dagster/partition": key} | tags,
    )
    instance.report_run_failed(run)
    return instance.get_run_by_id(run.run_id)


def test_a_killed_run_is_told_by_the_sensor(alerting, workplace, instance, listener):
    run = dead_run(workplace, instance)
    assert evaluate_sensor(workplace, instance, run) == "sent"
    [said] = map(texts, listener.posted)
    assert said[0].endswith(f"Archive of {NAME} failed: the run was killed")
    assert "batch by batch" in said[2]
    assert f"*Windows*\n{run.tags['dagster/partition']}" in said
    assert evaluate_sensor(workplace, instance, run) == "told already: sent"
    assert evaluate_sensor(workplace, instance, dead_run(workplace, instance, **{"dagster/will_retry": "true"})) == (
        "the run is going to be retried"
    )
    assert len(listener.posted) == 1


def test_what_a_hook_could_not_send_the_sensor_tries_again(alerting, workplace, instance, listener):
    run = dead_run(workplace, instance)
    listener.answers = [Answer(404)]
    assert evaluate_sensor(workplace, instance, run) == "not sent"
    assert evaluate_sensor(workplace, instance, run) == "sent"
    assert "could not be sent anywhere" in texts(listener.posted[1])[-1]
    [state] = read_channels(instance, ["slack"])
    assert (state.failures, state.all_failures, state.all_sent) == (0, 1, 1)


def test_a_run_that_fails_before_its_first_step_is_told(alerting, workplace, instance, listener):
    def broken():
        raise OSError("no progress")

    config = workplace.loaded()
    job = build_definitions(config, progress=broken).resolve_implicit_global_asset_job_def()
    own = job.get_subset(asset_selection={asset_key(config.tables[0])})
    result = own.execute_in_process(instance=instance, partition_key=due_keys(workplace)[0], raise_on_error=False)
    assert not result.success
    assert listener.posted == []
    run = instance.get_run_by_id(result.run_id)
    assert tell_untold(config, Alerts(config.notifications), instance, run, log=LOG) == "sent"
    assert len(listener.posted) == 1


@pytest.mark.parametrize("is_set", [True, False])
def test_an_alert_that_cannot_be_sent_harms_no_run_and_is_visible(alerting, workplace, instance, is_set):
    if is_set:
        workplace.environment[WEBHOOK_VARIABLE] = f"http://127.0.0.1:{free_port()}/secret-of-the-webhook"
    else:
        del workplace.environment[WEBHOOK_VARIABLE]
    ledger = workplace.ledger()
    result = materialize(workplace, instance, due_keys(workplace)[0])
    assert result.success
    ledger.account()
    said = "connection refused" if is_set else f"environment variable {WEBHOOK_VARIABLE} is not set"
    logged = [entry.user_message for entry in instance.all_logs(result.run_id) if entry.level == logging.WARNING]
    assert [line for line in logged if "alert not sent by slack" in line and said in line]
    [state] = read_channels(instance, ["slack"])
    assert (state.is_failing, said in state.error) == (True, True)
    assert read_memories(instance, [NAME])[NAME].unsent == 1


def test_findings_and_restores_are_told(alerting, workplace, instance, listener):
    keys = due_keys(workplace)
    assert materialize(workplace, instance, keys[0], keys[1]).success
    definitions = build_definitions(workplace.loaded())
    config = {"ops": {"appdb__restored": {"ops": {"select": {"config": {"table": "audit_logs", "protect_days": 0}}}}}}
    job = definitions.resolve_job_def("restore_appdb")
    assert job.execute_in_process(instance=instance, run_config=config).success
    workplace.bucket.client.delete_object(Bucket=workplace.bucket.bucket, Key=workplace.keys_like(".jsonl.gz")[0])
    definitions.resolve_job_def("validate_appdb").execute_in_process(instance=instance, raise_on_error=False)
    nothing = {"ops": {"appdb__restored": {"ops": {"select": {"config": {}}}}}}
    assert not job.execute_in_process(instance=instance, run_config=nothing, raise_on_error=False).success
    archived, restored, found, failed = map(texts, listener.posted)
    assert "Archived" in archived[0]
    assert f"rows into {NAME}" in restored[0]
    assert "finding" in found[0] and "missing" in found[0]
    assert "Don't delete any object" in found[4]
    assert failed[0].endswith("Restore of tables of appdb failed: the configuration is wrong")


def test_the_digest_job_sends_and_fails_when_nobody_takes_it(alerting, workplace, instance, listener):
    job = build_definitions(workplace.loaded()).resolve_job_def("alert_digest")
    assert job.execute_in_process(instance=instance).success
    [said] = map(texts, listener.posted)
    assert said[0].endswith("Digest: 1 stuck, 0 rows archived")
    assert said[2].startswith(f"• STUCK: {NAME}: no run, last success never; 48 rows wait")
    listener.answers = [Answer(404)]
    assert not job.execute_in_process(instance=instance, raise_on_error=False).success
