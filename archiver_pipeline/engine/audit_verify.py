"""Verifying a trail: the chain by itself, the chain against anchors, and its entries against the receipts in the store.

Only the store is asked. Nothing is changed, and no entry is written.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter

import orjson

from archiver_pipeline.codec.hashing import sha256_hex
from archiver_pipeline.domain.audit import (
    EMPTY_TRAIL,
    AuditEntry,
    AuditHead,
    AuditKind,
    AuditLink,
    BatchFate,
    TrailAnchor,
    TrailFinding,
    TrailFindingKind,
    TrailReport,
)
from archiver_pipeline.domain.layout import MANIFEST_SUFFIX, RECEIPT_SUFFIX, SUPERSEDED_SUFFIX, StoredBatch
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.archived import iter_stored
from archiver_pipeline.engine.trail import READERS, Chain, StoredLink
from archiver_pipeline.storage.s3 import ObjectMissingError, S3Store

_AT_ONCE = 1024


def verify_trail(store: S3Store, name: TableName, anchors: Sequence[TrailAnchor] = ()) -> TrailReport:
    """Walk the whole chain, hold it against the anchors of this table, and against every receipt and mark in the store.

    Raises what the store raises: a trail that could not be looked at is not clean.
    """
    started = perf_counter()
    own = [anchor for anchor in anchors if anchor.name == name]
    # Before the chain: a receipt that is listed had its entry by then.
    stored = list(iter_stored(store, name))
    chain, told = Chain(store, name), _Told(own)
    for link in chain.links():
        told.add(link)
    findings = [*chain.findings, *_against_anchors(told, chain.last, own)]
    receipts = 0
    older = 0
    for batch, key, data in _documents(store, stored):
        receipts += key.endswith(RECEIPT_SUFFIX)
        if key not in told.documents and _is_older(data, told.begins_at):
            older += 1
        elif (finding := _untold(told, key, data)) is not None:
            findings.append(finding)
        if batch.has_receipt and batch.data_key is None and not told.is_expired(batch.batch_id):
            findings.append(TrailFinding(TrailFindingKind.gone, batch.stem, None, "its data object is not there"))
    unproven, pending = _unproven(store, told, {batch.batch_id for batch in stored if batch.has_receipt})
    findings += unproven
    if not told.links and receipts:
        message = f"there are {receipts} receipts and no trail at all"
        findings.append(TrailFinding(TrailFindingKind.missing, str(name), None, message))
    return TrailReport(
        table=name,
        links=told.links,
        entries=told.entries,
        head=_head_of(chain.last),
        receipts=receipts,
        anchors=len(own),
        findings=tuple(findings),
        notes=tuple(_notes(told, older, pending)),
        seconds=perf_counter() - started,
    )


@dataclass
class _Told:
    """What the entries say that the store must agree with."""

    anchors: Sequence[TrailAnchor]
    links: int = 0
    entries: int = 0
    begins_at: str = ""
    documents: dict[str, set[str]] = field(default_factory=dict)
    """The hashes of each receipt's or mark's key: several when a crash lay between an entry and its document."""
    archived: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By batch id, what a receipt must be there for: its key and the link."""
    void: set[str] = field(default_factory=set)
    expired: set[str] = field(default_factory=set)
    hashes: dict[int, str] = field(default_factory=dict)

    def add(self, stored: StoredLink) -> None:
        self.links += 1
        if any(anchor.sequence == stored.sequence for anchor in self.anchors):
            self.hashes[stored.sequence] = stored.sha256
        if stored.link is None:
            return
        for entry in stored.link.entries:
            self.entries += 1
            self.begins_at = self.begins_at or entry.at
            self._add_entry(stored.link, entry)

    def is_expired(self, batch_id: str) -> bool:
        return batch_id in self.expired

    def _add_entry(self, link: AuditLink, entry: AuditEntry) -> None:
        if entry.kind is AuditKind.expiry:
            self.expired.update(batches_of_expiry(entry))
        if entry.kind is not AuditKind.batch or "document_key" not in entry.facts:
            return
        key, batch_id = entry.facts["document_key"], entry.facts["batch_id"]
        self.documents.setdefault(key, set()).add(entry.facts["document_sha256"])
        if BatchFate(entry.facts["fate"]).is_archived:
            self.archived[batch_id] = (key, link.sequence)
        else:
            self.void.add(batch_id)


