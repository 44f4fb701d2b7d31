"""Reports as Dagster metadata: numbers that plot over partitions, links, and the two asset checks."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from archiver_pipeline.domain.audit import AuditHead
from archiver_pipeline.domain.pace import Pace
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.engine.backlog import Backlog
from archiver_pipeline.engine.report import ArchiveReport, WindowReport

BACKLOG_COUNTED_ROWS = 1_000_000
_KEYS_SHOWN = 50


def window_metadata(report: ArchiveReport, window: WindowReport) -> Mapping[str, Any]:
    """What one partition's materialization shows."""
    return {
        "dagster/partition_row_count": window.rows,
        "rows": window.rows,
        "batches": window.batches,
        "rows_bytes": window.rows_bytes,
        "object_bytes": window.object_bytes,
        "compression_ratio": round(window.rows_bytes / window.object_bytes, 3) if window.object_bytes else 0.0,
        "rows_still_eligible": window.remaining_rows,
        "changed_rows": window.changed_rows,
        "locked_rows": window.locked_rows,
        "superseded_batches": window.superseded_batches,
        "protected_until": window.protected_until or "not protected",
        "held_rows": window.held_rows,
        "objects": dg.MetadataValue.md(_key_list(window.keys)),
    }


def audit_metadata(head: AuditHead | None) -> Mapping[str, Any]:
    """Where the table's audit trail ended with this run: a second place, from which it can be verified."""
    if head is None:
        return {}
    return {"audit_link": head.sequence, "audit_link_sha256": head.sha256}


def report_metadata(report: ArchiveReport, shape: TableShape) -> Mapping[str, Any]:
    """What belongs to the run as a whole; every partition of the run shows it."""
    rows_per_second = report.rows / report.total_seconds if report.total_seconds else 0.0
    return {
        "cutoff": report.cutoff.isoformat(),
        "attempt_id": report.attempt_id,
        "run_rows": report.rows,
        "run_seconds": round(report.total_seconds, 3),
        "run_rows_per_second": round(rows_per_second, 1),
        "table_bytes_before": report.table_bytes_before,
        "table_bytes_after": report.table_bytes_after,
        "space_reclaimed_bytes": report.table_bytes_before - report.table_bytes_after,
        "vacuum": report.vacuum,
        **_leaf_metadata(report),
        **_disk_metadata(report),
        "stopped_reason": report.stopped_reason or "nothing left",
        "paused_seconds": round(report.pauses.seconds, 3),
        "paused_for": dg.MetadataValue.json({signal: round(each, 3) for signal, each in report.pauses.by_signal}),
        "batch_rows": report.batch_rows,
        "batch_size_reason": report.batch_size_reason,
        "deleted_rows_per_second": round(report.pace.rows_per_second, 1) if report.pace else 0.0,
        "protected_rows": report.protected_rows,
        "kept_batches": len(report.kept),
        "kept_rows": sum(kept.rows or 0 for kept in report.kept),
        "kept_before": len(report.kept_before),
        "held_rows_of_run": report.held_rows,
        "legal_holds": report.held_reason or "none",
        "settled_for_earlier_crash": len(report.settled_before),
        **{f"{step}_seconds": round(seconds, 3) for step, seconds in report.seconds.items()},
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn(
                    column.name,
                    column.type,
                    constraints=dg.TableColumnConstraints(nullable=not column.not_null),
                )
                for column in shape.columns
            ]
        ),
    }


def _leaf_metadata(report: ArchiveReport) -> Mapping[str, Any]:
    """Nothing for a table that is not archived leaf by leaf."""
    if not report.leaves:
        return {}
    ends = "\n".join(f"- {end}" for end in report.leaves[:_KEYS_SHOWN])
    return {
        "partitions_dropped": len(report.dropped_leaves),
        "partitions_dropped_bytes": report.dropped_bytes,
        "partitions_not_dropped": len(report.leaves) - len(report.dropped_leaves),
        "partitions": dg.MetadataValue.md(ends),
    }


def _disk_metadata(report: ArchiveReport) -> Mapping[str, Any]:
    """What is free inside the table's files. Left out where it was not looked at."""
    if report.disk is None:
        return {}
    disk, reclaim = report.disk, report.disk.reclaim
    return {
        "free_bytes": disk.free_bytes,
        "index_bytes": disk.index_bytes,
        "index_free_bytes": disk.index_free_bytes,
        "free_bytes_method": disk.method,
        "reclaim": str(reclaim) if reclaim else "not configured",
        "returned_bytes": reclaim.returned_bytes if reclaim else 0,
    } | ({"reclaim_advice": disk.advice} if disk.advice else {})


def backlog_metadata(backlog: Backlog, pace: Pace, now: datetime) -> Mapping[str, Any]:
    """What is left of the whole table after the run, and when it will be gone. `days_until_drained` is left out when
    that is never; `backlog_rows` is counted up to `backlog_counted_to`."""
    overdue = now - backlog.oldest_row if backlog.oldest_row else timedelta(0)
    days = pace.days_until_drained
    return {
        "backlog_rows": backlog.eligible_rows,
        "backlog_counted_to": BACKLOG_COUNTED_ROWS,
        "oldest_eligible_age_days": round(overdue / timedelta(days=1), 2),
        "intake_rows_per_day": round(pace.intake_rows_per_day, 1),
        "drained_rows_per_day": round(pace.drained_rows_per_day, 1),
        "drained": str(pace),
    } | ({} if days is None else {"days_until_drained": round(days, 2)})


def archive_checks(report: ArchiveReport, key: dg.AssetKey) -> Iterator[dg.AssetCheckResult]:
    """What the engine has already enforced, shown in the UI; a run that is not proved never gets here."""
    batches = sum(window.batches for window in report.windows)
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="verified",
        passed=True,
        metadata={"batches": batches, "rows": report.rows, "sampled_rows": report.sampled_rows},
        description="Every object was read back and equals what was extracted before its rows were deleted.",
    )
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="nothing_left_behind",
        passed=report.left_behind_rows == 0,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "rows_still_eligible": report.left_behind_rows,
            "protected_rows": report.protected_rows,
            "reason": report.stopped_reason or "nothing left",
        },
        description="No eligible row remains, but for those that a restore brought back and protects."
        if report.left_behind_rows == 0
        else "Eligible rows remain; the next run takes them, unless the reason is one that stays.",
    )


def _key_list(keys: tuple[str, ...]) -> str:
    lines = [f"- `{key}`" for key in keys[:_KEYS_SHOWN]]
    if len(keys) > _KEYS_SHOWN:
        lines.append(f"- and {len(keys) - _KEYS_SHOWN} more")
    return "\n".join(lines) or "none"
