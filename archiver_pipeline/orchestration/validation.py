"""Validation in Dagster: an asset check per table, and per database a job of all its checks with a nightly schedule.

The check is on an asset of its own, the archives of the table, which nothing materializes. Dagster adds an asset's
checks to every run that materializes it: each archive run would read everything back that was ever archived.
"""

from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
from pydantic import Field, field_validator

from archiver_pipeline.config.effective import DatabaseSettings, TableSettings
from archiver_pipeline.domain.validation import Finding, ValidationReport, ValidationRequest
from archiver_pipeline.engine.validate import validate_table
from archiver_pipeline.orchestration.alert_hooks import validation_hooks
from archiver_pipeline.orchestration.alerting import Alerts
from archiver_pipeline.orchestration.names import asset_key, asset_name, plain_name, pool_of
from archiver_pipeline.orchestration.ops import engine_errors
from archiver_pipeline.orchestration.runtime import RESOURCE_KEY, ArchiverRuntime
from archiver_pipeline.orchestration.sensors import DATABASE_TAG

CHECK_VALID = "archives_valid"
NIGHTLY_SAMPLE_PERCENT = 5.0
_ARCHIVES = "archives"
_NIGHTLY = "0 4 * * *"
_FINDINGS_SHOWN = 50


class ValidateConfig(dg.Config):
    """What to validate of the check's table, and how."""

    sample_percent: float = Field(
        100.0, gt=0, le=100, description="Share of data objects to read; daily runs rotate over all of them."
    )
    start_date: str | None = Field(None, description="First day, UTC, like 2025-01-31; windows that hold it are taken.")
    end_date: str | None = Field(None, description="Last day, UTC; windows that hold it are taken.")
    s3_key: str | None = Field(None, description="Key of any object of the only batch to validate.")
    offline: bool = Field(False, description="Ask no database.")
    repair: bool = Field(False, description="Settle pending batches and remove data that is long void.")
    day: str | None = Field(None, description="Day of the rotation; unset: today in UTC.")

    @field_validator("start_date", "end_date", "day")
    @classmethod
    def _is_day(cls, value: str | None) -> str | None:
        if value is not None:
            date.fromisoformat(value)
        return value


def request_of(config: ValidateConfig, now: datetime) -> ValidationRequest:
    """The request that a run's config describes. `now` is aware, UTC."""
    return ValidationRequest(
        now=now,
        day=_day(config.day) or now.date(),
        sample_percent=config.sample_percent,
        start=_day(config.start_date),
        end=_day(config.end_date),
        data_key=config.s3_key,
        offline=config.offline,
        repair=config.repair,
    )


def validate_run_config(settings: TableSettings, request: ValidationRequest) -> dict[str, Any]:
    """Run config that hands the request to the table's check."""
    config = {
        "sample_percent": request.sample_percent,
        "start_date": request.start.isoformat() if request.start else None,
        "end_date": request.end.isoformat() if request.end else None,
        "s3_key": request.data_key,
        "offline": request.offline,
        "repair": request.repair,
        "day": request.day.isoformat(),
    }
    return {_op_name(settings): {"config": {name: value for name, value in config.items() if value is not None}}}


def archives_key(settings: TableSettings) -> dg.AssetKey:
    """[database, schema, table, archives]."""
    return dg.AssetKey([*asset_key(settings).path, _ARCHIVES])


def check_key(settings: TableSettings) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(archives_key(settings), CHECK_VALID)


def archives_asset(settings: TableSettings) -> dg.AssetSpec:
    """What all archive runs of a table have left in the store: there to be checked, not to be materialized."""
    return dg.AssetSpec(
        key=archives_key(settings),
        deps=[asset_key(settings)],
        description=f"All archives of {settings.qualified_name}, whatever run made them.",
        group_name=plain_name(settings.database),
        kinds={"s3"},
    )


