"""The only changes a validation ever makes: settle pending batches, remove the data of batches long void.

Both are safe whatever is wrong elsewhere: settling follows reconcile's proof, and a superseded mark was written only
when no delete of the batch can have committed, so its object holds no row's last copy.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from archiver_pipeline.codec.documents import decode_document
from archiver_pipeline.codec.hashing import sha256_hex
from archiver_pipeline.domain.layout import MANIFEST_SUFFIX, BatchState, StoredBatch
from archiver_pipeline.domain.manifest import Manifest
from archiver_pipeline.domain.validation import (
    Finding,
    FindingKind,
    Severity,
    contradictions_of_key,
    contradictions_of_manifest,
    contradictions_of_mark,
)
from archiver_pipeline.engine.archived import list_stored, read_superseded
from archiver_pipeline.engine.reconcile import pending_batches, reconcile_batch
from archiver_pipeline.engine.recording import record_repair, record_settling
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ManifestError, VerificationError
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline.postgres.connection import source_errors
from archiver_pipeline.postgres.eligible import source_clock
from archiver_pipeline.storage.s3 import ObjectColdError, ObjectMissingError

SUPERSEDED_GRACE = timedelta(days=7)
"""How long the data of a void batch is kept, by its mark and by the store, against the database's clock."""

_UNSETTLED_STEP = (
    "read docs/how-rows-are-proved.md, section reconcile; keep every object of this batch until it is settled"
)


@dataclass(frozen=True, slots=True)
class Repairs:
    """What was done, in words, and which batches could not be settled."""

    done: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def repair_table(session: ArchiveSession) -> Repairs:
    """Settle every pending batch, then remove void data objects, under the table lock, which is given back after.

    Raises LockHeldError when a run of the table is under way, PreflightError or PermissionDeniedError when the table
    could not be archived either. Safe to repeat, and to interrupt at any instant.
    """
    try:
        with source_errors(session.primary):
            session.lock.require_held()
            settled = _settle_pending(session)
            removed = _remove_void_data(session)
    finally:
        # A run must not wait for hours of reading: nothing after this needs the lock. The session opens again on use.
        session.close()
    return Repairs((*settled.done, *removed), settled.findings)


def _settle_pending(session: ArchiveSession) -> Repairs:
    """A batch that cannot be settled is left as it is and told; the others do not depend on it."""
    pending = pending_batches(session, list_stored(session.store, session.name))
    if not pending:
        return Repairs()
    shape = inspect_table(session.connection, session.settings)
    record_settling(session, [batch.batch_id for batch in pending])
    done, findings = [], []
    for batch in pending:
        try:
            settled = reconcile_batch(session, shape, batch)
        except (ManifestError, VerificationError, ObjectMissingError, ObjectColdError) as error:
            message = f"it could not be settled: {error}"
            findings.append(Finding(FindingKind.pending, Severity.finding, batch.stem, message, _UNSETTLED_STEP))
            continue
        session.progress.batch_settled(session.name, settled)
        done.append(f"{batch.stem}: settled as {settled.outcome.value}, {settled.rows} rows")
    return Repairs(tuple(done), tuple(findings))


def _remove_void_data(session: ArchiveSession) -> list[str]:
    """Listed anew, after settling; the store looks once more right before each removal."""
    removed = []
    superseded = [one for one in list_stored(session.store, session.name) if one.state is BatchState.superseded]
    void = [one.data_key for one in superseded if one.data_key and _is_surely_void(session, one)]
    record_repair(session, void)
    for key in void:
        session.lock.require_held()
        session.store.delete_superseded(key)
        removed.append(f"{key}: removed, void for more than {SUPERSEDED_GRACE.days} days")
    return removed


def _is_surely_void(session: ArchiveSession, batch: StoredBatch) -> bool:
    """Whether manifest and mark are this batch's, agree, and are old enough. What cannot be read is not sure."""
    now = source_clock(session.connection).astimezone(UTC)
    if batch.has_receipt or not batch.has_manifest or batch.modified_at > now - SUPERSEDED_GRACE:
        return False
    try:
        data = session.store.read_document(batch.stem + MANIFEST_SUFFIX)
        manifest = decode_document(Manifest, data, key=batch.stem + MANIFEST_SUFFIX)
        mark = read_superseded(session.store, batch.stem)
        settled_at = datetime.fromisoformat(mark.settled_at)
    except (ManifestError, ObjectMissingError, ValueError):
        return False
    if settled_at.tzinfo is None or settled_at > now - SUPERSEDED_GRACE:
        return False
    doubts = [
        *contradictions_of_key(batch, session.store_settings.prefix, session.name),
        *contradictions_of_manifest(manifest, batch, session.name),
        *contradictions_of_mark(mark, batch, sha256_hex(data)),
    ]
    return not doubts
