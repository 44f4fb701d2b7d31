"""The whole restore of some archives into one table, as a paragraph. The mirror of `archive`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import IO

from archiver_pipeline.codec.copy_text import copy_text_of
from archiver_pipeline.codec.jsonl import decode_jsonl
from archiver_pipeline.codec.parquet import decode_parquet
from archiver_pipeline.codec.predicates import parse_predicate
from archiver_pipeline.domain.drift import Drift
from archiver_pipeline.domain.layout import DataFormat
from archiver_pipeline.domain.manifest import Manifest
from archiver_pipeline.domain.restore import (
    Archive,
    ConflictStrategy,
    RestoredObject,
    RestoreOutcome,
    RestoreReport,
)
from archiver_pipeline.domain.table import timestamp_type_of
from archiver_pipeline.domain.watermark import RestoredBatch
from archiver_pipeline.engine.archived import blocks_of, proved_object, read_receipted_manifest
from archiver_pipeline.engine.progress import BatchStep
from archiver_pipeline.engine.protection import build_protection, record_protection
from archiver_pipeline.engine.recording import record_restore_begins, record_restore_report, record_restored
from archiver_pipeline.engine.restore_session import RestoreSession
from archiver_pipeline.engine.selection import Selection, moment_of_text, select_archives, watermark_of
from archiver_pipeline.engine.turns import Turn, Turns
from archiver_pipeline.engine.watermark import Watermark
from archiver_pipeline.errors import (
    ManifestError,
    PermissionDeniedError,
    PreflightError,
    SourceError,
    StoreError,
    VerificationError,
)
from archiver_pipeline.postgres.connection import Connection, DeleteRefusedError, source_errors
from archiver_pipeline.postgres.copy_direct import NotCopiedError, can_copy_directly, copy_rows, seem_new
from archiver_pipeline.postgres.copy_in import (
    MergedRows,
    RowFilter,
    csv_of_columns,
    explained_refusal,
    merge_rows,
    stage_columns,
    stage_lines,
)
from archiver_pipeline.postgres.eligible import source_clock
from archiver_pipeline.postgres.landing import Landing, SchemaDriftError, plan_landing
from archiver_pipeline.postgres.partitions import leaf_statement
from archiver_pipeline.postgres.sequences import advance_sequences
from archiver_pipeline.postgres.target import TargetShape, inspect_target

_OWN_ERRORS = (VerificationError, ManifestError, SourceError, StoreError, SchemaDriftError)
"""Errors of one object: it is left out whole and the others go on. All other errors stop the restore."""
_NO_TIME = datetime.min.replace(tzinfo=UTC)
_LAST_DAY = datetime.max.replace(tzinfo=UTC) - timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Restoration:
    """What became of a selection's archives."""

    selection: Selection
    objects: tuple[RestoredObject, ...]
    protected_until: datetime | None
    warnings: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class RestorePreview:
    """What a restore would do: its selection, how columns changed since, and why objects would be refused."""

    selection: Selection
    drifts: tuple[Drift, ...]
    problems: tuple[str, ...]


def preview_restore(session: RestoreSession) -> RestorePreview:
    """Select without starting anything, and hold every readable archive's columns against the target's."""
    selection = select_archives(session, dry_run=True)
    drifts: dict[Drift, None] = {}
    problems: dict[str, None] = {}
    with source_errors(session.target):
        shape = inspect_target(session.connection, session.name, session.request.conflict)
    for manifest in session.for_each(selection.archives, lambda archive: _manifest_of(session, archive)):
        try:
            with source_errors(session.target):
                landing = plan_landing(session.connection, shape, manifest, session.request.schema)
        except PreflightError as error:
            problems[str(error)] = None
        else:
            drifts[landing.drift] = None
    return RestorePreview(selection, tuple(drift for drift in drifts if drift), tuple(problems))


def restore_archives(session: RestoreSession) -> RestoreReport:
    """Restore what the session's request names. Safe to repeat after any interruption: every object is restored whole
    or not at all, and the watermark knows which were."""
    selection = select_archives(session)
    restoration = restore_selection(session, selection)
    return report_restore(session, restoration)


