"""Making deletion certificates: only the store is asked, and every document and object is read anew."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import orjson

from archiver_pipeline.codec.documents import decode_document
from archiver_pipeline.codec.hashing import sha256_hex
from archiver_pipeline.codec.jsonl import decode_jsonl, whole_lines
from archiver_pipeline.domain.audit import AuditEntry, AuditKind, BatchFate
from archiver_pipeline.domain.certificate import (
    Certificate,
    CertifiedRow,
    CertifiedState,
    Check,
    CheckOutcome,
    Restored,
    TrailPlace,
)
from archiver_pipeline.domain.layout import (
    MANIFEST_SUFFIX,
    RECEIPT_SUFFIX,
    BatchState,
    DataFormat,
    StoredBatch,
)
from archiver_pipeline.domain.manifest import Manifest, Receipt
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.validation import contradictions_of_manifest, contradictions_of_receipt
from archiver_pipeline.engine.archived import blocks_of, list_stored, proved_object
from archiver_pipeline.engine.audit_verify import batches_of_expiry
from archiver_pipeline.engine.trail import READERS, Chain, StoredLink
from archiver_pipeline.errors import ConfigError, ManifestError, StoreError, VerificationError
from archiver_pipeline.storage.s3 import ObjectColdError, ObjectMissingError, S3Store

_STATES = {
    BatchState.receipted: CertifiedState.archived,
    BatchState.pending: CertifiedState.pending,
    BatchState.superseded: CertifiedState.superseded,
    BatchState.expiring: CertifiedState.archived,
    BatchState.expired: CertifiedState.expired,
    BatchState.orphaned: CertifiedState.pending,
}


@dataclass(frozen=True, slots=True)
class Certified:
    """The certificates of what was asked for; `searched` is how many batches were searched for a key."""

    certificates: tuple[Certificate, ...]
    searched: int


def certify_batch(store: S3Store, name: TableName, batch_id: str) -> Certified:
    """The certificate of one batch; none when neither store nor trail knows it."""
    return _certified(store, name, lambda batch: batch.batch_id == batch_id, batch_id=batch_id)


def certify_window(store: S3Store, name: TableName, window: str) -> Certified:
    """The certificates of a window's batches that are not void."""
    return _certified(
        store,
        name,
        lambda batch: batch.window_key == window and batch.state is not BatchState.superseded,
        window=window,
    )


def certify_key(store: S3Store, name: TableName, key: str, *, window: str | None = None) -> Certified:
    """The certificates of every archived version of the row with this primary key, oldest first; none when it is in no
    archive. Every manifest is read, or those of one window.

    Raises ConfigError when the key does not have the columns of the archives' key.
    """
    batches = [one for one in list_stored(store, name) if one.has_manifest and one.state is not BatchState.superseded]
    batches = [one for one in batches if window in (None, one.window_key)]
    with ThreadPoolExecutor(READERS) as threads:
        rows = threads.map(lambda one: _rows_of_key(store, one, key), batches)
        found = {batch.stem: some for batch, some in zip(batches, rows, strict=True) if some}
    if not found:
        return Certified((), len(batches))
    certified = _certified(store, name, lambda batch: batch.stem in found, rows=found)
    return replace(certified, searched=len(batches))


def parse_key(text: str, columns: Sequence[str]) -> dict[str, str]:
    """A primary key as it is written: the value alone, `a=1,b=2`, or a JSON object. Values as text, by column.

    Raises ConfigError unless it names exactly these columns.
    """
    if len(columns) == 1 and not text.startswith("{"):
        value = text.removeprefix(f"{columns[0]}=")
        return {columns[0]: value}
    try:
        if text.startswith("{"):
            parts = {
                name: value if isinstance(value, str) else str(value) for name, value in orjson.loads(text).items()
            }
        else:
            parts = dict(part.split("=", 1) for part in text.split(","))
    except (ValueError, AttributeError):
        parts = {}
    if set(parts) != set(columns):
        raise ConfigError(
            f"--key {text!r} does not name the key {', '.join(columns)}",
            hint="write it like " + ",".join(f"{column}=…" for column in columns) + ", or as a JSON object",
        )
    return parts


Rows = dict[str, tuple[CertifiedRow, ...]]


