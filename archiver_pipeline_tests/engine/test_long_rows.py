"""Rows far longer than memory should allow: fetched in slices, proved as they pass, deleted like any other row."""

import hashlib
import multiprocessing
import resource
from dataclasses import dataclass

import pytest

from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.inventory import DateRange, eligible_windows
from archiver_pipeline.engine.proof import Sample
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import VerificationError
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline.postgres.sample import LiveRow
from archiver_pipeline_tests.plugins.archiving import create_audit_table

LONG_CHARACTERS = 3 << 20
HUGE_CHARACTERS = 200_000_000
MOST_GROWTH_BYTES = 60 << 20
"""What a run may take beyond a run of short rows."""


@pytest.fixture
def with_long_rows(archiving):
    create_audit_table(archiving.database)
    ledger = archiving.ledger()
    # Of every kind of character that JSON writes otherwise, and some that take several bytes.
    text = f"repeat(E'a\"\\\\\\\\ö\\n€', {LONG_CHARACTERS // 6})"
    ledger.execute(f"UPDATE public.audit_logs SET actor = {text} WHERE id = 17")
    return ledger


def test_long_rows_are_archived_whole_among_short_ones(archiving, with_long_rows):
    report = archiving.archive(verify_sample_rows=48)
    with_long_rows.account_all_archived()
    assert report.rows == 48


def test_a_long_row_with_a_text_key_behind_it(archiving):
    with archiving.database.connect() as connection:
        connection.execute(
            "CREATE TABLE public.audit_logs (body jsonb, created_at timestamptz NOT NULL, code text, part int,"
            " PRIMARY KEY (code, part))"
        )
    ledger = archiving.ledger()
    ledger.execute(
        "INSERT INTO public.audit_logs SELECT jsonb_build_object('a', jsonb_build_array("
        "repeat('x\"\\{', CASE n WHEN 2 THEN 1200000 ELSE 1 END), 1)),"
        " now() - interval '40 days', 'co\"de ' || n, n FROM generate_series(1, 3) AS n",
    )
    archiving.archive(verify_sample_rows=3)
    ledger.account_all_archived()


def test_a_long_row_that_differs_from_the_live_one_is_noticed(archiving, with_long_rows, monkeypatch):
    """As if the store held what is not in the table: the server's own hash tells."""

    def another(self, position, live):
        return position not in self.long_lines or same(self, position, LiveRow(None, hashlib.sha256().hexdigest()))

    same = Sample.is_same
    monkeypatch.setattr(Sample, "is_same", another)
    with pytest.raises(VerificationError, match="differs from the live row"):
        archiving.archive(verify_sample_rows=48)
    with_long_rows.account()


@dataclass(frozen=True)
class Measured:
    rows: int
    peak_bytes: int


def _archive_measured(settings, database, store, answers):
    session = ArchiveSession(settings, database, store, run_id="long-rows")
    windows = list(eligible_windows(session, inspect_table(session.connection, settings), DateRange()))
    rows = archive_windows(session, windows).rows
    session.close()
    answers.put(Measured(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10))


def _in_a_process_of_its_own(archiving):
    session = archiving.session()
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    parts = (session.settings, session.database, session.store_settings, answers)
    process = context.Process(target=_archive_measured, args=parts)
    process.start()
    process.join()
    return answers.get() if process.exitcode == 0 else None


def test_a_row_of_200_mb_takes_no_more_memory_than_short_ones(archiving):
    create_audit_table(archiving.database)
    few = _in_a_process_of_its_own(archiving)
    create = "INSERT INTO public.audit_logs SELECT 1, now() - interval '40 days', repeat('x', {})"
    with archiving.database.connect() as connection:
        connection.execute(create.format(HUGE_CHARACTERS).encode())
    huge = _in_a_process_of_its_own(archiving)
    assert (few.rows, huge.rows) == (48, 1)
    assert huge.peak_bytes - few.peak_bytes < MOST_GROWTH_BYTES
    with archiving.database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM public.audit_logs WHERE id = 1").fetchone() == (0,)
