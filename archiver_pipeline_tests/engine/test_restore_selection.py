"""Which archives and rows a restore takes, what it remembers, and what protects the rows that came back."""

from collections import Counter
from datetime import date, timedelta

import pytest

from archiver_pipeline.config.enums import WatermarkStorage
from archiver_pipeline.domain.restore import ConflictStrategy
from archiver_pipeline.engine.protection import read_protections
from archiver_pipeline.errors import ConfigError, PreflightError
from archiver_pipeline_tests.engine.restore_cases import account_report, archived, rows_of, value
from archiver_pipeline_tests.engine.running import pending, put
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, YOUNG_ROWS, create_audit_table

each_storage = pytest.mark.parametrize("storage", list(WatermarkStorage))
DAYS, ROWS_A_DAY = 10, 4
ROWS = DAYS * ROWS_A_DAY
FIRST = date(2024, 2, 25)
THIRD, FIFTH = FIRST + timedelta(days=2), FIRST + timedelta(days=4)


def create_dated(database, kind):
    """Four rows on each of ten days over the end of a February, the last a microsecond before midnight."""
    database.execute(f"CREATE TABLE audit_logs (id int PRIMARY KEY, created_at {kind} NOT NULL, actor text)")
    # What the server itself calls a day must not matter.
    database.execute(f"ALTER DATABASE {database.name} SET TimeZone = 'Asia/Kolkata'")
    database.execute(
        "INSERT INTO audit_logs SELECT n, (timestamp '2024-02-25' + (n - 1) / 4 * interval '1 day'"
        " + least((n - 1) % 4 * interval '8 h', interval '1 day' - interval '1 us'))"
        + (" AT TIME ZONE 'UTC'" if kind == "timestamptz" else f"::{kind}")
        + f", 'actor ' || n % 2 FROM generate_series(1, {ROWS}) AS n"
    )


@pytest.fixture(params=["timestamptz", "timestamp", "date"])
def dated(request, archiving):
    create_dated(archiving.database, request.param)
    return archiving.ledger()


def ids(archiving):
    return sorted(row_id for (row_id,) in archiving.database.execute("SELECT id FROM audit_logs"))


@pytest.mark.parametrize("window", ["day", "month"])
def test_days_are_inclusive_and_of_utc(archiving, dated, restoring, window):
    before = archived(archiving, dated, window=window)
    report = account_report(restoring.restore(start=THIRD, end=FIFTH))
    assert ids(archiving) == list(range(9, 21))
    assert report.restored_rows == 12
    assert report.filtered_rows == sum(item.rows for item in report.objects) - 12
    assert all(item.restored_rows for item in report.objects), "an archive without rows in the days was taken"
    later = account_report(restoring.restore())
    assert later.restored_rows == ROWS - 12
    assert Counter(dated.table_rows()) == before


def test_what_was_restored_in_part_is_not_remembered(archiving, dated, restoring):
    archived(archiving, dated, window="month")
    first = restoring.restore(start=THIRD, end=THIRD)
    assert (first.restored_rows, len(first.objects)) == (4, sum(item.filtered_rows > 0 for item in first.objects))
    again = account_report(restoring.restore(start=THIRD, end=THIRD))
    assert (again.restored_rows, again.skipped_rows, again.remembered) == (0, 4, 0)
    account_report(restoring.restore())
    assert restoring.restore().objects == ()


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ({"start": FIFTH}, range(17, ROWS + 1)),
        ({"end": THIRD}, range(1, 13)),
        ({"start": FIRST, "end": FIRST}, range(1, 5)),
        ({"start": date.min, "end": date.max}, range(1, ROWS + 1)),
        ({"start": date(2024, 3, 1)}, range(21, ROWS + 1)),
        ({"end": date(2024, 2, 29)}, range(1, 21)),
    ],
)
def test_open_and_extreme_days(archiving, dated, restoring, days, expected):
    archived(archiving, dated)
    account_report(restoring.restore(**days))
    assert ids(archiving) == list(expected)


def test_days_without_archives_are_a_report_without_objects(archiving, dated, restoring):
    archived(archiving, dated)
    for days in ({"start": date(2024, 6, 1)}, {"end": date(2020, 1, 1)}, {"start": FIFTH, "end": THIRD}):
        report = restoring.restore(**days)
        assert (report.objects, report.remembered, report.protected_until) == ((), 0, None)
    assert ids(archiving) == []


def test_where_and_days_together(archiving, dated, restoring):
    before = archived(archiving, dated, window="month")
    report = account_report(restoring.restore(where="actor = 'actor 1' AND id <> 11", start=THIRD, end=FIFTH))
    assert ids(archiving) == [9, 13, 15, 17, 19]
    assert report.restored_rows == 5
    account_report(restoring.restore())
    assert Counter(dated.table_rows()) == before


