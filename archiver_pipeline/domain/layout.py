"""Where everything lies in the store: the one place that makes keys and the one that parses them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from urllib.parse import quote, unquote

from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.windows import Window

DEFAULT_SCHEMA = "public"
MANIFEST_SUFFIX = ".manifest.json"
RECEIPT_SUFFIX = ".receipt.json"
_PARTS_BELOW_TABLE = 4
SUPERSEDED_SUFFIX = ".superseded.json"
EXPIRY_SUFFIX = ".expiry.json"
EXPIRED_SUFFIX = ".expired.json"
PROTECTION_SUFFIX = ".json"
WATERMARK_FILE = ".restore_watermark.json"
AUDIT_FOLDER = "_audit"
_SEQUENCE_DIGITS = 12
_LINK_FILE = re.compile(r"(?P<sequence>\d{12})\.json", re.ASCII)


class DataFormat(StrEnum):
    """Formats of data objects; the value is the file name's ending."""

    jsonl_gz = "jsonl.gz"
    parquet = "parquet"


class BatchState(StrEnum):
    """What the objects beside each other say of a batch."""

    receipted = "receipted"
    pending = "pending"
    superseded = "superseded"
    orphaned = "orphaned"
    expiring = "expiring"
    expired = "expired"


COLD_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Classes whose objects must be retrieved before they can be read."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as a listing shows it. `modified_at` is aware; a store that names no class has only STANDARD.

    `etag` names this version of the object: other bytes under the key have another one. Empty when none was listed.
    """

    key: str
    size_bytes: int
    modified_at: datetime
    storage_class: str = "STANDARD"
    etag: str = ""


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One batch as a listing shows it. `stem` is the common part of the keys of its objects.

    `storage_class` is that of the data object; `modified_at` is when the newest of the batch's objects was written;
    `receipt_etag` names the version of the receipt, empty without one.
    """

    stem: str
    window_key: str
    batch_id: str
    data_key: str | None
    object_bytes: int
    has_manifest: bool
    has_receipt: bool
    has_superseded: bool
    storage_class: str
    modified_at: datetime
    receipt_etag: str = ""
    has_expiry: bool = False
    has_expired: bool = False

    @property
    def is_cold(self) -> bool:
        """Whether the data object must be retrieved before it can be read, unless that was done."""
        return self.storage_class in COLD_CLASSES

    @property
    def state(self) -> BatchState:
        """A receipt outranks everything: it says that rows are gone, so the object is their only copy. Only a batch
        with a receipt can expire: then the receipt is what is left of it."""
        if self.has_receipt and self.has_expired:
            return BatchState.expired
        if self.has_receipt:
            return BatchState.expiring if self.has_expiry else BatchState.receipted
        if self.has_superseded:
            return BatchState.superseded
        if self.has_manifest:
            return BatchState.pending
        return BatchState.orphaned

    @property
    def is_archive(self) -> bool:
        """Whether rows are to be had back from it. One that is to expire, and is still whole, may stay for long: a hold
        or the store's own lock can be in the way."""
        is_left = self.state is BatchState.expiring and self.data_key is not None and self.has_manifest
        return self.state is BatchState.receipted or is_left


def table_prefix(prefix: str, name: TableName) -> str:
    """The key prefix of a table, with a trailing slash; schema is part of it when it is not `public`."""
    parts = [prefix] if prefix else []
    parts.append(key_part(name.database))
    if name.schema != DEFAULT_SCHEMA:
        parts.append(key_part(name.schema))
    parts.append(key_part(name.table))
    return "/".join(parts) + "/"


def listing_prefix(prefix: str, name: TableName) -> str:
    """What to list to find a table's batches and no other table's: names are escaped, so none begins with `year=`."""
    return table_prefix(prefix, name) + "year="


def watermark_key(prefix: str, name: TableName) -> str:
    """The key of the watermark of a source table: what was restored of it, into whatever target."""
    return table_prefix(prefix, name) + WATERMARK_FILE


def protections_prefix(prefix: str, name: TableName) -> str:
    """What to list to find a table's protections. A table of this very name in a schema called like this table has its
    objects below as well: `is_protection_key` tells them apart."""
    return table_prefix(prefix, name) + ".protections/"


def protection_key(prefix: str, name: TableName, protection_id: str) -> str:
    return f"{protections_prefix(prefix, name)}{protection_id}{PROTECTION_SUFFIX}"


def is_protection_key(prefix: str, name: TableName, key: str) -> bool:
    """Whether a key of that listing is meant as a protection: whatever lies directly in the folder, if not hidden."""
    file = key.removeprefix(protections_prefix(prefix, name))
    return file != "" and "/" not in file and not file.startswith(".")


def batch_stem(prefix: str, name: TableName, window: Window, batch_id: str) -> str:
    """The key of a batch's objects without their endings."""
    day = window.start.strftime("year=%Y/month=%m/day=%d")
    return f"{table_prefix(prefix, name)}{day}/{key_part(name.table)}_{window.key}_{batch_id}"


def data_key(stem: str, data_format: DataFormat) -> str:
    return f"{stem}.{data_format.value}"


