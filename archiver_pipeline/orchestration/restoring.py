"""Restore in Dagster: per database one asset of what was restored into it, and a sensor that goes on with cold ones."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
from pydantic import Field

from archiver_pipeline.config.effective import DatabaseSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.layout import table_of_key
from archiver_pipeline.domain.restore import (
    ConflictStrategy,
    RestoredObject,
    RestoreOutcome,
    RestoreReport,
    RestoreRequest,
    RetrievalTier,
    SchemaStrategy,
)
from archiver_pipeline.domain.retrieval import Readiness
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.restore import Restoration, report_restore, restore_selection
from archiver_pipeline.engine.retrieval import readiness_of
from archiver_pipeline.engine.selection import Selection, select_archives
from archiver_pipeline.errors import ArchiverError, ConfigError
from archiver_pipeline.orchestration.alert_hooks import restore_failure_hooks, restore_success_hooks
from archiver_pipeline.orchestration.alerting import Alerts
from archiver_pipeline.orchestration.names import plain_name, pool_of
from archiver_pipeline.orchestration.ops import engine_errors
from archiver_pipeline.orchestration.runtime import RESOURCE_KEY, ArchiverRuntime
from archiver_pipeline.storage.s3 import S3Store

RETRIEVAL_TAG = "archiver/retrieval"
"""On runs of which archives are being retrieved from a cold class: `waiting`, later `continued`, or `expired`."""

CONTINUES_TAG = "archiver/continues"
"""On runs that take what an earlier one had to wait for: the id of that run."""

RESTORED_DATABASE_TAG = "archiver/restored_database"

_SENSOR_SECONDS = 600
_RUNS_PER_TICK = 20
_OBJECTS_SHOWN = 100
_MOST_RETRIEVAL_DAYS = 365
_WAITING_KEYS = "waiting_keys"


class RestoreConfig(dg.Config):
    """What to restore, and where to. The database that it goes into is the asset's.

    Empty is unset. What most restores need is empty by default, and not missing: the launchpad shows no other keys.
    """

    table: str | None = Field("", description="Table whose archives are restored; not needed with s3_key.")
    schema_name: str = Field("public", description="Schema of that table.")
    source_database: str | None = Field(None, description="Database id of that table; unset: the asset's.")
    s3_key: str | None = Field("", description="Key of one archive; unset: all of the table.")
    start_date: str | None = Field("", description="First day of rows, UTC, like 2025-01-31 (inclusive).")
    end_date: str | None = Field("", description="Last day of rows, UTC (inclusive).")
    to_schema: str | None = Field(None, description="Schema to restore to; unset: the source's.")
    to_table: str | None = Field("", description="Table to restore to; unset: the source's.")
    conflict_strategy: ConflictStrategy = Field(ConflictStrategy.skip, description="For rows already there.")
    schema_strategy: SchemaStrategy = Field(SchemaStrategy.strict, description="For columns that changed.")
    where: str | None = Field(None, description="Only rows for which this predicate is true.")
    allow_lossy_casts: bool = Field(False, description="Take values that lose something in a changed type.")
    ignore_watermark: bool = Field(False, description="Restore what was restored before, too.")
    protect_days: int | None = Field(None, description="Days until restored rows may be archived again.")
    retrieval_tier: RetrievalTier = Field(RetrievalTier.Standard, description="For archives in a cold class.")
    retrieval_days: int = Field(7, description="Days a cold archive stays readable, 1 to 365.")
    only_keys: list[str] = Field([], description="Of these archives, only the ones with these keys; empty: all.")


def request_of(config: RestoreConfig, database_id: str, prefix: str) -> RestoreRequest:
    """The request that a run's config describes. Raises ConfigError when it names no source or two, or days that
    make no sense: raised here, it is told in words; of a constraint of the field the UI would show a stack trace."""
    source = _source_of(config, database_id, prefix)
    start, end = _day("start_date", config.start_date), _day("end_date", config.end_date)
    if start and end and end < start:
        raise ConfigError(f"end_date {end} is before start_date {start}", hint="swap them")
    if config.protect_days is not None and config.protect_days < 0:
        raise ConfigError(f"protect_days {config.protect_days} is below 0", hint="0 protects nothing")
    if not 1 <= config.retrieval_days <= _MOST_RETRIEVAL_DAYS:
        raise ConfigError(f"retrieval_days {config.retrieval_days} is not between 1 and {_MOST_RETRIEVAL_DAYS}")
    return RestoreRequest(
        source=source,
        target=TableName(database_id, config.to_schema or source.schema, config.to_table or source.table),
        data_key=config.s3_key or None,
        start=start,
        end=end,
        conflict=config.conflict_strategy,
        schema=config.schema_strategy,
        where=config.where or None,
        allow_lossy_casts=config.allow_lossy_casts,
        ignore_watermark=config.ignore_watermark,
        protect_days=config.protect_days,
        retrieval_tier=config.retrieval_tier,
        retrieval_days=config.retrieval_days,
        only_keys=tuple(config.only_keys),
    )


def config_of(request: RestoreRequest) -> RestoreConfig:
    """The inverse of `request_of`."""
    return RestoreConfig(
        table=request.source.table,
        schema_name=request.source.schema,
        source_database=request.source.database,
        s3_key=request.data_key,
        start_date=request.start.isoformat() if request.start else None,
        end_date=request.end.isoformat() if request.end else None,
        to_schema=request.target.schema,
        to_table=request.target.table,
        conflict_strategy=request.conflict,
        schema_strategy=request.schema,
        where=request.where,
        allow_lossy_casts=request.allow_lossy_casts,
        ignore_watermark=request.ignore_watermark,
        protect_days=request.protect_days,
        retrieval_tier=request.retrieval_tier,
        retrieval_days=request.retrieval_days,
        only_keys=list(request.only_keys),
    )


def restored_key(database: DatabaseSettings) -> dg.AssetKey:
    """[database, restored]."""
    return dg.AssetKey([plain_name(database.id), "restored"])


def restore_run_config(database: DatabaseSettings, config: RestoreConfig) -> dict[str, Any]:
    """Run config that hands `config` to the asset's first op."""
    return {"ops": {_name(database): {"ops": {"select": {"config": _plain(config)}}}}}


