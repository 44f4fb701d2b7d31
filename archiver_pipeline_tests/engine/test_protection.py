"""Restored rows stay in their table until their protection ends, and not a run longer."""

import json
import shutil
from datetime import UTC, date, datetime, timedelta

import pytest

from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.domain.layout import protection_key
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.delete import delete_batches
from archiver_pipeline.engine.inventory import DateRange, due_windows, windows_with_rows
from archiver_pipeline.engine.plan import plan_archive
from archiver_pipeline.engine.preview import preview_archive
from archiver_pipeline.engine.protection import build_protection, read_protections, record_protection
from archiver_pipeline.engine.report import report_archive
from archiver_pipeline.errors import ManifestError, NetworkError
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline.storage.s3 import ObjectExistsError, S3Store
from archiver_pipeline_tests.engine.running import pending, put, run_plan, verified
from archiver_pipeline_tests.plugins.archiving import DATABASE_ID, OLD_ROWS, create_audit_table

NAME = TableName(DATABASE_ID, "public", "audit_logs")
ALL_TIME = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC), True)


def protect(archiving, *windows, days=1, name=NAME):
    """Record what a restore records: a protection of these windows that ends in `days`."""
    now = datetime.now(UTC)
    protection = build_protection(
        name,
        windows or [ALL_TIME],
        run_id="restore",
        created_at=now,
        ends_at=now + timedelta(days=days),
    )
    record_protection(archiving.session().store, protection)
    return protection


def key_of(archiving, protection, name=NAME):
    return protection_key(archiving.bucket.prefix, name, protection.protection_id)


def restored(archiving, audit):
    """Archive everything, then put the same rows back as a restore does."""
    archiving.database.execute("CREATE TABLE kept AS SELECT * FROM audit_logs WHERE id < 100000")
    archiving.archive()
    audit.account_all_archived()
    audit.execute("INSERT INTO public.audit_logs SELECT * FROM public.kept")
    audit.account()
    assert audit.old_rows_in_table() == OLD_ROWS


def all_windows(archiving, session):
    """Every window with old rows, protected or not: what a person asks for in the UI."""
    return list(windows_with_rows(session, inspect_table(session.connection, session.settings), DateRange()))


def due(session):
    return list(due_windows(session, inspect_table(session.connection, session.settings), DateRange()))


def test_restored_rows_stay_until_their_protection_ends(archiving, audit):
    restored(archiving, audit)
    protection = protect(archiving)
    session = archiving.session()
    windows = all_windows(archiving, session)
    assert len(windows) > 1
    assert plan_archive(session, windows).batches == ()
    report = archive_windows(session, windows)
    session.close()
    assert (report.rows, report.left_behind_rows, report.protected_rows) == (0, 0, OLD_ROWS)
    assert {window.protected_until for window in report.windows} == {protection.ends_at}
    assert report.stopped_reason == str(protection)
    assert report.stopped_reason.startswith("protected until ")
    assert report.stopped_reason.endswith(": restored rows")
    assert audit.old_rows_in_table() == OLD_ROWS
    audit.account()


def test_a_protection_that_has_ended_holds_nothing_back(archiving, audit):
    restored(archiving, audit)
    protect(archiving, days=-1)
    report = archiving.archive()
    assert (report.rows, report.protected_rows, report.stopped_reason) == (OLD_ROWS, 0, "")
    audit.account_all_archived()


def test_the_end_is_told_by_the_clock_of_the_source(archiving, audit, monkeypatch):
    protect(archiving)
    monkeypatch.setattr(
        "archiver_pipeline.engine.protection.source_clock", lambda connection: datetime.now(UTC) + timedelta(days=2)
    )
    assert archiving.archive().rows == OLD_ROWS


def test_only_protected_windows_are_held_back(archiving, audit):
    session = archiving.session()
    first, second, *rest = all_windows(archiving, session)
    protect(archiving, (second.start, second.end, False))
    report = archive_windows(session, [first, second, *rest])
    assert [window.window_key for window in report.windows if window.protected_until] == [second.key]
    assert 0 < report.protected_rows == audit.old_rows_in_table()
    assert report.rows == OLD_ROWS - report.protected_rows
    assert report.left_behind_rows == 0
    audit.account()


def test_protected_windows_are_not_due_unless_a_batch_is_pending(archiving, audit):
    session = archiving.session()
    windows = all_windows(archiving, session)
    assert due(session) == windows
    left = pending(archiving, audit)
    protect(archiving)
    [window] = due(session)
    assert window.key == left.manifest["window"]
    report = archive_windows(session, [window])
    assert [batch.outcome for batch in report.settled_before] == [Outcome.deleted]
    assert due(session) == []
    audit.account()


