"""Rows that are in the table already: what each strategy does, and that none is ever there twice."""

import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from archiver_pipeline.domain.restore import ConflictStrategy, SchemaStrategy
from archiver_pipeline.engine.turns import Turn, Turns
from archiver_pipeline.engine.work import StoppedError
from archiver_pipeline.errors import PreflightError
from archiver_pipeline_tests.engine.faults import POINTS as ARCHIVE_POINTS
from archiver_pipeline_tests.engine.faults import InterruptedRunError, Point, interrupt, place
from archiver_pipeline_tests.engine.restore_cases import account_report, archived, failed, key_of_row, value
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, YOUNG_ROWS

skip, overwrite, fail, upsert = (
    ConflictStrategy.skip,
    ConflictStrategy.overwrite,
    ConflictStrategy.fail,
    ConflictStrategy.upsert,
)
each_strategy = pytest.mark.parametrize("conflict", list(ConflictStrategy))
each_update = pytest.mark.parametrize("conflict", [overwrite, upsert])
each_that_goes_on = pytest.mark.parametrize("conflict", [skip, overwrite, upsert])
AGAIN = "DELETE FROM public.audit_logs WHERE id < 100000"


@each_strategy
def test_into_a_table_without_the_rows_every_strategy_does_the_same(archiving, audit, restoring, conflict):
    before = archived(archiving, audit)
    report = account_report(restoring.restore(conflict=conflict))
    assert Counter(audit.table_rows()) == before
    assert (report.restored_rows, report.replaced_rows, report.skipped_rows) == (OLD_ROWS, 0, 0)


def test_skip_leaves_rows_as_they_are_and_counts_them(archiving, audit, restoring):
    before = archived(archiving, audit)
    restoring.restore()
    audit.execute("UPDATE public.audit_logs SET actor = 'mine' WHERE id IN (1, 20, 48)")
    archiving.database.execute("DELETE FROM audit_logs WHERE id IN (2, 3)")
    report = account_report(restoring.restore(ignore_watermark=True, conflict=skip))
    assert (report.restored_rows, report.skipped_rows) == (2, OLD_ROWS - 2)
    assert value(archiving.database, "SELECT count(*) FROM audit_logs WHERE actor = 'mine'") == 3
    assert len(audit.table_rows()) == before.total()


def test_fail_leaves_out_the_whole_object_and_the_others_go_on(archiving, audit, restoring):
    archived(archiving, audit)
    archiving.database.execute("INSERT INTO audit_logs VALUES (5, now(), 'mine')")
    hurt = key_of_row(audit, 5)
    report = account_report(restoring.restore(conflict=fail))
    [left_out] = failed(report)
    assert left_out.data_key == hurt
    assert "duplicate key" in left_out.reason
    assert "--conflict-strategy" in left_out.reason
    assert report.restored_rows == OLD_ROWS - left_out.rows
    assert value(archiving.database, "SELECT actor FROM audit_logs WHERE id = 5") == "mine"
    assert len(audit.table_rows()) == YOUNG_ROWS + 1 + report.restored_rows


@each_update
def test_updates_take_every_archived_value_and_count_what_they_replaced(archiving, audit, restoring, conflict):
    before = archived(archiving, audit)
    restoring.restore()
    archiving.database.execute("UPDATE audit_logs SET actor = 'mine', changes = NULL WHERE id < 10")
    archiving.database.execute("DELETE FROM audit_logs WHERE id IN (11, 12, 13)")
    report = account_report(restoring.restore(ignore_watermark=True, conflict=conflict))
    assert Counter(audit.table_rows()) == before
    assert (report.restored_rows, report.replaced_rows, report.skipped_rows) == (OLD_ROWS, OLD_ROWS - 3, 0)


