"""The documents that decide a batch's fate, and the few places that write them.

At every instant each row version is in the table xor in exactly one receipted object. That holds because:
a manifest is created only while the table lock has been held since the rows were read, or after all of them were
counted again; a superseded mark is written only when no delete of the batch can have committed; a receipt is written
only when none of the batch's row versions is in the table and no other receipted batch holds them. Marks and receipts
are written in a transaction that holds the settle lock and then found the table lock held: between that look and the
writing nobody else settles the batch, whatever becomes of the table lock meanwhile.

The audit trail is told of a receipt or mark in that transaction too, before it is written: so each has its entry. A
crash between leaves the batch pending; it is settled again, and told again. Of batches that share rows the trail
decides: the first that it tells of as archived is the archive, because a link is created once, behind everything that
its writer knew. So a receipt that arrives late, from a run that is gone, contradicts nothing.
"""

from datetime import UTC, datetime

import pyarrow as pa

from archiver_pipeline.codec.documents import encode_manifest, encode_mark
from archiver_pipeline.codec.hashing import sha256_hex
from archiver_pipeline.codec.versions import keys_of_versions, xmin_runs
from archiver_pipeline.domain.batch import EncodedBatch, Outcome, Plan, SettledBatch
from archiver_pipeline.domain.layout import MANIFEST_SUFFIX, RECEIPT_SUFFIX, SUPERSEDED_SUFFIX, stem_of
from archiver_pipeline.domain.manifest import (
    FORMAT_VERSION,
    Manifest,
    ManifestColumn,
    ManifestLeaf,
    Receipt,
    Superseded,
)
from archiver_pipeline.domain.partitions import Leaf
from archiver_pipeline.domain.safekeeping import ObjectRetention
from archiver_pipeline.engine.audit import Fence
from archiver_pipeline.engine.recording import record_receipted, record_superseded
from archiver_pipeline.engine.safekeeping import wanted_retention
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import StoreError
from archiver_pipeline.postgres.eligible import source_clock
from archiver_pipeline.storage.s3 import ObjectExistsError
from archiver_pipeline.version import SOFTWARE


def build_manifest(session: ArchiveSession, plan: Plan, encoded: EncodedBatch, versions: pa.Table) -> Manifest:
    """The intent to delete a verified batch."""
    shape, extracted, window = plan.shape, encoded.extracted, encoded.extracted.planned.window
    keys = keys_of_versions(versions)
    return Manifest(
        format_version=FORMAT_VERSION,
        batch_id=encoded.batch_id,
        attempt_id=plan.attempt_id,
        run_id=session.run_id,
        software=SOFTWARE,
        database=shape.name.database,
        schema=shape.name.schema,
        table=shape.name.table,
        system_identifier=shape.system_identifier,
        timestamp_column=shape.timestamp_column,
        primary_key=[part.name for part in shape.key],
        window=window.key,
        window_start=window.start.isoformat(),
        window_end=window.end.isoformat(),
        window_open_start=window.open_start,
        cutoff=plan.cutoff.isoformat(),
        extracted_at=extracted.extracted_at.isoformat(),
        first_row_time=extracted.first_row_time,
        last_row_time=extracted.last_row_time,
        format=session.format.value,
        data_key=encoded.key,
        rows=extracted.rows,
        rows_bytes=extracted.rows_bytes,
        rows_sha256=extracted.rows_sha256,
        object_bytes=encoded.object_bytes,
        object_sha256=encoded.object_sha256,
        storage_class=session.store_settings.storage_class.value,
        columns=[ManifestColumn(c.name, c.type, c.not_null, c.rendering.value) for c in shape.columns],
        keys=[column.to_pylist() for column in keys.columns],
        xmin_runs=xmin_runs(versions),
        leaf=_manifest_leaf(extracted.planned.leaf),
    )


