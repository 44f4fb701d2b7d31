"""One partitioned graph asset per configured table."""

import dagster as dg

from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.domain.windows import (
    KEY_FORMATS,
    WindowUnit,
    floor_to_unit,
    partition_end_offset,
    start_of_day,
)
from archiver_pipeline.orchestration.alert_hooks import table_failure_hooks, table_start_hooks, table_success_hooks
from archiver_pipeline.orchestration.alerting import Alerts
from archiver_pipeline.orchestration.names import asset_key, asset_name, plain_name
from archiver_pipeline.orchestration.ops import CHECK_NOTHING_LEFT, CHECK_VERIFIED, StepOps

WINDOWS_PER_RUN = 30
_CRON = {
    WindowUnit.hour: "0 * * * *",
    WindowUnit.day: "0 0 * * *",
    WindowUnit.week: "0 0 * * 1",
    WindowUnit.month: "0 0 1 * *",
}


def table_asset(settings: TableSettings, alerts: Alerts) -> dg.AssetsDefinition:
    """The asset of a table: its partitions are the windows older than retention, its ops the steps in order."""
    ops = StepOps(settings)
    name = asset_name(settings)
    key = asset_key(settings)

    def steps() -> dict[str, object]:
        plan = ops.plan().alias("plan").with_hooks(set(table_start_hooks(alerts, settings)))()
        extracted = ops.extract().alias("extract")(plan)
        compressed = ops.compress().alias("compress")(extracted)
        uploaded = ops.upload().alias("upload")(compressed)
        verified = ops.verify().alias("verify")(uploaded)
        deleted = ops.delete().alias("delete")(verified)
        report = ops.report().alias("report").with_hooks(set(table_success_hooks(alerts, settings)))
        result, is_verified, nothing_left = report(deleted)
        return {
            "result": result,
            f"{name}_{CHECK_VERIFIED}": is_verified,
            f"{name}_{CHECK_NOTHING_LEFT}": nothing_left,
        }

    return dg.graph_asset(
        key=key,
        description=f"Rows of {settings.qualified_name} older than {settings.retention_days} days, in the store.",
        partitions_def=partitions_of(settings),
        backfill_policy=dg.BackfillPolicy.multi_run(WINDOWS_PER_RUN),
        group_name=plain_name(settings.database),
        kinds={"postgres", "s3"},
        tags={"archiver/window": str(settings.window)},
        hooks=table_failure_hooks(alerts, settings),
        check_specs=[
            dg.AssetCheckSpec(CHECK_VERIFIED, asset=key, description="Objects read back equal the rows extracted."),
            dg.AssetCheckSpec(CHECK_NOTHING_LEFT, asset=key, description="No eligible row remains in the window."),
        ],
    )(steps)


def partitions_of(settings: TableSettings) -> dg.TimeWindowPartitionsDefinition:
    """Only windows wholly older than retention exist, so that a backfill cannot reach young rows."""
    unit = WindowUnit(settings.window)
    return dg.TimeWindowPartitionsDefinition(
        start=floor_to_unit(unit, start_of_day(settings.first_window)),
        fmt=KEY_FORMATS[unit],
        cron_schedule=_CRON[unit],
        timezone="UTC",
        end_offset=partition_end_offset(unit, settings.retention_days),
    )
