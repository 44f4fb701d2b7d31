"""Reconcile: settle every batch whose fate a crash left open, before anything new is planned."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from functools import partial

import pyarrow as pa

from archiver_pipeline.domain.batch import Outcome, SettledBatch
from archiver_pipeline.domain.layout import (
    MANIFEST_SUFFIX,
    BatchState,
    StoredBatch,
)
from archiver_pipeline.domain.manifest import Manifest
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.engine.archived import (
    key_columns,
    keys_of_manifest,
    list_stored,
    proved_object,
    read_manifest,
    read_receipt,
    read_superseded,
)
from archiver_pipeline.engine.audit import Fence
from archiver_pipeline.engine.detached import require_not_detached
from archiver_pipeline.engine.holds import hold_guard
from archiver_pipeline.engine.recording import record_held, record_settling
from archiver_pipeline.engine.rewritten import are_rewritten
from archiver_pipeline.engine.safekeeping import secure_batch
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.settlement import (
    manifest_key,
    settled_batch,
    write_receipt,
    write_superseded,
)
from archiver_pipeline.engine.trail import batches_told_archived
from archiver_pipeline.errors import ManifestError, StoreError, VerificationError
from archiver_pipeline.postgres.connection import DeleteRefusedError, RowsLockedError
from archiver_pipeline.postgres.delete import (
    DeleteGuard,
    DeleteSession,
    RowsHeldError,
    TooYoungError,
    VersionsChangedError,
)
from archiver_pipeline.storage.s3 import ObjectColdError, ObjectMissingError

_SETTLED_BY = "reconcile"
_DECISIONS = 20
_LONGEST_WINDOW = timedelta(days=31)
_ISO_DATE = len("2026-01-31")


class TrailMovedError(StoreError):
    """Somebody else wrote to the audit trail after it was read."""


class PartlyArchivedError(ManifestError):
    """No row of a pending batch is in the table, some are in receipted objects, the others in none. A receipt would
    double those, a superseded mark lose these: nothing was written."""


def reconcile_table(
    session: ArchiveSession, shape: TableShape, listed: Sequence[StoredBatch] | None = None
) -> tuple[SettledBatch, ...]:
    """Settle every pending batch of the table. Needs the table lock; the store's listing is all it goes by.

    `listed` is that listing, if it was made under the lock already.
    Raises ManifestError or VerificationError when a batch cannot be settled safely: the table then stops.
    """
    found = list_stored(session.store, shape.name) if listed is None else listed
    pending, settled = pending_batches(session, found), []
    record_settling(session, [batch.batch_id for batch in pending])
    while pending:
        postponed: list[StoredBatch] = []
        for batch in pending:
            try:
                settled.append(_told(session, reconcile_batch(session, shape, batch)))
            except PartlyArchivedError:
                # Another pending batch may have the rest of its rows, and only those.
                postponed.append(batch)
                if len(postponed) == len(pending):
                    raise
        pending = postponed
    return tuple(settled)


def pending_batches(session: ArchiveSession, listed: Iterable[StoredBatch]) -> list[StoredBatch]:
    """The pending batches of a listing in the order in which to settle them: the largest first, those that can't be
    read last. Of batches that share rows, the void ones are then those whose rows another holds as a whole."""
    pending = [batch for batch in listed if batch.state is BatchState.pending]
    if len(pending) < 2:
        return pending
    return sorted(pending, key=lambda batch: _rows_of(session, batch), reverse=True)


def _rows_of(session: ArchiveSession, batch: StoredBatch) -> int:
    try:
        return read_manifest(session.store, batch.stem).rows
    except ManifestError:
        return 0


def _told(session: ArchiveSession, settled: SettledBatch) -> SettledBatch:
    session.progress.batch_settled(session.name, settled)
    return settled


def reconcile_batch(session: ArchiveSession, shape: TableShape, stored: StoredBatch | None) -> SettledBatch:
    """Settle one batch that has a manifest."""
    if stored is None:
        raise StoreError(f"{shape.name}: a manifest that exists is missing from the store's listing")
    manifest = read_manifest(session.store, stored.stem)
    _require_own(manifest, stored, shape)
    if stored.has_receipt:
        return settled_batch(manifest, read_receipt(session.store, stored.stem).outcome)
    if stored.has_superseded:
        mark = read_superseded(session.store, stored.stem)
        return settled_batch(manifest, Outcome.superseded, mark.reason)
    return _settle_pending(session, shape, manifest)


def _settle_pending(session: ArchiveSession, shape: TableShape, manifest: Manifest) -> SettledBatch:
    """Read the fate while no delete is in flight; delete only what is wholly there and proved again."""
    _require_key(manifest, shape)
    keys = keys_of_manifest(manifest)
    settled: list[SettledBatch] = []

    def decide(present_rows: int) -> None:
        if manifest.system_identifier != shape.system_identifier:
            settled.append(_settle_foreign(session, manifest, deleting.count_loaded_keys()))
        elif 0 < present_rows < manifest.rows:
            reason = f"{manifest.rows - present_rows} of {manifest.rows} rows changed since they were read"
            settled.append(_supersede(session, manifest, reason))
        elif present_rows and not has_columns_of(manifest, shape):
            settled.append(_supersede(session, manifest, "the table's columns changed since its rows were read"))
        elif present_rows == 0:
            require_not_detached(shape, manifest, deleting)
            settled.append(_settle_absent(session, shape, manifest, keys, deleting))

    with session.delete_sessions(shape).take() as deleting:
        deleting.settle(keys, decide, session.lock)
    return settled[0] if settled else _finish_delete(session, shape, manifest, keys)


def _require_key(manifest: Manifest, shape: TableShape) -> None:
    if not has_key_of(manifest, shape):
        raise ManifestError(
            f"{manifest.data_key}: archived under the key {', '.join(manifest.primary_key)}",
            hint="this batch is unsettled: set primary_key to that key again until it is settled",
        )


def has_key_of(manifest: Manifest, shape: TableShape) -> bool:
    """Whether both name rows by the same columns, written alike; an integer made wider is no difference."""
    archived = [(part.name, part.is_integer) for part in key_columns(manifest)]
    return archived == [(part.name, part.is_integer) for part in shape.key]


def has_columns_of(manifest: Manifest, shape: TableShape) -> bool:
    """Whether the object holds every column the table has now; one added since is in no archive."""
    archived = [(column.name, column.type) for column in manifest.columns]
    return archived == [(column.name, column.type) for column in shape.columns]


def _settle_foreign(session: ArchiveSession, manifest: Manifest, known_keys: int) -> SettledBatch:
    """A batch of another cluster: its xmins mean nothing here. Only if every key is in this table is it surely void."""
    if known_keys != manifest.rows:
        raise ManifestError(
            f"{manifest.data_key} was archived from another cluster, and {manifest.rows - known_keys} of its"
            f" {manifest.rows} rows are not in this table: their only copy may be this object",
            hint="if this is a copy of the database, give it another s3.prefix; else keep the object",
        )
    return _supersede(session, manifest, "archived from another cluster; all its rows are in this one")


def _settle_absent(
    session: ArchiveSession, shape: TableShape, manifest: Manifest, keys: pa.Table, deleting: DeleteSession
) -> SettledBatch:
    """None of the row versions is in the table: this object is their archive, unless others already are, or the table
    has the same rows in other versions. Decided anew when somebody wrote to the audit trail meanwhile: it may tell
    of another batch with these rows."""

    def decide_again() -> None:
        deleting.require_lock(session.lock)
        raise TrailMovedError(f"{shape.name}: somebody else keeps writing to its audit trail", hint="run again")

    for _ in range(_DECISIONS):
        with suppress(TrailMovedError):
            return _decide_absent(session, shape, manifest, keys, deleting, decide_again)
    return _decide_absent(session, shape, manifest, keys, deleting, decide_again)


def _decide_absent(
    session: ArchiveSession,
    shape: TableShape,
    manifest: Manifest,
    keys: pa.Table,
    deleting: DeleteSession,
    decide_again: Callable[[], None],
) -> SettledBatch:
    # Listed now: a batch that was settled a moment ago may hold the same rows.
    siblings = list_stored(session.store, shape.name)
    known = session.audit.read_head().sequence if session.audit.enabled else 0
    told = _told_archived(session, manifest, siblings)
    elsewhere = manifest.rows - _rows_only_here(session, shape, manifest, keys, siblings, told)
    if elsewhere == manifest.rows:
        return _supersede(session, manifest, "its rows were archived by another batch")
    if elsewhere:
        raise PartlyArchivedError(
            f"{manifest.data_key}: none of its {manifest.rows} rows is in the table, {elsewhere} of them are in other"
            " receipted objects, and the rest may be in this one only",
            hint="keep this object, and see docs/how-rows-are-proved.md, section reconcile",
        )
    if are_rewritten(session, shape, manifest, deleting.count_loaded_keys):
        return _supersede(session, manifest, "its rows are in the table, written anew since they were read")
    _verify_absent(session, manifest)
    fence = Fence(known, decide_again)
    return write_receipt(session, manifest, Outcome.absent, settled_by=_SETTLED_BY, fence=fence)


def _told_archived(session: ArchiveSession, manifest: Manifest, siblings: Sequence[StoredBatch]) -> frozenset[str]:
    """The ids of other pending batches that the trail tells of as archived: their receipts may be under way, from runs
    that are gone."""
    rivals = [
        read_manifest(session.store, batch.stem)
        for batch in siblings
        if batch.state is BatchState.pending and batch.batch_id != manifest.batch_id
    ]
    if not (rivals and session.audit.enabled):
        return frozenset()
    attempts = {rival.batch_id: rival.attempt_id for rival in rivals}
    return batches_told_archived(session.store, session.name, attempts)


def _finish_delete(session: ArchiveSession, shape: TableShape, manifest: Manifest, keys: pa.Table) -> SettledBatch:
    """Every row is there as it was proved: prove the object again, then delete. One that cannot be proved, is in a
    cold class by now, or is not encrypted as the table demands now, is void: its rows are archived anew. So is one of a
    table that came under legal hold."""
    holds = hold_guard(session, shape)
    if holds is not None and holds.known.is_whole:
        record_held(session, manifest.batch_id, holds.known.reason)
        return _supersede_in_peace(session, shape, manifest, holds.known.reason)
    try:
        _verify(session, manifest)
        secure_batch(session, manifest.data_key, manifest_key(manifest), manifest.last_row_time)
    except (VerificationError, ObjectMissingError, ObjectColdError) as damage:
        return _supersede_in_peace(session, shape, manifest, damage.message)
    return delete_proved(session, shape, manifest, keys)


def delete_proved(session: ArchiveSession, shape: TableShape, manifest: Manifest, keys: pa.Table) -> SettledBatch:
    """Delete the rows of a batch whose object was just proved and whose manifest is in the store, and settle it:
    as superseded when a legal hold covers one of them."""
    guard = DeleteGuard(
        lock=session.lock,
        retention_days=session.settings.retention_days,
        last_row_time=manifest.last_row_time,
        lock_timeout_ms=session.settings.lock_timeout_ms,
        holds=hold_guard(session, shape),
    )
    try:
        with session.delete_sessions(shape).take() as deleting:
            deleting.delete_keys(keys, guard)
    except (VersionsChangedError, RowsLockedError, RowsHeldError, DeleteRefusedError, TooYoungError) as refusal:
        if isinstance(refusal, RowsHeldError):
            record_held(session, manifest.batch_id, refusal.message)
        return _supersede_in_peace(session, shape, manifest, refusal.message)
    with session.delete_sessions(shape).take() as deleting:
        fence = Fence(session.audit.known_sequence(), partial(deleting.require_lock, session.lock))
        with deleting.at_work(session.lock):
            return write_receipt(session, manifest, Outcome.deleted, settled_by=_SETTLED_BY, fence=fence)


def _supersede_in_peace(session: ArchiveSession, shape: TableShape, manifest: Manifest, reason: str) -> SettledBatch:
    with session.delete_sessions(shape).take() as deleting, deleting.in_peace(session.lock):
        return _supersede(session, manifest, reason)


def _supersede(session: ArchiveSession, manifest: Manifest, reason: str) -> SettledBatch:
    return write_superseded(session, manifest, reason, settled_by=_SETTLED_BY)


def _verify(session: ArchiveSession, manifest: Manifest) -> None:
    with proved_object(session.store, manifest):
        return


def _verify_absent(session: ArchiveSession, manifest: Manifest) -> None:
    """Of an object in a cold class the checksum that the store computed when it was copied there: it was read back
    before, and cannot be now."""
    try:
        _verify(session, manifest)
    except ObjectColdError:
        session.store.require_stored_checksum(manifest.data_key, manifest.object_sha256)


def _require_own(manifest: Manifest, stored: StoredBatch, shape: TableShape) -> None:
    """A manifest decides about this table only if it is this table's and stands beside its own object."""
    named = (manifest.database, manifest.schema, manifest.table, manifest.batch_id)
    own = (shape.name.database, shape.name.schema, shape.name.table, stored.batch_id)
    if named != own or not manifest.data_key.startswith(stored.stem + "."):
        raise ManifestError(f"{stored.stem}{MANIFEST_SUFFIX} describes another batch", hint="was it copied here?")


