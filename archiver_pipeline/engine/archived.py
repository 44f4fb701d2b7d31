"""Reading what is archived: listings, documents, and data objects proved against their manifests."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TypeVar

import pyarrow as pa

from archiver_pipeline.codec.documents import decode_document
from archiver_pipeline.codec.hashing import BLOCK_BYTES, Sha256Counter, sha256_hex
from archiver_pipeline.codec.jsonl import decode_jsonl
from archiver_pipeline.codec.long_lines import LongLine, lines_in_bounds
from archiver_pipeline.codec.parquet import read_parquet_columns
from archiver_pipeline.codec.rows import KeyReader, key_schema
from archiver_pipeline.codec.versions import XMIN, expand_xmin_runs
from archiver_pipeline.domain.layout import (
    MANIFEST_SUFFIX,
    RECEIPT_SUFFIX,
    SUPERSEDED_SUFFIX,
    DataFormat,
    StoredBatch,
    group_batches,
    iter_batches,
    listing_prefix,
)
from archiver_pipeline.domain.manifest import Manifest, Receipt, Superseded
from archiver_pipeline.domain.table import INTEGER_TYPES, KeyColumn, TableName
from archiver_pipeline.errors import ManifestError, VerificationError
from archiver_pipeline.storage.s3 import S3Store

_KEPT_IN_MEMORY_BYTES = 8 << 20

Document = TypeVar("Document", Manifest, Receipt, Superseded)


def list_stored(store: S3Store, name: TableName) -> list[StoredBatch]:
    """Every batch of a table by the listing alone, in key order. Raises when the listing is not whole."""
    return group_batches(store.list_objects(listing_prefix(store.settings.prefix, name)))


def iter_stored(store: S3Store, name: TableName, *, after: str = "") -> Iterator[StoredBatch]:
    """The batches of a table behind the key `after`, in key order, as the listing goes on."""
    return iter_batches(store.list_objects(listing_prefix(store.settings.prefix, name), after=after))


def read_manifest(store: S3Store, stem: str) -> Manifest:
    """Raises ManifestError when it is not a manifest this version knows or another batch's, ObjectMissingError when it
    is not there."""
    return _decode_own(Manifest, store.read_document(stem + MANIFEST_SUFFIX), stem, MANIFEST_SUFFIX)


def read_receipt(store: S3Store, stem: str) -> Receipt:
    """Raises ManifestError when it is not a receipt this version knows or another batch's, ObjectMissingError when it
    is not there."""
    return _decode_own(Receipt, store.read_document(stem + RECEIPT_SUFFIX), stem, RECEIPT_SUFFIX)


def read_receipted_manifest(store: S3Store, stem: str, receipt: Receipt) -> Manifest:
    """The very manifest that the receipt was written for. Raises ManifestError when it is another one."""
    data = store.read_document(stem + MANIFEST_SUFFIX)
    if sha256_hex(data) != receipt.manifest_sha256:
        raise ManifestError(f"{stem}{MANIFEST_SUFFIX} is not the manifest that the receipt was written for")
    return _decode_own(Manifest, data, stem, MANIFEST_SUFFIX)


def read_superseded(store: S3Store, stem: str) -> Superseded:
    """Raises ManifestError when it is not a mark this version knows or another batch's, ObjectMissingError when it is
    not there."""
    return _decode_own(Superseded, store.read_document(stem + SUPERSEDED_SUFFIX), stem, SUPERSEDED_SUFFIX)


def _decode_own(kind: type[Document], data: bytes, stem: str, suffix: str) -> Document:
    """A document says something of the batch that it stands beside, or nothing."""
    document = decode_document(kind, data, key=stem + suffix)
    if not document.data_key.startswith(f"{stem}.") or not stem.endswith(f"_{document.batch_id}"):
        raise ManifestError(f"{stem}{suffix} describes another batch", hint="was it copied here?")
    return document


def key_columns(manifest: Manifest) -> tuple[KeyColumn, ...]:
    """The key that named the rows, with the types it had. Raises ManifestError when the columns lack it."""
    types = {column.name: column.type for column in manifest.columns}
    if not manifest.primary_key or not set(manifest.primary_key) <= set(types):
        raise ManifestError(f"{manifest.data_key}: the manifest's columns do not have its key")
    return tuple(KeyColumn(name, types[name], types[name] in INTEGER_TYPES) for name in manifest.primary_key)


def keys_of_manifest(manifest: Manifest) -> pa.Table:
    """xmin and key columns of the manifest's rows, in row order. Raises ManifestError when they do not fit together."""
    key = key_columns(manifest)
    if any(len(run) != 2 for run in manifest.xmin_runs):
        raise ManifestError(f"{manifest.data_key}: the manifest's xmin_runs are not pairs")
    if any(sum(run[1] for run in manifest.xmin_runs) != len(values) for values in manifest.keys):
        raise ManifestError(f"{manifest.data_key}: the manifest's xmin_runs do not cover its keys")
    try:
        xmins = expand_xmin_runs(manifest.xmin_runs)
        columns = [pa.array(values, field.type) for values, field in zip(manifest.keys, key_schema(key), strict=True)]
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError) as error:
        raise ManifestError(f"{manifest.data_key}: the manifest's keys do not fit the types of its columns") from error
    if any(len(column) != manifest.rows for column in [xmins, *columns]):
        raise ManifestError(f"{manifest.data_key}: the manifest does not hold {manifest.rows} keys")
    return pa.table([xmins, *columns], names=[XMIN, *manifest.primary_key])