@pytest.mark.parametrize(("conflict", "note", "mark"), [(overwrite, "fresh", None), (upsert, "kept", 7)])
def test_overwrite_sets_defaults_where_upsert_keeps_values(archiving, audit, restoring, conflict, note, mark):
    archived(archiving, audit)
    restoring.restore()
    archiving.database.execute("ALTER TABLE audit_logs ADD note text DEFAULT 'fresh', ADD mark int")
    archiving.database.execute("UPDATE audit_logs SET note = 'kept', mark = 7, actor = 'mine' WHERE id < 100000")
    archiving.database.execute("DELETE FROM audit_logs WHERE id = 9")
    report = account_report(restoring.restore(ignore_watermark=True, conflict=conflict, schema=SchemaStrategy.lenient))
    found = "SELECT DISTINCT note, mark FROM audit_logs WHERE id < 100000 AND id {} 9"
    assert archiving.database.execute(found.format("<>")) == [(note, mark)]
    assert archiving.database.execute(found.format("=")) == [("fresh", None)]
    assert value(archiving.database, "SELECT count(*) FROM audit_logs WHERE actor = 'mine'") == 0
    assert report.replaced_rows == OLD_ROWS - 1


@each_strategy
def test_another_unique_constraint_leaves_out_the_object_whole(archiving, audit, restoring, conflict):
    archived(archiving, audit)
    archiving.database.execute("CREATE UNIQUE INDEX only_one ON audit_logs ((changes ->> 'n'))")
    archiving.database.execute("INSERT INTO audit_logs VALUES (777, now(), 'mine', '{\"n\": 5}')")
    hurt = key_of_row(audit, 5)
    report = account_report(restoring.restore(conflict=conflict))
    [left_out] = failed(report)
    assert left_out.data_key == hurt
    assert "only_one" in left_out.reason
    assert " — " in left_out.reason, "no word on what to do"
    assert value(archiving.database, "SELECT count(*) FROM audit_logs WHERE id = 5") == 0
    assert len(audit.table_rows()) == YOUNG_ROWS + 1 + OLD_ROWS - left_out.rows
    archiving.database.execute("DELETE FROM audit_logs WHERE id = 777")
    again = account_report(restoring.restore(conflict=conflict))
    assert [item.data_key for item in again.objects] == [hurt]
    assert again.restored_rows == left_out.rows


@pytest.mark.parametrize(
    "change",
    [
        "DROP CONSTRAINT audit_logs_pkey",
        "DROP CONSTRAINT audit_logs_pkey, ADD PRIMARY KEY (id, created_at)",
        "DROP CONSTRAINT audit_logs_pkey, ALTER id DROP NOT NULL, ADD UNIQUE (id)",
        "DROP CONSTRAINT audit_logs_pkey, ADD UNIQUE (id) DEFERRABLE",
    ],
)
@each_strategy
def test_without_a_unique_key_nothing_is_restored(archiving, audit, restoring, change, conflict):
    """A row that is there could not be told from a new one, so a second restore would double it."""
    archived(archiving, audit)
    archiving.database.execute(f"ALTER TABLE audit_logs {change}")
    with pytest.raises(PreflightError, match="no unique index") as refused:
        restoring.restore(conflict=conflict)
    assert "(id)" in refused.value.hint
    assert len(audit.table_rows()) == YOUNG_ROWS


@pytest.fixture
def composite(archiving):
    """A table whose key has two columns of different types, and rows that share either."""
    archiving.database.execute(
        "CREATE TABLE composite (tenant text, seq int, created_at timestamptz NOT NULL, note text,"
        " PRIMARY KEY (tenant, seq))"
    )
    archiving.database.execute(
        "INSERT INTO composite SELECT 't' || n % 3, n / 3, now() - interval '50 days', 'n' || n"
        " FROM generate_series(1, 36) AS n"
    )
    return archiving.ledger("composite")


@each_that_goes_on
def test_composite_keys(archiving, composite, restoring, conflict):
    before = archived(archiving, composite, table="composite")
    name = restoring.name("composite")
    restoring.restore(name)
    archiving.database.execute("UPDATE composite SET note = 'mine' WHERE seq = 2")
    archiving.database.execute("DELETE FROM composite WHERE seq = 3")
    report = account_report(restoring.restore(name, conflict=conflict, ignore_watermark=True))
    assert report.restored_rows == (3 if conflict is skip else 36)
    assert value(archiving.database, "SELECT count(*) FROM composite WHERE note = 'mine'") == (
        3 if conflict is skip else 0
    )
    assert len(composite.table_rows()) == before.total()


