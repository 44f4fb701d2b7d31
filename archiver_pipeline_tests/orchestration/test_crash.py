"""A run worker that dies while it deletes, and Dagster's re-execution from the step that had not finished."""

import signal
import sys

import dagster as dg
import pytest

from archiver_pipeline_tests.cli.test_interruption import lock_on_a_row, waiting_sessions
from archiver_pipeline_tests.cli.workplace import wait_until
from archiver_pipeline_tests.orchestration import worker
from archiver_pipeline_tests.orchestration.running import due_keys

WORKER = [sys.executable, "-m", "archiver_pipeline_tests.orchestration.worker"]
DELETE = "appdb__public__audit_logs.delete"


@pytest.mark.parametrize("pending", [0, 1])
def test_a_delete_step_goes_on_where_its_process_died(workplace, instance, monkeypatch, pending):
    """With two workers, one settles what the dead run had begun while the other deletes: they must not fail each
    other. `pending` batches have a manifest and no receipt besides the one in flight."""
    ledger = workplace.ledger()
    keys = due_keys(workplace)
    die_in_the_delete_step(workplace, keys, receipts=3)
    unsettle(workplace, pending * 2)
    [dead] = instance.get_runs()
    assert dead.status is dg.DagsterRunStatus.STARTED
    instance.report_run_failed(dead)

    result = reexecute(workplace, instance, dead, monkeypatch)
    assert result.success
    executed = {event.step_key for event in result.get_step_success_events()}
    assert executed == {DELETE, "appdb__public__audit_logs.report"}
    ledger.account_all_archived()


def die_in_the_delete_step(workplace, keys, *, receipts):
    """Materialize all windows in a run worker, and kill it after some receipts, amid a delete."""
    workplace.write(lock_timeout_ms=60_000, workers=2)
    workplace.environment["ARCHIVER_CONFIG"] = str(workplace.config_path)
    with lock_on_a_row(workplace):
        process = workplace.start_program([*WORKER, keys[0], keys[-1]])
        wait_until(lambda: waiting_sessions(workplace), what="a delete waits for the row", seconds=60)
        wait_until(lambda: len(workplace.keys_like("receipt.json")) >= receipts, what="receipts of the other worker")
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    wait_until(lambda: workplace.sessions() == 0, what="the server has noticed")


def unsettle(workplace, batches):
    """Take receipts away, as if the process had died before it wrote them: their rows are gone all the same."""
    for key in workplace.keys_like("receipt.json")[:batches]:
        workplace.bucket.client.delete_object(Bucket=workplace.bucket.bucket, Key=key)


def reexecute(workplace, instance, dead, monkeypatch):
    """Re-execute the dead run from its failed step, in this process."""
    for name in ("ARCHIVER_CONFIG", "TEST_DB_PASSWORD", "TEST_S3_SECRET", "DAGSTER_HOME"):
        monkeypatch.setenv(name, workplace.environment[name])
    job = dg.reconstructable(worker.table_job)
    options = dg.ReexecutionOptions.from_failure(dead.run_id, instance)
    return dg.execute_job(job, instance=instance, reexecution_options=options)
