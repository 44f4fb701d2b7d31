"""Which rows are old enough: exactly those before the boundary, by the database's clock, and never more than asked."""

from datetime import UTC, datetime, timedelta

import pytest

from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.plan import plan_archive
from archiver_pipeline_tests.engine.running import planned, run_plan
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, RETENTION_DAYS

CUTOFF = f"now() - interval '{RETENTION_DAYS} days'"
TYPES = ["timestamptz", "timestamp", "date", "timestamptz(3)"]


@pytest.fixture
def times(archiving):
    """Makes a table of an id and a time of some type, filled with the given SQL expressions."""

    def create(type_name, *expressions):
        archiving.database.execute(f"CREATE TABLE times (id serial PRIMARY KEY, created_at {type_name})")
        for expression in expressions:
            archiving.database.execute(f"SET timezone = 'UTC'; INSERT INTO times (created_at) VALUES ({expression})")
        return archiving.ledger("times")

    return create


def left_ids(archiving):
    return [identity for (identity,) in archiving.database.execute("SELECT id FROM times ORDER BY id")]


@pytest.mark.matrix
@pytest.mark.parametrize("type_name", TYPES)
def test_the_boundary_of_the_last_whole_day(archiving, times, type_name):
    """With daily windows everything before the cutoff's midnight goes; midnight itself stays."""
    midnight = f"date_trunc('day', {CUTOFF})"
    ledger = times(
        type_name,
        f"{midnight} - interval '1 day'",
        f"{midnight} - interval '1 millisecond'",
        midnight,
        f"{midnight} + interval '1 millisecond'",
        "now()",
    )
    archiving.archive(table="times")
    ledger.account_all_archived()
    assert left_ids(archiving) == [3, 4, 5]


