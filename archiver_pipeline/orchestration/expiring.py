"""Expiry of archives in Dagster: per database a job that shows what is past its retention, and removes it when told.

No schedule and no sensor launches it: what removes archives for good is launched by a person, or by whoever makes a
schedule of their own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg
from pydantic import Field, field_validator

from archiver_pipeline.config.effective import DatabaseSettings, TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.expiry import ExpiryOutcome, SettledExpiry
from archiver_pipeline.engine.expiry import apply_expiry, plan_expiry
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.orchestration.names import plain_name, pool_of
from archiver_pipeline.orchestration.ops import engine_errors
from archiver_pipeline.orchestration.runtime import RESOURCE_KEY, ArchiverRuntime
from archiver_pipeline.orchestration.sensors import DATABASE_TAG
from archiver_pipeline.orchestration.validation import archives_key

_ARCHIVES_SHOWN = 100
_READY = "may go"


class ExpireConfig(dg.Config):
    """Which archives of the database, and whether they go. Days can only narrow what the configuration says."""

    table: str | None = Field("", description="Only this table: `name` or `schema.name`; empty: all.")
    before_date: str | None = Field("", description="Only archives whose last row is before this day, UTC.")
    apply: bool = Field(False, description="Remove them, for good. Without it, they are only shown.")

    @field_validator("before_date")
    @classmethod
    def _is_day(cls, value: str | None) -> str | None:
        if value:
            date.fromisoformat(value)
        return value


def expire_job(config: LoadedConfig, database: DatabaseSettings) -> dg.JobDefinition:
    """The job of a database. What it saw or did is an observation of each table's archives."""
    name = f"expire_{plain_name(database.id)}"
    return dg.GraphDefinition(name=name, node_defs=[_expire_op(config, database)]).to_job(
        name=name,
        description=f"Shows which archives of {database.id} are past archive_retention_days; with apply, removes them.",
        tags={DATABASE_TAG: database.id},
    )


def _expire_op(config: LoadedConfig, database: DatabaseSettings) -> dg.OpDefinition:
    loaded = config

    def expire(context: dg.OpExecutionContext, config: ExpireConfig) -> None:
        runtime: ArchiverRuntime = getattr(context.resources, RESOURCE_KEY)
        unfinished = 0
        for settings in loaded.select_tables(database.id, config.table or None):
            session = runtime.session(settings)
            with engine_errors(context, session):
                settled = _settled(session, config)
            unfinished += sum(one.outcome is ExpiryOutcome.unfinished for one in settled)
            context.log.info(f"{session.name}: {_summary(settled, apply=config.apply)}")
            metadata = _metadata(settings, settled, apply=config.apply)
            context.log_event(dg.AssetObservation(archives_key(settings), metadata=metadata))
        if unfinished:
            raise dg.Failure(f"the store refused {unfinished} removals that were begun", allow_retries=False)

    decorate = dg.op(
        name=f"{plain_name(database.id)}__expire",
        description="Looks at archives past their retention; with apply, removes those with nothing in the way.",
        required_resource_keys={RESOURCE_KEY},
        pool=pool_of(database.id),
        out=dg.Out(dg.Nothing),
    )
    return decorate(expire)


def _settled(session: ArchiveSession, config: ExpireConfig) -> list[SettledExpiry]:
    """What became of each archive; of a plan those that may go count as blocked by nothing."""
    before = date.fromisoformat(config.before_date) if config.before_date else None
    if config.apply:
        return list(apply_expiry(session, before=before))
    plan = plan_expiry(session, before=before)
    return [SettledExpiry(archive, ExpiryOutcome.blocked, archive.blocked) for archive in plan.archives]


def _summary(settled: Sequence[SettledExpiry], *, apply: bool) -> str:
    counts = Counter(_fate(one) for one in settled)
    told = ", ".join(f"{count} {fate}" for fate, count in counts.items()) or "no archive is past its retention"
    return told if apply else f"{told}; nothing was removed, because apply is not set"


def _metadata(settings: TableSettings, settled: Sequence[SettledExpiry], *, apply: bool) -> Mapping[str, Any]:
    gone = [one for one in settled if one.outcome is ExpiryOutcome.expired]
    return {
        "applied": apply,
        "archive_retention_days": settings.archive_retention_days or "kept for ever",
        "expired_batches": len(gone),
        "expired_rows": sum(one.archive.rows for one in gone),
        "expired_bytes": sum(one.archive.object_bytes for one in gone),
        "removed_versions": sum(one.removed_versions for one in gone),
        "blocked_batches": sum(bool(one.reason) for one in settled),
        "archives": dg.MetadataValue.md(_markdown(settled)),
    }


def _markdown(settled: Sequence[SettledExpiry]) -> str:
    if not settled:
        return "none"
    lines = ["| object | rows | last row | what |", "|---|---|---|---|"]
    lines += [
        f"| `{one.archive.data_key}` | {one.archive.rows} | {one.archive.last_row_time} | {_cell(_fate(one))} |"
        for one in settled[:_ARCHIVES_SHOWN]
    ]
    if len(settled) > _ARCHIVES_SHOWN:
        lines.append(f"\nand {len(settled) - _ARCHIVES_SHOWN} more")
    return "\n".join(lines)


def _fate(one: SettledExpiry) -> str:
    if one.reason:
        return f"{one.outcome.value}: {one.reason}"
    return one.outcome.value if one.outcome is ExpiryOutcome.expired else _READY


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
