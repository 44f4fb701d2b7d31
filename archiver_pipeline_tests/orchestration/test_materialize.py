"""Runs of the asset on a real Dagster instance: what a run shows, how it fails, and when it tries again."""

from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg
import pytest

from archiver_pipeline.engine.progress import SilentProgress
from archiver_pipeline.orchestration import ops
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.sandbox.s3_server import S3Server
from archiver_pipeline_tests.cli.faulty_store import damaging_store
from archiver_pipeline_tests.cli.workplace import BATCH_SIZE
from archiver_pipeline_tests.orchestration.running import due_keys, materialize
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS

KEY = dg.AssetKey(["appdb", "public", "audit_logs"])
NUMBERS = {"rows", "batches", "rows_bytes", "object_bytes", "compression_ratio", "rows_still_eligible"}
OF_THE_RUN = {
    "cutoff",
    "run_rows",
    "run_seconds",
    "run_rows_per_second",
    "space_reclaimed_bytes",
    "stopped_reason",
    *(f"{step}_seconds" for step in ops.STEPS),
}


def test_one_partition(workplace, instance):
    ledger = workplace.ledger()
    keys = due_keys(workplace)
    result = materialize(workplace, instance, keys[1])
    assert result.success
    [found] = result.asset_materializations_for_node("appdb__public__audit_logs")
    assert found.partition == keys[1]
    shown = {name: value.value for name, value in found.metadata.items()}
    assert set(shown) > NUMBERS | OF_THE_RUN
    assert shown["rows"] == shown["dagster/partition_row_count"] == len(ledger.archived_rows())
    assert shown["stopped_reason"] == "nothing left"
    assert shown["object_bytes"] == sum(len(stored.data) for stored in ledger.receipted())
    assert shown["compression_ratio"] == pytest.approx(shown["rows_bytes"] / shown["object_bytes"], abs=0.001)
    columns = [(column.name, column.type) for column in shown["dagster/column_schema"].columns]
    assert columns[:2] == [("id", "bigint"), ("created_at", "timestamp with time zone")]
    assert due_keys(workplace) == [key for key in keys if key != keys[1]]
    ledger.account()


def test_a_range_shows_each_partition_its_own_numbers(workplace, instance):
    ledger = workplace.ledger()
    keys = due_keys(workplace)
    result = materialize(workplace, instance, keys[0], keys[-1])
    found = {
        event.partition: event.metadata for event in result.asset_materializations_for_node("appdb__public__audit_logs")
    }
    assert set(keys) <= set(found)
    assert sum(metadata["rows"].value for metadata in found.values()) == OLD_ROWS
    assert {metadata["run_rows"].value for metadata in found.values()} == {OLD_ROWS}
    stored = dict.fromkeys(keys, 0)
    for archived in ledger.receipted():
        stored[archived.manifest["window"]] += archived.manifest["rows"]
    assert {key: found[key]["rows"].value for key in keys} == stored
    ledger.account_all_archived()


def test_both_checks_pass_and_say_what_they_saw(workplace, instance):
    keys = due_keys(workplace)
    result = materialize(workplace, instance, keys[0], keys[-1])
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert {name: check.passed for name, check in checks.items()} == {"verified": True, "nothing_left_behind": True}
    assert checks["verified"].metadata["rows"].value == OLD_ROWS


def test_a_locked_row_shows_as_a_warning(workplace, instance):
    ledger = workplace.ledger()
    keys = due_keys(workplace)
    with workplace.database.connect(autocommit=False) as application:
        application.execute("SELECT FROM audit_logs WHERE id = 7 FOR UPDATE")
        result = materialize(workplace, instance, keys[0], keys[-1])
    [left] = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert (left.check_name, left.severity) == ("nothing_left_behind", dg.AssetCheckSeverity.WARN)
    assert left.metadata["rows_still_eligible"].value == 1
    assert result.success
    ledger.account()


