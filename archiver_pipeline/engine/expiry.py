"""Expiry: archives whose own retention is over leave the store, one by one, each only while nothing is in the way.

Per archive, under the table lock and while no hold can be written: an intent beside it, an entry of the audit trail,
the removal of data object and manifest in every version, and a receipt of the expiry. An interruption anywhere leaves
the intent, which the next expiry finishes, or says why not. The receipt of the archive stays: it names no row.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime

from archiver_pipeline.codec.documents import decode_document, encode_mark
from archiver_pipeline.codec.hashing import sha256_hex
from archiver_pipeline.domain.audit import AuditKind
from archiver_pipeline.domain.expiry import ExpiringArchive, ExpiryOutcome, ExpiryPlan, SettledExpiry
from archiver_pipeline.domain.layout import (
    EXPIRED_SUFFIX,
    EXPIRY_SUFFIX,
    MANIFEST_SUFFIX,
    RECEIPT_SUFFIX,
    BatchState,
    StoredBatch,
    group_batches,
)
from archiver_pipeline.domain.manifest import FORMAT_VERSION, Expired, ExpiryIntent, Manifest, Receipt
from archiver_pipeline.domain.protection import Protection, longest_protection
from archiver_pipeline.domain.retention import is_past_retention
from archiver_pipeline.domain.validation import (
    contradictions_of_expiry,
    contradictions_of_key,
    contradictions_of_manifest,
    contradictions_of_receipt,
)
from archiver_pipeline.domain.windows import start_of_day
from archiver_pipeline.engine.archived import list_stored
from archiver_pipeline.engine.holds import block_of_expiry, holds_kept_still
from archiver_pipeline.engine.inventory import moment_of_key, window_of_batch
from archiver_pipeline.engine.progress import BatchStep
from archiver_pipeline.engine.protection import session_protections
from archiver_pipeline.engine.selection import moment_of_text
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ManifestError, StoreError
from archiver_pipeline.postgres.connection import source_errors
from archiver_pipeline.postgres.eligible import source_clock
from archiver_pipeline.storage.s3 import ObjectExistsError, ObjectLockedError, ObjectMissingError

STEP = "expire"
_REASONS_TOLD = 20


def plan_expiry(session: ArchiveSession, *, before: date | None = None) -> ExpiryPlan:
    """Which archives of the table are past `archive_retention_days`, and what is in the way of each. Changes nothing.

    `before` takes only archives whose last row is before the day; it never takes one that is not past retention.
    What is wrong with one archive blocks that one. Raises whatever keeps us from looking: holds, protections or a
    listing that can't be read.
    """
    with source_errors(session.primary):
        now = source_clock(session.connection).astimezone(UTC)
        protections = session_protections(session)
    hold = block_of_expiry(session)
    listed = [batch for batch in list_stored(session.store, session.name) if _may_expire(batch)]
    looked_at = tuple(batch for batch in listed if _may_be_due(session, batch, listed, now))
    look = _Look(session, before, now, hold, protections)
    archives = tuple(found for found in session.for_each(looked_at, look.at) if found is not None)
    days = session.settings.archive_retention_days
    return ExpiryPlan(session.name, now, days, before, archives, younger=len(listed) - len(archives))


def apply_expiry(session: ArchiveSession, *, before: date | None = None) -> Iterator[SettledExpiry]:
    """Remove what `plan_expiry` finds ready, one archive after the other; blocked ones are told, too.

    Takes the table lock, so that no run and no restore into the table is under way. An error ends it where it is: what
    was told before is done. Safe to repeat, and to interrupt at any instant.
    Raises LockHeldError, LockLostError, and whatever keeps us from looking, removing or recording.
    """
    with source_errors(session.primary):
        session.lock.require_held()
    plan = plan_expiry(session, before=before)
    record_plan(session, plan)
    session.progress.step_started(session.name, STEP, len(plan.ready), sum(archive.rows for archive in plan.ready))
    for archive in plan.archives:
        settled = SettledExpiry(archive, ExpiryOutcome.blocked, archive.blocked)
        if not archive.blocked:
            settled = _expire(session, archive)
            if settled.reason:
                record_expiry(session, archive, settled.outcome.value, reason=settled.reason)
            session.progress.batch_finished(session.name, STEP, _step_of(settled))
        yield settled
    session.close_workers()


class _Look:
    """One look at a table's archives: what all of them share."""

    def __init__(
        self,
        session: ArchiveSession,
        before: date | None,
        now: datetime,
        hold: str,
        protections: list[Protection],
    ) -> None:
        self._session, self._before, self._now = session, before, now
        self._hold, self._protections = hold, protections

    def at(self, stored: StoredBatch) -> ExpiringArchive | None:
        """The archive with what is in its way; None when its time has not come."""
        found = _unread(stored)
        try:
            receipt = read_own_receipt(self._session, stored)
        except (ManifestError, ObjectMissingError) as error:
            return replace(found, blocked=f"its receipt can't be read: {error.message}")
        found = replace(
            found,
            data_key=receipt.data_key,
            rows=receipt.rows,
            object_bytes=receipt.object_bytes,
            first_row_time=receipt.first_row_time,
            last_row_time=receipt.last_row_time,
        )
        last, days = moment_of_text(receipt.last_row_time), self._session.settings.archive_retention_days
        if self._before is not None and last >= start_of_day(self._before):
            return None
        if days is None or not is_past_retention(last, days, self._now):
            # An intent whose policy was changed since stays visible.
            kept = "its removal was begun, but it is not past archive_retention_days as it is now"
            return replace(found, blocked=kept) if found.is_unfinished else None
        return replace(found, blocked=self._blocked(stored, receipt))

    def _blocked(self, stored: StoredBatch, receipt: Receipt) -> str:
        if self._hold:
            return self._hold
        window = window_of_batch(self._session.settings, stored.window_key)
        if protection := longest_protection(window, self._protections):
            return str(protection)
        if doubt := doubt_about(self._session, stored):
            return doubt
        return self._session.store.lock_on_batch(receipt.data_key, self._now)


