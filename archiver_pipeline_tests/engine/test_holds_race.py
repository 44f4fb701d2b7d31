"""Holds placed while deletes are under way: a hold that commits first always wins."""

import os
import random
import threading
import time

import pytest

from archiver_pipeline.config.effective import HoldSettings
from archiver_pipeline.engine.delete import delete_batches
from archiver_pipeline.engine.progress import SilentProgress
from archiver_pipeline.postgres import delete
from archiver_pipeline_tests.engine.faults import POINTS, place
from archiver_pipeline_tests.engine.running import verified
from archiver_pipeline_tests.plugins.archiving import create_audit_table
from archiver_pipeline_tests.plugins.holding import FROM_TABLE

ROWS = 480
BATCH_SIZE = 6
MOST_HOLDS = 140
WAITING = """SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query ILIKE 'INSERT INTO%legal_holds%' AND datname = current_database()"""


class Lawyer(threading.Thread):
    """Places a hold on one random row after the other, and notes which rows were there when it did.

    The row is looked for in the transaction that places the hold, after the INSERT: from then on no delete that has not
    seen the hold may commit. So a row that is found must stay for ever, and one that is not found had left before.
    """

    def __init__(self, database, seed):
        super().__init__()
        self._database, self._random = database, random.Random(seed)
        self.stop = threading.Event()
        self.turns = threading.Semaphore(2)
        self.kept, self.came_late = [], 0

    def run(self):
        ids = self._random.sample(range(1, ROWS + 1), MOST_HOLDS)
        with self._database.connect(autocommit=False) as connection:
            while ids and self.turns.acquire() and not self.stop.is_set():
                time.sleep(self._random.random() / 50)
                self._place(connection, ids.pop())

    def _place(self, connection, row):
        connection.execute(
            "INSERT INTO legal_holds (table_name, where_clause, reason, requestor) VALUES ('audit_logs', %s, 'r', 'q')",
            [f"id = {row}"],
        )
        found = connection.execute("SELECT FROM audit_logs WHERE id = %s", [row]).fetchone() is not None
        if self._random.random() < 0.3:
            time.sleep(self._random.random() / 100)
        connection.commit()
        if found:
            self.kept.append(row)
        else:
            self.came_late += 1


class Pace(SilentProgress):
    """Lets the lawyer place two holds for every batch that is done, however busy the machine is."""

    def __init__(self, lawyer):
        self._lawyer = lawyer

    def batch_finished(self, *_arguments, **_options):
        self._lawyer.turns.release(2)


SEED = int(os.environ.get("ARCHIVER_TEST_SEED", "11"))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_no_row_is_deleted_after_its_hold_committed(archiving, holding, monkeypatch, elsewhere):
    """Holds at random moments of many deletes, with random pauses inside the transactions."""
    create_audit_table(archiving.database, old=ROWS)
    audit = archiving.ledger()
    chance = random.Random(SEED)
    clock = delete.source_clock

    def slow_clock(connection):
        time.sleep(chance.expovariate(300))
        return clock(connection)

    # Another connection to the same database stands for another database: its lock is held in another transaction.
    holds = HoldSettings(sources=FROM_TABLE.sources, database=archiving.source()) if elsewhere else FROM_TABLE
    session = archiving.session(holds=holds, batch_size=BATCH_SIZE, verify_sample_rows=0, window="week")
    verification = verified(archiving, session)
    monkeypatch.setattr(delete, "source_clock", slow_clock)
    lawyer = Lawyer(archiving.database, seed=SEED)
    session.progress = Pace(lawyer)
    lawyer.start()
    deletion = delete_batches(session, verification)
    lawyer.stop.set()
    lawyer.turns.release()
    lawyer.join()
    session.close()
    audit.account()
    left = {n for (n,) in archiving.database.execute("SELECT id FROM audit_logs WHERE id < 100000")}
    assert not [row for row in lawyer.kept if row not in left], "a held row was deleted"
    superseded = [batch for batch in deletion.batches if batch.reason.startswith("legal hold")]
    print(f"{len(lawyer.kept)} holds in time, {lawyer.came_late} late, {len(superseded)} batches superseded")
    assert len(lawyer.kept) > 20
    assert lawyer.came_late > 5
    assert superseded


def test_a_hold_waits_while_a_delete_commits(archiving, holding, audit, monkeypatch):
    """After the last look nobody can place a hold until the delete is over."""
    placing = threading.Thread(target=holding.place)

    def begin_to_hold():
        placing.start()
        deadline = time.monotonic() + 10
        while not archiving.database.execute(WAITING)[0][0]:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    place(POINTS["in a delete transaction"], begin_to_hold, monkeypatch.setattr)
    archiving.archive(holds=FROM_TABLE, workers=1)
    placing.join()
    audit.account()
    assert 0 < audit.old_rows_in_table() <= 48 - 20
