"""What applications do to the rows between their extraction and their delete."""

import threading
import time
from contextlib import contextmanager

import pytest

from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.delete import delete_batches
from archiver_pipeline.engine.report import report_archive
from archiver_pipeline.errors import ArchiverError, LockHeldError, LockLostError, PreflightError
from archiver_pipeline_tests.engine.faults import POINTS, Point, place
from archiver_pipeline_tests.engine.running import pending, planned, verified, verify_plan

TABLE = "public.audit_logs"
PHYSICAL_POSITIONS = f"SELECT ctid::text, id FROM {TABLE} WHERE id < 100000"


@contextmanager
def application(archiving, *statements):
    """Another connection with an open transaction that has done this; it goes on until it is rolled back."""
    with archiving.database.connect(autocommit=False) as connection:
        for statement in statements:
            connection.execute(statement)
        yield connection
        connection.rollback()


def finish(session, verification):
    """Delete and report, as a run goes on."""
    return report_archive(session, delete_batches(session, verification))


def test_updated_rows_stay_and_are_archived_later(archiving, audit):
    session = archiving.session()
    verification = verified(archiving, session)
    audit.execute(f"UPDATE {TABLE} SET actor = 'someone else' WHERE id IN (3, 4, 17)")
    report = finish(session, verification)
    audit.account_all_archived()
    assert sum(window.changed_rows for window in report.windows) == 3
    # The second pass of the same run takes them as they are now.
    assert sum(window.superseded_batches for window in report.windows) == 2


def test_an_update_that_changes_nothing_is_a_change(archiving, audit):
    """The row's text is the same, its version is not."""
    session = archiving.session()
    verification = verified(archiving, session)
    audit.execute(f"UPDATE {TABLE} SET actor = actor WHERE id = 3")
    deletion = delete_batches(session, verification)
    assert sum(batch.changed_rows for batch in deletion.batches) == 1
    session.close()
    audit.account()
    archiving.archive()
    audit.account_all_archived()


def test_every_batch_changed_at_once(archiving, audit):
    """All workers find out together; none of them mistakes another for a foreign run."""
    session = archiving.session(workers=4)
    verification = verified(archiving, session)
    audit.execute(f"UPDATE {TABLE} SET actor = 'someone else' WHERE id % 5 = 0")
    delete_batches(session, verification)
    audit.account_all_archived()


def test_deleted_rows_are_gone(archiving, audit):
    session = archiving.session()
    verification = verified(archiving, session)
    audit.execute(f"DELETE FROM {TABLE} WHERE id IN (1, 2, 30)")
    finish(session, verification)
    audit.account_all_archived()
    assert not any(row.startswith(("(1,", "(2,", "(30,")) for row in audit.archived_rows())


def test_a_whole_batch_deleted_by_the_application_is_not_archived(archiving, audit):
    session = archiving.session()
    verification = verified(archiving, session)
    audit.execute(f"DELETE FROM {TABLE} WHERE id < 100000")
    deletion = delete_batches(session, verification)
    assert {batch.outcome for batch in deletion.batches} == {Outcome.superseded}
    audit.account_all_archived()
    assert audit.archived_rows() == []


def test_truncated(archiving, audit):
    session = archiving.session()
    verification = verified(archiving, session)
    audit.execute(f"TRUNCATE {TABLE}")
    finish(session, verification)
    audit.account_all_archived()
    assert audit.archived_rows() == []


def test_rows_that_arrive_late_stay_for_the_next_run(archiving, audit):
    session = archiving.session()
    verification = verified(archiving, session)
    audit.execute(
        f"INSERT INTO {TABLE} SELECT 5000 + id, created_at, 'late', changes, tags, amount FROM {TABLE} WHERE id < 9"
    )
    report = finish(session, verification)
    session.close()
    assert (report.left_behind_rows, report.stopped_reason) == (8, "rows arrived late")
    audit.account()
    assert archiving.archive().rows == 8
    audit.account_all_archived()


def test_rows_moved_out_of_the_window_are_not_deleted(archiving, audit):
    session = archiving.session()
    verification = verified(archiving, session)
    audit.execute(f"UPDATE {TABLE} SET created_at = now() WHERE id IN (5, 6)")
    finish(session, verification)
    audit.account_all_archived()
    assert sum("5," in row[:3] or "6," in row[:3] for row in audit.table_rows()) == 2


def test_rows_moved_into_the_window_wait_for_the_next_run(archiving, audit):
    session = archiving.session()
    verification = verified(archiving, session)
    audit.execute(f"UPDATE {TABLE} SET created_at = created_at - interval '50 days' WHERE id > 100025")
    finish(session, verification)
    session.close()
    audit.account()
    archiving.archive()
    audit.account_all_archived()


