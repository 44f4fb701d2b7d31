"""Local fallback: batches that the store did not take are kept, and a later run uploads them under the same proof.

A kept batch is a batch before its manifest: nothing refers to it, and its rows are in the table. What a later run does
with it is decided before anything is planned, under the table lock: either its rows leave the table with it, or it is
never uploaded and they are planned anew. So no row is ever in a kept batch that is uploaded and in a planned one.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

import pyarrow as pa

from archiver_pipeline.codec.documents import encode_manifest
from archiver_pipeline.codec.hashing import sha256_hex
from archiver_pipeline.codec.versions import keys_of_versions, read_versions
from archiver_pipeline.domain.batch import EncodedBatch, Outcome, Plan, SettledBatch
from archiver_pipeline.domain.fallback import KeptBatch, KeptState
from archiver_pipeline.domain.layout import (
    DataFormat,
    StoredBatch,
    group_batches,
    stem_of,
)
from archiver_pipeline.domain.manifest import FORMAT_VERSION, KeptDocument, Manifest
from archiver_pipeline.domain.protection import Protection, longest_protection
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.domain.windows import Window, WindowUnit
from archiver_pipeline.engine.archived import keys_of_manifest, proved_object, read_receipt, read_superseded
from archiver_pipeline.engine.kept_files import is_whole, list_kept, mark_stale, read_kept, remove_kept, write_kept
from archiver_pipeline.engine.proof import Sample, compare_stored_sample, compare_with_live_rows, prove_parquet
from archiver_pipeline.engine.protection import session_protections
from archiver_pipeline.engine.reconcile import (
    delete_proved,
    has_columns_of,
    has_key_of,
    reconcile_batch,
    reconcile_table,
)
from archiver_pipeline.engine.recording import record_uploading
from archiver_pipeline.engine.safekeeping import (
    require_encrypted,
    require_encrypting_store,
    secure_batch,
    wanted_retention,
)
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.settlement import build_manifest, manifest_key, write_manifest
from archiver_pipeline.engine.steps import timed_step
from archiver_pipeline.errors import ArchiverError, StoreError, VerificationError
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline.storage.s3 import (
    ObjectColdError,
    ObjectExistsError,
    ObjectMissingError,
    StoreFullError,
    StoreNetworkError,
)

Before = TypeVar("Before")
After = TypeVar("After")


class Keeper:
    """Keeps the batches of one step that the store did not take; used by all of its workers.

    After the first that failed none is tried any more: the store's own retries took long enough to call it an outage.
    """

    def __init__(self, session: ArchiveSession, plan: Plan) -> None:
        self._session = session
        self._plan = plan
        self._lock = threading.Lock()
        self._outage: ArchiverError | None = None
        self._kept: list[KeptBatch] = []

    @property
    def kept(self) -> tuple[KeptBatch, ...]:
        return tuple(sorted(self._kept, key=lambda kept: kept.key))

    def trying(self, work: Callable[[Before], After]) -> Callable[[Before], After]:
        """The work, not even begun during an outage."""

        def attempt(batch: Before) -> After:
            if self._outage is not None:
                raise self._outage
            return work(batch)

        return attempt

    def keep(self, encoded: EncodedBatch, error: ArchiverError) -> None:
        """Keep the batch after this error of the store. Raises it when batches are not kept, or not after such errors,
        or when the batch's staged files are gone. Raises ResourcesError when the folder does not take it."""
        is_configured = self._session.store_settings.local_fallback_dir is not None
        if not (is_configured and _is_outage(error) and _is_staged(self._session, encoded)):
            raise error
        kept = keep_batch(self._session, self._plan, encoded, error)
        with self._lock:
            self._outage = self._outage or error
            self._kept.append(kept)
        self._session.progress.batch_kept(self._session.name, kept)


def _is_outage(error: ArchiverError) -> bool:
    """Whether the same object may well be taken later: the store was not reachable, busy, full, or said no in a way
    that we do not know. Wrong credentials, a missing bucket and a failed proof are for a person to look at."""
    return isinstance(error, StoreNetworkError | StoreFullError) or type(error) is StoreError


