"""Looks every day whether tables are quietly stuck: an asset check per table, and a run that fails when any is.

What nobody's daemon runs can't be found by Dagster: `archiver status` from cron tells that.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from archiver_pipeline.config.effective import DatabaseSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.orchestration.names import plain_name, pool_of
from archiver_pipeline.orchestration.sensors import DATABASE_TAG
from archiver_pipeline.orchestration.status import TableStatus, Verdict, table_statuses
from archiver_pipeline.orchestration.validation import archives_key

CHECK_GETS_ON = "gets_on"
_DAILY = "0 8 * * *"
_TOLD = 5


def watch_checks(config: LoadedConfig, database: DatabaseSettings) -> dg.AssetChecksDefinition:
    """One op that looks at all tables of a database, and a check for each of them.

    The checks are of the archives, which nothing materializes: those of a table's own asset would be part of each run.
    """

    def watch(context: dg.AssetCheckExecutionContext) -> Iterator[Any]:
        statuses = list(table_statuses(config, context.instance, database.tables, datetime.now(UTC)))
        for table, status in zip(database.tables, statuses, strict=True):
            yield dg.AssetCheckResult(
                asset_key=archives_key(table),
                check_name=CHECK_GETS_ON,
                passed=status.verdict is Verdict.ok,
                severity=dg.AssetCheckSeverity.ERROR if status.needs_attention else dg.AssetCheckSeverity.WARN,
                description=f"{status.verdict}: {status.reason}",
                metadata=_metadata(status),
            )
        if attention := [status for status in statuses if status.needs_attention]:
            raise dg.Failure(_told(attention), allow_retries=False)

    name = f"watch_{plain_name(database.id)}_tables"
    decorate = dg.multi_asset_check(
        name=name,
        specs=[
            dg.AssetCheckSpec(CHECK_GETS_ON, asset=archives_key(table), description="Old rows leave, or none is left.")
            for table in database.tables
        ],
        description=f"Looks whether archiving gets on for every table of {database.id}.",
        pool=pool_of(database.id),
    )
    return decorate(watch)


def watch_job(database: DatabaseSettings) -> Any:
    """The look at every table of a database, and nothing else."""
    checks = (dg.AssetCheckKey(archives_key(table), CHECK_GETS_ON) for table in database.tables)
    return dg.define_asset_job(
        name=f"watch_{plain_name(database.id)}",
        selection=dg.AssetSelection.checks(*checks),
        description=f"Fails when a table of {database.id} is stuck, was never archived, or can't be looked at.",
        tags={DATABASE_TAG: database.id},
    )


def watch_schedule(database: DatabaseSettings) -> dg.ScheduleDefinition:
    """Every morning, after the night's runs."""
    return dg.ScheduleDefinition(
        name=f"watch_daily_{plain_name(database.id)}",
        cron_schedule=_DAILY,
        execution_timezone="UTC",
        job_name=f"watch_{plain_name(database.id)}",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Every morning: does archiving of {database.id} get on?",
    )


def _metadata(status: TableStatus) -> dict[str, Any]:
    told: dict[str, Any] = {"verdict": status.verdict.value}
    if status.last_success is not None:
        told["last_success"] = dg.MetadataValue.timestamp(status.last_success)
    if status.backlog is not None:
        told["backlog_rows"] = status.backlog.eligible_rows
    if status.pace is not None:
        told["drained_rows_per_day"] = round(status.pace.drained_rows_per_day, 1)
        told["intake_rows_per_day"] = round(status.pace.intake_rows_per_day, 1)
    return told


def _told(statuses: Sequence[TableStatus]) -> str:
    lines = [f"{status.table} is {status.verdict}: {status.reason}" for status in statuses[:_TOLD]]
    more = len(statuses) - _TOLD
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")