def _manifest_leaf(leaf: Leaf | None) -> ManifestLeaf | None:
    if leaf is None:
        return None
    return ManifestLeaf(leaf.schema, leaf.table, leaf.oid, *leaf.parent, leaf.bound)


def manifest_key(manifest: Manifest) -> str:
    return stem_of(manifest.data_key) + MANIFEST_SUFFIX


def write_manifest(session: ArchiveSession, manifest: Manifest, retention: ObjectRetention | None) -> bool:
    """Create the manifest and read it back: once its rows are deleted, it is what names them.

    False when it is there already: an earlier try wrote it, and its fate must be settled. Raises StoreError when the
    store does not give back what it took.
    """
    key, data = manifest_key(manifest), encode_manifest(manifest)
    try:
        session.store.put_document(key, data, retention=retention)
    except ObjectExistsError:
        return False
    if session.store.read_document(key) != data:
        raise StoreError(f"{key}: its bytes are not those that were sent", hint="nothing of its batch was deleted")
    return True


def write_receipt(
    session: ArchiveSession,
    manifest: Manifest,
    outcome: Outcome,
    *,
    settled_by: str,
    fence: Fence,
) -> SettledBatch:
    """Record that none of the batch's row versions is in the table. Safe to repeat. Raises before anything is written
    when the audit trail does not take it, or what the look of `fence` raises."""
    receipt = Receipt(
        format_version=FORMAT_VERSION,
        batch_id=manifest.batch_id,
        data_key=manifest.data_key,
        manifest_sha256=sha256_hex(encode_manifest(manifest)),
        object_sha256=manifest.object_sha256,
        rows=manifest.rows,
        rows_bytes=manifest.rows_bytes,
        object_bytes=manifest.object_bytes,
        first_row_time=manifest.first_row_time,
        last_row_time=manifest.last_row_time,
        outcome=outcome,
        settled_by=settled_by,
        run_id=session.run_id,
        settled_at=_now(session).isoformat(),
    )
    data = encode_mark(receipt)
    record_receipted(session, manifest, receipt, data, fence)
    _create_once(
        session,
        stem_of(manifest.data_key) + RECEIPT_SUFFIX,
        data,
        wanted_retention(session, manifest.last_row_time),
    )
    return settled_batch(manifest, outcome)


def write_superseded(session: ArchiveSession, manifest: Manifest, reason: str, *, settled_by: str) -> SettledBatch:
    """Record that the batch will never be deleted. Only inside `DeleteSession.settle`. Safe to repeat."""
    mark = Superseded(
        format_version=FORMAT_VERSION,
        batch_id=manifest.batch_id,
        data_key=manifest.data_key,
        manifest_sha256=sha256_hex(encode_manifest(manifest)),
        reason=reason,
        settled_by=settled_by,
        run_id=session.run_id,
        settled_at=_now(session).isoformat(),
    )
    data = encode_mark(mark)
    record_superseded(session, manifest, mark, data)
    _create_once(session, stem_of(manifest.data_key) + SUPERSEDED_SUFFIX, data)
    return settled_batch(manifest, Outcome.superseded, reason)


def settled_batch(manifest: Manifest, outcome: Outcome, reason: str = "") -> SettledBatch:
    return SettledBatch(
        batch_id=manifest.batch_id,
        key=manifest.data_key,
        window_key=manifest.window,
        rows=manifest.rows,
        rows_bytes=manifest.rows_bytes,
        object_bytes=manifest.object_bytes,
        outcome=outcome,
        reason=reason,
    )


def _create_once(session: ArchiveSession, key: str, data: bytes, retention: ObjectRetention | None = None) -> None:
    try:
        session.store.put_document(key, data, retention=retention)
    except ObjectExistsError:
        return


def _now(session: ArchiveSession) -> datetime:
    # One connection for all workers, beside the one that each deletes on.
    with session.telling_time, session.connections.take() as connection:
        return source_clock(connection).astimezone(UTC)
