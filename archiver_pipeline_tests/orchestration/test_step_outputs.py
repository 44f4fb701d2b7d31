"""What steps hand on, kept in the store. A retry that goes on with it elsewhere is in deployment/test_cluster.py."""

from datetime import date

import dagster as dg
import pytest

from archiver_pipeline.domain.batch import PlannedBatch
from archiver_pipeline.domain.windows import WindowUnit, window_of_key
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.restoring import RestoreConfig, restore_run_config, restored_key
from archiver_pipeline.orchestration.step_outputs import StepOutputsInStore
from archiver_pipeline_tests.orchestration.running import due_keys, materialize

STEPS = ["plan", "extract", "compress", "upload", "verify", "delete"]
WINDOW = window_of_key(WindowUnit.day, "2026-01-31", first=date(2020, 1, 1))
BATCH = PlannedBatch(3, WINDOW, None, ("2026-01-31 01:00:00", "17"), (("4",),))


@pytest.fixture
def in_store(workplace):
    workplace.document["dagster"] = {"step_outputs": "store"}
    workplace.write()
    return workplace


@pytest.fixture
def outputs(in_store):
    return StepOutputsInStore(in_store.loaded().store)


def output(kind=PlannedBatch, step="plan"):
    return dg.build_output_context(
        step_key=step, name="result", run_id="run-1", dagster_type=dg.PythonObjectDagsterType(kind)
    )


def input_of(written, kind=PlannedBatch):
    return dg.build_input_context(upstream_output=written, dagster_type=dg.PythonObjectDagsterType(kind))


def test_an_archive_and_a_restore_hand_on_by_the_store(in_store, instance):
    ledger = in_store.ledger()
    keys = due_keys(in_store)
    result = materialize(in_store, instance, keys[0], keys[-1])
    assert result.success
    asset = "appdb__public__audit_logs"
    assert step_outputs(in_store, result.run_id) == sorted(f"{asset}.{step}/result.json" for step in STEPS)
    ledger.account_all_archived()

    restored = restore(in_store, instance)
    assert step_outputs(in_store, restored.run_id) == [
        f"appdb__restored.{step}/result.json" for step in ("restore", "select")
    ]
    assert sum(ledger.expected.values()) == len(ledger.table_rows())


def test_documents_of_steps_are_no_archives(in_store, instance):
    keys = due_keys(in_store)
    materialize(in_store, instance, keys[0], keys[-1])
    validated = in_store.run("validate")
    assert (validated.code, validated.stderr) == (0, ""), validated.stdout


def test_an_output_comes_back_as_it_was(outputs):
    written = output()
    outputs.handle_output(written, BATCH)
    assert outputs.load_input(input_of(written)) == BATCH


def test_a_repeated_step_replaces_its_output(outputs):
    written = output()
    for index in (1, 2):
        changed = PlannedBatch(index, BATCH.window, None, None)
        outputs.handle_output(output(), changed)
        assert outputs.load_input(input_of(written)) == changed


def test_an_output_that_is_gone_is_told_in_words(outputs):
    with pytest.raises(dg.Failure, match="launch the run again, not from its failure"):
        outputs.load_input(input_of(output(step="never")))


def test_an_output_of_another_version_is_told_in_words(outputs, in_store):
    written = output()
    outputs.handle_output(written, BATCH)
    [key] = in_store.keys_like("plan/result.json")
    in_store.bucket.client.put_object(Bucket=in_store.bucket.bucket, Key=key, Body=b'{"index": "many"}')
    with pytest.raises(dg.Failure, match="not what this version"):
        outputs.load_input(input_of(written))


def test_nothing_is_guessed_about_a_type(outputs):
    with pytest.raises(dg.Failure, match="no type that can be written"):
        outputs.handle_output(output(object), BATCH)


def test_a_store_that_does_not_answer_is_tried_again(in_store):
    in_store.document["s3"]["endpoint"] = "http://127.0.0.1:9"
    in_store.write()
    with pytest.raises(dg.RetryRequested):
        StepOutputsInStore(in_store.loaded().store).handle_output(output(), BATCH)


def restore(workplace, instance):
    config = workplace.loaded()
    [database] = config.databases
    job = build_definitions(config).resolve_implicit_global_asset_job_def()
    return job.get_subset(asset_selection={restored_key(database)}).execute_in_process(
        instance=instance, run_config=restore_run_config(database, RestoreConfig(table="audit_logs"))
    )


def step_outputs(workplace, run_id):
    """Keys below the run's folder."""
    folder = f"{workplace.bucket.prefix}/_dagster/steps/{run_id}/"
    return [key.removeprefix(folder) for key in workplace.bucket.keys(folder)]