def _rows_of_key(store: S3Store, batch: StoredBatch, key: str) -> tuple[CertifiedRow, ...]:
    """The batch's rows with this key: one, or none."""
    manifest = decode_document(Manifest, store.read_document(batch.stem + MANIFEST_SUFFIX), key=batch.stem)
    wanted = parse_key(key, manifest.primary_key)
    columns = [[str(value) for value in values] for values in manifest.keys]
    asked = tuple(wanted[name] for name in manifest.primary_key)
    found = [number for number, values in enumerate(zip(*columns, strict=True)) if values == asked]
    return tuple(_row(manifest, number) for number in found)


def _row(manifest: Manifest, number: int) -> CertifiedRow:
    ends = itertools.accumulate(run[1] for run in manifest.xmin_runs)
    xmin = next(run[0] for run, end in zip(manifest.xmin_runs, ends, strict=True) if number < end)
    key = {name: values[number] for name, values in zip(manifest.primary_key, manifest.keys, strict=True)}
    return CertifiedRow(key, xmin, number + 1)


@dataclass
class _Trail:
    """What the trail tells of batches."""

    links: int = 0
    entries: dict[str, list[tuple[AuditEntry, TrailPlace]]] = field(default_factory=dict)
    retention: dict[str, int] = field(default_factory=dict)
    restored: dict[str, list[Restored]] = field(default_factory=dict)
    expired: dict[str, str] = field(default_factory=dict)

    def add(self, stored: StoredLink) -> None:
        self.links += 1
        for entry in stored.link.entries if stored.link else ():
            facts = entry.facts
            if entry.kind is AuditKind.batch and "document_key" in facts:
                place = TrailPlace(stored.sequence, stored.sha256, entry.entry_id, entry.at, stored.key)
                self.entries.setdefault(facts["batch_id"], []).append((entry, place))
            elif entry.kind is AuditKind.plan and "retention_days" in facts:
                self.retention[facts["attempt_id"]] = facts["retention_days"]
            elif entry.kind is AuditKind.restore and facts.get("outcome") == "restored":
                restored = Restored(
                    entry.at, facts["target"], facts["restored_rows"], facts["filtered_rows"], entry.who.run_id
                )
                self.restored.setdefault(facts["batch_id"], []).append(restored)
            elif entry.kind is AuditKind.expiry:
                self.expired |= dict.fromkeys(batches_of_expiry(entry), entry.at)


def _certified(
    store: S3Store,
    name: TableName,
    takes: Callable[[StoredBatch], bool],
    *,
    rows: Rows | None = None,
    batch_id: str | None = None,
    window: str | None = None,
) -> Certified:
    found = [batch for batch in list_stored(store, name) if takes(batch)]
    chain, trail = Chain(store, name), _Trail()
    for link in chain.links():
        trail.add(link)
    making = _Making(store, name, trail, _chain_check(chain, trail))
    made = [
        certificate for batch in found for certificate in making.certificates(batch, (rows or {}).get(batch.stem, ()))
    ]
    known = {batch.batch_id for batch in found}
    made += [
        making.of_trail_alone(told)
        for told, entries in trail.entries.items()
        if told not in known
        and (told == batch_id or entries[0][0].facts["window"] == window)
        and BatchFate(entries[-1][0].facts["fate"]).is_archived
    ]
    return Certified(tuple(sorted(made, key=lambda one: (one.deleted_at, one.batch_id))), len(found))


def _chain_check(chain: Chain, trail: _Trail) -> Check:
    what = "the table's audit trail is one unbroken chain"
    if not trail.links:
        return Check(what, CheckOutcome.not_possible, "there is no trail")
    if chain.findings:
        first = chain.findings[0]
        detail = f"{len(chain.findings)} findings, such as {first.kind.value}: {first.subject}: {first.message}"
        return Check(what, CheckOutcome.failed, detail)
    return Check(what, CheckOutcome.passed, f"{trail.links} links, each held against the one before it")


