"""A run worker: a process that materializes partitions `first` to `last` (its arguments) of the configured table.

`dagster asset materialize` would do, but it takes a single partition of an asset with a multi-run backfill policy.
"""

import os
import sys
from pathlib import Path

import dagster as dg

from archiver_pipeline.config.loading import load_config
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.names import asset_key


def table_job() -> dg.JobDefinition:
    """The job over the first table of the configuration that ARCHIVER_CONFIG names."""
    config = load_config(None, environ=os.environ, cwd=Path.cwd())
    whole = build_definitions(config).resolve_implicit_global_asset_job_def()
    return whole.get_subset(asset_selection={asset_key(config.tables[0])})


def main() -> None:
    from archiver_pipeline_tests.orchestration import worker

    first, last = sys.argv[1:]
    with dg.DagsterInstance.get() as instance:
        dg.execute_job(
            dg.reconstructable(worker.table_job),
            instance=instance,
            tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
        )


if __name__ == "__main__":
    main()