def restored_asset(config: LoadedConfig, database: DatabaseSettings, alerts: Alerts) -> dg.AssetsDefinition:
    """The asset of a database's restored rows: its ops are the steps of a restore."""
    select, restore, report = _select_op(config, database), _restore_op(database), _report_op(database)

    def steps() -> Any:
        told = report.alias("report").with_hooks(set(restore_success_hooks(alerts, database)))
        return told(restore.alias("restore")(select.alias("select")()))

    return dg.graph_asset(
        name="restored",
        key_prefix=[plain_name(database.id)],
        description=f"Rows brought back from the store into {database.id}. Say in the launchpad what to restore.",
        group_name=plain_name(database.id),
        kinds={"postgres", "s3"},
        hooks=restore_failure_hooks(alerts, database),
    )(steps)


def restore_job(database: DatabaseSettings) -> Any:
    """The asset as a job, so that a restore is found among the jobs."""
    return dg.define_asset_job(
        f"restore_{plain_name(database.id)}",
        selection=[restored_key(database)],
        description=f"Brings archived rows back into {database.id}.",
    )


def retrieval_sensor(config: LoadedConfig, database: DatabaseSettings) -> dg.SensorDefinition:
    """Goes on with restores whose archives were in a cold class, as soon as all of them are readable."""

    @dg.sensor(
        name=f"retrieved_{plain_name(database.id)}",
        asset_selection=[restored_key(database)],
        minimum_interval_seconds=_SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Asks the store whether archives that a restore had to retrieve from a cold class are readable.",
    )
    def retrieved(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        waiting = context.instance.get_runs(
            dg.RunsFilter(tags={RETRIEVAL_TAG: "waiting", RESTORED_DATABASE_TAG: database.id}), limit=_RUNS_PER_TICK
        )
        requests: list[dg.RunRequest] = []
        reasons, problems = [], []
        for run in waiting:
            try:
                look = _look(config, database, context, run)
            except ArchiverError as error:
                context.log.error("restore of run %s: %s", run.run_id, error)
                problems.append(f"restore {run.run_id}: {error}")
            else:
                if isinstance(look, str):
                    reasons.append(look)
                else:
                    requests.append(look)
        if requests:
            return dg.SensorResult(requests)
        if problems:
            raise dg.Failure("could not ask for the archives: " + "; ".join(problems))
        return dg.SensorResult(skip_reason="; ".join(reasons) or "no restore waits for its archives")

    return retrieved


def _look(
    config: LoadedConfig, database: DatabaseSettings, context: dg.SensorEvaluationContext, run: dg.DagsterRun
) -> dg.RunRequest | str:
    """The run that takes what the waiting run could not read, or why there is none.

    The waiting run is marked only when the new one is there, so that a request that got lost is made again.
    Raises ArchiverError when the store could not be asked.
    """
    instance = context.instance
    keys = _waiting_keys(instance, run)
    continued = instance.get_runs(dg.RunsFilter(tags={CONTINUES_TAG: run.run_id}), limit=1)
    if continued or not keys:
        instance.add_run_tags(run.run_id, {RETRIEVAL_TAG: "continued"})
        return f"restore {run.run_id} goes on in run {continued[0].run_id}" if continued else f"{run.run_id} is done"
    readiness = readiness_of(S3Store(config.store), keys, now=datetime.now(UTC))
    if readiness is Readiness.retrieving:
        return f"restore {run.run_id} waits for {len(keys)} archives"
    if readiness is Readiness.cold:
        instance.add_run_tags(run.run_id, {RETRIEVAL_TAG: "expired"})
        context.log.error("restore of run %s: retrieved copies expired before they were read: run it again", run.run_id)
        return f"restore {run.run_id} waits in vain: retrieved copies expired before they were read; run it again"
    return dg.RunRequest(
        run_key=f"{run.run_id}:retrieved",
        asset_selection=[restored_key(database)],
        run_config=restore_run_config(database, _config_of_run(database, run).model_copy(update={"only_keys": keys})),
        tags={RESTORED_DATABASE_TAG: database.id, CONTINUES_TAG: run.run_id},
    )


def _waiting_keys(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    """The archives that a run has noted as being retrieved."""
    records = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_OBSERVATION).records
    observed = [record.event_log_entry.dagster_event for record in records]
    noted = [event.asset_observation_data.asset_observation.metadata for event in observed if event]
    keys: list[Any] = [metadata[_WAITING_KEYS].value for metadata in noted if _WAITING_KEYS in metadata]
    return list(keys[-1]) if keys else []


def _config_of_run(database: DatabaseSettings, run: dg.DagsterRun) -> RestoreConfig:
    ops: Any = run.run_config["ops"]
    return RestoreConfig(**ops[_name(database)]["ops"]["select"]["config"])


def _select_op(config: LoadedConfig, database: DatabaseSettings) -> dg.OpDefinition:
    def select(context: dg.OpExecutionContext, config: RestoreConfig) -> Selection:
        request = _request(config, database.id, prefix)
        session = _runtime(context).restore_session(request)
        with engine_errors(context, session):
            selection = select_archives(session)
        context.log.info(
            f"{len(selection.archives)} archives with {selection.rows} rows to restore, {selection.remembered} restored"
            f" before, {len(selection.waiting)} being retrieved"
        )
        return selection

    prefix = config.store.prefix
    return _op(database, "select", select, {}, dg.Out(Selection), "Finds the archives that the config means.")


def _restore_op(database: DatabaseSettings) -> dg.OpDefinition:
    def restore(context: dg.OpExecutionContext, selection: Selection) -> Restoration:
        session = _runtime(context).restore_session(selection.request)
        with engine_errors(context, session):
            restoration = restore_selection(session, selection)
        for item in restoration.objects:
            if item.outcome is RestoreOutcome.failed:
                context.log.error(f"{item.data_key}: {item.reason}")
        return restoration

    ins = {"selection": dg.In(Selection)}
    text = "Proves each object against its manifest, then merges its rows in one transaction."
    return _op(database, "restore", restore, ins, dg.Out(Restoration), text)


def _report_op(database: DatabaseSettings) -> dg.OpDefinition:
    def report(context: dg.OpExecutionContext, restoration: Restoration) -> dg.Output[None]:
        session = _runtime(context).restore_session(restoration.selection.request)
        with engine_errors(context, session):
            report = report_restore(session, restoration)
        _runtime(context).restored = report
        for warning in report.warnings:
            context.log.warning(warning)
        _note_waiting(context, database, report)
        failed = report.count(RestoreOutcome.failed)
        if failed:
            raise dg.Failure(
                f"{failed} of {len(report.objects)} archives could not be restored; the others stay restored, and a new"
                " run with the same config takes the rest (re-executing this one from its failure only reports again)",
                metadata=dict(restore_metadata(report)),
                allow_retries=False,
            )
        return dg.Output(None, metadata=dict(restore_metadata(report)))

    ins = {"restoration": dg.In(Restoration)}
    return _op(database, "report", report, ins, dg.Out(dg.Nothing), "Says what became of every archive.")


def _note_waiting(context: dg.OpExecutionContext, database: DatabaseSettings, report: RestoreReport) -> None:
    """Leave behind what the sensor needs, whether the run then succeeds or fails."""
    waiting = [item.data_key for item in report.objects if item.outcome is RestoreOutcome.waiting]
    if not waiting:
        return
    context.log.info(f"{len(waiting)} archives are being retrieved, readable at about {report.ready_at}")
    context.log_event(
        dg.AssetObservation(
            restored_key(database),
            description=f"{len(waiting)} archives are being retrieved from a cold class",
            metadata={
                _WAITING_KEYS: dg.MetadataValue.json(waiting),
                "ready_at": str(report.ready_at),
                "retrieval_dollars": report.retrieval_dollars,
            },
        )
    )
    context.instance.add_run_tags(context.run_id, {RETRIEVAL_TAG: "waiting", RESTORED_DATABASE_TAG: database.id})


def restore_metadata(report: RestoreReport) -> Mapping[str, Any]:
    """What a restore shows in the UI."""
    per_second = report.restored_rows / report.seconds if report.seconds else 0.0
    return {
        "dagster/row_count": report.restored_rows,
        "source": str(report.source),
        "target": str(report.target),
        "objects": len(report.objects),
        "objects_failed": report.count(RestoreOutcome.failed),
        "objects_waiting": report.count(RestoreOutcome.waiting),
        "objects_restored_before": report.remembered,
        "restored_rows": report.restored_rows,
        "replaced_rows": report.replaced_rows,
        "skipped_rows": report.skipped_rows,
        "filtered_rows": report.filtered_rows,
        "failed_rows": report.failed_rows,
        "seconds": round(report.seconds, 3),
        "rows_per_second": round(per_second, 1),
        "protected_until": str(report.protected_until or "not protected"),
        "ready_at": str(report.ready_at or "nothing is being retrieved"),
        "retrieval_dollars": report.retrieval_dollars,
        "warnings": dg.MetadataValue.md("\n".join(f"- {text}" for text in report.warnings) or "none"),
        "per_object": dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "key": item.data_key,
                        "outcome": item.outcome.value,
                        "rows": item.rows,
                        "restored": item.restored_rows,
                        "replaced": item.replaced_rows,
                        "skipped": item.skipped_rows,
                        "filtered": item.filtered_rows,
                        "failed": item.failed_rows,
                        "reason": item.reason,
                    }
                )
                for item in sorted(report.objects, key=_is_restored)[:_OBJECTS_SHOWN]
            ]
        )
        if report.objects
        else "none",
    }