def _rows_only_here(
    session: ArchiveSession,
    shape: TableShape,
    manifest: Manifest,
    keys: pa.Table,
    siblings: Sequence[StoredBatch],
    told: frozenset[str],
) -> int:
    """How many of the row versions are in no archive whose window may overlap; an expired one holds nothing. Batches of
    the ids `told` are archives that lack their receipts."""
    for batch in siblings:
        is_archive = batch.is_archive or batch.batch_id in told
        if is_archive and batch.batch_id != manifest.batch_id and _may_overlap(batch, manifest, siblings):
            keys = _without_those_of(session, shape, keys, batch)
    return int(keys.num_rows)


def _may_overlap(other: StoredBatch, manifest: Manifest, siblings: Sequence[StoredBatch]) -> bool:
    """Whether two windows can hold the same row, also when the table's window unit was changed between them."""
    oldest = min(batch.window_key for batch in siblings)
    if manifest.window_open_start or other.window_key == oldest:
        return True
    start = date.fromisoformat(other.window_key[:_ISO_DATE])
    first = datetime.fromisoformat(manifest.window_start).date() - _LONGEST_WINDOW
    return first <= start < datetime.fromisoformat(manifest.window_end).date() + timedelta(days=1)


def _without_those_of(session: ArchiveSession, shape: TableShape, keys: pa.Table, other: StoredBatch) -> pa.Table:
    manifest = read_manifest(session.store, other.stem)
    if not has_key_of(manifest, shape):
        return keys
    return keys.join(keys_of_manifest(manifest), keys=keys.column_names, join_type="left anti")