def test_a_failed_verification_fails_the_run_at_once_and_deletes_nothing(workplace, instance):
    ledger = workplace.ledger()
    with damaging_store(workplace.bucket.endpoint) as endpoint:
        workplace.document["s3"]["endpoint"] = endpoint
        workplace.write()
        result = materialize(workplace, instance, due_keys(workplace)[0])
    [failure] = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_key == "appdb__public__audit_logs.verify"
    data = failure.step_failure_data.user_failure_data
    assert data.metadata["error"].value == "VerificationError"
    assert ".jsonl.gz" in data.description
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert instance.get_run_by_id(result.run_id).status is dg.DagsterRunStatus.FAILURE
    assert workplace.keys_like("manifest.json") == []
    ledger.account()
    assert ledger.archived_rows() == []


@dataclass
class StopsBeforeVerify(SilentProgress):
    """Stops the store when a step begins and starts it when the step is to be tried again."""

    server: S3Server
    retries: int = 0
    stops: int = 1

    def step_started(self, table, step, batches, rows):
        if step == "verify" and self.stops:
            self.stops -= 1
            self.server.stop()

    def step_retrying(self, table, error, wait_seconds):
        self.retries += 1
        self.server.restart()


def test_a_step_is_tried_again_when_the_store_was_away(workplace, instance, own_store, monkeypatch):
    monkeypatch.setattr(ops, "_FIRST_RETRY_SECONDS", 0.1)
    ledger = workplace.ledger()
    listener = StopsBeforeVerify(own_store)
    result = materialize(workplace, instance, due_keys(workplace)[0], progress=listener)
    assert result.success
    assert listener.retries == 1
    retried = [event.step_key for event in result.all_events if event.is_step_up_for_retry]
    assert retried == ["appdb__public__audit_logs.verify"]
    workplace_rows = len(ledger.table_rows())
    assert workplace_rows < OLD_ROWS + 30


def test_a_run_of_the_queue_waits_for_the_table_lock(workplace, instance, monkeypatch):
    monkeypatch.setattr(ops, "_LOCK_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(ops, "_LOCK_TRIES", 2)
    with workplace.hold_lock():
        result = materialize(workplace, instance, due_keys(workplace)[0])
    assert len([event for event in result.all_events if event.is_step_up_for_retry]) == 2
    assert not result.success


def test_a_run_leaves_no_connection(workplace, instance):
    materialize(workplace, instance, due_keys(workplace)[0])
    assert workplace.sessions() == 0


def test_limit_rows_of_the_run_config(workplace, instance):
    ledger = workplace.ledger()
    keys = due_keys(workplace)
    config = {"ops": {"appdb__public__audit_logs": {"ops": {"plan": {"config": {"limit_rows": 10}}}}}}
    assert materialize(workplace, instance, keys[0], keys[-1], run_config=config).success
    assert 10 <= len(ledger.archived_rows()) < 10 + BATCH_SIZE
    ledger.account()


def test_definitions_stay_usable_after_a_failed_run(workplace, instance):
    ledger = workplace.ledger()
    keys = due_keys(workplace)
    definitions = build_definitions(workplace.loaded())
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={KEY})
    with workplace.hold_lock():
        tags = {"archiver/process": "some/1/0"}
        assert not job.execute_in_process(
            instance=instance, partition_key=keys[0], tags=tags, raise_on_error=False
        ).success
    assert job.execute_in_process(instance=instance, partition_key=keys[0]).success
    ledger.account()


@pytest.fixture
def own_store(workplace, tmp_path) -> Iterator[S3Server]:
    """A store of this test alone, which it may stop; the workplace points at it."""
    with S3Server(tmp_path / "own-store", bucket=workplace.bucket.bucket) as server:
        server.start()
        workplace.environment["TEST_S3_SECRET"] = server.secret_access_key
        workplace.document["s3"] |= {"endpoint": server.endpoint, "access_key_id": server.access_key_id}
        workplace.write()
        yield server
