"""Every kind of table that quietly does not get on is found and said, on real servers and a real Dagster instance."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from archiver_pipeline.domain.windows import WindowUnit, window_of_key
from archiver_pipeline.engine.backlog import Backlog, TableLook
from archiver_pipeline.orchestration import status
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.history import PastRun, RunFigures, TableHistory
from archiver_pipeline.orchestration.launch import run_windows_in_process
from archiver_pipeline.orchestration.status import Verdict, judge, table_statuses
from archiver_pipeline.orchestration.watching import CHECK_GETS_ON
from archiver_pipeline.postgres.catalog import table_name
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.orchestration.running import due_keys, materialize
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def standing(workplace, instance, *, later=timedelta(0)):
    [found] = table_statuses(workplace.loaded(), instance, workplace.loaded().tables, datetime.now(UTC) + later)
    return found


def archive_all(workplace, instance):
    keys = due_keys(workplace)
    assert materialize(workplace, instance, keys[0], keys[-1]).success


def test_a_table_whose_rows_are_archived_is_ok(workplace, instance):
    archive_all(workplace, instance)
    found = standing(workplace, instance)
    assert (found.verdict, found.reason) == (Verdict.ok, "nothing to do")
    assert datetime.now(UTC) - found.last_success < timedelta(minutes=5)
    assert found.pace.drained_rows_per_day == OLD_ROWS


def test_a_table_that_nobody_archived_is_said_with_what_should_have(workplace, instance):
    found = standing(workplace, instance)
    assert (found.verdict, found.backlog.eligible_rows) == (Verdict.never_ran, OLD_ROWS)
    assert found.reason == "rows are eligible and no run is recorded; due_appdb and nightly_appdb are stopped"


def test_runs_that_succeed_and_archive_nothing_are_stuck(workplace, instance):
    """As they do for months behind a forgotten transaction, all green."""
    key = due_keys(workplace)[0]
    with workplace.database.connect(autocommit=False) as application:
        application.execute("SELECT FROM audit_logs FOR UPDATE")
        for _ in range(3):
            assert materialize(workplace, instance, key).success
        found = standing(workplace, instance)
        application.rollback()
    assert found.verdict is Verdict.stuck
    assert "the last 3 runs succeeded and archived nothing: " in found.reason
    assert "lock" in found.reason
    assert "the oldest row has waited" in found.reason


def test_runs_that_fail_again_and_again_are_stuck(workplace, instance):
    config = workplace.loaded()
    windows = [window_of_key(WindowUnit.day, due_keys(workplace)[0], first=config.tables[0].first_window)]
    definitions = build_definitions(config)
    verdicts = []
    with workplace.hold_lock():
        for _ in range(3):
            assert not run_windows_in_process(
                definitions, instance, config.tables[0], windows, limit_rows=None, log_level="CRITICAL"
            )
            verdicts.append(standing(workplace, instance))
    assert [found.verdict for found in verdicts][-1] is Verdict.stuck
    assert Verdict.stuck not in [found.verdict for found in verdicts[:2]]
    assert verdicts[-1].reason.startswith("the last 3 runs failed: LockHeldError: ")


def test_a_lock_that_is_held_for_long_is_stuck(workplace, instance, monkeypatch):
    archive_all(workplace, instance)
    with workplace.hold_lock():
        assert standing(workplace, instance).verdict is Verdict.ok
        monkeypatch.setattr(status, "_LONG_LOCK", timedelta(0))
        found = standing(workplace, instance)
    assert found.verdict is Verdict.stuck
    assert "its lock is held by another archiver (user" in found.reason


def test_a_table_that_nobody_has_looked_at_for_long_is_stuck(workplace, instance):
    assert materialize(workplace, instance, due_keys(workplace)[0]).success
    assert standing(workplace, instance).verdict is Verdict.behind
    found = standing(workplace, instance, later=timedelta(days=3))
    assert found.verdict is Verdict.stuck
    assert "no run has ended since " in found.reason
    assert "are stopped" in found.reason


def test_a_table_that_cannot_be_looked_at_is_neither_ok_nor_stuck(workplace, instance):
    workplace.document["databases"][0]["port"] = free_port()
    workplace.write()
    found = standing(workplace, instance)
    assert (found.verdict, found.error.exit_code) == (Verdict.unknown, 7)


def test_the_look_of_dagster_fails_when_a_table_does_not_get_on(workplace, instance):
    failed = watch(workplace, instance)
    assert not failed.success
    [check] = failed.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.severity) == (CHECK_GETS_ON, False, dg.AssetCheckSeverity.ERROR)
    [failure] = [event for event in failed.all_events if event.is_step_failure]
    assert "appdb.public.audit_logs is never ran: " in failure.step_failure_data.user_failure_data.description
    archive_all(workplace, instance)
    again = watch(workplace, instance)
    assert again.success
    assert [check.passed for check in again.get_asset_check_evaluations()] == [True]


def test_a_run_of_the_table_does_not_look_at_all_tables(workplace, instance):
    result = materialize(workplace, instance, due_keys(workplace)[0])
    assert {event.step_key.partition(".")[0] for event in result.all_events if event.step_key} == {
        "appdb__public__audit_logs"
    }


def test_a_backlog_that_does_not_shrink_is_stuck(workplace):
    """Runs archive rows, and as many come."""
    assert verdict_of(workplace, [100, 90, 100], 100) is Verdict.stuck
    assert verdict_of(workplace, [100, 100, 100], 100) is Verdict.stuck


@pytest.mark.parametrize(
    ("left", "now_rows", "days"), [([50, 90, 100], 50, 3), ([100, 100], 100, 3), ([100, 100, 100], 100, 0.1)]
)
def test_a_backlog_that_shrinks_or_is_not_known_for_long_is_behind(workplace, left, now_rows, days):
    assert verdict_of(workplace, left, now_rows, days=days) is Verdict.behind


def verdict_of(workplace, left, now_rows, *, days=3.0):
    """Of runs over so many days, newest first, that left so many rows each."""
    settings = workplace.loaded().tables[0]
    figures = RunFigures("", 10, 1, 0, 1, 1, 0, 0, 1.0, {}, 0, 0, "", "")
    runs = tuple(
        PastRun(
            str(number), dg.DagsterRunStatus.SUCCESS, at, at, at, False, False,
            replace(figures, attempt_id=str(number), backlog_rows=rows),
        )
        for number, rows in enumerate(left)
        for at in [NOW - timedelta(days=days) * number / (len(left) - 1)]
    )  # fmt: skip
    cutoff = NOW - timedelta(days=settings.retention_days)
    backlog = Backlog(table_name(settings), now_rows, False, cutoff - timedelta(days=9), cutoff)
    history = TableHistory(table_name(settings), runs, runs[0], None)
    return judge(TableLook(settings, backlog, 10.0), history, NOW, stuck_after=timedelta(days=2)).verdict


def watch(workplace, instance):
    job = build_definitions(workplace.loaded()).resolve_job_def("watch_appdb")
    return job.execute_in_process(instance=instance, raise_on_error=False)