@pytest.mark.matrix
def test_locked_rows_stay_and_the_others_go(archiving, audit):
    session = archiving.session()
    verification = verified(archiving, session)
    with application(archiving, f"SELECT FROM {TABLE} WHERE id IN (2, 3, 40) FOR UPDATE"):
        started = time.monotonic()
        report = finish(session, verification)
        assert time.monotonic() - started < 15
        audit.account()
        assert report.left_behind_rows == 3
        assert "lock" in report.stopped_reason
        assert sum(window.locked_rows for window in report.windows) == 3
        assert audit.old_rows_in_table() == 3
    session.close()
    archiving.archive()
    audit.account_all_archived()


def test_locked_rows_without_the_privilege_to_lock(archiving, audit):
    """SELECT FOR UPDATE needs UPDATE, which an archiver does not have to have."""
    archiving.database.execute("CREATE ROLE deleter LOGIN")
    try:
        archiving.database.execute(f"GRANT SELECT, DELETE ON {TABLE} TO deleter")
        archiving.database.execute(f"ALTER ROLE deleter PASSWORD '{archiving.database.password}'")
        session = archiving.session(user="deleter")
        verification = verified(archiving, session)
        with application(archiving, f"SELECT FROM {TABLE} WHERE id = 2 FOR UPDATE"):
            report = finish(session, verification)
        assert sum(window.superseded_batches for window in report.windows) == 1
        session.close()
        audit.account()
        archiving.archive(user="deleter")
        audit.account_all_archived()
    finally:
        archiving.database.execute(f"REVOKE ALL ON {TABLE} FROM deleter")
        archiving.database.execute("DROP ROLE deleter")