def _is_staged(session: ArchiveSession, encoded: EncodedBatch) -> bool:
    """Whether everything is there that a kept batch is made of."""
    needed = [encoded.object_path, encoded.extracted.versions_path]
    if session.format is DataFormat.parquet:
        needed.append(encoded.extracted.rows_path)
    return all(path.exists() for path in needed)


def keep_batch(session: ArchiveSession, plan: Plan, encoded: EncodedBatch, error: ArchiverError) -> KeptBatch:
    """Keep one encoded batch on the local disk. Safe to repeat.

    A Parquet object is held against the staged rows now, because they are not kept; everything else is proved when it
    is uploaded.
    """
    root = session.store_settings.local_fallback_dir
    if root is None:
        raise error
    versions = read_versions(encoded.extracted.versions_path)
    if session.format is DataFormat.parquet:
        _prove_parquet(session, plan.shape, encoded, versions)
    manifest = build_manifest(session, plan, encoded, versions)
    document = KeptDocument(
        format_version=FORMAT_VERSION,
        kept_at=datetime.now(UTC).isoformat(),
        reason=_without_subject(error.message),
        manifest_sha256=sha256_hex(encode_manifest(manifest)),
        manifest=manifest,
    )
    return write_kept(root, document, encoded.object_path)


def _without_subject(message: str) -> str:
    """An error of the store without the key that it begins with: after the first, it is another batch's."""
    subject, _, rest = message.partition(": ")
    return rest if rest and " " not in subject else message


def _prove_parquet(session: ArchiveSession, shape: TableShape, encoded: EncodedBatch, versions: pa.Table) -> None:
    sample = Sample.of(versions.num_rows, session.settings.verify_sample_rows)
    prove_parquet(encoded.object_path, shape, encoded, keys_of_versions(versions), sample)
    compare_with_live_rows(session, shape, encoded.key, versions, sample)


def settle_kept(session: ArchiveSession, shape: TableShape) -> tuple[tuple[SettledBatch, ...], tuple[KeptBatch, ...]]:
    """Upload every kept batch of the table whose rows are all still there, and take its rows out of the table.

    Needs the table lock, and every pending batch settled. Returns what was settled, and what stays kept and why.
    Raises NetworkError or another error of the store when it is out of reach again: nothing may be planned then,
    because it is not decided whose the rows are. Safe to repeat, and to interrupt at any instant.
    """
    found = list_kept(session.store_settings, session.name)
    if not found:
        return (), ()
    protections = session_protections(session)
    settled: list[SettledBatch] = []
    left: list[KeptBatch] = []
    for kept in found:
        outcome = _settle(session, shape, kept, protections) if kept.state is KeptState.waiting else kept
        if isinstance(outcome, SettledBatch):
            settled.append(outcome)
            session.progress.batch_settled(session.name, outcome)
            session.pause_between_batches()
        elif outcome is not None:
            left.append(outcome)
            session.progress.batch_left_kept(session.name, outcome)
    return tuple(settled), tuple(left)


def upload_kept(session: ArchiveSession) -> tuple[tuple[SettledBatch, ...], tuple[KeptBatch, ...]]:
    """As `settle_kept`, by itself: takes the table lock and settles pending batches before. Archives nothing new.

    Raises LockHeldError, PreflightError, PermissionDeniedError, NetworkError or another error of source and store.
    """
    with timed_step(session, "upload-pending", 0, 0):
        shape = inspect_table(session.connection, session.settings)
        session.lock.require_held()
        reconcile_table(session, shape)
        return settle_kept(session, shape)


def _settle(
    session: ArchiveSession, shape: TableShape, kept: KeptBatch, protections: list[Protection]
) -> SettledBatch | KeptBatch | None:
    """The end of one kept batch, the batch itself if it stays, or None when it had ended before."""
    session.lock.require_held()
    manifest = read_kept(kept.path).manifest
    stored = _beside_in_store(session, manifest)
    if stored is not None and stored.has_manifest:
        return _after_its_manifest(session, shape, kept, manifest, stored)
    if manifest.system_identifier != shape.system_identifier:
        return replace(kept, reason="it is of another cluster; its rows are not looked for in this one")
    if not (has_key_of(manifest, shape) and has_columns_of(manifest, shape)):
        return mark_stale(kept, "the table's columns or key changed since its rows were read; they are archived anew")
    if protection := longest_protection(_window_of(manifest), protections):
        return replace(kept, reason=str(protection))
    if not is_whole(kept, manifest):
        return mark_stale(kept, "its data object has other bytes than were kept; its rows are archived anew")
    keys = keys_of_manifest(manifest)
    present = _count_present(session, shape, keys)
    if present == 0:
        return mark_stale(kept, _NONE_IS_THERE)
    if present < manifest.rows:
        gone = manifest.rows - present
        return mark_stale(kept, f"{gone} of {manifest.rows} rows changed or left the table; the others are taken anew")
    return _upload(session, shape, kept, manifest, keys)


