"""What starts runs without a person: per database a sensor that asks the tables what is due, and a nightly schedule.

Both ask the source for its oldest eligible row: the table itself says what is left to do, so no calendar can forget a
window. Both are stopped until a person starts them. A tick that fails, or finds nothing, says which of the two it is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from archiver_pipeline.config.effective import DatabaseSettings, TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.windows import Window
from archiver_pipeline.engine.due import DueCursor, DueLimits, DueLook, look_for_due
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.orchestration.alert_looks import tell_of_look, tell_of_whole_look
from archiver_pipeline.orchestration.alerting import Alerts
from archiver_pipeline.orchestration.names import asset_key, plain_name

DATABASE_TAG = "archiver/database"
TABLE_TAG = "archiver/table"
UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
_SENSOR_SECONDS = 60
_RUNS_AT_MOST = 16
_WINDOWS_PER_TICK = 4
_PAUSE_AFTER_FAILURE = timedelta(minutes=30)
_RUNS_PER_NIGHT = 500
_WINDOWS_PER_NIGHT = 30
_NIGHTLY = "0 2 * * *"
# Together well below the 60 s after which Dagster gives a tick up.
_LOOK_SECONDS = 20
_SWEEP_SECONDS = 10
_PROBLEMS_SHOWN = 5
# Irrational, so that no table is for ever far from where a night begins.
_GOLDEN = 0.618033988749895


def due_sensor(config: LoadedConfig, database: DatabaseSettings) -> dg.SensorDefinition:
    """Requests the oldest due windows of the database's tables that have no run under way."""

    @dg.sensor(
        name=due_sensor_name(database.id),
        asset_selection=[asset_key(table) for table in database.tables],
        minimum_interval_seconds=_SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Asks {database.id} for its oldest eligible rows and requests their windows.",
    )
    def due(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        idle = _idle_tables(context.instance, database)
        room = _RUNS_AT_MOST - idle.unfinished_runs
        if room < _RUNS_AT_MOST // 2:
            return dg.SensorResult(skip_reason=f"{idle.unfinished_runs} runs of {database.id} are not finished yet")
        cursor = _cursor_of(context.cursor)
        look = _look(config, database, idle, _limits(room, _WINDOWS_PER_TICK), cursor, context)
        requests = [_request(table, window) for table, window in look.windows]
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else _nothing_due(database, idle, look),
            cursor=json.dumps(asdict(look.cursor)),
        )

    return due


def nightly_schedule(config: LoadedConfig, database: DatabaseSettings) -> dg.ScheduleDefinition:
    """Once a night, what the sensor would request, and more of it."""

    @dg.schedule(
        name=nightly_schedule_name(database.id),
        cron_schedule=_NIGHTLY,
        execution_timezone="UTC",
        job_name="__ASSET_JOB",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Every night: the oldest due windows of every table of {database.id}.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        idle = _idle_tables(context.instance, database)
        limits = _limits(_RUNS_PER_NIGHT, _WINDOWS_PER_NIGHT)
        cursor = _cursor_of_night(database, context.scheduled_execution_time)
        look = _look(config, database, idle, limits, cursor, context)
        requests = [_request(table, window) for table, window in look.windows]
        return requests or dg.SkipReason(_nothing_due(database, idle, look))

    return nightly


def due_sensor_name(database_id: str) -> str:
    return f"due_{plain_name(database_id)}"


def nightly_schedule_name(database_id: str) -> str:
    return f"nightly_{plain_name(database_id)}"


def run_tags(table: TableSettings) -> dict[str, str]:
    """Tags by which runs of a database or table are found and limited."""
    return {DATABASE_TAG: table.database, TABLE_TAG: table.qualified_name}


@dataclass(frozen=True)
class _Idle:
    """Tables that a run may be requested of, and how many are left out and why."""

    tables: tuple[TableSettings, ...]
    unfinished_runs: int
    under_way: int
    failed_lately: int


def _idle_tables(instance: dg.DagsterInstance, database: DatabaseSettings) -> _Idle:
    """Leaves out tables with a run under way, however it was launched, and those whose last run failed a short while
    ago: the next tick would only fail again. Two queries, whatever the number of tables."""
    unfinished = instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED)))
    by_key = {asset_key(table): table.qualified_name for table in database.tables}
    worked_on = [tables for run in unfinished if (tables := _tables_of(database, by_key, run))]
    busy = set().union(*worked_on)
    failed = _failed_lately(instance, database)
    names = [(table, table.qualified_name) for table in database.tables]
    idle = tuple(table for table, name in names if name not in busy and name not in failed)
    return _Idle(idle, len(worked_on), len(busy), len(database.tables) - len(idle) - len(busy))