def restore_selection(session: RestoreSession, selection: Selection) -> Restoration:
    """Protect the windows, then restore every readable archive, several at once, each in its own transaction.

    Where archives hold versions of the same key the newest wins, whatever the order in which workers finish.
    A second try in the same session, after an error, takes only the archives that the first one did not restore.
    Raises LockHeldError when an archive run or another restore works on the target.
    """
    started = perf_counter()
    request = session.request
    session.progress.step_started(request.target, "restore", len(selection.archives), selection.rows)
    session.lock.require_held()
    if selection.archives:
        keys = [archive.data_key for archive in selection.archives]
        record_restore_begins(session, request, keys, rows=selection.rows)
    with source_errors(session.target):
        shape = inspect_target(session.connection, request.target, request.conflict)
        protected_until = _protect(session, selection.archives)
    left = [archive for archive in selection.archives if archive.receipt.batch_id not in session.restored]
    ordered = _in_order(request.conflict, left)
    work = _Work(session, shape, Turns([_turn_of(archive) for archive in ordered]))
    try:
        done = session.for_each(tuple(enumerate(ordered)), work.restore)
    finally:
        work.watermark.flush(force=True)
    failed = [item for item in done if item.outcome is RestoreOutcome.failed]
    objects = (*session.restored.values(), *failed)
    left_out = (*_pending(selection), *_expired(selection), *_overtaken(selection))
    warnings = (*left_out, *work.warnings(), *_advance_sequences(session, shape))
    seconds = perf_counter() - started
    session.progress.step_finished(request.target, "restore", seconds)
    return Restoration(selection, objects, protected_until, warnings, seconds)


def report_restore(session: RestoreSession, restoration: Restoration) -> RestoreReport:
    """What was done, object by object, those that wait for their retrieval included."""
    selection = restoration.selection
    objects = [*restoration.objects, *map(_waiting, selection.waiting)]
    report = RestoreReport(
        source=session.request.source,
        target=session.request.target,
        run_id=session.run_id,
        objects=tuple(sorted(objects, key=lambda item: item.data_key)),
        remembered=selection.remembered,
        protected_until=restoration.protected_until,
        ready_at=selection.ready_at,
        retrieval_dollars=selection.retrieval_dollars,
        warnings=restoration.warnings,
        seconds=restoration.seconds,
    )
    record_restore_report(session, session.request, report)
    session.progress.restore_reported(report)
    return report


def _in_order(conflict: ConflictStrategy, archives: Sequence[Archive]) -> list[Archive]:
    """The archives in the order in which they must be merged so that the newest version of a row wins."""
    newest_first = conflict in (ConflictStrategy.skip, ConflictStrategy.fail)
    return sorted(archives, key=lambda archive: _turn_of(archive).settled_at, reverse=newest_first)


def _turn_of(archive: Archive) -> Turn:
    receipt = archive.receipt
    return Turn((receipt.run_id, receipt.settled_by), moment_of_text(receipt.settled_at))


_NO_PARTITION = "no partition of relation"


@dataclass(frozen=True, slots=True)
class _Into:
    """One proved object on its way into the target. `rows` says which of its rows are taken."""

    connection: Connection
    landing: Landing
    manifest: Manifest
    file: IO[bytes]
    turn: int
    rows: RowFilter


