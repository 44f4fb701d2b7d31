"""A run worker: `first last` materializes these partitions of the configured table, `again run_id` re-executes a run
from its failed step.

`dagster asset materialize` would do, but it takes a single partition of an asset with a multi-run backfill policy.
"""

import sys

import dagster as dg

from archiver_pipeline_tests.orchestration.running import RANGE_END, RANGE_START
from archiver_pipeline_tests.orchestration.table_job import table_job

# Nobody reads its output while it works, and a full pipe would stop it.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def main() -> None:
    job = dg.reconstructable(table_job)
    with dg.DagsterInstance.get() as instance:
        if sys.argv[1] == "again":
            options = dg.ReexecutionOptions.from_failure(sys.argv[2], instance)
            # Dagster's daemon and UI hand a run's tags on to its re-execution; this call does not.
            tags = instance.get_run_by_id(sys.argv[2]).tags
            dg.execute_job(job, instance, reexecution_options=options, tags=tags)
            return
        tags = {RANGE_START: sys.argv[1], RANGE_END: sys.argv[2]}
        dg.execute_job(job, instance, tags=tags, run_config=QUIET)


if __name__ == "__main__":
    main()