@contextmanager
def proved_object(store: S3Store, manifest: Manifest) -> Iterator[IO[bytes]]:
    """The data object as a local file at its beginning, after it was held against its manifest.

    Bytes and SHA-256 as stored, row count and primary keys; for JSON lines also SHA-256 and size of the rows (those of
    a Parquet object are of the JSON lines it was made of, and cannot be computed from it).
    Raises VerificationError at the first difference, ObjectMissingError when there is no object,
    ObjectColdError when it must be retrieved first. At most a few megabytes are in memory.
    """
    with tempfile.SpooledTemporaryFile(max_size=_KEPT_IN_MEMORY_BYTES) as file:
        stored = Sha256Counter()
        for block in store.read_blocks(manifest.data_key):
            stored.update(block)
            file.write(block)
        _require(stored.size_bytes == manifest.object_bytes, manifest, "its size is not that of the manifest")
        _require(stored.hexdigest() == manifest.object_sha256, manifest, "its bytes are not those of the manifest")
        file.seek(0)
        _verify_rows(manifest, file)
        file.seek(0)
        yield file


def blocks_of(file: IO[bytes]) -> Iterator[bytes]:
    """The bytes of a file from where it stands."""
    return iter(lambda: file.read(BLOCK_BYTES), b"")


def _verify_rows(manifest: Manifest, file: IO[bytes]) -> None:
    try:
        if manifest.format == DataFormat.jsonl_gz.value:
            found = _keys_of_lines(manifest, blocks_of(file))
        else:
            found = read_parquet_columns(file, manifest.primary_key)
        _verify_keys(manifest, found)
    except VerificationError as error:
        if error.message.startswith(manifest.data_key):
            raise
        raise VerificationError(f"{manifest.data_key}: {error.message}", hint=error.hint) from error


def _verify_keys(manifest: Manifest, found: Iterable[pa.Table]) -> None:
    expected = keys_of_manifest(manifest).drop_columns([XMIN])
    rows = 0
    for keys in found:
        same = _as(expected.schema, keys).equals(expected.slice(rows, keys.num_rows))
        _require(same, manifest, "its keys are not those of the manifest")
        rows += keys.num_rows
    _require(rows == manifest.rows, manifest, f"it holds {rows} rows instead of {manifest.rows}")


def _as(schema: pa.Schema, keys: pa.Table) -> pa.Table:
    try:
        return keys.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise VerificationError("its key columns do not have the manifest's types") from error


def _keys_of_lines(manifest: Manifest, pieces: Iterable[bytes]) -> Iterator[pa.Table]:
    decoded = Sha256Counter()
    key = key_columns(manifest)
    reader = KeyReader(key, [column.name for column in manifest.columns])
    for lines in lines_in_bounds(decoded.counted(decode_jsonl(pieces)), key):
        yield lines.keys if isinstance(lines, LongLine) else reader.read(lines)
    _require(decoded.size_bytes == manifest.rows_bytes, manifest, "its rows have another size than the manifest's")
    _require(decoded.hexdigest() == manifest.rows_sha256, manifest, "its rows are not those of the manifest")


def _require(holds: bool, manifest: Manifest, problem: str) -> None:
    if not holds:
        raise VerificationError(f"{manifest.data_key}: {problem}")