def test_a_preview_shows_what_is_protected_and_counts_it_nowhere(archiving, audit):
    session = archiving.session()
    first, second, *rest = all_windows(archiving, session)
    protection = protect(archiving, (first.start, first.end, first.open_start))
    preview = preview_archive(session, DateRange())
    assert [window.window_key for window in preview.windows] == [second.key, *(window.key for window in rest)]
    [held] = preview.protected
    assert (held.window_key, held.until, held.reason) == (first.key, protection.ends_at, str(protection))
    assert preview.rows + held.rows == OLD_ROWS
    assert held.rows > 0


def test_rows_left_behind_and_protected_ones_are_told_apart(archiving, audit):
    session = archiving.session()
    first, second, *rest = all_windows(archiving, session)
    protection = protect(archiving, (first.start, first.end, False))
    with archiving.database.connect(autocommit=False) as application:
        application.execute(
            "SELECT FROM audit_logs WHERE created_at >= %s AND created_at < %s LIMIT 1 FOR UPDATE",
            [second.start, second.end],
        )
        report = archive_windows(session, [first, second, *rest])
    assert report.left_behind_rows == 1
    assert "locked" in report.left_behind_reason
    assert report.protected_reason == str(protection)
    assert report.stopped_reason == f"{report.left_behind_reason}; {protection}"
    audit.account()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{}",
        b"\xff",
        {"format_version": 2},
        {"note": "x"},
        {"ends_at": "soon"},
        {"ends_at": "2099-01-01T00:00:00"},
        {"ranges": []},
        {"ranges": [{"start": "2020-01-01T00:00:00+00:00", "end": "2019-01-01T00:00:00+00:00", "open_start": False}]},
        {"table": "others"},
        {"schema": "sales"},
        {"protection_id": "00"},
    ],
)
def test_a_protection_that_cannot_be_read_stops_the_table(archiving, audit, bucket, damage):
    protection = protect(archiving, days=-1)
    key = key_of(archiving, protection)
    data = damage if isinstance(damage, bytes) else json.dumps(json.loads(bucket.read(key)) | damage).encode()
    put(bucket, key, data)
    session = archiving.session()
    windows = all_windows(archiving, session)
    for look in (
        lambda: plan_archive(session, windows),
        lambda: due(session),
        lambda: preview_archive(session, DateRange()),
    ):
        with pytest.raises(ManifestError, match=protection.protection_id):
            look()
    assert audit.archived_rows() == []
    audit.account()


def test_a_listing_that_fails_stops_the_table(archiving, audit, monkeypatch):
    session = archiving.session()
    windows = all_windows(archiving, session)
    plain = S3Store.list_objects

    def list_objects(store, prefix):
        if ".protections" in prefix:
            raise NetworkError("no answer")
        return plain(store, prefix)

    monkeypatch.setattr(S3Store, "list_objects", list_objects)
    with pytest.raises(NetworkError):
        archive_windows(session, windows)
    audit.account()


@pytest.mark.parametrize("schema", ["public", "audit_logs"])
def test_another_tables_protection_does_not_matter(archiving, audit, schema):
    """Names that begin alike, a schema called like the table, a table called like the folder."""
    names = [("public", "audit"), ("public", "audit_log"), ("sales", "audit_logs"), ("audit_logs", "audit_logs")]
    for other_schema, table in [*names, ("audit_logs", ".protections")]:
        protect(archiving, name=TableName(DATABASE_ID, other_schema, table))
    protect(archiving, name=TableName("appdb2", "public", "audit_logs"))
    assert read_protections(archiving.session().store, NAME) == []
    assert archiving.archive().rows == OLD_ROWS
    audit.account_all_archived()


def test_archives_of_a_table_called_like_the_folder_are_no_protections(archiving, audit):
    archiving.database.execute("CREATE SCHEMA audit_logs")
    create_audit_table(archiving.database, 'audit_logs.".protections"')
    assert archiving.archive(schema="audit_logs", table=".protections").rows == OLD_ROWS
    put(
        archiving.bucket,
        f"{archiving.bucket.prefix}/{DATABASE_ID}/audit_logs/.protections/.restore_watermark.json",
        b"",
    )
    assert archiving.archive().rows == OLD_ROWS
    audit.account_all_archived()