def archives_check(settings: TableSettings, alerts: Alerts) -> dg.AssetChecksDefinition:
    """The check of one table's archives. A validation that could not look fails the run; it never passes."""

    def archives_valid(context: dg.AssetCheckExecutionContext, config: ValidateConfig) -> dg.AssetCheckResult:
        runtime: ArchiverRuntime = getattr(context.resources, RESOURCE_KEY)
        session = runtime.session(settings)
        with engine_errors(context.op_execution_context, session):
            report = validate_table(session, request_of(config, datetime.now(UTC)))
        runtime.validations[settings] = report
        for warning in report.warnings:
            context.log.warning(warning)
        return check_result(report)

    decorate = dg.asset_check(
        asset=archives_key(settings),
        name=CHECK_VALID,
        description="Every archive is there, whole, without contradiction, and its rows are not in the table.",
        required_resource_keys={RESOURCE_KEY},
        pool=pool_of(settings.database),
    )
    check: Any = decorate(archives_valid)
    told: dg.AssetChecksDefinition = check.with_hooks(validation_hooks(alerts, settings))
    return told


def check_result(report: ValidationReport) -> dg.AssetCheckResult:
    """Any finding is an error; that there was nothing to validate is a warning, and no pass either."""
    return dg.AssetCheckResult(
        check_name=CHECK_VALID,
        passed=report.is_clean and not report.is_empty,
        severity=dg.AssetCheckSeverity.WARN if report.is_clean else dg.AssetCheckSeverity.ERROR,
        description=_summary(report),
        metadata=_metadata(report),
    )


def validate_job(database: DatabaseSettings) -> Any:
    """All checks of a database's archives, and nothing else."""
    return dg.define_asset_job(
        name=f"validate_{plain_name(database.id)}",
        selection=dg.AssetSelection.checks(*(check_key(table) for table in database.tables)),
        description=f"Validates the archives of every table of {database.id}.",
        tags={DATABASE_TAG: database.id},
    )


def validate_schedule(database: DatabaseSettings) -> dg.ScheduleDefinition:
    """Every night another share of the objects: the scheduled day chooses it, however late the run begins."""

    @dg.schedule(
        name=f"validate_nightly_{plain_name(database.id)}",
        cron_schedule=_NIGHTLY,
        execution_timezone="UTC",
        job_name=f"validate_{plain_name(database.id)}",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Every night: all documents and {NIGHTLY_SAMPLE_PERCENT:g} % of the objects of {database.id}.",
    )
    def validate_nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        at = context.scheduled_execution_time
        request = ValidationRequest(now=at, day=at.date(), sample_percent=NIGHTLY_SAMPLE_PERCENT)
        ops: dict[str, Any] = {}
        for table in database.tables:
            ops |= validate_run_config(table, request)
        return dg.RunRequest(run_config={"ops": ops})

    return validate_nightly


def _op_name(settings: TableSettings) -> str:
    """The name that Dagster gives the op of the check."""
    return f"{asset_name(settings)}__{_ARCHIVES}_{CHECK_VALID}"


def _day(text: str | None) -> date | None:
    return date.fromisoformat(text) if text else None


def _summary(report: ValidationReport) -> str:
    if report.findings:
        return f"{len(report.findings)} findings: {report.findings[0].subject}: {report.findings[0].message}"
    if report.is_empty:
        return "no archives found: nothing was validated"
    return f"{report.batches['receipted']} archives are valid; {report.read_objects} were read back"


def _metadata(report: ValidationReport) -> dict[str, Any]:
    return {
        **{f"{state}_batches": count for state, count in report.batches.items()},
        "archived_rows": report.rows,
        "object_bytes": report.object_bytes,
        "read_objects": report.read_objects,
        "read_rows": report.read_rows,
        "read_bytes": report.read_bytes,
        "read_share": round(report.read_share, 4),
        "audited_rows": report.audited_rows if report.audited_rows is not None else "not asked",
        "seconds": round(report.seconds, 3),
        "findings_count": len(report.findings),
        "notes_count": len(report.notes),
        "findings": dg.MetadataValue.md(_markdown(report.findings)),
        "notes": dg.MetadataValue.md(_markdown(report.notes)),
        "repairs": dg.MetadataValue.md("\n".join(f"- {line}" for line in report.repairs) or "none"),
    }


def _markdown(found: tuple[Finding, ...]) -> str:
    if not found:
        return "none"
    lines = ["| kind | object | what | next step |", "|---|---|---|---|"]
    cells = [(f.kind.value, f"`{f.subject}`", f.message, f.next_step) for f in found[:_FINDINGS_SHOWN]]
    lines += [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in cells]
    if len(found) > _FINDINGS_SHOWN:
        lines.append(f"\nand {len(found) - _FINDINGS_SHOWN} more")
    return "\n".join(lines)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