def test_where_that_matches_nothing(archiving, dated, restoring):
    archived(archiving, dated)
    report = account_report(restoring.restore(where="actor = 'nobody'"))
    assert (report.restored_rows, report.filtered_rows, report.failed_rows) == (0, ROWS, 0)
    assert restoring.restore().restored_rows == ROWS


def test_where_that_names_no_column_changes_nothing(archiving, dated, restoring):
    archived(archiving, dated)
    with pytest.raises(ConfigError, match="actr"):
        restoring.restore(where="actr = 'x'")
    assert ids(archiving) == []
    assert read_protections(archiving.session().store, restoring.name()) == []


def test_rows_older_than_every_window_are_found_by_their_days(archiving, restoring):
    """They are in the first window, which is open to the past and named after a later day."""
    create_audit_table(archiving.database)
    ledger = archiving.ledger()
    ledger.execute("INSERT INTO public.audit_logs VALUES (777, '1987-03-04', 'old'), (778, '-infinity', 'older')")
    archived(archiving, ledger)
    report = account_report(restoring.restore(start=date(1987, 3, 4), end=date(1987, 3, 4)))
    assert report.restored_rows == 1
    account_report(restoring.restore(end=date(1980, 1, 1)))
    assert [row_id for row_id in ids(archiving) if row_id < 100000] == [777, 778]


@each_storage
def test_a_second_restore_takes_only_new_archives(archiving, audit, restoring, storage):
    before = archived(archiving, audit)
    first = account_report(restoring.restore(watermark=storage))
    again = restoring.restore(watermark=storage)
    assert (again.objects, again.remembered) == ((), len(first.objects))
    archiving.database.execute("INSERT INTO audit_logs VALUES (900, now() - interval '90 days', 'late')")
    archiving.archive()
    third = account_report(restoring.restore(watermark=storage))
    assert (third.restored_rows, third.remembered) == (1, len(first.objects))
    assert len(audit.table_rows()) == before.total() + 1


@each_storage
def test_ignoring_what_is_remembered_still_remembers(archiving, audit, restoring, storage):
    archived(archiving, audit)
    restoring.restore(watermark=storage, ignore_watermark=True)
    again = account_report(restoring.restore(watermark=storage, ignore_watermark=True))
    assert again.skipped_rows == OLD_ROWS
    assert again.remembered == 0
    assert restoring.restore(watermark=storage).objects == ()


@each_storage
def test_each_target_is_remembered_apart(archiving, audit, restoring, storage):
    archived(archiving, audit)
    archiving.database.execute("CREATE TABLE copy (LIKE audit_logs INCLUDING ALL)")
    name = restoring.name()
    restoring.restore(watermark=storage)
    assert restoring.restore(name, restoring.name("copy"), watermark=storage).restored_rows == OLD_ROWS
    assert restoring.restore(name, restoring.name("copy"), watermark=storage).objects == ()


def test_without_a_watermark_nothing_is_remembered(archiving, audit, restoring):
    archived(archiving, audit)
    restoring.restore(watermark=None)
    assert account_report(restoring.restore(watermark=None)).skipped_rows == OLD_ROWS


def test_a_failed_object_is_not_remembered(archiving, audit, restoring):
    archived(archiving, audit)
    archiving.database.execute("INSERT INTO audit_logs VALUES (5, now(), 'mine')")
    first = restoring.restore(conflict=ConflictStrategy.fail)
    again = restoring.restore(conflict=ConflictStrategy.fail)
    assert [item.data_key for item in again.objects] == [item.data_key for item in first.objects if item.failed_rows]


def test_restored_rows_stay_until_their_protection_ends(archiving, audit, restoring):
    before = archived(archiving, audit)
    report = account_report(restoring.restore(protect_days=3))
    [protection] = read_protections(archiving.session().store, restoring.name())
    assert protection.ends_at == report.protected_until.isoformat()
    assert archiving.archive().rows == 0
    assert Counter(audit.table_rows()) == before


def test_only_the_days_of_what_is_restored_are_protected(archiving, audit, restoring):
    archived(archiving, audit)
    key = audit.receipted()[0].data_key
    restoring.restore(data_key=key)
    archiving.database.execute("INSERT INTO audit_logs VALUES (900, now() - interval '90 days', 'late')")
    assert archiving.archive().rows == 1


def test_without_protection_the_next_archive_takes_them_and_nothing_is_lost(archiving, audit, restoring):
    """Table, then archive, then table again: each row once at every station."""
    before = archived(archiving, audit)
    first = Counter(audit.archived_rows())
    for _ in range(2):
        report = account_report(restoring.restore(protect_days=0, ignore_watermark=True))
        assert report.protected_until is None
        assert Counter(audit.table_rows()) == before
        archiving.archive()
        assert audit.old_rows_in_table() == 0
        assert set(audit.archived_rows()) == set(first)
    account_report(restoring.restore(ignore_watermark=True))
    assert Counter(audit.table_rows()) == before