def doubt_about(session: ArchiveSession, stored: StoredBatch) -> str:
    """Why it is not sure that the batch's documents are true; empty when they agree. Of an archive whose removal was
    begun only what is left is held against the receipt."""
    try:
        return next(_doubts(session, stored), "")
    except (ManifestError, ObjectMissingError) as error:
        return f"a document can't be read: {error.message}"


def _doubts(session: ArchiveSession, stored: StoredBatch) -> Iterator[str]:
    yield from contradictions_of_key(stored, session.store_settings.prefix, session.name)
    receipt = read_own_receipt(session, stored)
    manifest, manifest_sha256 = None, None
    if stored.has_manifest:
        data = session.store.read_document(stored.stem + MANIFEST_SUFFIX)
        manifest = decode_document(Manifest, data, key=stored.stem + MANIFEST_SUFFIX)
        manifest_sha256 = sha256_hex(data)
        yield from contradictions_of_manifest(manifest, stored, session.name)
    yield from contradictions_of_receipt(receipt, stored, manifest, manifest_sha256)
    if stored.data_key and stored.object_bytes != receipt.object_bytes:
        yield f"its data object has {stored.object_bytes} bytes instead of {receipt.object_bytes}"
    if stored.state is BatchState.receipted and not (stored.data_key and stored.has_manifest):
        yield f"its {'manifest' if stored.data_key else 'data object'} is missing: `archiver validate` says more"
    if stored.has_expiry:
        intent = read_intent(session, stored)
        sha256 = {RECEIPT_SUFFIX: _receipt_sha256(session, stored.stem)}
        yield from contradictions_of_expiry(intent, None, stored, receipt, sha256)


def read_own_receipt(session: ArchiveSession, stored: StoredBatch) -> Receipt:
    """Raises ManifestError when it is no receipt of this batch, ObjectMissingError without one."""
    key = stored.stem + RECEIPT_SUFFIX
    receipt = decode_document(Receipt, session.store.read_document(key), key=key)
    if receipt.batch_id != stored.batch_id or not receipt.data_key.startswith(f"{stored.stem}."):
        raise ManifestError(f"{key} is the receipt of another batch", hint="was it copied here?")
    return receipt


def read_intent(session: ArchiveSession, stored: StoredBatch) -> ExpiryIntent:
    """Raises ManifestError when it is no intent that this version knows, ObjectMissingError without one."""
    key = stored.stem + EXPIRY_SUFFIX
    return decode_document(ExpiryIntent, session.store.read_document(key), key=key)


def _expire(session: ArchiveSession, archive: ExpiringArchive) -> SettledExpiry:
    """The whole protocol for one archive. Everything that was planned is asked again: a hold may have been placed, and
    documents changed, while others were removed."""
    with holds_kept_still(session):
        session.lock.require_held()
        if reason := block_of_expiry(session) or _doubt_now(session, archive):
            return SettledExpiry(archive, ExpiryOutcome.blocked, reason)
        write_intent(session, archive)
        record_expiry(session, archive, "intended")
        session.lock.require_held()
        if reason := block_of_expiry(session):
            return SettledExpiry(archive, ExpiryOutcome.blocked, reason)
        try:
            removed = session.store.remove_expired(archive.data_key, _now(session))
        except ObjectLockedError as error:
            return SettledExpiry(archive, ExpiryOutcome.unfinished, error.message)
        record_expiry(session, archive, "removed", removed_versions=removed)
        write_expired(session, archive, removed)
    return SettledExpiry(archive, ExpiryOutcome.expired, removed_versions=removed)


def _doubt_now(session: ArchiveSession, archive: ExpiringArchive) -> str:
    beside = group_batches(session.store.list_objects(f"{archive.stem}."))
    stored = next((batch for batch in beside if batch.stem == archive.stem), None)
    if stored is None or not _may_expire(stored):
        return "it is no archive any more"
    return doubt_about(session, stored)