@each_strategy
def test_a_key_with_more_columns_than_the_unique_index(archiving, audit, restoring, conflict):
    """Rows are known by the index alone: a row whose other key column changed is the same row."""
    archived(archiving, audit, primary_key=("id", "created_at"))
    restoring.restore()
    archiving.database.execute("UPDATE audit_logs SET created_at = created_at - interval '1 s' WHERE id < 100000")
    report = account_report(restoring.restore(conflict=conflict, ignore_watermark=True))
    assert value(archiving.database, "SELECT count(*) FROM audit_logs WHERE id < 100000") == OLD_ROWS
    assert report.replaced_rows == (OLD_ROWS if conflict in (overwrite, upsert) else 0)


@each_strategy
def test_restoring_twice_doubles_nothing(archiving, audit, restoring, conflict):
    before = archived(archiving, audit)
    for _ in range(2):
        report = account_report(restoring.restore(conflict=conflict, ignore_watermark=True))
        assert Counter(audit.table_rows()) == before
    assert report.restored_rows == (OLD_ROWS if conflict in (overwrite, upsert) else 0)
    assert report.failed_rows == (OLD_ROWS if conflict is fail else 0)


def versions(archiving, audit, restoring, count, run_id="test-run"):
    """Archive the same rows `count` times, each time another version, in one bucket. Restored in between."""
    for number in range(1, count + 1):
        archiving.database.execute(f"UPDATE audit_logs SET actor = 'version {number}' WHERE id < 100000")
        session = archiving.session(batch_size=7 + number)
        session.run_id = run_id.format(number)
        archive_all(archiving, session)
        if number < count:
            restoring.restore(conflict=upsert, protect_days=0)
    assert audit.old_rows_in_table() == 0
    return count * OLD_ROWS


def archive_all(archiving, session):
    from archiver_pipeline.engine.archive import archive_windows

    archive_windows(session, archiving.windows(session))
    session.close()


@pytest.mark.parametrize("run_id", ["run-{}", "direct"])
@each_that_goes_on
def test_the_newest_version_of_a_row_wins(archiving, audit, restoring, monkeypatch, conflict, run_id):
    """Also when every run had the same name, as direct ones have, and the first archives are the slowest."""
    rows = versions(archiving, audit, restoring, 3, run_id)
    for _ in range(2):
        place(Point("archiver_pipeline.engine.restore", "seem_new"), lambda: time.sleep(2), monkeypatch.setattr)
    report = account_report(restoring.restore(conflict=conflict, workers=4, ignore_watermark=True))
    assert archiving.database.execute("SELECT actor, count(*) FROM audit_logs WHERE id < 100000 GROUP BY 1") == [
        ("version 3", OLD_ROWS)
    ]
    assert report.restored_rows + report.skipped_rows == rows


@pytest.mark.parametrize("run_id", ["run-{}", "direct"])
def test_with_fail_the_newest_version_is_restored_and_older_ones_are_left_out(archiving, audit, restoring, run_id):
    versions(archiving, audit, restoring, 2, run_id)
    report = account_report(restoring.restore(conflict=fail, workers=4, ignore_watermark=True))
    assert archiving.database.execute("SELECT actor, count(*) FROM audit_logs WHERE id < 100000 GROUP BY 1") == [
        ("version 2", OLD_ROWS)
    ]
    assert report.failed_rows == OLD_ROWS


@each_that_goes_on
def test_a_version_that_was_settled_late_is_still_the_older_one(archiving, audit, restoring, monkeypatch, conflict):
    """Its run died after the delete; the row came back and the next run settled the one and archived the other."""
    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError):
        place(ARCHIVE_POINTS["after a delete committed"], interrupt, patch.setattr)
        archiving.archive(workers=1)
    archiving.database.execute(
        "INSERT INTO audit_logs SELECT n, now() - interval '60 days', 'newer' FROM generate_series(1, 48) AS n"
        " ON CONFLICT (id) DO UPDATE SET actor = 'newer'"
    )
    archiving.archive()
    account_report(restoring.restore(conflict=conflict, workers=4))
    assert archiving.database.execute("SELECT DISTINCT actor FROM audit_logs WHERE id < 100000") == [("newer",)]


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def turn(run, *, settled):
    return Turn(run, NOON + timedelta(minutes=settled))