def test_a_table_that_nothing_archives_needs_no_protection(archiving, audit, restoring):
    archived(archiving, audit)
    assert restoring.restore(configured=False).protected_until is None
    assert read_protections(archiving.session().store, restoring.name()) == []


def test_a_table_without_archives(archiving, audit, restoring):
    with pytest.raises(PreflightError, match=r"no archives found for appdb\.public\.audit_logs") as refused:
        restoring.restore()
    assert "archiver list" in refused.value.hint


def test_tables_whose_names_begin_alike_are_kept_apart(archiving, restoring):
    for table in ("audit", "audit_logs"):
        create_audit_table(archiving.database, table)
    archiving.archive(table="audit_logs")
    with pytest.raises(PreflightError, match="no archives"):
        restoring.restore(restoring.name("audit"))
    archiving.archive(table="audit")
    assert account_report(restoring.restore(restoring.name("audit"))).restored_rows == OLD_ROWS
    assert value(archiving.database, "SELECT count(*) FROM audit_logs") == YOUNG_ROWS


def test_unfinished_archives_alone_are_told(archiving, audit, restoring):
    pending(archiving, audit)
    for found in audit.receipted():
        archiving.bucket.client.delete_object(Bucket=archiving.bucket.bucket, Key=f"{found.stem}.receipt.json")
    with pytest.raises(PreflightError, match="batches are not finished"):
        restoring.restore()


@pytest.mark.parametrize(
    ("state", "hint"), [("pending", "archiver run"), ("superseded", "void"), ("orphaned", "never")]
)
def test_an_unfinished_object_is_refused_by_name(archiving, audit, restoring, state, hint):
    left = pending(archiving, audit)
    if state == "superseded":
        put(archiving.bucket, f"{left.stem}.superseded.json", b"{}")
    if state == "orphaned":
        archiving.bucket.client.delete_object(Bucket=archiving.bucket.bucket, Key=f"{left.stem}.manifest.json")
    rows = Counter(audit.table_rows())
    with pytest.raises(PreflightError, match=state) as refused:
        restoring.restore(data_key=left.data_key)
    assert hint in refused.value.hint
    assert Counter(audit.table_rows()) == rows


def test_pending_archives_are_told_and_the_others_restored(archiving, audit, restoring):
    left = pending(archiving, audit)
    report = account_report(restoring.restore())
    assert report.restored_rows > 0
    assert left.data_key not in [item.data_key for item in report.objects]
    assert any("1 pending" in warning for warning in report.warnings)
    audit_rows = Counter(audit.table_rows())
    assert max(audit_rows.values()) == 1


@pytest.mark.parametrize("ending", ["jsonl.gz", "manifest.json", "receipt.json"])
def test_one_object_by_the_key_of_any_of_its_parts(archiving, audit, restoring, ending):
    archived(archiving, audit)
    found = audit.receipted()[2]
    report = account_report(restoring.restore(data_key=f"{found.stem}.{ending}"))
    [item] = report.objects
    assert item.data_key == found.data_key
    old = rows_of(archiving.database, "SELECT * FROM public.audit_logs WHERE id < 100000")
    assert old == Counter(audit.rows_of(found))


@pytest.mark.parametrize("key", ["", "archives/appdb/audit_logs/", "nonsense", "../x.jsonl.gz"])
def test_a_name_that_is_no_object(archiving, audit, restoring, key):
    archived(archiving, audit)
    with pytest.raises(ConfigError, match="not the key") as refused:
        restoring.restore(data_key=key)
    assert "archiver list" in refused.value.hint


def test_an_object_that_is_not_there(archiving, audit, restoring):
    archived(archiving, audit)
    key = audit.receipted()[0].data_key
    with pytest.raises(PreflightError, match="no object"):
        restoring.restore(data_key=key.replace(".jsonl.gz", "0.jsonl.gz"))


def test_an_object_of_another_table_is_refused(archiving, restoring):
    """It would be remembered as one of this table."""
    for table in ("audit", "audit_logs"):
        create_audit_table(archiving.database, table)
        archiving.archive(table=table)
    key = archiving.ledger("audit").receipted()[0].data_key
    with pytest.raises(ConfigError, match=r"appdb\.public\.audit,? ") as refused:
        restoring.restore(data_key=key)
    assert refused.value.hint
    assert value(archiving.database, "SELECT count(*) FROM audit_logs") == YOUNG_ROWS


def test_only_some_keys(archiving, audit, restoring):
    archived(archiving, audit)
    wanted = tuple(found.data_key for found in audit.receipted()[1:3])
    report = account_report(restoring.restore(only_keys=wanted))
    assert [item.data_key for item in report.objects] == sorted(wanted)
    with pytest.raises(PreflightError, match="not there"):
        restoring.restore(only_keys=("archives/appdb/audit_logs/gone.jsonl.gz",))
