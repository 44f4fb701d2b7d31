"""What the audit trail is told of a table: one function for each thing that happens, and what it says."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from archiver_pipeline.codec.hashing import sha256_hex
from archiver_pipeline.domain.audit import AuditKind, BatchFate
from archiver_pipeline.domain.batch import EncodedBatch, Outcome, Plan
from archiver_pipeline.domain.fallback import KeptBatch
from archiver_pipeline.domain.holds import Holds
from archiver_pipeline.domain.layout import RECEIPT_SUFFIX, SUPERSEDED_SUFFIX, stem_of
from archiver_pipeline.domain.manifest import Manifest, Receipt, Superseded
from archiver_pipeline.domain.partitions import Leaf
from archiver_pipeline.domain.restore import RestoredObject, RestoreReport, RestoreRequest
from archiver_pipeline.domain.validation import ValidationReport, ValidationRequest
from archiver_pipeline.engine.audit import AuditTrail, Fence
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.storage.s3 import StoreNetworkError

_MESSAGES_TOLD = 20
_SYMPTOM = "the audit trail does not tell of this"


class Audited(Protocol):
    """A session, as far as its trail goes."""

    @property
    def audit(self) -> AuditTrail: ...


def record_plan(session: Audited, plan: Plan, retention_days: int) -> None:
    """What an attempt is about to archive, and the holds that it went by. Before anything of it is deleted."""
    facts = {
        "attempt_id": plan.attempt_id,
        "cutoff": plan.cutoff.isoformat(),
        "retention_days": retention_days,
        "windows": [window.key for window in plan.windows],
        "batches": len(plan.batches),
        "eligible_rows": plan.eligible_rows,
        "estimated_bytes": plan.estimated_bytes,
        "planned_all": plan.planned_all,
        "settled_before": [batch.batch_id for batch in plan.settled],
        "protections": [one.protection_id for one in plan.protections],
        "kept_before": [_kept_facts(kept) for kept in plan.kept_before],
    }
    told: list[tuple[AuditKind, dict[str, Any]]] = [(AuditKind.plan, facts)]
    if plan.shape.holds:
        told.append((AuditKind.hold, {"when": "plan", "attempt_id": plan.attempt_id} | _hold_facts(plan.shape.holds)))
    session.audit.record_all(*told)


def record_settling(session: Audited, batch_ids: Sequence[str]) -> None:
    """That batches which an interruption left open are about to be settled: their rows may be deleted."""
    if batch_ids:
        session.audit.record(AuditKind.plan, settles=list(batch_ids))


def record_uploading(session: Audited, kept: KeptBatch) -> None:
    """That a batch which an earlier run had to keep on the local disk is about to be uploaded, and its rows deleted."""
    session.audit.record(AuditKind.plan, uploads=_kept_facts(kept) | {"batch_id": kept.batch_id})


def record_resumption(session: Audited, plan: Plan, batch_ids: Sequence[str]) -> None:
    """That a process which did not make the plan is about to delete. Nothing when this session has written already."""
    if session.audit.head is None:
        session.audit.record(AuditKind.plan, attempt_id=plan.attempt_id, resumes=list(batch_ids))


def record_receipted(
    session: Audited, manifest: Manifest, receipt: Receipt, receipt_bytes: bytes, fence: Fence
) -> None:
    """A batch whose rows have left the table, before its receipt is written. Of batches that share rows, this decides
    which is their archive."""
    fate = BatchFate.absent if receipt.outcome is Outcome.absent else BatchFate.deleted
    document = _document_facts(receipt, receipt_bytes, stem_of(manifest.data_key) + RECEIPT_SUFFIX)
    told = (AuditKind.batch, _manifest_facts(fate, manifest) | document)
    session.audit.record_all(told, fence=fence)


def record_superseded(session: Audited, manifest: Manifest, mark: Superseded, mark_bytes: bytes) -> None:
    """A batch that is void, before its mark is written."""
    document = _document_facts(mark, mark_bytes, stem_of(manifest.data_key) + SUPERSEDED_SUFFIX)
    session.audit.record(
        AuditKind.batch, **_manifest_facts(BatchFate.superseded, manifest), **document, reason=mark.reason
    )


def record_abandoned(session: Audited, encoded: EncodedBatch, reason: str) -> None:
    """A batch that never got a manifest; its rows stay in the table."""
    session.audit.record(
        AuditKind.batch,
        fate=BatchFate.abandoned,
        batch_id=encoded.batch_id,
        data_key=encoded.key,
        window=encoded.extracted.planned.window.key,
        rows=encoded.extracted.rows,
        reason=reason,
    )


def record_held(session: Audited, batch_id: str, reason: str) -> None:
    """That a hold which the plan did not know stood in the way of a delete."""
    session.audit.record(AuditKind.hold, when="delete", batch_id=batch_id, reason=reason)


def record_leaf(session: Audited, stage: str, leaf: Leaf, **facts: object) -> None:
    """What becomes of a native partition as a whole: `stage` is begin, dropped or kept. Its name and bound are told
    before it is dropped, so that they are known whatever comes between."""
    session.audit.record(
        AuditKind.leaf,
        stage=stage,
        partition=str(leaf),
        oid=leaf.oid,
        parent=".".join(leaf.parent),
        bound=leaf.bound,
        **facts,
    )


def record_report(session: Audited, facts: dict[str, Any], kept: Iterable[KeptBatch]) -> None:
    """A run's totals, and the batches that it had to keep on the local disk."""
    told = [(AuditKind.batch, {"fate": BatchFate.kept} | _kept_facts(one)) for one in kept]
    session.audit.record_all(*told, (AuditKind.report, facts))