def at(minutes):
    return NOON + timedelta(minutes=minutes)


class Waiting:
    """A thread that takes a turn, and says when it got it."""

    def __init__(self, turns, number, extracted):
        self.turns, self.number, self.extracted = turns, number, extracted
        self.stopping = threading.Event()
        self.got_it = threading.Event()
        self.may_end = threading.Event()
        self.error = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            with self.turns.taking(self.number):
                self.turns.wait_for(self.number, at(self.extracted), self.stopping)
                self.got_it.set()
                self.may_end.wait(10)
        except StoppedError as error:
            self.error = error

    def is_waiting(self):
        return not self.got_it.wait(0.3)

    def end(self):
        assert self.got_it.wait(5)
        self.may_end.set()
        self.thread.join(5)


def test_turns_of_one_run_do_not_wait_for_each_other():
    turns = Turns([turn("a", settled=10), turn("a", settled=11), turn("a", settled=12)])
    taken = [Waiting(turns, number, extracted=number) for number in (2, 1, 0)]
    for one in taken:
        assert one.got_it.wait(5)
    for one in taken:
        one.end()


@pytest.mark.parametrize("is_newest_first", [False, True])
def test_turns_of_different_runs_are_taken_in_order(is_newest_first):
    old, new = turn("a", settled=10), turn("b", settled=20)
    turns = Turns([new, old] if is_newest_first else [old, new])
    second = Waiting(turns, 1, extracted=15)
    assert second.is_waiting()
    first = Waiting(turns, 0, extracted=5)
    assert first.got_it.wait(5)
    assert second.is_waiting()
    first.end()
    second.end()


@pytest.mark.parametrize("is_newest_first", [False, True])
def test_turns_of_one_run_wait_when_the_one_was_extracted_after_the_other_was_settled(is_newest_first):
    old, new = turn("direct", settled=10), turn("direct", settled=20)
    turns = Turns([new, old] if is_newest_first else [old, new])
    extracted = {0: 15, 1: 5} if is_newest_first else {0: 5, 1: 15}
    second = Waiting(turns, 1, extracted[1])
    assert second.is_waiting()
    first = Waiting(turns, 0, extracted[0])
    assert first.got_it.wait(5)
    assert second.is_waiting()
    first.end()
    second.end()


def test_after_an_error_nobody_who_waits_goes_on():
    """The next try takes the turn that failed again, and must not come after its successors."""
    turns = Turns([turn("a", settled=1), turn("b", settled=2)])
    waiting = Waiting(turns, 1, extracted=2)
    assert waiting.is_waiting()
    with pytest.raises(ValueError, match="broken"), turns.taking(0):
        raise ValueError("broken")
    waiting.thread.join(5)
    assert isinstance(waiting.error, StoppedError)
    assert not waiting.got_it.is_set()


def test_a_stop_ends_the_waiting():
    turns = Turns([turn("a", settled=1), turn("b", settled=2)])
    waiting = Waiting(turns, 1, extracted=2)
    assert waiting.is_waiting()
    waiting.stopping.set()
    waiting.thread.join(5)
    assert isinstance(waiting.error, StoppedError)


def test_many_turns_are_taken_in_order_by_few_threads():
    """As the workers of a restore do: begun in order, ended in any."""
    from concurrent.futures import ThreadPoolExecutor

    runs = [turn(number // 5, settled=number) for number in range(60)]
    turns, ended, lock = Turns(runs), [], threading.Lock()

    def work(number):
        with turns.taking(number):
            turns.wait_for(number, at(number // 5 * 5 - 1), threading.Event())
            with lock:
                ended.append(number // 5)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(60)))
    assert ended == sorted(ended)
    assert len(ended) == 60


def test_overwriting_with_an_older_archive_is_warned_of(archiving, audit, restoring):
    archiving.archive()
    newest = max(audit.receipted(), key=lambda found: found.receipt["settled_at"])
    restoring.restore(data_key=newest.data_key, conflict=ConflictStrategy.overwrite)

    report = restoring.restore(conflict=ConflictStrategy.overwrite)

    assert report.remembered == 1
    assert any("set back" in text.replace("\n", " ") for text in report.warnings)
