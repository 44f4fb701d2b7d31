"""What is left to archive and how fast more comes, held against what an archive then takes."""

from datetime import UTC, datetime, timedelta

import pytest

from archiver_pipeline.engine.backlog import measure_backlog, measure_intake
from archiver_pipeline.errors import ManifestError, PreflightError
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline_tests.engine.test_protection import key_of, protect
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, RETENTION_DAYS


def test_it_is_what_an_archive_takes_and_then_nothing(archiving, audit):
    backlog = measure_backlog(archiving.session(), most_rows=1000)
    [(oldest,)] = archiving.database.execute("SELECT min(created_at) FROM audit_logs")
    assert (backlog.eligible_rows, backlog.is_capped, backlog.oldest_row) == (OLD_ROWS, False, oldest)
    assert archiving.archive().rows == OLD_ROWS
    backlog = measure_backlog(archiving.session(), most_rows=1000)
    assert (backlog.eligible_rows, backlog.is_capped, backlog.oldest_row) == (0, False, None)


@pytest.mark.parametrize(("most_rows", "is_capped"), [(OLD_ROWS - 1, True), (OLD_ROWS, False)])
def test_it_counts_no_further_than_asked(archiving, audit, most_rows, is_capped):
    backlog = measure_backlog(archiving.session(), most_rows=most_rows)
    assert (backlog.eligible_rows, backlog.is_capped) == (most_rows, is_capped)


def test_a_row_older_than_retention_in_a_window_that_is_not_is_no_backlog(archiving, audit):
    now = datetime.now(UTC)
    cutoff = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=RETENTION_DAYS)
    audit.execute(f"INSERT INTO public.audit_logs VALUES (1000, '{cutoff.isoformat()}', 'a')")
    audit.execute(f"INSERT INTO public.audit_logs VALUES (1001, '{cutoff - timedelta(microseconds=1)}', 'a')")
    backlog = measure_backlog(archiving.session(), most_rows=1000)
    assert (backlog.eligible_rows, backlog.cutoff) == (OLD_ROWS + 1, cutoff)


def test_protected_rows_are_no_backlog(archiving, audit):
    [window, *_] = archiving.windows(archiving.session())
    protect(archiving, (window.start, window.end, False))
    backlog = measure_backlog(archiving.session(), most_rows=1000)
    assert 0 < backlog.eligible_rows < OLD_ROWS
    assert backlog.oldest_row >= window.end
    assert archiving.archive().rows == backlog.eligible_rows
    protect(archiving)
    assert measure_backlog(archiving.session(), most_rows=1000).oldest_row is None


def test_what_cannot_be_read_is_an_error_not_a_zero(archiving, audit):
    with pytest.raises(PreflightError, match="there is no such table"):
        measure_backlog(archiving.session(table="gone"), most_rows=1000)
    protection = protect(archiving)
    archiving.bucket.client.put_object(Bucket=archiving.bucket.bucket, Key=key_of(archiving, protection), Body=b"{")
    with pytest.raises(ManifestError):
        measure_backlog(archiving.session(), most_rows=1000)


@pytest.mark.parametrize("most_rows", [10_000, 50])
def test_intake_is_the_rows_of_the_days_that_become_eligible_next(archiving, audit, most_rows):
    """Two rows an hour; with a low limit only the first of them are looked at, and the rate is the same."""
    session = archiving.session()
    cutoff = measure_backlog(session, most_rows=1).cutoff
    audit.execute(
        "INSERT INTO public.audit_logs"
        f" SELECT 1000 + n, '{cutoff.isoformat()}'::timestamptz + n * interval '30 minutes', 'a'"
        " FROM generate_series(0, 10 * 48) AS n"
    )
    shape = inspect_table(session.connection, session.settings)
    assert measure_intake(session, shape, cutoff, most_rows=most_rows) == pytest.approx(48, rel=0.03)


def test_no_intake_is_none(archiving, audit):
    session = archiving.session()
    cutoff = measure_backlog(session, most_rows=1).cutoff
    shape = inspect_table(session.connection, session.settings)
    assert measure_intake(session, shape, cutoff, most_rows=1000) == 0