@dataclass(frozen=True, slots=True)
class _Making:
    """What the certificates of one table are made from."""

    store: S3Store
    name: TableName
    trail: _Trail
    chain: Check

    def certificates(self, batch: StoredBatch, rows: tuple[CertifiedRow, ...]) -> list[Certificate]:
        """One for the batch, or one for each of the rows."""
        if not batch.has_manifest:
            is_told = batch.batch_id in self.trail.entries
            return [self.of_trail_alone(batch.batch_id, batch)] if is_told else []
        documents = self._documents(batch)
        contents = _Contents(self.store, documents.manifest, rows)
        read = contents.check()
        return [self._certificate(batch, documents, read, row) for row in contents.rows or (None,)]

    def of_trail_alone(self, batch_id: str, batch: StoredBatch | None = None) -> Certificate:
        """Of a batch of which the store has no manifest any more, and a receipt at most: expired, or lost."""
        entry, place = self.trail.entries[batch_id][-1]
        if batch is not None and batch.has_receipt:
            data = self.store.read_document(batch.stem + RECEIPT_SUFFIX)
            entry, place = self._entry_of(batch, sha256_hex(data)) or (entry, place)
        facts = entry.facts
        at = self.trail.expired.get(batch_id)
        gone = Check("the archive's removal is told by the trail", CheckOutcome.passed, f"at {at}")
        if at is None:
            gone = Check("the batch's objects are in the store", CheckOutcome.failed, "none of them is there")
        return Certificate(
            table=self.name,
            state=CertifiedState.lost if at is None else CertifiedState.expired,
            bucket=self.store.settings.bucket,
            data_key=facts["data_key"],
            stored={},
            receipt_sha256=facts["document_sha256"],
            deleted_at=facts["settled_at"],
            archived_at=facts["extracted_at"],
            outcome=facts["fate"],
            deleted_by_run=entry.who.run_id,
            who=entry.who,
            software=entry.software,
            retention_days=self.trail.retention.get(facts["attempt_id"]),
            trail=place,
            row=None,
            restored=tuple(self.trail.restored.get(batch_id, ())),
            checks=(self.chain, gone),
            **{field: facts[field] for field in _FACTS_AS_THEY_ARE},
        )

    def _certificate(
        self, batch: StoredBatch, documents: "_Documents", read: tuple[Check, ...], row: CertifiedRow | None
    ) -> Certificate:
        manifest, receipt = documents.manifest, documents.receipt
        told = self._entry_of(batch, documents.receipt_sha256)
        state = self._state(batch)
        checks = (*documents.checks, *read, self._check_entry(documents, told), self.chain)
        if state is CertifiedState.expired:
            checks = (*documents.checks, self._check_entry(documents, told), self.chain)
        return Certificate(
            table=self.name,
            state=state,
            batch_id=batch.batch_id,
            window=manifest.window,
            window_start=manifest.window_start,
            window_end=manifest.window_end,
            cutoff=manifest.cutoff,
            retention_days=self.trail.retention.get(manifest.attempt_id),
            rows=manifest.rows,
            first_row_time=manifest.first_row_time,
            last_row_time=manifest.last_row_time,
            archived_at=manifest.extracted_at,
            deleted_at=receipt.settled_at if receipt else "",
            outcome=receipt.outcome.value if receipt else "",
            settled_by=receipt.settled_by if receipt else "",
            archived_by_run=manifest.run_id,
            deleted_by_run=receipt.run_id if receipt else "",
            who=told[0].who if told else None,
            software=manifest.software,
            bucket=self.store.settings.bucket,
            data_key=manifest.data_key,
            stored=self._described(manifest.data_key),
            object_bytes=manifest.object_bytes,
            object_sha256=manifest.object_sha256,
            rows_sha256=manifest.rows_sha256,
            manifest_sha256=documents.manifest_sha256,
            receipt_sha256=documents.receipt_sha256,
            trail=told[1] if told else None,
            row=row,
            restored=tuple(self.trail.restored.get(batch.batch_id, ())),
            checks=checks,
        )

    def _documents(self, batch: StoredBatch) -> "_Documents":
        data = self.store.read_document(batch.stem + MANIFEST_SUFFIX)
        manifest, digest = decode_document(Manifest, data, key=batch.stem + MANIFEST_SUFFIX), sha256_hex(data)
        problems = list(contradictions_of_manifest(manifest, replace(batch, data_key=manifest.data_key), self.name))
        if not batch.has_receipt:
            check = _documents_check("its manifest is of this table and key", problems)
            return _Documents(manifest, digest, None, "", (check,))
        data = self.store.read_document(batch.stem + RECEIPT_SUFFIX)
        receipt = decode_document(Receipt, data, key=batch.stem + RECEIPT_SUFFIX)
        problems += contradictions_of_receipt(receipt, batch, manifest, digest)
        check = _documents_check("manifest and receipt fit each other and this table", problems)
        return _Documents(manifest, digest, receipt, sha256_hex(data), (check,))

    def _state(self, batch: StoredBatch) -> CertifiedState:
        is_gone = batch.data_key is None and batch.batch_id in self.trail.expired
        return CertifiedState.expired if is_gone else _STATES[batch.state]

    def _described(self, key: str) -> dict[str, str]:
        try:
            return self.store.describe(key)
        except ObjectMissingError:
            return {}

    def _entry_of(self, batch: StoredBatch, receipt_sha256: str) -> tuple[AuditEntry, TrailPlace] | None:
        entries = self.trail.entries.get(batch.batch_id, [])
        return next((one for one in entries if one[0].facts["document_sha256"] == receipt_sha256), None)

    def _check_entry(self, documents: "_Documents", told: tuple[AuditEntry, TrailPlace] | None) -> Check:
        what = "the trail tells of this very receipt"
        if told is not None:
            return Check(what, CheckOutcome.passed, f"link {told[1].sequence}, entry {told[1].entry_id}")
        if self.trail.links == 0 or documents.receipt is None:
            return Check(what, CheckOutcome.not_possible, "there is no trail" if not self.trail.links else "no receipt")
        return Check(what, CheckOutcome.failed, "no entry has its SHA-256")


