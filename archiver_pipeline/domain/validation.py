"""What a validation is asked for and what it found: pure words, rules of rotation, and the rule of agreement."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.domain.layout import (
    EXPIRY_SUFFIX,
    RECEIPT_SUFFIX,
    BatchState,
    DataFormat,
    StoredBatch,
    data_key,
    key_part,
    table_prefix,
)
from archiver_pipeline.domain.manifest import Expired, ExpiryIntent, Manifest, Receipt, Superseded
from archiver_pipeline.domain.table import TableName

MOST_BUCKETS = 30
"""However small the share, so many daily validations read every object."""
UNFINISHED_GRACE = timedelta(days=1)
"""What is younger may be a run at work: pending and orphaned batches, files in the local fallback folder."""
LONGEST_WINDOW = timedelta(days=31)

_ISO_DATE = len("2026-01-31")
Sha256: TypeAlias = Mapping[str, str]
"""SHA-256 of documents, hexadecimal, by suffix of their keys."""


class FindingKind(StrEnum):
    """What can be wrong, the most serious first; then what is only worth knowing."""

    in_table = "in_table"
    """A row version that a receipt says is gone is in the table."""
    missing = "missing"
    """An object that must be there is not."""
    damaged = "damaged"
    """A data object is not what its manifest says."""
    duplicated = "duplicated"
    """One batch id or one row version is archived twice."""
    contradictory = "contradictory"
    """Documents of a batch do not agree with each other, with their key or with the table."""
    unreadable = "unreadable"
    """A document is no document that this version knows."""
    pending = "pending"
    """A manifest without a receipt: its rows may be in the table, or only in its object."""
    unencrypted = "unencrypted"
    """An archive that the store does not say it encrypted as its table demands."""
    unlocked = "unlocked"
    """An archive whose lock is missing or shorter than the configuration says."""
    orphaned = "orphaned"
    """An object that no manifest knows."""
    expiring = "expiring"
    """An intent to expire that was not carried out."""
    fallback = "fallback"
    """A file in the local fallback folder that no run has uploaded."""
    superseded = "superseded"
    """A void batch."""
    cold = "cold"
    """A data object in a cold class that was not read."""
    drift = "drift"
    """Columns of archives differ from each other or from the table's."""


class Severity(StrEnum):
    """A finding makes a validation fail; a note does not."""

    finding = "finding"
    note = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `subject` names the object, batch or file that it is about."""

    kind: FindingKind
    severity: Severity
    subject: str
    message: str
    next_step: str


@dataclass(frozen=True, slots=True)
class ValidationRequest:
    """Which archives of a table to validate, and how.

    `now` is aware, by the clock of who asks; `day` decides which share of the objects is read. `data_key` names any
    object of the only batch to take; else batches are taken whose windows overlap with the days `start` to `end`
    (UTC, both inclusive, None is open). `offline` asks no database. `repair` first settles pending batches and removes
    the data of batches that have long been void.
    """

    now: datetime
    day: date
    sample_percent: float = 100.0
    start: date | None = None
    end: date | None = None
    data_key: str | None = None
    offline: bool = False
    repair: bool = False

    @property
    def takes_all(self) -> bool:
        """Whether every batch of the table is looked at."""
        return self.data_key is None and self.start is None and self.end is None

    def reads(self, batch_id: str) -> bool:
        """Whether this batch's data object is in the day's share."""
        return bucket_of(batch_id, self.sample_percent) == self.day.toordinal() % buckets_of(self.sample_percent)


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """What the validation of one table saw.

    `batches` counts per state, `rows` and `object_bytes` are those of all archives by their documents, without expired
    ones;
    `read_*` are what was read back and proved. `readable_objects` could have been read, had the share been all of them.
    `audited_rows` were looked for in the table; None when the table was not asked. `repairs` says in words what
    `--repair` did.
    """

    table: TableName
    run_id: str
    day: date
    sample_percent: float
    batches: dict[str, int]
    rows: int
    object_bytes: int
    readable_objects: int
    read_objects: int
    read_rows: int
    read_bytes: int
    audited_rows: int | None
    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    warnings: tuple[str, ...]
    repairs: tuple[str, ...]
    seconds: float

    @property
    def is_empty(self) -> bool:
        """Whether no archive was found, not even an expired one, so that there was nothing to be valid."""
        found = (BatchState.receipted, BatchState.expiring, BatchState.expired)
        return not any(self.batches.get(state.value, 0) for state in found)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong. An empty report can be clean: ask `is_empty` first."""
        return not self.findings

    @property
    def read_share(self) -> float:
        """The share of the readable objects that was read and proved, 0 to 1."""
        return self.read_objects / self.readable_objects if self.readable_objects else 0.0


def buckets_of(sample_percent: float) -> int:
    """Over how many days the reading of all objects is spread: 100 / percent, rounded up, at most MOST_BUCKETS.

    Raises ValueError when the percentage is not above 0 and at most 100.
    """
    if not 0 < sample_percent <= 100:
        raise ValueError(f"a sample of {sample_percent:g} % is not above 0 % and at most 100 %")
    return min(MOST_BUCKETS, math.ceil(100 / sample_percent))