def _tables_of(database: DatabaseSettings, by_key: Mapping[dg.AssetKey, str], run: dg.DagsterRun) -> set[str]:
    """The database's tables that a run works on. Runs of the sensor and the command are tagged, those of the UI only
    selected the asset."""
    tagged = {run.tags[TABLE_TAG]} if run.tags.get(DATABASE_TAG) == database.id and TABLE_TAG in run.tags else set()
    return tagged | {by_key[key] for key in run.asset_selection or () if key in by_key}


def _failed_lately(instance: dg.DagsterInstance, database: DatabaseSettings) -> set[str]:
    """Tables, as their runs' tags name them, whose last finished run failed a short while ago."""
    records = instance.get_run_records(
        dg.RunsFilter(
            tags={DATABASE_TAG: database.id},
            statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED],
            updated_after=datetime.now(UTC) - _PAUSE_AFTER_FAILURE,
        )
    )
    last: dict[str, dg.DagsterRunStatus] = {}
    for record in records:
        table = record.dagster_run.tags.get(TABLE_TAG)
        if table is not None:
            last.setdefault(table, record.dagster_run.status)
    return {table for table, status in last.items() if status is dg.DagsterRunStatus.FAILURE}


def _look(
    config: LoadedConfig,
    database: DatabaseSettings,
    idle: _Idle,
    limits: DueLimits,
    cursor: DueCursor,
    context: dg.SensorEvaluationContext | dg.ScheduleEvaluationContext,
) -> DueLook:
    """One look at the idle tables. A table that cannot be asked is an error in the log. Fails when nothing was found
    and something could not be asked, because not having looked is not the same as nothing due."""
    if not idle.tables:
        return DueLook((), (), 0, cursor)
    alerts, instance, log = Alerts(config.notifications), context.instance, context.log
    try:
        look = look_for_due(database, config.store, idle.tables, limits, cursor)
    except ArchiverError as error:
        tell_of_look(alerts, instance, database.id, [(database.id, error)], log=log)
        raise dg.Failure(f"could not look for due rows: {database.id}: {error}") from error
    for name, problem in look.problems:
        log.error("%s: %s", name, problem)
    open_tables = len(idle.tables) - len(look.closed)
    if look.looked_at < open_tables:
        log.warning("time for %s of %s tables; the others are next", look.looked_at, open_tables)
    if look.problems:
        tell_of_look(alerts, instance, database.id, look.problems, log=log)
    elif look.looked_at == open_tables:
        tell_of_whole_look(alerts, instance, database.id, log=log)
    if look.problems and not look.windows:
        raise dg.Failure("could not look for due rows: " + _told(look.problems))
    return look


def _limits(windows: int, per_table: int) -> DueLimits:
    """Half of the windows are given to tables in turn."""
    return DueLimits(windows, per_table, windows // 2, _LOOK_SECONDS, _SWEEP_SECONDS)


def _cursor_of(text: str | None) -> DueCursor:
    """Where the last tick ended; the beginning when there was none, or one of another version."""
    try:
        return DueCursor(**json.loads(text or "{}"))
    except (ValueError, TypeError):
        return DueCursor()


def _cursor_of_night(database: DatabaseSettings, night: datetime) -> DueCursor:
    """A schedule remembers nothing, so each night begins at another table."""
    position = int(night.toordinal() * _GOLDEN % 1 * len(database.tables))
    name = database.tables[position].qualified_name
    return DueCursor(turn=name, sweep=name)


def _request(table: TableSettings, window: Window) -> dg.RunRequest:
    return dg.RunRequest(asset_selection=[asset_key(table)], partition_key=window.key, tags=run_tags(table))


def _told(problems: Sequence[tuple[str, ArchiverError]]) -> str:
    told = "; ".join(f"{name}: {error}" for name, error in problems[:_PROBLEMS_SHOWN])
    more = len(problems) - _PROBLEMS_SHOWN
    return f"{told}; and {more} more" if more > 0 else told


def _nothing_due(database: DatabaseSettings, idle: _Idle, look: DueLook) -> str:
    minutes = _PAUSE_AFTER_FAILURE.seconds // 60
    closed = f" {len(look.closed)} are outside their allowed_hours;" if look.closed else ""
    return (
        f"asked {look.looked_at} of {len(database.tables)} tables of {database.id}: nothing is older than retention;"
        f"{closed} a run of {idle.under_way} is under way,"
        f" that of {idle.failed_lately} failed less than {minutes} minutes ago"
    )