def record_restore_begins(session: Audited, request: RestoreRequest, data_keys: Sequence[str], *, rows: int) -> None:
    """Before the first row is restored."""
    session.audit.record(AuditKind.restore, stage="begin", objects=len(data_keys), rows=rows, **_request_facts(request))


def record_restored(session: Audited, request: RestoreRequest, done: RestoredObject) -> None:
    """One object, after its transaction has ended."""
    counts = {name: getattr(done, name) for name in _RESTORE_COUNTS}
    session.audit.record(
        AuditKind.restore,
        stage="object",
        target=str(request.target),
        batch_id=done.batch_id,
        data_key=done.data_key,
        window=done.window_key,
        outcome=done.outcome.value,
        reason=done.reason,
        **counts,
    )


def record_restore_report(session: Audited, request: RestoreRequest, report: RestoreReport) -> None:
    """A restore's totals."""
    session.audit.record(
        AuditKind.restore,
        stage="end",
        objects=len(report.objects),
        outcomes=_counted(item.outcome.value for item in report.objects),
        restored_rows=report.restored_rows,
        replaced_rows=report.replaced_rows,
        skipped_rows=report.skipped_rows,
        filtered_rows=report.filtered_rows,
        failed_rows=report.failed_rows,
        remembered_objects=report.remembered,
        protected_until=report.protected_until.isoformat() if report.protected_until else None,
        **_request_facts(request),
    )


def record_validation(session: Audited, request: ValidationRequest, report: ValidationReport) -> None:
    """What a validation looked at, and how much it found, by kind."""
    session.audit.record(
        AuditKind.validation,
        sample_percent=request.sample_percent,
        day=request.day.isoformat(),
        start=request.start.isoformat() if request.start else None,
        end=request.end.isoformat() if request.end else None,
        data_key=request.data_key,
        offline=request.offline,
        repair=request.repair,
        batches=report.batches,
        rows=report.rows,
        read_objects=report.read_objects,
        read_rows=report.read_rows,
        audited_rows=report.audited_rows,
        findings=_counted(found.kind.value for found in report.findings),
        notes=_counted(found.kind.value for found in report.notes),
        subjects=[f"{found.kind.value}: {found.subject}" for found in report.findings[:_MESSAGES_TOLD]],
    )