def test_a_locked_table_is_not_waited_for(archiving, audit):
    session = archiving.session()
    verification = verified(archiving, session)
    with application(archiving, f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE"):
        started = time.monotonic()
        deletion = delete_batches(session, verification)
        assert time.monotonic() - started < 10
        assert {batch.outcome for batch in deletion.batches} == {Outcome.superseded}
    session.close()
    audit.account()
    archiving.archive()
    audit.account_all_archived()


def test_a_delete_is_never_seen_waiting_longer_than_the_lock_timeout(archiving, audit):
    """Whoever queues for a table lock blocks everybody behind it, so the queueing itself must be short."""
    session = archiving.session(lock_timeout_ms=200)
    verification = verified(archiving, session)
    with application(archiving, f"LOCK TABLE {TABLE} IN SHARE MODE") as holder:
        longest, done = _watch_waits(archiving, holder.info.backend_pid)
        delete_batches(session, verification)
        done()
    assert 0 < longest() < 1.5
    audit.account()


def _watch_waits(archiving, holder_pid):
    """Measure from outside, until told to stop, how long any backend has been blocked by the holder."""
    stop, seconds = threading.Event(), [0.0]

    def watch():
        with archiving.database.connect() as connection:
            while not stop.wait(0.02):
                [(longest,)] = connection.execute(
                    "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - query_start)), 0)::float8"
                    " FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))",
                    [holder_pid],
                ).fetchall()
                seconds[0] = max(seconds[0], longest)

    watcher = threading.Thread(target=watch)
    watcher.start()

    def done():
        stop.set()
        watcher.join()

    return (lambda: seconds[0]), done


REWRITES = {
    "VACUUM FULL": [f"VACUUM FULL {TABLE}"],
    "CLUSTER": [f"CREATE INDEX backwards ON {TABLE} (created_at DESC)", f"CLUSTER {TABLE} USING backwards"],
}


@pytest.mark.matrix
@pytest.mark.parametrize("rewrite", REWRITES)
def test_other_rows_under_the_old_positions(archiving, audit, rewrite):
    """One transaction loaded all rows, so xmin is the same; a rewrite moves other rows under the extracted ctids."""
    archiving.database.execute(f"DELETE FROM {TABLE} WHERE id % 3 = 0 OR id > 100000")
    ledger = archiving.ledger()
    session = archiving.session()
    verification = verified(archiving, session)
    before = dict(archiving.database.execute(PHYSICAL_POSITIONS))
    for statement in REWRITES[rewrite]:
        archiving.database.execute(statement)
    after = dict(archiving.database.execute(PHYSICAL_POSITIONS))
    assert len(archiving.database.execute(f"SELECT DISTINCT xmin::text FROM {TABLE}")) == 1
    taken_over = [position for position in before if after.get(position, before[position]) != before[position]]
    assert len(taken_over) > 10, "the rewrite did not move other rows under the old positions"
    delete_batches(session, verification)
    session.close()
    ledger.account()
    archiving.archive()
    ledger.account_all_archived()


@pytest.mark.matrix
def test_a_newer_version_of_the_same_row_under_its_old_position(archiving, audit):
    """Position and key are the same as when the row was read; only xmin tells that it was updated since."""
    session = archiving.session()
    verification = verified(archiving, session)
    before = dict(archiving.database.execute(PHYSICAL_POSITIONS))
    audit.execute(f"UPDATE {TABLE} SET actor = 'changed' WHERE id IN (3, 30)")
    archiving.database.execute(f"CLUSTER {TABLE} USING audit_logs_pkey")
    assert dict(archiving.database.execute(PHYSICAL_POSITIONS)) == before
    delete_batches(session, verification)
    audit.account_all_archived()


COLUMN_CHANGES = {
    "added with a constant default": f"ALTER TABLE {TABLE} ADD COLUMN region text DEFAULT 'EU'",
    "retyped": f"ALTER TABLE {TABLE} ALTER COLUMN amount TYPE text",
    "dropped": f"ALTER TABLE {TABLE} DROP COLUMN amount",
    "renamed": f"ALTER TABLE {TABLE} RENAME COLUMN actor TO who",
}


@pytest.mark.parametrize("change", COLUMN_CHANGES)
def test_changed_columns_stop_the_delete(archiving, audit, change):
    session = archiving.session()
    verification = verified(archiving, session)
    archiving.database.execute(COLUMN_CHANGES[change])
    ledger = archiving.ledger()
    try:
        deletion = delete_batches(session, verification)
        assert {batch.outcome for batch in deletion.batches} == {Outcome.superseded}
    except ArchiverError as error:
        # The second pass may find that it cannot read what it planned to read; that is no harm either.
        assert "column" in str(error)
    session.close()
    ledger.account()
    assert ledger.archived_rows() == []
    archiving.archive()
    ledger.account_all_archived()


def test_columns_changed_between_two_plans_of_one_session(archiving, audit):
    session = archiving.session()
    first, *others = archiving.windows(session)
    archive_windows(session, [first])
    archiving.database.execute(COLUMN_CHANGES["added with a constant default"])
    ledger = archiving.ledger()
    archive_windows(session, others)
    assert ledger.old_rows_in_table() == 0


@pytest.mark.parametrize("change", ["added with a constant default", "renamed"])
def test_changed_columns_between_a_crash_and_the_next_run(archiving, audit, change):
    """The object of the pending batch lacks what the table has gained: it must not be the rows' only copy."""
    pending(archiving, audit)
    archiving.database.execute(COLUMN_CHANGES[change])
    receipted = [found.stem for found in audit.receipted()]
    left = archiving.database.execute(f"SELECT count(*) FROM {TABLE} WHERE id < 100000")
    report = archiving.archive()
    # What was receipted before the change lacks the column rightly; everything after it must have it.
    assert report.rows == left[0][0]
    new = [found for found in audit.receipted() if found.stem not in receipted]
    names = [[column["name"] for column in found.manifest["columns"]] for found in new]
    assert names
    assert all("region" in columns or "who" in columns for columns in names)


def test_an_older_retention_between_plan_and_delete_is_refused(archiving, audit):
    session = archiving.session()
    plan = planned(archiving, session)
    session.close()
    stricter = archiving.session(retention_days=300)
    verification = verify_plan(stricter, plan)
    with pytest.raises(PreflightError, match="younger than retention") as refused:
        delete_batches(stricter, verification)
    assert refused.value.exit_code == 3
    stricter.close()
    audit.account()
    assert audit.archived_rows() == []
    # The refused batch does not stand in the way of the runs that follow.
    assert archiving.archive(retention_days=300).rows == 0
    archiving.archive()
    audit.account_all_archived()


def test_two_runs_at_once(archiving, audit):
    first = archiving.session()
    planned(archiving, first)
    with pytest.raises(LockHeldError) as refused:
        archiving.archive()
    assert refused.value.exit_code == 4
    assert "archiver test" in str(refused.value)
    assert str(first.lock.backend_pid) in str(refused.value)
    first.close()
    archiving.archive()
    audit.account_all_archived()


def test_two_tables_at_once(archiving, audit):
    first = archiving.session()
    planned(archiving, first)
    archiving.database.execute("CREATE TABLE other (LIKE public.audit_logs INCLUDING ALL)")
    assert archiving.archive(table="other").rows == 0


def test_nothing_is_deleted_once_the_lock_is_lost(archiving, audit, monkeypatch):
    session = archiving.session(workers=1)
    verification = verified(archiving, session)

    def lose_the_lock():
        archiving.database.execute(f"SELECT pg_terminate_backend({session.lock.backend_pid})")
        time.sleep(0.5)

    with monkeypatch.context() as patch, pytest.raises(LockLostError):
        place(POINTS["after a receipt"], lose_the_lock, patch.setattr)
        delete_batches(session, verification)
    session.close()
    assert len(audit.receipted()) == POINTS["after a receipt"].nth
    audit.account()
    archiving.archive()
    audit.account_all_archived()


def test_nothing_is_deleted_when_the_lock_is_lost_after_the_manifest(archiving, audit, monkeypatch):
    session = archiving.session(workers=1)
    verification = verified(archiving, session)

    def lose_the_lock():
        archiving.database.execute(f"SELECT pg_terminate_backend({session.lock.backend_pid})")
        time.sleep(0.5)

    with monkeypatch.context() as patch, pytest.raises(LockLostError):
        place(Point("archiver_pipeline.engine.intent", "write_manifest"), lose_the_lock, patch.setattr)
        delete_batches(session, verification)
    session.close()
    assert audit.receipted() == []
    audit.account()
    archiving.archive()
    audit.account_all_archived()
