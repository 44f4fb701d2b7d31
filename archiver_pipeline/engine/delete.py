"""Delete: intent to the store, exactly the proved row versions out of the table, proof to the store; batch by batch."""

from dataclasses import replace

from archiver_pipeline.codec.versions import XMIN, read_versions
from archiver_pipeline.domain.batch import (
    Deletion,
    EncodedBatch,
    Outcome,
    Plan,
    PlannedBatch,
    SettledBatch,
    UploadedBatch,
    Verification,
    VerifiedBatch,
)
from archiver_pipeline.domain.layout import StoredBatch, group_batches, stem_of
from archiver_pipeline.domain.manifest import Manifest
from archiver_pipeline.engine.compress import compress_batch
from archiver_pipeline.engine.extract import extract_batch
from archiver_pipeline.engine.reconcile import reconcile_batch
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.settlement import (
    build_manifest,
    write_manifest,
    write_receipt,
    write_superseded,
)
from archiver_pipeline.engine.steps import timed_step
from archiver_pipeline.engine.upload import upload_batch
from archiver_pipeline.engine.verify import verify_batch
from archiver_pipeline.postgres.connection import RowsLockedError
from archiver_pipeline.postgres.delete import DeleteGuard, LeftBehind, VersionsChangedError

_SETTLED_BY = "run"
_MAX_EXCLUDED_KEYS = 1_000


def delete_batches(session: ArchiveSession, verification: Verification) -> Deletion:
    """Delete every verified batch, each in its own transaction, and settle it.

    A batch with a changed or locked row is rolled back and superseded; its other rows get one second pass in this
    step. Safe to repeat: batches that an earlier try settled are left as they are.
    """
    plan = verification.upload.encoding.extraction.plan

    def work(batch: VerifiedBatch) -> tuple[SettledBatch, ...]:
        settled = _delete_with_second_pass(session, plan, batch)
        archived = sum(part.archived_rows for part in settled)
        session.progress.batch_finished(session.name, "delete", archived, batch.encoded.object_bytes)
        return settled

    rows = sum(batch.encoded.extracted.rows for batch in verification.batches)
    with timed_step(session, "delete", len(verification.batches), rows) as watch:
        session.lock.require_held()
        found = session.for_each(verification.batches, work)
    return Deletion(verification, tuple(batch for batches in found for batch in batches), watch.seconds)


def delete_batch(session: ArchiveSession, plan: Plan, batch: VerifiedBatch) -> tuple[SettledBatch, LeftBehind | None]:
    """Settle one verified batch; tells what was left behind when it was superseded."""
    batch = _with_versions(session, plan, batch)
    stored = _stored_state(session, batch.encoded)
    if stored is not None and stored.has_manifest:
        return reconcile_batch(session, plan.shape, stored), None
    if not _may_write_manifest(session, plan, batch.encoded):
        return _abandoned(batch.encoded), None
    versions = read_versions(batch.encoded.extracted.versions_path)
    manifest = build_manifest(session, plan, batch.encoded, versions)
    if not write_manifest(session, manifest):
        return reconcile_batch(session, plan.shape, _stored_state(session, batch.encoded)), None
    return _delete_manifested(session, plan, batch, manifest)


def _delete_manifested(
    session: ArchiveSession, plan: Plan, batch: VerifiedBatch, manifest: Manifest
) -> tuple[SettledBatch, LeftBehind | None]:
    versions = read_versions(batch.encoded.extracted.versions_path)
    with session.delete_sessions(plan.shape).take() as deleting:
        try:
            deleting.delete_versions(versions, _guard(session, manifest))
        except (VersionsChangedError, RowsLockedError) as refusal:
            reason = refusal.message
            left = deleting.explain_refusal(versions)
            settled: list[SettledBatch] = []
            keys = versions.select([XMIN, *manifest.primary_key])
            deleting.settle(
                keys,
                lambda _: settled.append(write_superseded(session, manifest, reason, settled_by=_SETTLED_BY)),
                session.lock,
            )
            return replace(settled[0], changed_rows=left.changed_rows, locked_rows=left.locked_rows), left
    return write_receipt(session, manifest, Outcome.deleted, settled_by=_SETTLED_BY), None


def _delete_with_second_pass(session: ArchiveSession, plan: Plan, batch: VerifiedBatch) -> tuple[SettledBatch, ...]:
    first, left = delete_batch(session, plan, batch)
    session.pause_between_batches()
    if left is None or left.locked_rows > _MAX_EXCLUDED_KEYS:
        return (first,)
    planned = replace(batch.encoded.extracted.planned, excluded_keys=left.locked_keys)
    again = _archive_again(session, plan, planned)
    return (first,) if again is None else (first, again)


def _archive_again(session: ArchiveSession, plan: Plan, planned: PlannedBatch) -> SettledBatch | None:
    """The whole protocol once more for one batch, without the rows that are locked."""
    extracted = extract_batch(session, plan, planned)
    if not extracted.rows:
        return None
    encoded = compress_batch(session, plan, extracted)
    uploaded: UploadedBatch = upload_batch(session, plan, encoded)
    verified = verify_batch(session, plan, uploaded)
    return delete_batch(session, plan, verified)[0]


def _with_versions(session: ArchiveSession, plan: Plan, batch: VerifiedBatch) -> VerifiedBatch:
    """The batch with its staged row versions; when they are gone it is extracted and proved again."""
    if batch.encoded.extracted.versions_path.exists():
        return batch
    return verify_batch(session, plan, UploadedBatch(batch.encoded))


def _may_write_manifest(session: ArchiveSession, plan: Plan, encoded: EncodedBatch) -> bool:
    """Whether no other archiver can have taken these rows since they were read.

    Under the lock session of the plan that is certain. After a resumption all rows are counted again first.
    """
    if session.lock.token == plan.lock_token:
        session.lock.require_held()
        return True
    versions = read_versions(encoded.extracted.versions_path)
    with session.delete_sessions(plan.shape).take() as deleting:
        left = deleting.explain_refusal(versions)
    return left.changed_rows == 0


def _abandoned(encoded: EncodedBatch) -> SettledBatch:
    """A batch without a manifest whose rows were taken or changed while the run was down: nothing refers to it."""
    return SettledBatch(
        batch_id=encoded.batch_id,
        key=encoded.key,
        window_key=encoded.extracted.planned.window.key,
        rows=encoded.extracted.rows,
        rows_bytes=encoded.extracted.rows_bytes,
        object_bytes=encoded.object_bytes,
        outcome=Outcome.superseded,
        reason="rows changed while the run was interrupted",
    )


def _stored_state(session: ArchiveSession, encoded: EncodedBatch) -> StoredBatch | None:
    found = group_batches(session.store.list_objects(stem_of(encoded.key) + "."))
    return found[0] if found else None


def _guard(session: ArchiveSession, manifest: Manifest) -> DeleteGuard:
    return DeleteGuard(
        lock=session.lock,
        retention_days=session.settings.retention_days,
        last_row_time=manifest.last_row_time,
        lock_timeout_ms=session.settings.lock_timeout_ms,
    )
