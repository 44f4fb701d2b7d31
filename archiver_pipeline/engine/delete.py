"""Delete: intent to the store, exactly the proved row versions out of the table, proof to the store; batch by batch."""

from dataclasses import replace
from functools import partial

from archiver_pipeline.codec.versions import read_versions
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
from archiver_pipeline.domain.protection import longest_protection
from archiver_pipeline.engine.audit import Fence
from archiver_pipeline.engine.compress import RowsGoneError, compress_batch
from archiver_pipeline.engine.extract import extract_batch
from archiver_pipeline.engine.holds import hold_guard, with_holds
from archiver_pipeline.engine.protection import session_protections
from archiver_pipeline.engine.reconcile import reconcile_batch, reconcile_table
from archiver_pipeline.engine.recording import record_abandoned, record_held, record_resumption
from archiver_pipeline.engine.safekeeping import lock_object, require_encrypted, require_locked, wanted_retention
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.settlement import (
    build_manifest,
    manifest_key,
    write_manifest,
    write_receipt,
    write_superseded,
)
from archiver_pipeline.engine.steps import batch_step, timed_step
from archiver_pipeline.engine.upload import upload_batch
from archiver_pipeline.engine.verify import verify_batch
from archiver_pipeline.postgres.connection import DeleteRefusedError, RowsLockedError
from archiver_pipeline.postgres.delete import DeleteGuard, LeftBehind, RowsHeldError, VersionsChangedError
from archiver_pipeline.postgres.holds import HoldGuard

_SETTLED_BY = "run"
_MAX_EXCLUDED_KEYS = 1_000


def delete_batches(session: ArchiveSession, verification: Verification) -> Deletion:
    """Delete every verified batch, each in its own transaction, and settle it.

    A batch with a changed, locked or held row is rolled back and superseded; its other rows get one second pass in this
    step. Safe to repeat: batches that an earlier try settled are left as they are, and those that it left open under
    another lock session are settled first, also when nothing of them is in the table or in `verification` any more.
    """
    plan = verification.upload.encoding.extraction.plan

    def work(batch: VerifiedBatch) -> tuple[SettledBatch, ...]:
        settled = _delete_with_second_pass(session, plan, batch, stored.get(stem_of(batch.encoded.key)))
        for part in settled:
            session.progress.batch_settled(session.name, part)
        archived = sum(part.archived_rows for part in settled)
        session.progress.batch_finished(session.name, "delete", replace(batch_step(batch), rows=archived))
        return settled

    rows = sum(batch.encoded.extracted.rows for batch in verification.batches)
    with timed_step(session, "delete", len(verification.batches), rows) as watch:
        session.lock.require_held()
        record_resumption(session, plan, [batch.encoded.batch_id for batch in verification.batches])
        plan = _with_protections_of_now(session, plan)
        before = _settle_earlier_try(session, plan, verification)
        stored = _stored_batches(session, verification)
        found = session.for_each(verification.batches, work)
    ended = (*before, *(batch for batches in found for batch in batches))
    return Deletion(verification, ended, watch.seconds, plan.protections)


def _with_protections_of_now(session: ArchiveSession, plan: Plan) -> Plan:
    """The plan with the protections that are in force now. Under its own lock session no restore came in between.

    After a resumption one may have. Rows it brought back are other versions than those staged, but files that are gone
    are staged again, and would then hold them.
    """
    if session.lock.token == plan.lock_token:
        return plan
    return replace(plan, protections=tuple(session_protections(session)))


def _settle_earlier_try(session: ArchiveSession, plan: Plan, verification: Verification) -> list[SettledBatch]:
    """What an interrupted try of this step left open, without the batches that this try settles itself."""
    if session.lock.token == plan.lock_token:
        return []
    own = {batch.encoded.batch_id for batch in verification.batches}
    return [settled for settled in reconcile_table(session, plan.shape) if settled.batch_id not in own]