def write_intent(session: ArchiveSession, archive: ExpiringArchive) -> None:
    """Say that the archive is to be removed, before any of it is. One that an earlier try wrote stays."""
    days = session.settings.archive_retention_days
    if days is None:
        raise StoreError(f"{archive.data_key}: no archive_retention_days is configured, so it stays for ever")
    who = session.audit.who
    intent = ExpiryIntent(
        format_version=FORMAT_VERSION,
        batch_id=archive.batch_id,
        data_key=archive.data_key,
        receipt_sha256=_receipt_sha256(session, archive.stem),
        archive_retention_days=days,
        reason=f"its last row, of {archive.last_row_time}, is more than {days} days old",
        requested_by=f"{who.actor or who.os_user} on {who.host}",
        run_id=session.run_id,
        intended_at=_now(session).isoformat(),
    )
    _create_once(session, archive.stem + EXPIRY_SUFFIX, encode_mark(intent))


def record_plan(session: ArchiveSession, plan: ExpiryPlan) -> None:
    """What is about to be removed, and what is not and why, as an entry of the audit trail; none for nothing."""
    if not plan.archives:
        return
    session.audit.record(
        AuditKind.expiry,
        event="plan",
        archive_retention_days=plan.archive_retention_days,
        before=plan.before.isoformat() if plan.before else None,
        ready_batches=len(plan.ready),
        ready_rows=sum(archive.rows for archive in plan.ready),
        blocked_batches=len(plan.blocked),
        blocked_reasons=sorted({archive.blocked for archive in plan.blocked})[:_REASONS_TOLD],
    )


def record_expiry(session: ArchiveSession, archive: ExpiringArchive, event: str, **more: int | str) -> None:
    """An entry of the audit trail. Raises when it can't be written: then nothing goes on."""
    session.audit.record(
        AuditKind.expiry,
        event=event,
        batch_id=archive.batch_id,
        data_key=archive.data_key,
        window=archive.window_key,
        rows=archive.rows,
        object_bytes=archive.object_bytes,
        last_row_time=archive.last_row_time,
        archive_retention_days=session.settings.archive_retention_days,
        **more,
    )


def write_expired(session: ArchiveSession, archive: ExpiringArchive, removed_versions: int) -> None:
    """Record that nothing of data object and manifest is left, after the store was asked. Safe to repeat."""
    intent = session.store.read_document(archive.stem + EXPIRY_SUFFIX)
    expired = Expired(
        format_version=FORMAT_VERSION,
        batch_id=archive.batch_id,
        data_key=archive.data_key,
        receipt_sha256=_receipt_sha256(session, archive.stem),
        expiry_sha256=sha256_hex(intent),
        rows=archive.rows,
        object_bytes=archive.object_bytes,
        removed_versions=removed_versions,
        run_id=session.run_id,
        expired_at=_now(session).isoformat(),
    )
    _create_once(session, archive.stem + EXPIRED_SUFFIX, encode_mark(expired))


def _create_once(session: ArchiveSession, key: str, data: bytes) -> None:
    try:
        session.store.put_document(key, data)
    except ObjectExistsError:
        return


def _may_expire(stored: StoredBatch) -> bool:
    """Only a batch with a receipt can; one that is expired has."""
    return stored.state in (BatchState.receipted, BatchState.expiring)


def _may_be_due(session: ArchiveSession, stored: StoredBatch, listed: list[StoredBatch], now: datetime) -> bool:
    """Whether it is worth to read the receipt. A window's rows are not older than its start, but in the first one."""
    days = session.settings.archive_retention_days
    if days is None or stored.has_expiry:
        return stored.has_expiry
    is_oldest = stored.window_key == min(batch.window_key for batch in listed)
    return is_oldest or is_past_retention(moment_of_key(stored.window_key), days, now)


def _unread(stored: StoredBatch) -> ExpiringArchive:
    return ExpiringArchive(
        stem=stored.stem,
        window_key=stored.window_key,
        batch_id=stored.batch_id,
        data_key=stored.data_key or "",
        rows=0,
        object_bytes=stored.object_bytes,
        first_row_time="",
        last_row_time="",
        is_unfinished=stored.has_expiry,
    )


def _step_of(settled: SettledExpiry) -> BatchStep:
    archive, is_done = settled.archive, settled.outcome is ExpiryOutcome.expired
    rows, object_bytes = (archive.rows, archive.object_bytes) if is_done else (0, 0)
    return BatchStep(rows, object_bytes, archive.window_key, archive.batch_id, archive.data_key)


def _receipt_sha256(session: ArchiveSession, stem: str) -> str:
    return sha256_hex(session.store.read_document(stem + RECEIPT_SUFFIX))


def _now(session: ArchiveSession) -> datetime:
    with source_errors(session.primary):
        return source_clock(session.connection).astimezone(UTC)
