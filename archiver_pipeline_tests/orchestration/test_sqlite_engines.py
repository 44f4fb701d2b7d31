"""Dagster's SQLite storages with engines that are kept: the same records, and no file held open for ever."""

from pathlib import Path

import dagster as dg
import psutil
from dagster._core.storage.event_log.sqlite import sqlite_event_log

from archiver_pipeline.orchestration.sqlite_engines import keep_sqlite_engines


@dg.op
def _say(context: dg.OpExecutionContext) -> None:
    context.log.info("said")


@dg.job
def _saying() -> None:
    _say()


def _run_often(home: Path, times: int) -> list[str]:
    home.mkdir()
    with dg.DagsterInstance.from_ref(dg.DagsterInstance.local_temp(str(home)).get_ref()) as instance:
        return [_saying.execute_in_process(instance=instance).run_id for _ in range(times)]


def test_events_of_every_run_are_there_for_another_process(tmp_path: Path) -> None:
    keep_sqlite_engines()
    runs = _run_often(tmp_path / "home", 2)

    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as instance:
        for run in runs:
            said = [record.user_message for record in instance.all_logs(run)]
            assert "said" in said
            assert instance.get_run_by_id(run).status is dg.DagsterRunStatus.SUCCESS  # type: ignore[union-attr]


def test_files_of_many_runs_are_not_all_held_open(tmp_path: Path) -> None:
    keep_sqlite_engines()
    _run_often(tmp_path / "home", 12)

    open_runs = {file.path for file in psutil.Process().open_files() if file.path.startswith(str(tmp_path))}
    assert len({path for path in open_runs if path.endswith(".db")}) <= 16


def test_engines_are_kept_once_however_often_it_is_asked(tmp_path: Path) -> None:
    keep_sqlite_engines()
    before = sqlite_event_log.create_engine
    keep_sqlite_engines()
    assert sqlite_event_log.create_engine is before
    url = f"sqlite:///{tmp_path / 'one.db'}"
    assert before(url) is before(url)
