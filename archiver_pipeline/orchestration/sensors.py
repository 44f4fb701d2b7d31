"""What starts runs without a person: per database a sensor that asks the tables what is due, and a nightly schedule.

Both ask the source for its oldest eligible row: the table itself says what is left to do, so no calendar can forget a
window. Both are stopped until a person starts them.
"""

import contextlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from archiver_pipeline.config.effective import DatabaseSettings, TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.engine.inventory import find_oldest_windows
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.orchestration.names import asset_key, plain_name

DATABASE_TAG = "archiver/database"
TABLE_TAG = "archiver/table"
_SENSOR_SECONDS = 60
_WINDOWS_PER_TICK = 4
_PAUSE_AFTER_FAILURE = timedelta(minutes=30)
_WINDOWS_PER_NIGHT = 30
_NIGHTLY = "0 2 * * *"
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def due_sensor(config: LoadedConfig, database: DatabaseSettings) -> dg.SensorDefinition:
    """Requests the oldest due windows of every table of the database that has no run under way."""

    @dg.sensor(
        name=f"due_{plain_name(database.id)}",
        asset_selection=[asset_key(table) for table in database.tables],
        minimum_interval_seconds=_SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Asks {database.id} for its oldest eligible rows and requests their windows.",
    )
    def due(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        requests = _due_requests(config, database, context.instance, context.log, _WINDOWS_PER_TICK)
        return dg.SensorResult(requests) if requests else dg.SensorResult(skip_reason=_nothing_due(database))

    return due


def nightly_schedule(config: LoadedConfig, database: DatabaseSettings) -> dg.ScheduleDefinition:
    """Once a night, what the sensor would request."""

    @dg.schedule(
        name=f"nightly_{plain_name(database.id)}",
        cron_schedule=_NIGHTLY,
        execution_timezone="UTC",
        job_name="__ASSET_JOB",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Every night: the oldest due windows of every table of {database.id}.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        requests = _due_requests(config, database, context.instance, context.log, _WINDOWS_PER_NIGHT)
        return requests or dg.SkipReason(_nothing_due(database))

    return nightly


def _due_requests(
    config: LoadedConfig, database: DatabaseSettings, instance: dg.DagsterInstance, log: logging.Logger, limit: int
) -> list[dg.RunRequest]:
    """For every table without a run under way, its oldest due windows, at most `limit` of them.

    A table that cannot be asked is an error in the log; when no table could be asked the tick fails, because not
    having looked is not the same as nothing due.
    """
    requests, problems = [], []
    for table in database.tables:
        if _is_under_way(instance, table) or _failed_lately(instance, table):
            continue
        try:
            requests += _requests(config, database, table, limit)
        except ArchiverError as error:
            log.error("%s: %s", table.qualified_name, error)
            problems.append(f"{table.qualified_name}: {error}")
    if problems and not requests:
        raise dg.Failure("could not look for due rows: " + "; ".join(problems))
    return requests


def _requests(
    config: LoadedConfig, database: DatabaseSettings, table: TableSettings, limit: int
) -> list[dg.RunRequest]:
    session = ArchiveSession(table, database, config.store, run_id="sensor")
    with contextlib.closing(session):
        windows = find_oldest_windows(session, limit)
    return [
        dg.RunRequest(asset_selection=[asset_key(table)], partition_key=window.key, tags=run_tags(table))
        for window in windows
    ]


def run_tags(table: TableSettings) -> dict[str, str]:
    """Tags by which runs of a database or table are found and limited."""
    return {DATABASE_TAG: table.database, TABLE_TAG: table.qualified_name}


def _is_under_way(instance: dg.DagsterInstance, table: TableSettings) -> bool:
    found: Sequence[object] = instance.get_run_records(
        dg.RunsFilter(tags=run_tags(table), statuses=_UNFINISHED), limit=1
    )
    return bool(found)


def _failed_lately(instance: dg.DagsterInstance, table: TableSettings) -> bool:
    """Whether the table's last run failed a short while ago: the next tick would only fail again."""
    found = instance.get_run_records(dg.RunsFilter(tags=run_tags(table)), limit=1)
    if not found or found[0].dagster_run.status is not dg.DagsterRunStatus.FAILURE:
        return False
    return datetime.now(UTC) - found[0].update_timestamp.astimezone(UTC) < _PAUSE_AFTER_FAILURE


def _nothing_due(database: DatabaseSettings) -> str:
    tables = ", ".join(table.qualified_name for table in database.tables)
    minutes = _PAUSE_AFTER_FAILURE.seconds // 60
    return (
        f"asked {tables}: nothing is older than retention, a run is under way,"
        f" or the last one failed less than {minutes} minutes ago"
    )