def bucket_of(batch_id: str, sample_percent: float) -> int:
    """The day of the rotation on which a batch is read: always the same one, whatever other batches there are."""
    digest = hashlib.sha256(batch_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % buckets_of(sample_percent)


def start_of_window(window_key: str) -> datetime:
    """The moment that a window key names. Raises ValueError when it names none."""
    text = window_key if len(window_key) == _ISO_DATE else f"{window_key}:00"
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def contradictions_of_key(stored: StoredBatch, prefix: str, name: TableName) -> Iterator[str]:
    """How a batch's key differs from the key that its own parts lead to."""
    try:
        day = start_of_window(stored.window_key).strftime("year=%Y/month=%m/day=%d")
    except ValueError:
        yield f"its key names no window: {stored.window_key}"
        return
    file = f"{key_part(name.table)}_{stored.window_key}_{stored.batch_id}"
    if stored.stem != f"{table_prefix(prefix, name)}{day}/{file}":
        yield "it lies where its window and table do not belong"


def contradictions_of_manifest(manifest: Manifest, stored: StoredBatch, name: TableName) -> Iterator[str]:
    """How a manifest differs from the key it lies under and the table it lies with."""
    own: dict[str, object] = {
        "database": name.database,
        "schema": name.schema,
        "table": name.table,
        "batch_id": stored.batch_id,
        "window": stored.window_key,
        "data_key": _data_key_by(manifest, stored),
    }
    yield from _differences("the manifest", manifest, own)
    yield from _contradictions_of_window(manifest)
    if manifest.rows <= 0:
        yield f"the manifest has {manifest.rows} rows"


def contradictions_of_receipt(
    receipt: Receipt, stored: StoredBatch, manifest: Manifest | None, manifest_sha256: str | None
) -> Iterator[str]:
    """How a receipt differs from its key and from the manifest it was written for."""
    own: dict[str, object] = {"batch_id": stored.batch_id}
    if stored.data_key:
        own["data_key"] = stored.data_key
    if manifest is not None:
        shared = ("data_key", "object_sha256", "rows", "rows_bytes", "object_bytes", "first_row_time", "last_row_time")
        own |= {field: getattr(manifest, field) for field in shared} | {"manifest_sha256": manifest_sha256}
    yield from _differences("the receipt", receipt, own)
    if receipt.outcome is Outcome.superseded:
        yield "the receipt says that the batch is superseded"
    if stored.has_superseded:
        yield "it is both receipted and superseded"


def contradictions_of_mark(mark: Superseded, stored: StoredBatch, manifest_sha256: str | None) -> Iterator[str]:
    """How a superseded mark differs from its key and from the manifest it was written for."""
    own: dict[str, object] = {"batch_id": stored.batch_id}
    if stored.data_key:
        own["data_key"] = stored.data_key
    if manifest_sha256 is not None:
        own["manifest_sha256"] = manifest_sha256
    yield from _differences("the superseded mark", mark, own)


def contradictions_of_expiry(
    intent: ExpiryIntent | None, expired: Expired | None, stored: StoredBatch, receipt: Receipt | None, sha256: Sha256
) -> Iterator[str]:
    """How the documents of an expiry differ from each other, from their key and from the receipt. `sha256` is of the
    documents as they are stored, by suffix."""
    if not stored.has_receipt:
        yield "it is said to expire, and has no receipt"
    if stored.has_expired and not stored.has_expiry:
        yield "it is expired, and nobody said before that it should be"
    if stored.has_expired and (stored.data_key or stored.has_manifest):
        yield f"it is expired, and its {'data object' if stored.data_key else 'manifest'} is there"
    own: dict[str, object] = {"batch_id": stored.batch_id}
    own |= {"data_key": receipt.data_key} if receipt else {}
    own |= {"receipt_sha256": sha256[RECEIPT_SUFFIX]} if RECEIPT_SUFFIX in sha256 else {}
    if intent is not None:
        yield from _differences("the intent to expire", intent, own)
    own |= {"expiry_sha256": sha256[EXPIRY_SUFFIX]} if EXPIRY_SUFFIX in sha256 else {}
    own |= {"rows": receipt.rows, "object_bytes": receipt.object_bytes} if receipt else {}
    if expired is not None:
        yield from _differences("the receipt of expiry", expired, own)


def _data_key_by(manifest: Manifest, stored: StoredBatch) -> str:
    """The key the data object must have: the one that is there, or the one of the manifest's format."""
    if stored.data_key:
        return stored.data_key
    known = {data_format.value: data_format for data_format in DataFormat}
    return data_key(stored.stem, known[manifest.format]) if manifest.format in known else ""


def _contradictions_of_window(manifest: Manifest) -> Iterator[str]:
    try:
        start, end = (datetime.fromisoformat(text) for text in (manifest.window_start, manifest.window_end))
        is_its_window = start == start_of_window(manifest.window) and start < end <= start + LONGEST_WINDOW
    except (ValueError, TypeError):
        is_its_window = False
    if not is_its_window:
        yield f"the manifest's window {manifest.window_start} to {manifest.window_end} is not {manifest.window}"


def _differences(whose: str, document: object, own: dict[str, object]) -> Iterator[str]:
    for field, expected in own.items():
        if (found := getattr(document, field)) != expected:
            yield f"{whose} has {field} {found!r} instead of {expected!r}"