class _Work:
    """What the workers of one restore share."""

    def __init__(self, session: RestoreSession, shape: TargetShape, turns: Turns) -> None:
        self._session = session
        self._shape = shape
        self._turns = turns
        self._where = parse_predicate(session.request.where) if session.request.where else None
        self._drifts: dict[Drift, None] = {}
        self.watermark: Watermark = watermark_of(session)

    def restore(self, numbered: tuple[int, Archive]) -> RestoredObject:
        """One object, whole or not at all."""
        session = self._session
        turn, archive = numbered
        started = perf_counter()
        with self._turns.taking(turn):
            try:
                merged = self._restore_rows(archive, turn)
            except DeleteRefusedError as refusal:
                reason = self._why_refused(refusal, archive)
                done = _failed(archive, reason, perf_counter() - started)
            except _OWN_ERRORS as error:
                done = _failed(archive, str(error), perf_counter() - started)
            else:
                done = _restored(archive, merged, perf_counter() - started)
                session.restored[done.batch_id] = done
        record_restored(session, session.request, done)
        self.watermark.flush()
        session.progress.batch_finished(
            session.request.target,
            "restore",
            BatchStep(done.rows, archive.receipt.rows_bytes, done.window_key, done.batch_id, done.data_key),
        )
        return done

    def _why_refused(self, refusal: DeleteRefusedError, archive: Archive) -> str:
        """In words; of rows whose partition is gone, with the statement that makes it anew."""
        if _NO_PARTITION not in refusal.message:
            return str(explained_refusal(refusal, self._session.request.conflict))
        leaf = _manifest_of(self._session, archive).leaf
        made = f": {leaf_statement(leaf)}" if leaf else ""
        return f"{refusal.message} — make the partition anew{made}, or restore into another table"

    def warnings(self) -> list[str]:
        return [f"archived columns were mapped by name: {drift}" for drift in self._drifts]

    def _restore_rows(self, archive: Archive, turn: int) -> MergedRows:
        session, request = self._session, self._session.request
        manifest = _manifest_of(session, archive)
        with session.connections.take() as connection, source_errors(session.target):
            landing = plan_landing(connection, self._shape, manifest, request.schema)
            with proved_object(session.store, manifest) as file:
                into = _Into(connection, landing, manifest, file, turn, self._filter(manifest))
                seems_new = can_copy_directly(landing, into.rows) and seem_new(connection, landing, manifest)
                with connection.transaction():
                    merged = self._copied(into) if seems_new else None
                    merged = merged or self._merged(into)
                    if not merged.filtered_rows:
                        self.watermark.remember_in_transaction(connection, _memory_of(archive))
                    # As late as can be: a restore that was held up must not set back what another has restored since.
                    session.lock.require_held()
        if landing.drift:
            self._drifts[landing.drift] = None
        if not merged.filtered_rows:
            self.watermark.remember(_memory_of(archive))
        return merged

    def _copied(self, into: _Into) -> MergedRows | None:
        """All rows straight into the table; None when they must go by way of a stage."""
        self._wait(into)
        try:
            return copy_rows(into.connection, into.landing, _copy_pieces(into.landing, into.file), into.manifest.rows)
        except NotCopiedError:
            into.file.seek(0)
            return None

    def _merged(self, into: _Into) -> MergedRows:
        request = self._session.request
        _stage(into.connection, into.landing, into.file)
        self._wait(into)
        return merge_rows(into.connection, into.landing, request.conflict, into.rows, lossy=request.allow_lossy_casts)

    def _wait(self, into: _Into) -> None:
        """Until no archive that must be merged before this one is left."""
        self._turns.wait_for(into.turn, moment_of_text(into.manifest.extracted_at), self._session.stopping)
        self._session.lock.require_held()

    def _filter(self, manifest: Manifest) -> RowFilter:
        request = self._session.request
        types = {column.name: column.type for column in manifest.columns}
        kind = timestamp_type_of(types.get(manifest.timestamp_column, ""))
        if kind is None:
            raise ManifestError(f"{manifest.data_key}: the manifest's timestamp column holds no time")
        return RowFilter(request.start, request.end, kind, self._where)


def _manifest_of(session: RestoreSession, archive: Archive) -> Manifest:
    return read_receipted_manifest(session.store, archive.stored.stem, archive.receipt)


def _stage(connection: Connection, landing: Landing, file: IO[bytes]) -> None:
    if landing.format is DataFormat.jsonl_gz:
        stage_lines(connection, decode_jsonl(blocks_of(file)))
    else:
        stage_columns(connection, landing, decode_parquet(file))


def _copy_pieces(landing: Landing, file: IO[bytes]) -> Iterator[memoryview]:
    """The object as the text that COPY into the landing's columns reads."""
    names = [column.name for column in landing.columns]
    if landing.format is DataFormat.jsonl_gz:
        return copy_text_of(decode_jsonl(blocks_of(file)), names)
    return csv_of_columns(names, decode_parquet(file))


