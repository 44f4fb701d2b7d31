"""A run that is stopped, killed or doubled, as people and machines do it, and the run after it."""

import signal
from contextlib import contextmanager

import pytest

from archiver_pipeline.domain.table import TableName
from archiver_pipeline.postgres.advisory_lock import settle_key
from archiver_pipeline_tests.cli.test_run import statuses_of_runs
from archiver_pipeline_tests.cli.workplace import wait_until
from archiver_pipeline_tests.plugins.archiving import DATABASE_ID

INTERRUPTED = 130
# A pause after each batch, so that a run lasts long enough to be met in the middle of its deletes.
SLOW = {"sleep_between_batches": 0.5, "workers": 1}
QUICK = {"sleep_between_batches": 0, "workers": 2, "lock_timeout_ms": 100}


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("face", [[], ["--direct"]])
def test_a_stopped_run_leaves_nothing_running_and_the_next_one_completes(workplace, stop, face):
    ledger = workplace.ledger()
    workplace.write(**SLOW)
    process = workplace.start("run", *face)
    wait_until(lambda: workplace.keys_like("receipt.json"), what="the first receipt")
    process.send_signal(stop)
    stopped = workplace.end(process, within_seconds=20)
    assert stopped.code == INTERRUPTED
    assert "interrupted; nothing is lost" in stopped.error
    wait_until(lambda: workplace.sessions() == 0, what="no connection is left", seconds=5)
    assert workplace.keys_like(".jsonl.gz") != workplace.keys_like("receipt.json") != []
    ledger.account()
    complete(workplace, ledger, *face)


def test_a_run_is_stopped_while_the_database_keeps_it_waiting(workplace):
    ledger = workplace.ledger()
    with lock_on_a_row(workplace), delete_in_wait(workplace) as process:
        process.send_signal(signal.SIGINT)
        assert workplace.end(process, within_seconds=20).code == INTERRUPTED
        wait_until(lambda: workplace.sessions() == 0, what="no connection is left", seconds=5)
    ledger.account()
    complete(workplace, ledger)


def test_a_run_is_stopped_before_its_first_step(workplace):
    """It waits for a look at the table, outside of every Dagster run."""
    with workplace.database.connect(autocommit=False) as application:
        application.execute("LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE")
        process = workplace.start("run")
        wait_until(lambda: waiting_sessions(workplace), what="the run waits for the table")
        process.send_signal(signal.SIGTERM)
        assert workplace.end(process, within_seconds=20).code == INTERRUPTED
        wait_until(lambda: workplace.sessions() == 0, what="no connection is left", seconds=5)


def test_a_killed_run_is_named_and_completed(workplace):
    ledger = workplace.ledger()
    workplace.write(**SLOW)
    process = workplace.start("run")
    wait_until(lambda: len(workplace.keys_like("receipt.json")) >= 2, what="two receipts")
    process.kill()
    assert workplace.end(process).code == -signal.SIGKILL
    assert statuses_of_runs(workplace) == ["STARTED"]
    wait_until(lambda: workplace.sessions() == 0, what="no connection is left")
    ledger.account()
    again = complete(workplace, ledger)
    assert "was killed earlier" in again.error
    assert statuses_of_runs(workplace) == ["FAILURE", "SUCCESS"]
    assert "killed" not in workplace.run("run").error


def test_a_run_begins_while_a_killed_one_still_deletes(workplace):
    """A dead client's statement goes on in the server; only the settle lock keeps its batch's fate from being read."""
    ledger = workplace.ledger()
    with lock_on_a_row(workplace), delete_in_wait(workplace) as process:
        process.kill()
        assert workplace.end(process).code == -signal.SIGKILL
        assert waiting_sessions(workplace)
        workplace.write(**QUICK)
        again = workplace.start("run")
        wait_until(lambda: waiting_sessions(workplace) == 2, what="the next run waits for the dead one's delete")
    assert workplace.end(again).code == 0
    ledger.account_all_archived()


def test_two_runs_at_once(workplace):
    ledger = workplace.ledger()
    both = [workplace.start("run") for _ in range(2)]
    codes = sorted(workplace.end(process).code for process in both)
    assert codes in ([0, 0], [0, 4])
    ledger.account_all_archived()


def test_a_worker_that_settles_does_not_fail_one_that_deletes(workplace):
    """A refused batch is settled alone: that waits for deletes in flight, and later deletes wait for it in turn."""
    ledger = workplace.ledger()
    key = settle_key(TableName(DATABASE_ID, "public", "audit_logs"))
    workplace.write(lock_timeout_ms=100, workers=2, sleep_between_batches=0.3)
    with lock_on_a_row(workplace):
        with workplace.database.connect() as delete_in_flight:
            delete_in_flight.execute("SELECT pg_advisory_lock_shared(%s)", [key.value])
            process = workplace.start("run")
            wait_until(
                lambda: waiting_sessions(workplace) == 2 or process.poll() is not None,
                what="one worker settles, one deletes",
            )
        finished = workplace.end(process)
    assert finished.code == 1, finished.stderr
    assert finished.stderr == ""
    ledger.account()
    complete(workplace, ledger)


@contextmanager
def lock_on_a_row(workplace):
    """An application holds the oldest row until the end of the block."""
    with workplace.database.connect(autocommit=False) as application:
        application.execute("SELECT FROM audit_logs WHERE id < 100000 ORDER BY created_at LIMIT 1 FOR UPDATE")
        yield
        application.rollback()


@contextmanager
def delete_in_wait(workplace):
    """A run whose first delete waits for the row that an application holds."""
    workplace.write(lock_timeout_ms=60_000, workers=1)
    process = workplace.start("run")
    wait_until(lambda: waiting_sessions(workplace), what="a delete waits for the row")
    assert len(workplace.keys_like("manifest.json")) == 1
    yield process


def waiting_sessions(workplace):
    """How many sessions of ours wait for a lock."""
    [(count,)] = workplace.database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    return count


def complete(workplace, ledger, *face):
    """Run to the end without pauses, and account for every row."""
    workplace.write(**QUICK)
    finished = workplace.run("run", *face)
    assert finished.code == 0, finished.stderr
    ledger.account_all_archived()
    return finished