_FACTS_AS_THEY_ARE = (
    "batch_id",
    "window",
    "window_start",
    "window_end",
    "cutoff",
    "rows",
    "first_row_time",
    "last_row_time",
    "settled_by",
    "archived_by_run",
    "object_bytes",
    "object_sha256",
    "rows_sha256",
    "manifest_sha256",
)


@dataclass(frozen=True, slots=True)
class _Documents:
    """A batch's documents as they were read, and how they fit each other."""

    manifest: Manifest
    manifest_sha256: str
    receipt: Receipt | None
    receipt_sha256: str
    checks: tuple[Check, ...]


def _documents_check(what: str, problems: list[str]) -> Check:
    return Check(what, CheckOutcome.failed if problems else CheckOutcome.passed, "; ".join(problems))


@dataclass
class _Contents:
    """The data object read back, and the rows looked up in it."""

    store: S3Store
    manifest: Manifest
    rows: tuple[CertifiedRow, ...]

    def check(self) -> tuple[Check, ...]:
        """Read the object, hold it against its manifest, and find the rows in it; their hashes are noted."""
        what = "the data object was read back: size, SHA-256, row count and every primary key are the manifest's"
        try:
            with proved_object(self.store, self.manifest) as file:
                lines = self._lines(blocks_of(file))
        except ObjectColdError:
            return self._check_cold()
        except (VerificationError, ManifestError, ObjectMissingError) as error:
            return (Check(what, CheckOutcome.failed, error.message),)
        if not self.rows:
            return (Check(what, CheckOutcome.passed),)
        self.rows = tuple(replace(row, row_sha256=lines.get(row.row_number)) for row in self.rows)
        numbers = ", ".join(str(row.row_number) for row in self.rows)
        found = Check("the row was located in it by its primary key", CheckOutcome.passed, f"row {numbers}")
        return (Check(what, CheckOutcome.passed), found)

    def _check_cold(self) -> tuple[Check, ...]:
        content = Check(
            "the data object's content",
            CheckOutcome.not_possible,
            f"it is in {self.manifest.storage_class} and must be retrieved first; it was read back before its rows were"
            " deleted",
        )
        what = "the store's own SHA-256 of the data object is the manifest's"
        try:
            self.store.require_stored_checksum(self.manifest.data_key, self.manifest.object_sha256)
        except StoreError as error:
            return (content, Check(what, CheckOutcome.failed, error.message))
        return (content, Check(what, CheckOutcome.passed))

    def _lines(self, blocks: Iterator[bytes]) -> dict[int, str]:
        """SHA-256 of the wanted rows' lines, by row number; for JSON lines only. The object's keys are proved to be the
        manifest's, in order: so the number is the row."""
        wanted = {row.row_number for row in self.rows}
        if not wanted or self.manifest.format != DataFormat.jsonl_gz.value:
            return {}
        found, number = {}, 0
        for block in whole_lines(decode_jsonl(blocks)):
            for line in block.split(b"\n")[:-1]:
                number += 1
                if number in wanted:
                    found[number] = sha256_hex(line)
        return found