def _memory_of(archive: Archive) -> RestoredBatch:
    receipt = archive.receipt
    return RestoredBatch(batch_id=receipt.batch_id, data_key=receipt.data_key, rows=receipt.rows)


def _restored(archive: Archive, merged: MergedRows, seconds: float) -> RestoredObject:
    return RestoredObject(
        data_key=archive.data_key,
        batch_id=archive.receipt.batch_id,
        window_key=archive.stored.window_key,
        rows=archive.receipt.rows,
        outcome=RestoreOutcome.restored,
        restored_rows=merged.restored_rows,
        replaced_rows=merged.replaced_rows,
        skipped_rows=merged.skipped_rows,
        filtered_rows=merged.filtered_rows,
        seconds=seconds,
    )


def _failed(archive: Archive, reason: str, seconds: float) -> RestoredObject:
    return RestoredObject(
        data_key=archive.data_key,
        batch_id=archive.receipt.batch_id,
        window_key=archive.stored.window_key,
        rows=archive.receipt.rows,
        outcome=RestoreOutcome.failed,
        failed_rows=archive.receipt.rows,
        reason=reason,
        seconds=seconds,
    )


def _waiting(archive: Archive) -> RestoredObject:
    return RestoredObject(
        data_key=archive.data_key,
        batch_id=archive.receipt.batch_id,
        window_key=archive.stored.window_key,
        rows=archive.receipt.rows,
        outcome=RestoreOutcome.waiting,
        reason=f"in {archive.stored.storage_class}, being retrieved",
    )


def _protect(session: RestoreSession, archives: Sequence[Archive]) -> datetime | None:
    """Keep the days of the restored rows from being archived again for a while; None when nothing will archive them.

    Written before the first row, so that no row is ever in the table without it.
    """
    if session.settings is None or not archives:
        return None
    wanted = session.request.protect_days
    days = session.settings.restore_protection_days if wanted is None else wanted
    if not days:
        return None
    now = source_clock(session.connection)
    ends_at = now + timedelta(days=days)
    protected = [_days_of(archive) for archive in archives]
    record_protection(
        session.store,
        build_protection(session.name, protected, run_id=session.run_id, created_at=now, ends_at=ends_at),
    )
    return ends_at


def _days_of(archive: Archive) -> tuple[datetime, datetime, bool]:
    """The days, UTC, that an archive's rows lie in: start (inclusive), end (exclusive), open to the past."""
    first = moment_of_text(archive.receipt.first_row_time)
    last = moment_of_text(archive.receipt.last_row_time)
    end = min(last, _LAST_DAY).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return first.replace(hour=0, minute=0, second=0, microsecond=0), end, first == _NO_TIME


def _pending(selection: Selection) -> list[str]:
    if not selection.pending:
        return []
    return [
        f"{selection.pending} pending batches were not restored: `archiver run` finds out whether their rows are in the"
        " table, and the next restore takes those that are not"
    ]


def _expired(selection: Selection) -> list[str]:
    if not selection.expired or selection.expired_since is None:
        return []
    since = f"{selection.expired_since:%Y-%m-%d %H:%M} UTC"
    return [f"{selection.expired} archives are expired, the first since {since}: nothing of them is left to restore"]


def _overtaken(selection: Selection) -> list[str]:
    """The newest version of a row wins within one restore, but not over what an earlier one restored."""
    if not selection.overtaken or not selection.request.conflict.updates:
        return []
    return [
        f"{selection.overtaken} archives are older than some that were restored before: a row that is in both was set"
        " back to its older version; --ignore-watermark restores all in order"
    ]


def _advance_sequences(session: RestoreSession, shape: TargetShape) -> list[str]:
    """Also when nothing was restored: the restore before may have been killed after its last row."""
    try:
        with source_errors(session.target):
            moved = advance_sequences(session.connection, shape)
    except PermissionDeniedError as error:
        return [f"a sequence may be behind the restored rows: {error}"]
    return [f"the sequence of {column} was moved past the restored rows" for column in moved]
