"""A table's past, out of what Dagster has stored."""

import itertools

import pytest

from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.history import RUN_DIED, read_planned, table_history
from archiver_pipeline.orchestration.names import asset_key
from archiver_pipeline_tests.orchestration.running import due_keys, materialize


@pytest.fixture
def settings(workplace):
    return workplace.loaded().tables[0]


def rename(workplace, old, new):
    workplace.database.execute(f"ALTER TABLE {old} RENAME TO {new}")


def die(workplace, instance, settings):
    """A run whose process was killed, as Dagster's monitoring reports it."""
    definitions = build_definitions(workplace.loaded())
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={asset_key(settings)})
    run = instance.create_run_for_job(job, tags={"dagster/partition": due_keys(workplace)[0]})
    instance.report_run_failed(run)
    return run


def test_a_table_without_runs(instance, settings):
    history = table_history(instance, settings)
    assert (history.runs, history.last_run, history.last_success, history.last_failure) == ((), None, None, None)
    assert str(history.table) == "appdb.public.audit_logs"


def test_runs_of_every_kind(workplace, instance, settings):
    keys = due_keys(workplace)
    one = materialize(workplace, instance, keys[0])
    several = materialize(workplace, instance, keys[1], keys[3])
    rename(workplace, "audit_logs", "elsewhere")
    failed = materialize(workplace, instance, keys[4])
    rename(workplace, "elsewhere", "audit_logs")
    died = die(workplace, instance, settings)

    history = table_history(instance, settings)
    assert [run.run_id for run in history.runs] == [died.run_id, failed.run_id, several.run_id, one.run_id]
    assert [(run.succeeded, run.failed) for run in history.runs] == [(False, True), (False, True)] + [(True, False)] * 2
    assert history.last_success.run_id == several.run_id
    assert history.last_failure.run.run_id == died.run_id
    assert (history.last_failure.failure.error, history.last_failure.failure.step) == (RUN_DIED, None)
    moments = [
        moment for run in reversed(history.runs[1:]) for moment in (run.created_at, run.started_at, run.ended_at)
    ]
    assert all(before < after for before, after in itertools.pairwise(moments))

    # The run over three windows wrote three materializations and is one run.
    assert len(read_planned(instance, asset_key(settings), after=0)) == 6
    figures = [run.figures.rows for run in history.runs if run.figures]
    archived = 48 - workplace.database.execute("SELECT count(*)::int FROM audit_logs WHERE id < 100000")[0][0]
    assert sum(figures) == archived == sum(run.rows for run in history.reported)
    whole = history.runs[2].figures
    assert whole.seconds == pytest.approx(sum(whole.step_seconds.values()), abs=0.01)
    assert list(whole.step_seconds) == ["plan", "extract", "compress", "upload", "verify", "delete", "report"]
    assert (whole.rows_still_eligible, whole.superseded_batches) == (0, 0)
    assert whole.batches == len(workplace.keys_like("receipt.json")) - history.runs[3].figures.batches

    # The last success is found however many failures came after it, and the error of ours is told in its words.
    newest = table_history(instance, settings, limit=1)
    assert [run.run_id for run in newest.runs] == [died.run_id]
    assert newest.last_success == history.last_success
    instance.delete_run(died.run_id)
    last = table_history(instance, settings).last_failure
    assert (last.run.run_id, last.failure.error, last.failure.step) == (failed.run_id, "PreflightError", "plan")
    assert "there is no such table" in last.failure.message