_NONE_IS_THERE = (
    "none of its rows is in the table as it was: they were changed, removed, or archived by another run;"
    " if they were removed, this is their only copy"
)


def _upload(
    session: ArchiveSession, shape: TableShape, kept: KeptBatch, manifest: Manifest, keys: pa.Table
) -> SettledBatch | KeptBatch:
    """The rest of the protocol, as for any other batch: store, read back, manifest, delete, receipt."""
    record_uploading(session, kept)
    manifest = replace(manifest, run_id=session.run_id, storage_class=session.store_settings.storage_class.value)
    require_encrypting_store(session)
    # Its key is its own: when it is there, an earlier try got through. It is read back like any other.
    with suppress(ObjectExistsError):
        session.store.put_file(manifest.data_key, kept.path, sha256_hex=manifest.object_sha256)
    try:
        with proved_object(session.store, manifest) as file:
            compare_stored_sample(session, shape, manifest, keys, file)
    except (VerificationError, ObjectMissingError, ObjectColdError) as damage:
        mark_stale(kept, f"what the store gave back is not proved: {damage.message}")
        raise
    session.store.move_to_class(manifest.data_key, manifest.object_sha256)
    try:
        require_encrypted(session, manifest.data_key)
    except VerificationError as defect:
        mark_stale(kept, defect.message)
        raise
    session.lock.require_held()
    if not write_manifest(session, manifest, wanted_retention(session, manifest.last_row_time)):
        raise StoreError(f"{manifest.data_key}: somebody wrote its manifest", hint="run again: it is settled first")
    secure_batch(session, manifest.data_key, manifest_key(manifest), manifest.last_row_time)
    settled = delete_proved(session, shape, manifest, keys)
    if settled.outcome is Outcome.superseded:
        mark_stale(kept, settled.reason)
    else:
        remove_kept(kept)
    return settled


def _after_its_manifest(
    session: ArchiveSession, shape: TableShape, kept: KeptBatch, manifest: Manifest, stored: StoredBatch
) -> SettledBatch | KeptBatch | None:
    """A kept batch that a run got into the store, at least as far as its manifest."""
    if not (stored.has_receipt or stored.has_superseded):
        return reconcile_batch(session, shape, stored)
    if not stored.has_receipt:
        mark = read_superseded(session.store, stored.stem)
        return mark_stale(kept, f"superseded: {mark.reason}")
    receipt = read_receipt(session.store, stored.stem)
    if receipt.object_sha256 != manifest.object_sha256:
        return mark_stale(kept, "the store has a receipt for other bytes under its key")
    remove_kept(kept)
    return None


def _beside_in_store(session: ArchiveSession, manifest: Manifest) -> StoredBatch | None:
    stem = stem_of(manifest.data_key)
    listed = group_batches(session.store.list_objects(f"{stem}."))
    return next((batch for batch in listed if batch.stem == stem), None)


def _count_present(session: ArchiveSession, shape: TableShape, keys: pa.Table) -> int:
    """How many of the row versions are in the table, while no delete is in flight."""
    counted: list[int] = []
    with session.delete_sessions(shape).take() as deleting:
        deleting.settle(keys, counted.append, session.lock)
    return counted[0]


def _window_of(manifest: Manifest) -> Window:
    """The window as protections see it; its unit makes no difference to them and is not in a manifest."""
    return Window(
        unit=WindowUnit.day,
        start=datetime.fromisoformat(manifest.window_start),
        end=datetime.fromisoformat(manifest.window_end),
        open_start=manifest.window_open_start,
    )