def _is_restored(item: RestoredObject) -> bool:
    return item.outcome is RestoreOutcome.restored


def _source_of(config: RestoreConfig, database_id: str, prefix: str) -> TableName:
    """The named table, or that of the key. Raises ConfigError when both are written and differ, or neither is."""
    named = None
    if config.table:
        named = TableName(config.source_database or database_id, config.schema_name, config.table)
    if not config.s3_key:
        if named is None:
            raise ConfigError("neither table nor s3_key says what to restore", hint="write one of them into the config")
        return named
    try:
        of_key = table_of_key(prefix, config.s3_key)
    except ValueError as error:
        raise ConfigError(str(error), hint="`archiver list --objects` shows the keys") from error
    if named not in (None, of_key):
        raise ConfigError(
            f"s3_key is an archive of {of_key}, and the config names {named}",
            hint="leave table out; to_schema and to_table say where to restore to",
        )
    return of_key


def _day(field: str, text: str | None) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{field} {text!r} is no day", hint="write it like 2025-01-31") from error


def _request(config: RestoreConfig, database_id: str, prefix: str) -> RestoreRequest:
    try:
        return request_of(config, database_id, prefix)
    except ConfigError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def _plain(config: RestoreConfig) -> dict[str, Any]:
    """Run config names enum members; everything unset is left out."""
    values = config.model_dump(exclude_none=True)
    return {name: getattr(value, "name", value) for name, value in values.items()}


def _op(
    database: DatabaseSettings, step: str, body: Any, ins: dict[str, dg.In], out: dg.Out, description: str
) -> dg.OpDefinition:
    return dg.op(
        name=f"{_name(database)}__{step}",
        description=description,
        ins=ins,
        out=out,
        required_resource_keys={RESOURCE_KEY},
        pool=pool_of(database.id),
    )(body)


def _name(database: DatabaseSettings) -> str:
    return f"{plain_name(database.id)}__restored"


def _runtime(context: dg.OpExecutionContext) -> ArchiverRuntime:
    runtime: ArchiverRuntime = getattr(context.resources, RESOURCE_KEY)
    return runtime
