"""Runs archive runs in this process against the Dagster instance, so that every run is recorded."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import dagster as dg
import psutil

from archiver_pipeline.config.effective import DatabaseSettings, TableSettings
from archiver_pipeline.domain.restore import RestoreRequest
from archiver_pipeline.domain.validation import ValidationRequest
from archiver_pipeline.domain.windows import Window
from archiver_pipeline.errors import ConfigError
from archiver_pipeline.orchestration.names import PROCESS_TAG, asset_key, asset_name, process_of
from archiver_pipeline.orchestration.restoring import (
    RESTORED_DATABASE_TAG,
    config_of,
    restore_run_config,
    restored_key,
)
from archiver_pipeline.orchestration.sensors import DATABASE_TAG, run_tags
from archiver_pipeline.orchestration.validation import check_key, validate_run_config

WINDOWS_PER_RUN = 30
_RANGE_START = "dagster/asset_partition_range_start"
_RANGE_END = "dagster/asset_partition_range_end"
# A person runs the command again; a daemon on the same instance must not do it behind their back.
_NOT_RETRIED = {"dagster/max_retries": "0"}


def open_instance(folder: Path) -> dg.DagsterInstance:
    """The instance of DAGSTER_HOME; else the one whose dagster.yaml lies in the working directory; else one below
    `folder`, made when missing. Raises ConfigError when DAGSTER_HOME is no folder."""
    if os.environ.get("DAGSTER_HOME"):
        home = Path(os.environ["DAGSTER_HOME"])
        if not home.is_absolute() or not home.is_dir():
            raise ConfigError(f"DAGSTER_HOME is {home}", hint="it must be the absolute path of an existing folder")
        return _open_alone(dg.DagsterInstance.get, home)
    if Path("dagster.yaml").exists():
        return _open_alone(lambda: dg.DagsterInstance.from_config(str(Path.cwd())), Path(".dagster"))
    home = folder / ".dagster"
    return _open_alone(lambda: dg.DagsterInstance.from_config(str(home)), home)


def has_instance(folder: Path) -> bool:
    """Whether `open_instance` would find an instance, and not make one."""
    return bool(os.environ.get("DAGSTER_HOME")) or Path("dagster.yaml").exists() or (folder / ".dagster").exists()


def find_instance(folder: Path) -> dg.DagsterInstance | None:
    """As `open_instance`, but None where that would make a new one: for looks that leave nothing behind."""
    return open_instance(folder) if has_instance(folder) else None


def _open_alone(open_it: Callable[[], dg.DagsterInstance], home: Path) -> dg.DagsterInstance:
    """Open an instance while no other command does: two that create the tables of one SQLite file fail each other."""
    from archiver_pipeline.orchestration.sqlite_engines import keep_sqlite_engines  # noqa: PLC0415 - not for --direct

    keep_sqlite_engines()
    with contextlib.ExitStack() as held:
        # Where nothing can be written, as in a read-only container, there are no SQLite files either.
        with contextlib.suppress(OSError):
            home.mkdir(exist_ok=True)
            fcntl.flock(held.enter_context((home / ".archiver-lock").open("w")), fcntl.LOCK_EX)
        return open_it()


def run_windows_in_process(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    settings: TableSettings,
    windows: Sequence[Window],
    *,
    limit_rows: int | None,
    log_level: str,
    ignore_hours: bool = False,
) -> bool:
    """One Dagster run over a contiguous range of windows, the first to the last; True when it succeeded.

    Raises KeyboardInterrupt when the run was interrupted.
    """
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[asset_key(settings)],
        tags=run_tags(settings)
        | {_RANGE_START: windows[0].key, _RANGE_END: windows[-1].key, PROCESS_TAG: _this_process(), **_NOT_RETRIED},
        run_config=_run_config(settings, limit_rows, log_level, ignore_hours=ignore_hours),
        raise_on_error=False,
    )
    if not result.success and _was_interrupted(result):
        raise KeyboardInterrupt
    return result.success


def run_restore_in_process(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    database: DatabaseSettings,
    request: RestoreRequest,
    *,
    log_level: str,
) -> bool:
    """One Dagster run that restores what the request names; True when it succeeded.

    Raises KeyboardInterrupt when the run was interrupted.
    """
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[restored_key(database)],
        tags={RESTORED_DATABASE_TAG: database.id, PROCESS_TAG: _this_process(), **_NOT_RETRIED},
        run_config=restore_run_config(database, config_of(request)) | _console(log_level),
        raise_on_error=False,
    )
    if not result.success and _was_interrupted(result):
        raise KeyboardInterrupt
    return result.success


def run_validation_in_process(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    settings: TableSettings,
    request: ValidationRequest,
    *,
    log_level: str,
) -> bool:
    """One Dagster run of the table's check; True when it could look, whatever it found.

    Raises KeyboardInterrupt when the run was interrupted.
    """
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_check_selection={check_key(settings)})
    result = job.execute_in_process(
        instance=instance,
        tags={DATABASE_TAG: settings.database, PROCESS_TAG: _this_process(), **_NOT_RETRIED},
        run_config={"ops": validate_run_config(settings, request)} | _console(log_level),
        raise_on_error=False,
    )
    if not result.success and _was_interrupted(result):
        raise KeyboardInterrupt
    return result.success


def close_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark in-process runs of this machine whose process is gone as failed and free their pool slots; returns ids.

    Dagster's own monitoring does this for runs that its daemon launched.
    """
    records = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    dead = [record.dagster_run for record in records if _is_dead(process_of(record.dagster_run))]
    for run in dead:
        instance.report_run_failed(run, "The process of this run was killed; the next run settles what it left open.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in dead]


def failed_runs_of_this_process(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Failed runs that this process executed itself."""
    tags = {PROCESS_TAG: _this_process()}
    runs = instance.get_runs(dg.RunsFilter(tags=tags, statuses=[dg.DagsterRunStatus.FAILURE]))
    return [run for run in runs if process_of(run) is not None]


def ranges_of(windows: Iterator[Window]) -> Iterator[list[Window]]:
    """Windows grouped into runs of at most WINDOWS_PER_RUN partitions, gaps counted."""
    group: list[Window] = []
    for window in windows:
        if group and window.start >= group[0].start + WINDOWS_PER_RUN * (group[0].end - group[0].start):
            yield group
            group = []
        group.append(window)
    if group:
        yield group


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Dagster takes an interrupt for a failure of the run and tells it from others in the reason only."""
    reason = result.get_run_failure_event().job_failure_data.failure_reason
    return reason is not None and reason.value == "UNEXPECTED_TERMINATION"


def _run_config(
    settings: TableSettings, limit_rows: int | None, log_level: str, *, ignore_hours: bool
) -> dict[str, object]:
    plan = {"limit_rows": limit_rows, "ignore_hours": ignore_hours}
    return {
        "ops": {asset_name(settings): {"ops": {"plan": {"config": plan}}}},
    } | _console(log_level)


def _console(log_level: str) -> dict[str, object]:
    return {"loggers": {"console": {"config": {"log_level": log_level}}}}


def _this_process() -> str:
    """Host, pid and start time: a pid alone is used again by the system."""
    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def _is_dead(process: str | None) -> bool:
    if process is None:
        return False
    host, pid, started = process.rsplit("/", 2)
    if host != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True
