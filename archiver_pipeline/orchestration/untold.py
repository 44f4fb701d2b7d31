"""Failed runs that no hook could tell of: their process was killed, or they failed before their first op."""

from collections.abc import Iterator

import dagster as dg

from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.alert import Activity, Alert
from archiver_pipeline.orchestration import alert_messages as messages
from archiver_pipeline.orchestration.alert_messages import RunPlace
from archiver_pipeline.orchestration.alerting import Alerts, Log
from archiver_pipeline.orchestration.history import read_failure
from archiver_pipeline.orchestration.names import asset_key, plain_name
from archiver_pipeline.postgres.catalog import table_name

TOLD_TAG = "archiver/failure_alert"
"""On failed runs: what became of the message about them. Who finds it does not tell again."""

_UNSENT = "not sent"
_INTERRUPTED = "interrupted by a person"
_PARTITION = "dagster/partition"
_RANGE_START = "dagster/asset_partition_range_start"
_RANGE_END = "dagster/asset_partition_range_end"
_SENSOR_SECONDS = 30


def untold_sensor(config: LoadedConfig, alerts: Alerts) -> dg.SensorDefinition:
    """Runs by itself as soon as alerts are enabled: whoever enables them wants to hear of killed runs, too."""

    @dg.run_failure_sensor(
        name="alert_of_dead_runs",
        minimum_interval_seconds=_SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells of failed runs that could not tell themselves, because their process was killed.",
    )
    def alert_of_dead_runs(context: dg.RunFailureSensorContext) -> dg.SkipReason:
        return dg.SkipReason(tell_untold(config, alerts, context.instance, context.dagster_run, log=context.log))

    return alert_of_dead_runs


def tell_untold(
    config: LoadedConfig, alerts: Alerts, instance: dg.DagsterInstance, run: dg.DagsterRun, *, log: Log
) -> str:
    """Tell of a failed run, unless somebody did or it is going to be retried; returns what was done, in words.

    A message that no channel took is tried once more.
    """
    stored = instance.get_run_by_id(run.run_id) or run
    if stored.tags.get("dagster/will_retry") == "true":
        return "the run is going to be retried"
    if stored.tags.get(TOLD_TAG, _UNSENT) != _UNSENT:
        return f"told already: {stored.tags[TOLD_TAG]}"
    for alert in _what_failed(config, alerts, instance, stored):
        return tell_of_run(instance, run.run_id, alerts, alert, log)
    return "not a run that archives, restores or validates"


def tell_of_run(instance: dg.DagsterInstance, run_id: str, alerts: Alerts, alert: Alert, log: Log) -> str:
    """Tell of a failed run, and mark it as told; returns what was done, in words."""
    told = alerts.tell(instance, alert, log=log)
    instance.add_run_tags(run_id, {TOLD_TAG: told.summary})
    return told.summary


def leave_untold(instance: dg.DagsterInstance, run_id: str) -> None:
    """A person stopped the run, and knows."""
    instance.add_run_tags(run_id, {TOLD_TAG: _INTERRUPTED})


def place_of_run(alerts: Alerts, run: dg.DagsterRun, *, host: str = "") -> RunPlace:
    """What a message says of the run that it is about."""
    base = alerts.settings.dagster_url
    first, last = run.tags.get(_RANGE_START, ""), run.tags.get(_RANGE_END, "")
    return RunPlace(
        run_id=run.run_id,
        windows=run.tags.get(_PARTITION) or (first if first == last else f"{first} to {last}"),
        host=host,
        link=f"{base}/runs/{run.run_id}" if base else None,
    )


def _what_failed(
    config: LoadedConfig, alerts: Alerts, instance: dg.DagsterInstance, run: dg.DagsterRun
) -> Iterator[Alert]:
    """What the run was to do, by what it planned, and why it did not. A run of several tables died as one."""
    planned, place = set(_planned(instance, run)), place_of_run(alerts, run)
    for table in config.tables:
        failure = read_failure(instance, table, run.run_id)
        if asset_key(table) in planned:
            yield messages.failed(Activity.archive, table_name(table), failure, place)
        if dg.AssetKey([*asset_key(table).path, "archives"]) in planned:
            yield messages.failed(Activity.validate, table_name(table), failure, place)
    for database in config.databases:
        if dg.AssetKey([plain_name(database.id), "restored"]) in planned:
            failure = read_failure(instance, database.tables[0], run.run_id)
            yield messages.restore_failed(database.id, None, failure, place)


def _planned(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[dg.AssetKey]:
    """Keys of assets that the run was to materialize or to check."""
    for record in instance.get_records_for_run(
        run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    ).records:
        event = record.event_log_entry.dagster_event
        if event is not None and event.asset_key is not None:
            yield event.asset_key
    for record in instance.get_records_for_run(
        run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED
    ).records:
        event = record.event_log_entry.dagster_event
        if event is not None:
            yield event.asset_check_planned_data.asset_key