def delete_batch(
    session: ArchiveSession, plan: Plan, batch: VerifiedBatch, stored: StoredBatch | None
) -> tuple[SettledBatch, LeftBehind | None]:
    """Settle one verified batch; tells what was left behind when it was superseded.

    `stored` is the batch as the store listed it under the held table lock, None where it was not listed.
    """
    if stored is not None and stored.has_manifest:
        return reconcile_batch(session, plan.shape, stored), None
    if protection := longest_protection(batch.encoded.extracted.planned.window, plan.protections):
        return _abandoned(session, batch.encoded, str(protection)), None
    try:
        batch = _with_versions(session, plan, batch)
    except RowsGoneError:
        return _abandoned(session, batch.encoded), None
    if not _may_write_manifest(session, plan, batch.encoded):
        return _abandoned(session, batch.encoded), None
    holds = hold_guard(session, plan.shape)
    if holds is not None and holds.known.is_whole:
        record_held(session, batch.encoded.batch_id, holds.known.reason)
        return _abandoned(session, batch.encoded, holds.known.reason), None
    versions = read_versions(batch.encoded.extracted.versions_path)
    manifest = build_manifest(session, plan, batch.encoded, versions)
    retention = wanted_retention(session, manifest.last_row_time)
    lock_object(session, manifest.data_key, retention)
    if not write_manifest(session, manifest, retention):
        listed = group_batches(session.store.list_objects(stem_of(batch.encoded.key) + "."))
        return reconcile_batch(session, plan.shape, listed[0] if listed else None), None
    require_encrypted(session, manifest_key(manifest))
    require_locked(session, manifest_key(manifest), retention)
    return _delete_manifested(session, plan, batch, manifest, holds)


def _delete_manifested(
    session: ArchiveSession, plan: Plan, batch: VerifiedBatch, manifest: Manifest, holds: HoldGuard | None
) -> tuple[SettledBatch, LeftBehind | None]:
    versions = read_versions(batch.encoded.extracted.versions_path)
    with session.delete_sessions(plan.shape).take() as deleting:
        try:
            deleting.delete_versions(versions, _guard(session, manifest, holds))
        except RowsHeldError as refusal:
            record_held(session, manifest.batch_id, refusal.message)
            with deleting.in_peace(session.lock):
                settled = write_superseded(session, manifest, refusal.message, settled_by=_SETTLED_BY)
            return settled, LeftBehind(0, 0, (), is_held=True)
        except (VersionsChangedError, RowsLockedError, DeleteRefusedError) as refusal:
            left = deleting.explain_refusal(versions, session.settings.lock_timeout_ms)
            reason = _reason(left) or refusal.message
            with deleting.in_peace(session.lock):
                settled = write_superseded(session, manifest, reason, settled_by=_SETTLED_BY)
            return replace(settled, changed_rows=left.changed_rows, locked_rows=left.locked_rows), left
        fence = Fence(session.audit.known_sequence(), partial(deleting.require_lock, session.lock))
        with deleting.at_work(session.lock):
            return write_receipt(session, manifest, Outcome.deleted, settled_by=_SETTLED_BY, fence=fence), None


def _reason(left: LeftBehind) -> str:
    """Why a batch was refused, for people; empty when its rows do not tell."""
    if left.locked_rows:
        return "rows are locked by an application"
    return "rows changed since they were read" if left.changed_rows else ""


def _delete_with_second_pass(
    session: ArchiveSession, plan: Plan, batch: VerifiedBatch, stored: StoredBatch | None
) -> tuple[SettledBatch, ...]:
    first, left = delete_batch(session, plan, batch, stored)
    session.pause_between_batches()
    if left is None or not (left.changed_rows or left.locked_rows or left.is_held):
        return (first,)
    if left.locked_rows > min(_MAX_EXCLUDED_KEYS, len(left.locked_keys)):
        return (first,)
    if left.is_held:
        plan = replace(plan, shape=with_holds(session, plan.shape))
    planned = replace(batch.encoded.extracted.planned, excluded_keys=left.locked_keys)
    again = _archive_again(session, plan, planned)
    return (first,) if again is None else (first, again)


def _archive_again(session: ArchiveSession, plan: Plan, planned: PlannedBatch) -> SettledBatch | None:
    """The whole protocol once more for one batch, without the rows that are locked or held."""
    extracted = extract_batch(session, plan, planned)
    if not extracted.rows:
        return None
    encoded = compress_batch(session, plan, extracted)
    uploaded: UploadedBatch = upload_batch(session, plan, encoded)
    verified = verify_batch(session, plan, uploaded)
    return delete_batch(session, plan, verified, None)[0]


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


def _stored_batches(session: ArchiveSession, verification: Verification) -> dict[str, StoredBatch]:
    """What the store holds beside the batches, by stem: one listing per window instead of one per batch."""
    folders = {batch.encoded.key.rpartition("/")[0] + "/" for batch in verification.batches}
    listed = (found for folder in folders for found in group_batches(session.store.list_objects(folder)))
    return {batch.stem: batch for batch in listed}


def _guard(session: ArchiveSession, manifest: Manifest, holds: HoldGuard | None) -> DeleteGuard:
    return DeleteGuard(
        lock=session.lock,
        retention_days=session.settings.retention_days,
        last_row_time=manifest.last_row_time,
        lock_timeout_ms=session.settings.lock_timeout_ms,
        holds=holds,
    )
