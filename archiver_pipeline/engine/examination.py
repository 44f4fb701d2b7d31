"""One batch held against everything that must be true of it: its objects, its documents, its data, the table."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import pyarrow as pa

from archiver_pipeline.codec.documents import decode_document
from archiver_pipeline.codec.hashing import sha256_hex
from archiver_pipeline.domain.layout import (
    EXPIRED_SUFFIX,
    EXPIRY_SUFFIX,
    MANIFEST_SUFFIX,
    RECEIPT_SUFFIX,
    SUPERSEDED_SUFFIX,
    BatchState,
    StoredBatch,
    group_batches,
)
from archiver_pipeline.domain.manifest import Expired, ExpiryIntent, Manifest, ManifestColumn, Receipt, Superseded
from archiver_pipeline.domain.validation import (
    UNFINISHED_GRACE,
    Finding,
    FindingKind,
    Severity,
    ValidationRequest,
    contradictions_of_expiry,
    contradictions_of_key,
    contradictions_of_manifest,
    contradictions_of_mark,
    contradictions_of_receipt,
)
from archiver_pipeline.engine.archived import key_columns, keys_of_manifest, proved_object
from archiver_pipeline.engine.duplicates import ArchivedVersions
from archiver_pipeline.engine.safekeeping import encryption_defect, retention_defect
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ManifestError, VerificationError
from archiver_pipeline.postgres.audit import LiveTable, count_live_versions
from archiver_pipeline.postgres.connection import source_errors
from archiver_pipeline.storage.s3 import ObjectColdError, ObjectMissingError

AUDITED_ROWS = 100
"""How many rows of each receipted batch, picked at random, are looked for in the table."""

_BRING_BACK = (
    "bring the object back from a replica, an older version in the bucket or a backup; change nothing beside it"
)
NEXT_STEPS = {
    FindingKind.in_table: "stop archiving this table and restore nothing of this object: find out whether the database"
    " was brought back from a backup, or the documents were written by hand",
    FindingKind.missing: _BRING_BACK,
    FindingKind.damaged: _BRING_BACK,
    FindingKind.contradictory: "find out who copied or changed these objects, and bring back the versions that were"
    " written together; delete nothing",
    FindingKind.unreadable: "bring the document back from a replica or an older version, or use the version of"
    " archiver_pipeline that wrote it",
    FindingKind.pending: "`archiver run` or `archiver validate --repair` settles it; delete none of its objects",
    FindingKind.unencrypted: "encrypt it by a copy onto itself with the encryption that s3.encryption names"
    " (`aws s3 cp` of the object to its own key with --sse); `archiver validate` then looks again",
    FindingKind.unlocked: "lock it, or lengthen its lock (`aws s3api put-object-retention`); find out whether it was"
    " archived before s3.object_lock was set, or somebody lifted the lock",
    FindingKind.orphaned: "an upload that never got a manifest: its rows were not deleted by it. Make sure that nobody"
    " removed its manifest and receipt; then it may be removed by hand while no run of the table is under way",
    FindingKind.expiring: "`archiver expire --apply` finishes it, or says what is in the way; delete nothing by hand",
    FindingKind.superseded: "nothing; `archiver validate --repair` removes its data after some days",
    FindingKind.cold: "nothing; retrieve the object to have it read",
}

Document = TypeVar("Document", Manifest, Receipt, Superseded, ExpiryIntent, Expired)


@dataclass(frozen=True, slots=True)
class Validation:
    """What all examinations of one validation share. `live` is None when no database is asked."""

    session: ArchiveSession
    request: ValidationRequest
    live: LiveTable | None


@dataclass(frozen=True, slots=True)
class Examined:
    """What one batch showed. `versions` is there when its documents agree and its rows count as archived."""

    stored: StoredBatch
    found: tuple[Finding, ...]
    rows: int = 0
    columns: tuple[ManifestColumn, ...] = ()
    versions: ArchivedVersions | None = None
    is_readable: bool = False
    read_rows: int = 0
    read_bytes: int = 0
    audited_rows: int = 0
    not_audited: str = ""


def examine_batch(validation: Validation, listed: StoredBatch) -> Examined:
    """All checks of one batch. What is wrong with the batch is a finding; what keeps us from looking is raised.

    Raises NetworkError, PermissionDeniedError or another error of store and database that says nothing of the batch.
    """
    stored = _looked_at_again(validation, listed)
    findings = _Findings(stored)
    _check_presence(findings, stored, validation.request.now)
    manifest, receipt = _check_documents(validation, findings, stored)
    if receipt is not None:
        _check_safekeeping(validation, findings, stored, receipt)
    if manifest is None or findings.has(FindingKind.contradictory):
        return Examined(stored, tuple(findings.found))
    try:
        keys = keys_of_manifest(manifest)
    except ManifestError as error:
        findings.add(FindingKind.contradictory, error.message)
        return Examined(stored, tuple(findings.found))
    if stored.state is BatchState.superseded:
        return Examined(stored, tuple(findings.found), columns=tuple(manifest.columns))
    has_read = _read_data(validation, findings, stored, manifest)
    is_archived = stored.is_archive
    audited, not_audited = _audit(validation, findings, manifest, keys) if is_archived else (0, "")
    return Examined(
        stored=stored,
        found=tuple(findings.found),
        rows=manifest.rows if is_archived else 0,
        columns=tuple(manifest.columns),
        versions=ArchivedVersions.of_manifest(manifest, keys) if is_archived else None,
        is_readable=stored.data_key is not None,
        read_rows=manifest.rows if has_read else 0,
        read_bytes=manifest.object_bytes if has_read else 0,
        audited_rows=audited,
        not_audited=not_audited,
    )


@dataclass
class _Findings:
    """What is found of one batch, in the order of looking."""

    stored: StoredBatch
    found: list[Finding] = field(default_factory=list)

    def add(
        self,
        kind: FindingKind,
        message: str,
        *,
        subject: str | None = None,
        severity: Severity = Severity.finding,
    ) -> None:
        about = subject or self.stored.data_key or self.stored.stem
        self.found.append(Finding(kind, severity, about, message, NEXT_STEPS[kind]))

    def add_all(self, kind: FindingKind, messages: Iterable[str]) -> None:
        for message in messages:
            self.add(kind, message)

    def has(self, kind: FindingKind) -> bool:
        return any(finding.kind is kind for finding in self.found)


def _looked_at_again(validation: Validation, listed: StoredBatch) -> StoredBatch:
    """The batch as it is now, if an object seemed to lack: a run may have written while the listing went on."""
    is_whole = listed.data_key is not None and listed.has_manifest
    if is_whole or listed.state in (BatchState.superseded, BatchState.expired):
        return listed
    beside = group_batches(validation.session.store.list_objects(f"{listed.stem}."))
    return next((batch for batch in beside if batch.stem == listed.stem), listed)


def _check_presence(findings: _Findings, stored: StoredBatch, now: datetime) -> None:
    state = stored.state
    unfinished = Severity.finding if now - stored.modified_at > UNFINISHED_GRACE else Severity.note
    if state is BatchState.orphaned:
        findings.add(FindingKind.orphaned, f"orphaned since {stored.modified_at:%Y-%m-%d %H:%M}", severity=unfinished)
    if state is BatchState.superseded:
        findings.add(FindingKind.superseded, "void: its rows are not archived by it", severity=Severity.note)
    if state is BatchState.pending:
        since = f"pending since {stored.modified_at:%Y-%m-%d %H:%M}"
        findings.add(FindingKind.pending, since, severity=unfinished)
    if state is BatchState.expiring:
        findings.add(
            FindingKind.expiring,
            f"its removal was begun and is not finished, since {stored.modified_at:%Y-%m-%d %H:%M}",
            severity=unfinished,
        )
    if state in (BatchState.receipted, BatchState.pending) and stored.data_key is None:
        findings.add(FindingKind.missing, f"missing object: the data of a {state.value} batch")
    if state is BatchState.receipted and not stored.has_manifest:
        key = stored.stem + MANIFEST_SUFFIX
        findings.add(FindingKind.missing, "missing object: the manifest of a receipted batch", subject=key)


def _check_documents(
    validation: Validation, findings: _Findings, stored: StoredBatch
) -> tuple[Manifest | None, Receipt | None]:
    """Manifest and receipt, if they can be read; whatever the documents contradict is a finding."""
    session = validation.session
    manifest, manifest_sha256 = _read(validation, findings, Manifest, MANIFEST_SUFFIX, stored.has_manifest)
    receipt, receipt_sha256 = _read(validation, findings, Receipt, RECEIPT_SUFFIX, stored.has_receipt)
    mark, _ = _read(validation, findings, Superseded, SUPERSEDED_SUFFIX, stored.has_superseded)
    wrong = FindingKind.contradictory
    findings.add_all(wrong, contradictions_of_key(stored, session.store_settings.prefix, session.name))
    if manifest is not None:
        findings.add_all(wrong, contradictions_of_manifest(manifest, stored, session.name))
    if receipt is not None:
        findings.add_all(wrong, contradictions_of_receipt(receipt, stored, manifest, manifest_sha256))
    if mark is not None:
        findings.add_all(wrong, contradictions_of_mark(mark, stored, manifest_sha256))
    if stored.has_expiry or stored.has_expired:
        _check_expiry(validation, findings, receipt, receipt_sha256)
    return manifest, receipt


def _check_safekeeping(validation: Validation, findings: _Findings, stored: StoredBatch, receipt: Receipt) -> None:
    """Whether the store says of every object of an archive that it is encrypted and locked as the table demands;
    costs nothing for tables that demand neither."""
    session = validation.session
    documents = [stored.stem + RECEIPT_SUFFIX, *([stored.stem + MANIFEST_SUFFIX] if stored.has_manifest else [])]
    keys = [*([stored.data_key] if stored.data_key else []), *documents]
    try:
        for key in keys if session.settings.must_encrypt else ():
            if defect := encryption_defect(session.store_settings, session.store.encryption_of(key)):
                findings.add(FindingKind.unencrypted, defect, subject=key)
        for key in keys if session.settings.lock_days else ():
            found, now = session.store.retention_of(key), validation.request.now
            if defect := retention_defect(session.store_settings, session.settings, found, receipt, now):
                findings.add(FindingKind.unlocked, defect, subject=key)
    except ObjectMissingError:
        findings.add(FindingKind.missing, "missing object: it was listed a moment ago")


def _check_expiry(
    validation: Validation, findings: _Findings, receipt: Receipt | None, receipt_sha256: str | None
) -> None:
    stored = findings.stored
    intent, intent_sha256 = _read(validation, findings, ExpiryIntent, EXPIRY_SUFFIX, stored.has_expiry)
    expired, _ = _read(validation, findings, Expired, EXPIRED_SUFFIX, stored.has_expired)
    known = {RECEIPT_SUFFIX: receipt_sha256, EXPIRY_SUFFIX: intent_sha256}
    sha256 = {suffix: value for suffix, value in known.items() if value is not None}
    found = contradictions_of_expiry(intent, expired, stored, receipt, sha256)
    findings.add_all(FindingKind.contradictory, found)


def _read(
    validation: Validation, findings: _Findings, kind: type[Document], suffix: str, is_there: bool
) -> tuple[Document | None, str | None]:
    key = findings.stored.stem + suffix
    if not is_there:
        return None, None
    try:
        data = validation.session.store.read_document(key)
        return decode_document(kind, data, key=key), sha256_hex(data)
    except ManifestError as error:
        findings.add(FindingKind.unreadable, str(error), subject=key)
    except ObjectMissingError:
        findings.add(FindingKind.missing, "missing object: it was listed a moment ago", subject=key)
    return None, None


def _read_data(validation: Validation, findings: _Findings, stored: StoredBatch, manifest: Manifest) -> bool:
    """Whether the data object was read back and proved. Its size is compared always, its bytes in its turn."""
    if stored.data_key is None:
        return False
    if stored.object_bytes != manifest.object_bytes:
        findings.add(FindingKind.damaged, f"it has {stored.object_bytes} bytes instead of {manifest.object_bytes}")
        return False
    if not validation.request.reads(stored.batch_id):
        return False
    try:
        with proved_object(validation.session.store, manifest):
            return True
    except VerificationError as error:
        findings.add(FindingKind.damaged, error.message.removeprefix(f"{manifest.data_key}: "))
    except ManifestError as error:
        findings.add(FindingKind.contradictory, error.message)
    except ObjectMissingError:
        findings.add(FindingKind.missing, "missing object: it was listed a moment ago")
    except ObjectColdError:
        findings.add(FindingKind.cold, f"cold, not read ({stored.storage_class})", severity=Severity.note)
    return False


def _audit(validation: Validation, findings: _Findings, manifest: Manifest, keys: pa.Table) -> tuple[int, str]:
    """How many of the batch's rows were looked for in the table, and why none was."""
    live = validation.live
    if live is None:
        return 0, ""
    if manifest.system_identifier != live.system_identifier:
        return 0, "archived from another cluster, whose row versions mean nothing in this one"
    key = live.key_like(key_columns(manifest))
    if key is None:
        return 0, "archived under a key whose columns the table no longer has"
    sample = keys.take(random.sample(range(keys.num_rows), min(keys.num_rows, AUDITED_ROWS)))
    session = validation.session
    with session.connections.take() as connection, source_errors(session.primary):
        present = count_live_versions(connection, live, key, sample)
    if present:
        findings.add(
            FindingKind.in_table, f"{present} of {sample.num_rows} rows looked up: row is in the table and archived"
        )
    return sample.num_rows, ""
