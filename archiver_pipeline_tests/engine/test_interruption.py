"""Runs that end at any point, by an error or by SIGKILL, and what the next run makes of it."""

import shutil

import pytest

from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.engine.delete import delete_batches
from archiver_pipeline_tests.engine.faults import POINTS, InterruptedRunError, interrupt, place
from archiver_pipeline_tests.engine.running import archive_when_free, killed, planned, run_plan, verified

MATRIX_POINTS = {"verify", "after a manifest", "in a delete transaction", "after a delete committed"}
KILL_POINTS = [pytest.param(point, marks=[pytest.mark.matrix] if point in MATRIX_POINTS else []) for point in POINTS]
RESUMED_POINTS = ["plan", "amid extract", "amid compress", "upload", "amid verify", "after a delete committed"]


@pytest.mark.parametrize("point", POINTS)
def test_an_error_at_any_point_loses_and_doubles_nothing(archiving, audit, monkeypatch, point):
    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError):
        place(POINTS[point], interrupt, patch.setattr)
        archiving.archive()
    if point != "after a delete committed":
        # There a batch is in between: out of the table, and not receipted until the next run settles it.
        audit.account()
    archiving.archive()
    audit.account_all_archived()


@pytest.mark.parametrize("point", KILL_POINTS)
def test_a_kill_at_any_point_loses_and_doubles_nothing(archiving, audit, tmp_path, point):
    killed(archiving, point, tmp_path / "plan")
    archive_when_free(archiving)
    audit.account_all_archived()


@pytest.mark.parametrize("point", ["verify", "after a delete committed"])
def test_a_kill_of_a_parquet_run(archiving, audit, tmp_path, point):
    killed(archiving, point, tmp_path / "plan", format="parquet")
    archive_when_free(archiving, format="parquet")
    audit.account_all_archived()


@pytest.mark.parametrize("point", RESUMED_POINTS)
def test_the_same_plan_goes_on_after_a_kill(archiving, audit, tmp_path, point):
    plan = killed(archiving, point, tmp_path / "plan")
    run_plan(archiving.session(), plan)
    audit.account_all_archived()


@pytest.mark.parametrize(
    ("point", "data_format"),
    [
        ("compress", "jsonl.gz"),
        ("upload", "jsonl.gz"),
        ("verify", "jsonl.gz"),
        ("after a manifest", "jsonl.gz"),
        ("extract", "parquet"),
        ("verify", "parquet"),
    ],
)
def test_rows_updated_before_the_same_plan_goes_on(archiving, audit, tmp_path, point, data_format):
    """What was staged before the update must never vouch for the rows after it."""
    plan = killed(archiving, point, tmp_path / "plan", format=data_format, verify_sample_rows=0)
    audit.execute("UPDATE public.audit_logs SET actor = 'changed' WHERE id % 3 = 0")
    session = archiving.session(format=data_format, verify_sample_rows=0)
    run_plan(session, plan)
    session.close()
    audit.account()
    archiving.archive(format=data_format)
    audit.account_all_archived()


@pytest.mark.parametrize("point", ["extract", "verify", "after a manifest", "after a delete committed"])
def test_the_same_plan_goes_on_without_its_staged_files(archiving, audit, tmp_path, point):
    plan = killed(archiving, point, tmp_path / "plan")
    shutil.rmtree(archiving.staging)
    run_plan(archiving.session(), plan)
    audit.account_all_archived()


@pytest.mark.parametrize(
    ("point", "data_format"),
    [("plan", "jsonl.gz"), ("verify", "jsonl.gz"), ("after a manifest", "jsonl.gz"), ("upload", "parquet")],
)
def test_the_same_plan_goes_on_after_another_run_took_its_rows(archiving, audit, tmp_path, point, data_format):
    plan = killed(archiving, point, tmp_path / "plan", format=data_format)
    archive_when_free(archiving, format=data_format)
    audit.account_all_archived()
    deletion = run_plan(archiving.session(format=data_format), plan)
    assert sum(batch.archived_rows for batch in deletion.batches) == 0
    audit.account_all_archived()


@pytest.mark.parametrize("data_format", ["jsonl.gz", "parquet"])
@pytest.mark.parametrize("files_are_gone", [False, True])
def test_a_verification_is_repeated_after_another_run_took_its_rows(
    archiving, audit, tmp_path, files_are_gone, data_format
):
    """A re-execution from the delete step holds verified batches that have no manifests."""
    session = archiving.session(format=data_format)
    verification = verified(archiving, session)
    session.close()
    if not files_are_gone:
        shutil.copytree(archiving.staging, tmp_path / "kept")
    archiving.archive(format=data_format)
    if not files_are_gone:
        shutil.copytree(tmp_path / "kept", archiving.staging, dirs_exist_ok=True)
    deletion = delete_batches(archiving.session(format=data_format), verification)
    assert {batch.outcome for batch in deletion.batches} == {Outcome.superseded}
    # No intent to delete was ever recorded for rows that another run's receipts already speak of.
    assert all(found.receipt for found in audit.objects() if found.manifest)
    audit.account_all_archived()


@pytest.mark.parametrize("data_format", ["jsonl.gz", "parquet"])
@pytest.mark.parametrize("files_are_gone", [False, True])
def test_a_verification_is_carried_out_by_another_session(archiving, audit, files_are_gone, data_format):
    session = archiving.session(format=data_format)
    verification = verified(archiving, session)
    session.close()
    if files_are_gone:
        shutil.rmtree(archiving.staging)
    delete_batches(archiving.session(format=data_format), verification)
    audit.account_all_archived()


def test_a_whole_plan_is_safe_to_repeat(archiving, audit):
    session = archiving.session()
    plan = planned(archiving, session)
    first = run_plan(session, plan)
    again = run_plan(session, plan)
    assert [batch.outcome for batch in again.batches] == [batch.outcome for batch in first.batches]
    audit.account_all_archived()


def test_stopping_ends_the_run_before_the_next_batch(archiving, audit, monkeypatch):
    """Ctrl-C in the main thread while the workers delete."""

    def interrupt_like_a_person():
        raise KeyboardInterrupt

    place(POINTS["after a receipt"], interrupt_like_a_person, monkeypatch.setattr)
    with pytest.raises(KeyboardInterrupt):
        archiving.archive(workers=1)
    # The only worker may have begun one more batch before the main thread took notice.
    assert POINTS["after a receipt"].nth <= len(audit.receipted()) <= POINTS["after a receipt"].nth + 1
    audit.account()