def step_output_key(prefix: str, identifier: Sequence[str]) -> str:
    """The key of what one step of a Dagster run hands on; `identifier` is run id, step and output.

    No archive can lie there: a data object has more folders above it, and its name ends otherwise.
    """
    return "/".join([*([prefix] if prefix else []), "_dagster/steps", *map(key_part, identifier)]) + ".json"


def audit_prefix(prefix: str, name: TableName) -> str:
    """What to list to find a table's audit trail and nothing else: the schema is always part of it."""
    parts = [*([prefix] if prefix else []), AUDIT_FOLDER, *map(key_part, (name.database, name.schema, name.table))]
    return "/".join(parts) + "/"


def audit_key(prefix: str, name: TableName, sequence: int) -> str:
    """The key of one link of a table's audit trail; keys sort as their sequences do. `sequence` counts from 1."""
    return f"{audit_prefix(prefix, name)}{sequence:0{_SEQUENCE_DIGITS}d}.json"


def audit_sequence_of(prefix: str, name: TableName, key: str) -> int | None:
    """The sequence in the key of a link, None for any other key."""
    match = _LINK_FILE.fullmatch(key.removeprefix(audit_prefix(prefix, name)))
    return int(match["sequence"]) if match and key.startswith(audit_prefix(prefix, name)) else None


def stem_of(key: str) -> str:
    """The stem of a data object's key. Raises ValueError for any other key."""
    for data_format in DataFormat:
        if key.endswith(f".{data_format.value}"):
            return key.removesuffix(f".{data_format.value}")
    raise ValueError(f"{key!r} is not the key of a data object")


def table_of_key(prefix: str, key: str) -> TableName:
    """The table that a batch's object belongs to. Raises ValueError when the key is not one below `prefix`."""
    root = f"{prefix}/" if prefix else ""
    parts = key.removeprefix(root).split("/")
    names = [unquote(part) for part in parts[:-_PARTS_BELOW_TABLE]]
    if not key.startswith(root) or _FILE.match(key) is None or len(names) not in (2, 3):
        raise ValueError(f"{key!r} is not the key of a batch's object below {prefix!r}")
    return TableName(names[0], names[1] if len(names) == 3 else DEFAULT_SCHEMA, names[-1])


def batch_stem_of(key: str) -> str:
    """The stem of the key of any object of a batch: data or one of its documents. Raises ValueError for others."""
    match = _FILE.match(key)
    if match is None:
        raise ValueError(f"{key!r} is not the key of a batch's object")
    return match["stem"]


def key_part(name: str) -> str:
    """A name as one path segment: anything but letters, digits, `-`, `_`, `.` and `~` is percent-encoded."""
    escaped = quote(name, safe="")
    return escaped.replace(".", "%2E") if set(name) == {"."} else escaped


_FILE = re.compile(
    r"^(?P<stem>.+_(?P<window>\d{4}-\d{2}-\d{2}(?:T\d{2})?)_(?P<batch>[0-9a-f]{16,64}))"
    r"\.(?P<kind>jsonl\.gz|parquet|manifest\.json|receipt\.json|superseded\.json"
    r"|expiry\.json|expired\.json)$"
)


def group_batches(objects: Iterable[StoredObject]) -> list[StoredBatch]:
    """Batches out of a listing, in key order; keys of other kinds are passed over."""
    found: dict[str, dict[str, StoredObject]] = {}
    names: dict[str, tuple[str, str]] = {}
    for listed in objects:
        match = _FILE.match(listed.key)
        if match is None:
            continue
        found.setdefault(match["stem"], {})[match["kind"]] = listed
        names[match["stem"]] = (match["window"], match["batch"])
    return [_stored_batch(stem, *names[stem], found[stem]) for stem in sorted(found)]


def iter_batches(objects: Iterable[StoredObject]) -> Iterator[StoredBatch]:
    """As `group_batches`, one at a time, out of a listing in key order: objects of a batch lie beside each other, with
    nothing but keys of other kinds between them."""
    own = (listed for listed in objects if _FILE.match(listed.key))
    for _, beside in groupby(own, key=lambda listed: batch_stem_of(listed.key)):
        yield from group_batches(beside)


def key_after(batch: StoredBatch) -> str:
    """The key after which a listing goes on behind all objects of a batch: its ending is the last in key order."""
    return batch.stem + SUPERSEDED_SUFFIX


def _stored_batch(stem: str, window: str, batch_id: str, kinds: dict[str, StoredObject]) -> StoredBatch:
    data = kinds.get(DataFormat.jsonl_gz.value) or kinds.get(DataFormat.parquet.value)
    return StoredBatch(
        stem=stem,
        window_key=window,
        batch_id=batch_id,
        data_key=data.key if data else None,
        object_bytes=data.size_bytes if data else 0,
        has_manifest="manifest.json" in kinds,
        has_receipt="receipt.json" in kinds,
        has_superseded="superseded.json" in kinds,
        storage_class=data.storage_class if data else "",
        modified_at=max(listed.modified_at for listed in kinds.values()),
        receipt_etag=kinds["receipt.json"].etag if "receipt.json" in kinds else "",
        has_expiry="expiry.json" in kinds,
        has_expired="expired.json" in kinds,
    )
