"""Columns that changed since the newest archive: a warning, or a refusal before anything is planned."""

import time

import pytest

from archiver_pipeline.engine.inventory import DateRange
from archiver_pipeline.engine.preview import preview_archive
from archiver_pipeline.errors import ManifestError, PreflightError
from archiver_pipeline_tests.engine.running import pending, put

TABLE = "public.audit_logs"
CHANGES = {
    f"ALTER TABLE {TABLE} ADD COLUMN late int": "+ late integer",
    f"ALTER TABLE {TABLE} DROP COLUMN amount": "- amount numeric",
    f"ALTER TABLE {TABLE} ALTER COLUMN actor TYPE varchar(90)": "~ actor text → character varying(90)",
    f"ALTER TABLE {TABLE} RENAME COLUMN actor TO who": "- actor text (renamed to who?); + who text",
}


@pytest.fixture
def archived(archiving, audit):
    """Archives the table, then lets more rows get old."""
    assert archiving.archive().warnings == ()
    archiving.database.execute(f"INSERT INTO {TABLE} VALUES (777, now() - interval '45 days', 'late')")
    return archiving


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_column_is_a_warning_or_a_refusal(archived, change):
    archived.database.execute(change)
    told = f"columns changed since the newest archive: {CHANGES[change]}"
    with pytest.raises(PreflightError) as refusal:
        archived.archive(fail_on_schema_drift=True)
    assert refusal.value.message == f"appdb.public.audit_logs: {told}"
    session = archived.session(fail_on_schema_drift=True)
    [seen] = preview_archive(session, DateRange()).warnings
    assert told in seen
    assert seen.startswith("a run is refused: ")
    session.close()
    assert archived.database.execute(f"SELECT count(*) FROM {TABLE} WHERE id = 777") == [(1,)]

    report = archived.archive()
    assert (report.rows, report.warnings) == (1, (told,))


def test_once_archived_the_new_columns_are_accepted(archived):
    archived.database.execute(f"ALTER TABLE {TABLE} ADD COLUMN late int")
    # The store tells times to the second, and the newest archive must be the newest.
    time.sleep(1)
    archived.archive()
    assert archived.archive(fail_on_schema_drift=True).warnings == ()


def test_a_table_without_archives_has_no_drift(archiving, audit):
    assert archiving.archive(fail_on_schema_drift=True).warnings == ()
    audit.account_all_archived()


def test_what_a_crash_left_open_is_settled_before_the_refusal(archiving, audit):
    """A batch that is out of the table and has no receipt yet must get it, whatever the columns are."""
    archiving.archive(limit_rows=10)
    pending(archiving, audit, "after a delete committed")
    archiving.database.execute(f"ALTER TABLE {TABLE} ADD COLUMN late int")
    with pytest.raises(PreflightError):
        archiving.archive(fail_on_schema_drift=True)
    assert all(found.receipt for found in audit.objects() if found.manifest)


def test_an_unreadable_manifest_is_a_refusal_only_where_it_is_asked_for(archived, bucket):
    for key in bucket.keys():  # noqa: SIM118 - not a mapping
        if key.endswith(".manifest.json"):
            put(bucket, key, b"{")
    with pytest.raises(ManifestError):
        archived.archive(fail_on_schema_drift=True)
    [warning] = archived.archive().warnings
    assert warning.startswith("whether columns changed since the newest archive is unknown")
