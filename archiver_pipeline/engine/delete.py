"""Delete: intent to the store, exactly the proved row versions out of the table, proof to the store; batch by batch."""

from dataclasses import replace

from archiver_pipeline.codec.versions import read_versions
from archiver_pipeline.domain.batch import (
    Deletion,
    Plan,
    PlannedBatch,
    SettledBatch,
    UploadedBatch,
    Verification,
    VerifiedBatch,
)
from archiver_pipeline.domain.layout import StoredBatch, group_batches, stem_of
from archiver_pipeline.engine.compress import compress_batch
from archiver_pipeline.engine.extract import extract_batch
from archiver_pipeline.engine.holds import with_holds
from archiver_pipeline.engine.intent import SETTLED_BY, Intent, give_up, intend_batch, put_aside, receipt_deleted
from archiver_pipeline.engine.leaves import drop_leaves
from archiver_pipeline.engine.protection import session_protections
from archiver_pipeline.engine.reconcile import reconcile_table
from archiver_pipeline.engine.recording import record_held, record_resumption
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.settlement import write_superseded
from archiver_pipeline.engine.steps import batch_step, timed_step
from archiver_pipeline.engine.upload import upload_batch
from archiver_pipeline.engine.verify import verify_batch
from archiver_pipeline.postgres.connection import DeleteRefusedError, RowsLockedError
from archiver_pipeline.postgres.delete import LeftBehind, RowsHeldError, VersionsChangedError

_MAX_EXCLUDED_KEYS = 1_000


def delete_batches(session: ArchiveSession, verification: Verification) -> Deletion:
    """Delete every verified batch, each in its own transaction, and settle it.

    A native partition whose rows are all among them may be dropped as a whole instead (see `drop_leaves`).
    A batch with a changed, locked or held row is rolled back and superseded; its other rows get one second pass in this
    step. Safe to repeat: batches that an earlier try settled are left as they are, and those that it left open under
    another lock session are settled first, also when nothing of them is in the table or in `verification` any more.
    """
    plan = verification.upload.encoding.extraction.plan
    refusals: set[str] = set()

    def work(item: VerifiedBatch | Intent) -> tuple[SettledBatch, ...]:
        batch = item.batch if isinstance(item, Intent) else item
        before = stored.get(stem_of(batch.encoded.key))
        settled: tuple[SettledBatch, ...]
        session.await_turn()
        with session.throttle.batch(plan, "delete") as refusal:
            if refusal:
                refusals.add(refusal)
                settled = (_put_aside(session, plan, item, before, refusal),)
            else:
                settled = _delete_with_second_pass(session, plan, item, before)
        _tell(session, batch, settled)
        return settled

    rows = sum(batch.encoded.extracted.rows for batch in verification.batches)
    with timed_step(session, "delete", len(verification.batches), rows) as watch:
        session.lock.require_held()
        record_resumption(session, plan, [batch.encoded.batch_id for batch in verification.batches])
        plan = _with_protections_of_now(session, plan)
        settled_before = _settle_earlier_try(session, plan, verification)
        stored = _stored_batches(session, verification)
        leaves = drop_leaves(session, plan, verification.batches, stored)
        for batch, end in leaves.settled:
            _tell(session, batch, (end,))
        found = session.for_each(leaves.remaining, work)
    ended = (*settled_before, *(end for _, end in leaves.settled), *(batch for batches in found for batch in batches))
    return Deletion(
        verification,
        ended,
        watch.seconds,
        plan.protections,
        stopped="; ".join(refusals),
        pauses=session.throttle.take_pauses(),
        leaves=leaves.ends,
        pace=session.delete_watch.take(plan.batch_size.rows),
    )


def _tell(session: ArchiveSession, batch: VerifiedBatch, settled: tuple[SettledBatch, ...]) -> None:
    for part in settled:
        session.progress.batch_settled(session.name, part)
    archived = sum(part.archived_rows for part in settled)
    session.progress.batch_finished(session.name, "delete", replace(batch_step(batch), rows=archived))


def _put_aside(
    session: ArchiveSession, plan: Plan, item: VerifiedBatch | Intent, stored: StoredBatch | None, reason: str
) -> SettledBatch:
    if isinstance(item, Intent):
        return give_up(session, plan, item, reason)
    return put_aside(session, plan, item, stored, reason)


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
    intent = intend_batch(session, plan, batch, stored)
    return (intent, None) if isinstance(intent, SettledBatch) else delete_intended(session, plan, intent)


def delete_intended(session: ArchiveSession, plan: Plan, intent: Intent) -> tuple[SettledBatch, LeftBehind | None]:
    """As `delete_batch`, for a batch whose manifest this run has just written."""
    manifest = intent.manifest
    versions = read_versions(intent.batch.encoded.extracted.versions_path)
    with session.delete_sessions(plan.shape).take() as deleting:
        try:
            with session.delete_watch.timing(versions.num_rows):
                deleting.delete_versions(versions, intent.guard(session))
        except RowsHeldError as refusal:
            record_held(session, manifest.batch_id, refusal.message)
            with deleting.in_peace(session.lock):
                settled = write_superseded(session, manifest, refusal.message, settled_by=SETTLED_BY)
            return settled, LeftBehind(0, 0, (), is_held=True)
        except (VersionsChangedError, RowsLockedError, DeleteRefusedError) as refusal:
            left = deleting.explain_refusal(versions, session.settings.lock_timeout_ms)
            reason = _reason(left) or refusal.message
            with deleting.in_peace(session.lock):
                settled = write_superseded(session, manifest, reason, settled_by=SETTLED_BY)
            return replace(settled, changed_rows=left.changed_rows, locked_rows=left.locked_rows), left
        return receipt_deleted(session, deleting, manifest), None


def _reason(left: LeftBehind) -> str:
    """Why a batch was refused, for people; empty when its rows do not tell."""
    if left.locked_rows:
        return "rows are locked by an application"
    return "rows changed since they were read" if left.changed_rows else ""


def _delete_with_second_pass(
    session: ArchiveSession, plan: Plan, item: VerifiedBatch | Intent, stored: StoredBatch | None
) -> tuple[SettledBatch, ...]:
    if isinstance(item, Intent):
        batch, (first, left) = item.batch, delete_intended(session, plan, item)
    else:
        batch, (first, left) = item, delete_batch(session, plan, item, stored)
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


def _stored_batches(session: ArchiveSession, verification: Verification) -> dict[str, StoredBatch]:
    """What the store holds beside the batches, by stem: one listing per window instead of one per batch."""
    folders = {batch.encoded.key.rpartition("/")[0] + "/" for batch in verification.batches}
    listed = (found for folder in folders for found in group_batches(session.store.list_objects(folder)))
    return {batch.stem: batch for batch in listed}