def record_repair(session: Audited, data_keys: Sequence[str]) -> None:
    """The data objects of void batches that are about to be removed."""
    if data_keys:
        session.audit.record(AuditKind.repair, removes=list(data_keys))


def record_mirrored(session: Audited, holds: Holds, objects: int) -> None:
    """A hold on the whole table, put on its archives."""
    session.audit.record(AuditKind.hold_mirrored, objects=objects, **_hold_facts(holds))


def record_refusal(session: Audited, error: ArchiverError) -> None:
    """An error that stops a table, once. Never raises: that error stays the one to be told, with a note if need be."""
    if error.is_recorded or not session.audit.enabled:
        return
    error.is_recorded = True
    if isinstance(error, StoreNetworkError):
        _note(error, "the store is out of reach")
        return
    try:
        session.audit.record(
            AuditKind.refusal,
            error=type(error).__name__,
            message=error.message,
            hint=error.hint,
            exit_code=error.exit_code,
        )
    except ArchiverError as second:
        _note(error, second.message)


def _note(error: ArchiverError, why: str) -> None:
    note = f"{_SYMPTOM}: {why}"
    error.hint = f"{error.hint}; {note}" if error.hint else note


_RESTORE_COUNTS = ("rows", "restored_rows", "replaced_rows", "skipped_rows", "filtered_rows", "failed_rows")


def _manifest_facts(fate: BatchFate, manifest: Manifest) -> dict[str, Any]:
    return {
        "fate": fate,
        "batch_id": manifest.batch_id,
        "attempt_id": manifest.attempt_id,
        "data_key": manifest.data_key,
        "window": manifest.window,
        "window_start": manifest.window_start,
        "window_end": manifest.window_end,
        "cutoff": manifest.cutoff,
        "extracted_at": manifest.extracted_at,
        "first_row_time": manifest.first_row_time,
        "last_row_time": manifest.last_row_time,
        "rows": manifest.rows,
        "rows_bytes": manifest.rows_bytes,
        "object_bytes": manifest.object_bytes,
        "rows_sha256": manifest.rows_sha256,
        "object_sha256": manifest.object_sha256,
        "storage_class": manifest.storage_class,
        "archived_by_run": manifest.run_id,
    }


def _document_facts(document: Receipt | Superseded, data: bytes, key: str) -> dict[str, Any]:
    return {
        "manifest_sha256": document.manifest_sha256,
        "document_key": key,
        "document_sha256": sha256_hex(data),
        "settled_by": document.settled_by,
        "settled_at": document.settled_at,
    }


def _kept_facts(kept: KeptBatch) -> dict[str, Any]:
    return {"data_key": kept.key, "rows": kept.rows, "since": kept.since.isoformat(), "reason": kept.reason}


def _hold_facts(holds: Holds) -> dict[str, Any]:
    """Who holds what and why. A row predicate may name a person: its hash tells whether it is the same one."""
    return {
        "is_whole": holds.is_whole,
        "holds": [
            {
                "source": hold.source,
                "reason": hold.reason,
                "requestor": hold.requestor,
                "starts": hold.starts,
                "ends": hold.ends,
                "scope": hold.scope,
                "predicate_sha256": sha256_hex(hold.predicate.encode()) if hold.predicate else None,
            }
            for hold in holds.holds
        ],
    }


def _request_facts(request: RestoreRequest) -> dict[str, Any]:
    """What was asked for. A filter may hold what a row holds: its hash tells whether it is the same one."""
    return {
        "target": str(request.target),
        "is_other_table": request.target != request.source,
        "data_key": request.data_key,
        "start": request.start.isoformat() if request.start else None,
        "end": request.end.isoformat() if request.end else None,
        "conflict": request.conflict.value,
        "schema_strategy": request.schema.value,
        "where_sha256": sha256_hex(request.where.encode()) if request.where else None,
        "ignore_watermark": request.ignore_watermark,
        "protect_days": request.protect_days,
    }


def _counted(values: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts
