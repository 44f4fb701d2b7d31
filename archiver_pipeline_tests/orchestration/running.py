"""Running a workplace's asset in this process."""

from typing import Any

import dagster as dg

from archiver_pipeline.engine.progress import Progress, SilentProgress
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.names import asset_key
from archiver_pipeline_tests.cli.workplace import Workplace

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"


def materialize(
    workplace: Workplace,
    instance: dg.DagsterInstance,
    first: str,
    last: str | None = None,
    *,
    progress: Progress | None = None,
    run_config: dict[str, Any] | None = None,
) -> dg.ExecuteInProcessResult:
    """One run of the first table's asset over the partitions from `first` to `last`, as the queue would run it."""
    config = workplace.loaded()
    definitions = build_definitions(config, progress=lambda: progress or SilentProgress())
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={asset_key(config.tables[0])})
    return job.execute_in_process(
        instance=instance,
        tags={RANGE_START: first, RANGE_END: last or first},
        run_config=run_config,
        raise_on_error=False,
    )


def due_keys(workplace: Workplace) -> list[str]:
    """Days of the table's old rows, oldest first."""
    rows = workplace.database.execute(
        "SELECT DISTINCT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
        " FROM audit_logs WHERE id < 100000 ORDER BY 1"
    )
    return [key for (key,) in rows]