_REMOVING = ("intended", "removed")


def batches_of_expiry(entry: AuditEntry) -> list[str]:
    """The batches of which an entry of kind expiry says that they are, or are about to be, removed."""
    batch_id = entry.facts.get("batch_id")
    return [batch_id] if isinstance(batch_id, str) and entry.facts.get("event") in _REMOVING else []


def _documents(store: S3Store, stored: list[StoredBatch]) -> Iterator[tuple[StoredBatch, str, bytes]]:
    """Every receipt and every mark with its bytes, some at a time."""
    wanted = [(batch, batch.stem + RECEIPT_SUFFIX) for batch in stored if batch.has_receipt]
    wanted += [(batch, batch.stem + SUPERSEDED_SUFFIX) for batch in stored if batch.has_superseded]
    with ThreadPoolExecutor(READERS) as threads:
        for first in range(0, len(wanted), _AT_ONCE):
            some = wanted[first : first + _AT_ONCE]
            for (batch, key), data in zip(some, threads.map(lambda one: _read(store, one[1]), some), strict=True):
                yield batch, key, data


def _read(store: S3Store, key: str) -> bytes:
    """What is removed between listing and reading is as good as empty: its entry then has no receipt."""
    try:
        return store.read_document(key)
    except ObjectMissingError:
        return b""


def _is_older(data: bytes, begins_at: str) -> bool:
    """Whether a document says that it was written before the trail began."""
    try:
        settled_at = orjson.loads(data)["settled_at"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return False
    return isinstance(settled_at, str) and (not begins_at or settled_at < begins_at)


def _untold(told: _Told, key: str, data: bytes) -> TrailFinding | None:
    hashes = told.documents.get(key)
    if hashes is None:
        return TrailFinding(TrailFindingKind.untold, key, None, "no entry tells of it")
    if sha256_hex(data) not in hashes:
        return TrailFinding(TrailFindingKind.untold, key, None, "it has other bytes than its entry tells of")
    return None


def _unproven(store: S3Store, told: _Told, receipted: set[str]) -> tuple[list[TrailFinding], int]:
    """Receipts that must be there and are not; and how many batches are between their entry and their receipt now,
    because a run is at work or was interrupted."""
    found, pending = [], 0
    for batch_id, (key, sequence) in told.archived.items():
        if batch_id in told.expired or batch_id in told.void or batch_id in receipted:
            continue
        # The listing is older than the chain: look once more.
        beside = {one.key for one in store.list_objects(key.removesuffix(RECEIPT_SUFFIX) + ".")}
        if key in beside:
            continue
        if key.removesuffix(RECEIPT_SUFFIX) + MANIFEST_SUFFIX in beside:
            pending += 1
            continue
        message = f"link {sequence} says that the batch's rows left the table, and this receipt is not there"
        found.append(TrailFinding(TrailFindingKind.unproven, key, sequence, message))
    return found, pending


def _against_anchors(told: _Told, last: StoredLink | None, anchors: Sequence[TrailAnchor]) -> Iterator[TrailFinding]:
    end = last.sequence if last else 0
    for anchor in anchors:
        if anchor.sequence == 0 or told.hashes.get(anchor.sequence) == anchor.sha256:
            continue
        subject = f"{anchor.name} link {anchor.sequence}"
        if anchor.sequence > end:
            message = f"the anchor names it, and the chain ends at {end}"
            yield TrailFinding(TrailFindingKind.truncated, subject, anchor.sequence, message)
        else:
            message = "it is not the link that the anchor names"
            yield TrailFinding(TrailFindingKind.rewritten, subject, anchor.sequence, message)


def _head_of(last: StoredLink | None) -> AuditHead:
    if last is None:
        return EMPTY_TRAIL
    if last.link is None:
        return AuditHead(last.sequence, last.sha256)
    return AuditHead(last.sequence, last.sha256, last.link.configuration_sha256, last.link.configuration_sequence)


def _notes(told: _Told, older: int, pending: int) -> Iterator[str]:
    if not told.links:
        yield "there is no trail yet"
    if pending:
        yield f"{pending} batches have their entry and no receipt yet: a run is at work, or the next one settles them"
    if older:
        yield f"{older} receipts and marks are older than the trail, by the times they state: no entry can tell of them"
    if told.links and not told.anchors:
        yield "no anchor was given: that links are missing at the end, or all were written anew, would not be seen"
