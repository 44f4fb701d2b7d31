"""A run worker that dies while it deletes, and Dagster's re-execution from the step that had not finished."""

import signal
import sys
from pathlib import Path

import dagster as dg

from archiver_pipeline_tests.cli.test_interruption import lock_on_a_row, waiting_sessions
from archiver_pipeline_tests.cli.workplace import wait_until
from archiver_pipeline_tests.orchestration.running import due_keys

REPOSITORY = Path(__file__).parents[2]
WORKER = [sys.executable, "-m", "archiver_pipeline_tests.orchestration.worker"]
ASSET = "appdb__public__audit_logs"


def test_a_delete_step_goes_on_where_its_process_died(workplace, instance):
    """Batches with a receipt, one whose delete was in flight, and batches not begun, under two workers."""
    ledger = workplace.ledger()
    die_in_the_delete_step(workplace, receipts=2)
    [dead] = instance.get_runs()
    assert dead.status is dg.DagsterRunStatus.STARTED
    instance.report_run_failed(dead)

    workplace.write(lock_timeout_ms=100, sleep_between_batches=0)
    finished = workplace.end(workplace.start_program([*WORKER, "again", dead.run_id]))
    assert finished.code == 0, finished.stderr
    require_only_the_rest_was_done(instance, dead)
    ledger.account_all_archived()


def die_in_the_delete_step(workplace, *, receipts):
    """Materialize all windows in a run worker, and kill it after some receipts, amid the oldest batch's delete."""
    keys = due_keys(workplace)
    workplace.write(lock_timeout_ms=60_000, workers=2, sleep_between_batches=1)
    workplace.environment |= {"ARCHIVER_CONFIG": str(workplace.config_path), "PYTHONPATH": str(REPOSITORY)}
    with lock_on_a_row(workplace):
        process = workplace.start_program([*WORKER, keys[0], keys[-1]])
        wait_until(lambda: waiting_sessions(workplace), what="a delete waits for the row")
        wait_until(lambda: len(workplace.keys_like("receipt.json")) >= receipts, what="receipts of the other worker")
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    wait_until(lambda: workplace.sessions() == 0, what="the server has noticed")


def require_only_the_rest_was_done(instance, dead):
    again = next(run for run in instance.get_runs() if run.run_id != dead.run_id)
    assert again.status is dg.DagsterRunStatus.SUCCESS
    done = instance.get_run_step_stats(again.run_id)
    assert {step.step_key for step in done} == {f"{ASSET}.delete", f"{ASSET}.report"}
