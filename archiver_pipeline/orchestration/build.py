"""Assembles the code location out of a configuration."""

from collections.abc import Callable
from typing import Any

import dagster as dg

from archiver_pipeline.config.effective import DatabaseSettings
from archiver_pipeline.config.enums import StepOutputs
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.engine.progress import Progress, SilentProgress
from archiver_pipeline.orchestration.alerting import Alerts
from archiver_pipeline.orchestration.assets import table_asset
from archiver_pipeline.orchestration.digest import alert_jobs, alert_schedules
from archiver_pipeline.orchestration.expiring import expire_job
from archiver_pipeline.orchestration.restoring import restore_job, restored_asset, retrieval_sensor
from archiver_pipeline.orchestration.runtime import RESOURCE_KEY, runtime_resource
from archiver_pipeline.orchestration.sensors import due_sensor, nightly_schedule
from archiver_pipeline.orchestration.step_outputs import StepOutputsInStore
from archiver_pipeline.orchestration.untold import untold_sensor
from archiver_pipeline.orchestration.validation import archives_asset, archives_check, validate_job, validate_schedule
from archiver_pipeline.orchestration.watching import watch_checks, watch_job, watch_schedule


def build_definitions(config: LoadedConfig, *, progress: Callable[[], Progress] = SilentProgress) -> dg.Definitions:
    """Assets, sensors and schedules of every configured table. `progress` makes a run's listener."""
    alerts = Alerts(config.notifications)
    resources = {RESOURCE_KEY: runtime_resource(config, progress), **_step_outputs(config)}
    parts = [_database_definitions(config, database, alerts, resources) for database in config.databases]
    return dg.Definitions(
        assets=[asset for part in parts for asset in part.assets or ()],
        asset_checks=[check for part in parts for check in part.asset_checks or ()],
        jobs=[*(job for part in parts for job in _resolved_jobs(part)), *alert_jobs(config, alerts)],
        sensors=[
            *(due_sensor(config, database) for database in config.databases),
            *(retrieval_sensor(config, database) for database in config.databases),
            *([untold_sensor(config, alerts)] if alerts.enabled else []),
        ],
        schedules=[
            *(nightly_schedule(config, database) for database in config.databases),
            *(validate_schedule(database) for database in config.databases),
            *(watch_schedule(database) for database in config.databases),
            *alert_schedules(alerts),
        ],
        resources=resources,
        executor=dg.in_process_executor,
    )


def _database_definitions(
    config: LoadedConfig, database: DatabaseSettings, alerts: Alerts, resources: dict[str, Any]
) -> dg.Definitions:
    """What runs of one database are made of."""
    return dg.Definitions(
        assets=[
            *(table_asset(table, alerts) for table in database.tables),
            *(archives_asset(table) for table in database.tables),
            restored_asset(config, database, alerts),
        ],
        asset_checks=[
            *(archives_check(table, alerts) for table in database.tables),
            watch_checks(config, database),
        ],
        jobs=[restore_job(database), validate_job(database), watch_job(database), expire_job(config, database)],
        resources=resources,
        executor=dg.in_process_executor,
    )


def _resolved_jobs(part: dg.Definitions) -> list[dg.JobDefinition]:
    """The jobs of a database, resolved among its own assets: among those of all databases each of their jobs costs as
    much as there are tables, in time and in memory."""
    return [part.resolve_job_def(job.name) for job in part.jobs or ()]


def _step_outputs(config: LoadedConfig) -> dict[str, dg.IOManagerDefinition]:
    """What hands outputs from step to step, unless that is left to Dagster."""
    if config.config.dagster.step_outputs is StepOutputs.LOCAL:
        return {}
    return {"io_manager": dg.IOManagerDefinition(resource_fn=lambda _: StepOutputsInStore(config.store))}