@pytest.mark.parametrize("zone", ["America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "America/Nuuk"])
def test_a_time_without_zone_is_utc_wherever_the_server_is(archiving, times, zone):
    """Every quarter of an hour around both changes of the clock, where an hour is missing or comes twice, and around
    the day that Apia never had; and the boundary, which is no local midnight."""
    archiving.database.execute(f"ALTER DATABASE \"{archiving.database.name}\" SET timezone = '{zone}'")
    edge = f"date_trunc('day', now() - interval '{RETENTION_DAYS} days')"
    ledger = times("timestamp", f"{edge} - interval '1 microsecond'", edge)
    ledger.execute(
        "INSERT INTO public.times (created_at)"
        " SELECT generate_series(day - interval '1 day', day + interval '1 day', '15 min')"
        " FROM unnest('{2011-12-30, 2026-03-08, 2026-03-28, 2026-04-05, 2025-10-05, 2025-11-02}'::timestamp[]) AS day"
    )
    archiving.archive(table="times", window="month", batch_size=500)
    archiving.archive(table="times", batch_size=500)
    ledger.account_all_archived()
    assert left_ids(archiving) == [2]


@pytest.mark.parametrize("rows", [[], ["NULL"] * 3], ids=["no rows", "no times"])
def test_a_table_without_anything_old(archiving, times, rows):
    ledger = times("timestamptz", *rows)
    assert archiving.archive(table="times").rows == 0
    ledger.account()
    assert archiving.bucket.archive_keys() == []


@pytest.mark.parametrize("type_name", ["timestamptz", "timestamp"])
def test_a_window_the_cutoff_lies_in_gives_only_its_old_part(archiving, times, type_name):
    """Were such a window ever asked for, the cutoff itself, in SQL, keeps its young rows."""
    ledger = times(
        type_name, f"{CUTOFF} - interval '1 second'", f"{CUTOFF} + interval '1 minute'", f"{CUTOFF} - interval '1 day'"
    )
    session = archiving.session(table="times", window="month")
    windows = archiving.windows(archiving.session(table="times", window="month", retention_days=0))
    for window in windows:
        archive_windows(session, [window])
    ledger.account()
    assert left_ids(archiving) == [2]


def test_windows_do_not_overlap_and_leave_no_gap(archiving, times):
    midnight = f"date_trunc('day', now() - interval '{RETENTION_DAYS + 10} days')"
    ledger = times(
        "timestamptz",
        f"{midnight} - interval '1 microsecond'",
        midnight,
        f"{midnight} + interval '1 day' - interval '1 microsecond'",
        f"{midnight} + interval '1 day'",
    )
    session = archiving.session(table="times")
    windows = archiving.windows(session)
    assert len(windows) == 3
    report = archive_windows(session, [windows[1]])
    assert report.rows == 2
    assert left_ids(archiving) == [1, 4]
    session.close()
    archiving.archive(table="times")
    ledger.account_all_archived()


@pytest.mark.parametrize("type_name", ["timestamptz", "timestamp", "date"])
@pytest.mark.parametrize("data_format", ["jsonl.gz", "parquet"])
def test_the_first_window_is_open_to_the_past(archiving, times, type_name, data_format):
    ledger = times(
        type_name,
        "'-infinity'",
        "'0044-03-15 12:00 BC'",
        "'0001-01-01'",
        "'1969-12-31 23:59:59'",
        "'2019-12-31'",
        "'2020-01-01'",
        "'infinity'",
        "'9999-12-31'",
        "NULL",
        "'294276-12-31'",
    )
    archiving.archive(table="times", format=data_format)
    ledger.account_all_archived()
    assert left_ids(archiving) == [7, 8, 9, 10]


@pytest.mark.parametrize("window", ["hour", "day", "week", "month"])
def test_every_size_of_window(archiving, audit, window):
    """Whole windows only: rows of the one that the retention begins in wait."""
    archiving.database.execute("DELETE FROM audit_logs WHERE id % 6 > 0 AND id < 100000")
    audit = archiving.ledger()
    archiving.archive(window=window, retention_days=0 if window == "month" else 2)
    audit.account()
    assert audit.archived_rows()


def test_rows_before_a_later_first_window_belong_to_it(archiving, audit):
    day_of_the_youngest = datetime.now(UTC).date() - timedelta(days=41)
    session = archiving.session(first_window=day_of_the_youngest)
    windows = archiving.windows(session)
    assert windows[0].open_start
    archive_windows(session, windows)
    audit.account_all_archived()


def test_zero_retention_takes_every_whole_day(archiving, times):
    ledger = times("timestamptz", "date_trunc('day', now()) - interval '1 second'", "now()")
    report = archiving.archive(table="times", retention_days=0)
    assert (report.rows, left_ids(archiving)) == (1, [2])
    ledger.expected.clear()


def test_a_staging_limit_is_drained_run_by_run(archiving, audit):
    """Each run takes what fits, says that something is left, and the next one goes on."""
    runs = []
    while not runs or runs[-1].truncated:
        runs.append(archiving.archive(max_staged_bytes=2_000))
        audit.account()
        assert runs[-1].rows > 0
    assert len(runs) > 2
    assert "limit reached" in runs[0].stopped_reason
    assert runs[-1].stopped_reason == ""
    assert sum(run.rows for run in runs) == OLD_ROWS
    audit.account_all_archived()


def test_rows_larger_than_their_sample_are_staged_within_the_limit(archiving, audit):
    """The plan measures the first rows of a window; the extraction stops when the others are larger."""
    audit.execute("UPDATE public.audit_logs SET actor = repeat(md5(id::text), 3000) WHERE id % 24 < 14")
    session = archiving.session(max_staged_bytes=200_000, workers=1)
    plan = planned(archiving, session)
    deletion = run_plan(session, plan)
    extraction = deletion.verification.upload.encoding.extraction
    assert extraction.truncated
    largest_batch_bytes = 10 * 32 * 3000 * 1.1
    assert sum(batch.rows_bytes for batch in extraction.batches) < 200_000 + largest_batch_bytes
    session.close()
    audit.account()
    archiving.archive()
    audit.account_all_archived()


@pytest.mark.parametrize(("limit_rows", "taken"), [(1, 10), (10, 10), (11, 20), (24, 24), (25, 34), (1000, OLD_ROWS)])
def test_a_limit_of_rows_is_rounded_up_to_whole_batches(archiving, audit, limit_rows, taken):
    session = archiving.session()
    plan = plan_archive(session, archiving.windows(session), limit_rows=limit_rows)
    assert run_plan(session, plan)
    audit.account()
    assert len(audit.archived_rows()) == taken


def test_the_staging_folder_is_left_empty(archiving, audit):
    archiving.archive()
    assert [path for path in archiving.staging.rglob("*") if path.is_file()] == []
