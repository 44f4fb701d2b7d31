"""Which rows go straight into the table, which by way of a stage; and that nobody can tell from the outcome."""

from collections import Counter

import pytest

from archiver_pipeline.domain.restore import ConflictStrategy, RestoreOutcome, SchemaStrategy
from archiver_pipeline.engine import restore
from archiver_pipeline_tests.engine.restore_cases import account_report, archived, failed, rows_of
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS

EVERYTHING = "SELECT * FROM public.audit_logs WHERE id < 100000"
goes_on = (ConflictStrategy.skip, ConflictStrategy.overwrite, ConflictStrategy.upsert)


@pytest.fixture
def staged(monkeypatch):
    """The objects that went by way of a stage, as a list that grows."""
    calls = []
    plain = restore.merge_rows

    def merge_rows(*merged, **how):
        calls.append(plain(*merged, **how))
        return calls[-1]

    monkeypatch.setattr(restore, "merge_rows", merge_rows)
    return calls


@pytest.fixture
def before(archiving, audit, data_format):
    """The rows that were archived, as they were."""
    rows = rows_of(archiving.database, EVERYTHING)
    archived(archiving, audit, format=data_format, batch_size=OLD_ROWS)
    return rows


each_format = pytest.mark.parametrize("data_format", ["jsonl.gz", "parquet"])


@each_format
@pytest.mark.parametrize("conflict", list(ConflictStrategy))
def test_rows_that_are_gone_are_copied_straight(archiving, restoring, before, staged, conflict):
    report = account_report(restoring.restore(conflict=conflict))
    assert (report.restored_rows, report.replaced_rows, report.skipped_rows) == (OLD_ROWS, 0, 0)
    assert rows_of(archiving.database, EVERYTHING) == before
    assert staged == []


@each_format
@pytest.mark.parametrize("conflict", goes_on)
def test_a_row_that_the_look_did_not_see_is_in_the_table(archiving, restoring, before, staged, monkeypatch, conflict):
    """The look takes some keys only; the database says no, and nothing of the attempt is left."""
    archiving.database.execute("INSERT INTO audit_logs SELECT 7, now() - interval '60 days', 'somebody'")
    monkeypatch.setattr(restore, "seem_new", lambda *_: True)
    report = account_report(restoring.restore(conflict=conflict))
    assert staged
    assert report.restored_rows + report.skipped_rows == OLD_ROWS
    actor = archiving.database.execute("SELECT actor FROM audit_logs WHERE id = 7")
    assert (actor == [("somebody",)]) == (conflict is ConflictStrategy.skip)
    found = rows_of(archiving.database, EVERYTHING)
    assert found.total() == OLD_ROWS
    assert (found - before).total() == (conflict is ConflictStrategy.skip)


@pytest.mark.parametrize("data_format", ["jsonl.gz"])
def test_rows_that_are_there_are_seen_before_anything_is_copied(restoring, before, staged, monkeypatch):
    restoring.restore()
    monkeypatch.setattr(restore, "copy_rows", None)
    report = account_report(restoring.restore(ignore_watermark=True))
    assert report.skipped_rows == OLD_ROWS
    assert staged


@pytest.mark.parametrize("data_format", ["jsonl.gz"])
def test_another_unique_constraint_is_told_as_ever(archiving, restoring, before):
    archiving.database.execute(
        "CREATE UNIQUE INDEX ON audit_logs ((id % 10)) WHERE id < 100000",
    )
    report = account_report(restoring.restore())
    assert {item.outcome for item in report.objects} == {RestoreOutcome.failed}
    assert all("duplicate key value" in item.reason for item in failed(report))
    assert rows_of(archiving.database, EVERYTHING) == Counter()


@pytest.mark.parametrize("data_format", ["jsonl.gz"])
@pytest.mark.parametrize(
    "changed",
    [
        "ALTER TABLE audit_logs ADD twice bigint GENERATED ALWAYS AS (id * 2) STORED",
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        " CREATE TRIGGER nothing BEFORE INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION nothing()",
    ],
    ids=["generated column", "trigger"],
)
def test_what_may_change_rows_is_held_against_the_archive(archiving, restoring, before, staged, changed):
    archiving.database.execute(changed)
    account_report(restoring.restore(schema=SchemaStrategy.lenient))
    assert staged
    assert rows_of(archiving.database, EVERYTHING).total() == before.total()
