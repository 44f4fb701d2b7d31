"""Runs archive runs in this process against the Dagster instance, so that every run is recorded."""

import contextlib
import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import psutil

from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.domain.windows import Window
from archiver_pipeline.orchestration.names import PROCESS_TAG, asset_key, asset_name, process_of
from archiver_pipeline.orchestration.sensors import run_tags

WINDOWS_PER_RUN = 30
_RANGE_START = "dagster/asset_partition_range_start"
_RANGE_END = "dagster/asset_partition_range_end"
# A person runs the command again; a daemon on the same instance must not do it behind their back.
_NOT_RETRIED = {"dagster/max_retries": "0"}


def open_instance(folder: Path) -> dg.DagsterInstance:
    """The instance of DAGSTER_HOME; else the one whose dagster.yaml lies in the working directory; else one below
    `folder`, made when missing."""
    with _one_at_a_time():
        return _open_instance(folder)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two processes that create the tables of one SQLite storage at once fail each other."""
    path = Path(tempfile.gettempdir()) / f"archiver-{os.getuid()}.dagster.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _open_instance(folder: Path) -> dg.DagsterInstance:
    if os.environ.get("DAGSTER_HOME"):
        return dg.DagsterInstance.get()
    if Path("dagster.yaml").exists():
        Path(".dagster").mkdir(exist_ok=True)
        return dg.DagsterInstance.from_config(str(Path.cwd()))
    home = folder / ".dagster"
    home.mkdir(exist_ok=True)
    return dg.DagsterInstance.from_config(str(home))


def run_windows_in_process(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    settings: TableSettings,
    windows: Sequence[Window],
    *,
    limit_rows: int | None,
    log_level: str,
) -> bool:
    """One Dagster run over a contiguous range of windows, the first to the last; True when it succeeded.

    Raises KeyboardInterrupt when the run was interrupted.
    """
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={asset_key(settings)})
    result = job.execute_in_process(
        instance=instance,
        tags=run_tags(settings)
        | {_RANGE_START: windows[0].key, _RANGE_END: windows[-1].key, PROCESS_TAG: _this_process(), **_NOT_RETRIED},
        run_config=_run_config(settings, limit_rows, log_level),
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


def _run_config(settings: TableSettings, limit_rows: int | None, log_level: str) -> dict[str, object]:
    return {
        "ops": {asset_name(settings): {"ops": {"plan": {"config": {"limit_rows": limit_rows}}}}},
        "loggers": {"console": {"config": {"log_level": log_level}}},
    }


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
