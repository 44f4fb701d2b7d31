"""Intent: what stands between a verified batch and its delete, and the proof after it."""

from dataclasses import dataclass
from functools import partial

from archiver_pipeline.codec.versions import read_versions
from archiver_pipeline.domain.batch import EncodedBatch, Outcome, Plan, SettledBatch, UploadedBatch, VerifiedBatch
from archiver_pipeline.domain.layout import StoredBatch, group_batches, stem_of
from archiver_pipeline.domain.manifest import Manifest
from archiver_pipeline.domain.protection import longest_protection
from archiver_pipeline.engine.audit import Fence
from archiver_pipeline.engine.compress import RowsGoneError
from archiver_pipeline.engine.holds import hold_guard
from archiver_pipeline.engine.reconcile import reconcile_batch
from archiver_pipeline.engine.recording import record_abandoned, record_held
from archiver_pipeline.engine.safekeeping import lock_object, require_encrypted, require_locked, wanted_retention
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.settlement import (
    build_manifest,
    manifest_key,
    write_manifest,
    write_receipt,
    write_superseded,
)
from archiver_pipeline.engine.verify import verify_batch
from archiver_pipeline.postgres.delete import DeleteGuard, DeleteSession
from archiver_pipeline.postgres.holds import HoldGuard

SETTLED_BY = "run"


@dataclass(frozen=True, slots=True)
class Intent:
    """A verified batch whose manifest was written under the lock that is held now, and what its delete must ask about
    legal holds."""

    batch: VerifiedBatch
    manifest: Manifest
    holds: HoldGuard | None

    def guard(self, session: ArchiveSession) -> DeleteGuard:
        """What must still be true when its rows are deleted."""
        return DeleteGuard(
            lock=session.lock,
            retention_days=session.settings.retention_days,
            last_row_time=self.manifest.last_row_time,
            lock_timeout_ms=session.settings.lock_timeout_ms,
            holds=self.holds,
        )


def intend_batch(
    session: ArchiveSession, plan: Plan, batch: VerifiedBatch, stored: StoredBatch | None
) -> Intent | SettledBatch:
    """Write the batch's manifest; or its end, when an earlier try left one or its rows must stay.

    `stored` is the batch as the store listed it under the held table lock, None where it was not listed.
    """
    if stored is not None and stored.has_manifest:
        return reconcile_batch(session, plan.shape, stored)
    if protection := longest_protection(batch.encoded.extracted.planned.window, plan.protections):
        return _abandoned(session, batch.encoded, str(protection))
    try:
        batch = _with_versions(session, plan, batch)
    except RowsGoneError:
        return _abandoned(session, batch.encoded)
    if not _may_write_manifest(session, plan, batch.encoded):
        return _abandoned(session, batch.encoded)
    holds = hold_guard(session, plan.shape)
    if holds is not None and holds.known.is_whole:
        record_held(session, batch.encoded.batch_id, holds.known.reason)
        return _abandoned(session, batch.encoded, holds.known.reason)
    versions = read_versions(batch.encoded.extracted.versions_path)
    manifest = build_manifest(session, plan, batch.encoded, versions)
    retention = wanted_retention(session, manifest.last_row_time)
    lock_object(session, manifest.data_key, retention)
    if not write_manifest(session, manifest, retention):
        listed = group_batches(session.store.list_objects(stem_of(batch.encoded.key) + "."))
        return reconcile_batch(session, plan.shape, listed[0] if listed else None)
    require_encrypted(session, manifest_key(manifest))
    require_locked(session, manifest_key(manifest), retention)
    return Intent(batch, manifest, holds)


def put_aside(
    session: ArchiveSession, plan: Plan, batch: VerifiedBatch, stored: StoredBatch | None, reason: str
) -> SettledBatch:
    """Give up a verified batch that may not be deleted now: its rows stay for the next run, and its object is marked as
    void, so that nobody takes it for one that was forgotten. What an earlier try began is settled instead."""
    if stored is not None and stored.has_manifest:
        return reconcile_batch(session, plan.shape, stored)
    if session.lock.token != plan.lock_token or not batch.encoded.extracted.versions_path.exists():
        return _abandoned(session, batch.encoded, reason)
    session.lock.require_held()
    versions = read_versions(batch.encoded.extracted.versions_path)
    manifest = build_manifest(session, plan, batch.encoded, versions)
    if not write_manifest(session, manifest, None):
        return _abandoned(session, batch.encoded, reason)
    with session.delete_sessions(plan.shape).take() as deleting, deleting.in_peace(session.lock):
        return write_superseded(session, manifest, reason, settled_by=SETTLED_BY)


def give_up(session: ArchiveSession, plan: Plan, intent: Intent, reason: str) -> SettledBatch:
    """As `put_aside`, for a batch that this run has written the manifest of."""
    with session.delete_sessions(plan.shape).take() as deleting, deleting.in_peace(session.lock):
        return write_superseded(session, intent.manifest, reason, settled_by=SETTLED_BY)


def receipt_deleted(session: ArchiveSession, deleting: DeleteSession, manifest: Manifest) -> SettledBatch:
    """The receipt of a batch whose delete has just committed. Raises LockLostError when somebody else may have settled
    it meanwhile."""
    fence = Fence(session.audit.known_sequence(), partial(deleting.require_lock, session.lock))
    with deleting.at_work(session.lock):
        return write_receipt(session, manifest, Outcome.deleted, settled_by=SETTLED_BY, fence=fence)


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
        present = deleting.count_present(versions, session.settings.lock_timeout_ms)
    return present == encoded.extracted.rows


def _abandoned(
    session: ArchiveSession, encoded: EncodedBatch, reason: str = "rows changed while the run was interrupted"
) -> SettledBatch:
    """A batch without a manifest whose rows were taken, changed or protected while the run was down: nothing refers
    to it."""
    record_abandoned(session, encoded, reason)
    return SettledBatch(
        batch_id=encoded.batch_id,
        key=encoded.key,
        window_key=encoded.extracted.planned.window.key,
        rows=encoded.extracted.rows,
        rows_bytes=encoded.extracted.rows_bytes,
        object_bytes=encoded.object_bytes,
        outcome=Outcome.superseded,
        reason=reason,
    )