def test_two_schemas_are_protected_apart(archiving, audit):
    archiving.database.execute("CREATE SCHEMA sales")
    create_audit_table(archiving.database, "sales.audit_logs")
    protect(archiving, name=TableName(DATABASE_ID, "sales", "audit_logs"))
    assert archiving.archive(schema="sales").rows == 0
    assert archiving.archive().rows == OLD_ROWS
    audit.account_all_archived()
    assert archiving.ledger(schema="sales").old_rows_in_table() == OLD_ROWS


def test_a_weekly_window_is_held_back_by_a_protected_day(archiving, audit):
    session = archiving.session()
    day = all_windows(archiving, session)[0]
    protect(archiving, (day.start, day.end, False))
    report = archiving.archive(window="month", retention_days=0)
    assert audit.old_rows_in_table() > 0
    assert day.key not in [window.window_key for window in report.windows]


def resumed(archiving, verification):
    """The delete step under a new lock session, as a re-execution from failure has it."""
    session = archiving.session()
    deletion = delete_batches(session, verification)
    report = report_archive(session, deletion)
    session.close()
    return deletion, report


@pytest.mark.parametrize("staged", ["kept", "gone"])
def test_a_restore_between_plan_and_a_re_execution_is_respected(archiving, audit, staged):
    """Staged files that are gone would be staged again with the restored rows among them."""
    session = archiving.session()
    verification = verified(archiving, session)
    session.close()
    archiving.database.execute("UPDATE audit_logs SET actor = actor WHERE id % 10 > 0 AND id < 100000")
    audit = archiving.ledger()
    protection = protect(archiving)
    if staged == "gone":
        shutil.rmtree(archiving.staging)
    deletion, report = resumed(archiving, verification)
    assert {batch.outcome for batch in deletion.batches} == {Outcome.superseded}
    assert {batch.reason for batch in deletion.batches} == {str(protection)}
    assert (report.left_behind_rows, report.protected_rows) == (0, OLD_ROWS)
    assert not [key for key in archiving.bucket.keys("") if key.endswith("manifest.json")]
    audit.account()


def test_without_a_restore_a_re_execution_goes_on(archiving, audit):
    session = archiving.session()
    verification = verified(archiving, session)
    session.close()
    protect(archiving, days=-1)
    shutil.rmtree(archiving.staging)
    assert resumed(archiving, verification)[1].protected_rows == 0
    audit.account_all_archived()


def test_no_protection_costs_one_listing_per_plan_and_look(archiving, audit, monkeypatch):
    session = archiving.session()
    windows = all_windows(archiving, session)
    asked, read, plain_listing, plain_read = [], [], S3Store.list_objects, S3Store.read_document

    def listing(store, prefix, **how):
        asked.append(prefix)
        return plain_listing(store, prefix, **how)

    def reading(store, key):
        read.append(key)
        return plain_read(store, key)

    monkeypatch.setattr(S3Store, "list_objects", listing)
    monkeypatch.setattr(S3Store, "read_document", reading)
    for look in (
        lambda: due(session),
        lambda: preview_archive(session, DateRange()),
        lambda: plan_archive(session, windows),
    ):
        asked.clear()
        look()
        assert len([prefix for prefix in asked if ".protections" in prefix]) == 1
    assert read == []
    asked.clear()
    run_plan(session, plan_archive(session, windows))
    assert len([prefix for prefix in asked if ".protections" in prefix]) == 1
    assert all(key.endswith(".manifest.json") for key in read)


def test_a_protection_is_never_changed(archiving):
    protection = protect(archiving)
    store = archiving.session().store
    record_protection(store, protection)
    changed = build_protection(NAME, [ALL_TIME], run_id="x", created_at=datetime.now(UTC), ends_at=datetime.now(UTC))
    put(archiving.bucket, key_of(archiving, changed), b"other")
    with pytest.raises(ObjectExistsError):
        record_protection(store, changed)


def test_what_is_recorded_reads_back(archiving):
    day, hour = timedelta(days=1), timedelta(hours=1)
    start = datetime(2024, 2, 28, tzinfo=UTC)
    protection = protect(archiving, (start + day, start + 2 * day, False), (start, start + day, False), days=30)
    assert read_protections(archiving.session().store, NAME) == [protection]
    [merged] = protection.ranges
    assert (merged.start, merged.end) == ("2024-02-28T00:00:00+00:00", "2024-03-01T00:00:00+00:00")
    with pytest.raises(ValueError, match="needs a window"):
        build_protection(NAME, [], run_id="x", created_at=start, ends_at=start + hour)
    assert date.fromisoformat(protection.ends_at[:10]) > datetime.now(UTC).date()
