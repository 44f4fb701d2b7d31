"""Plan: which rows of which windows one attempt will archive, cut into batches."""

import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from archiver_pipeline.domain.audit import AuditKind
from archiver_pipeline.domain.batch import Plan, PlannedBatch, SettledBatch
from archiver_pipeline.domain.batch_size import BatchSize, choose_batch_size
from archiver_pipeline.domain.holds import shown
from archiver_pipeline.domain.partitions import Leaf
from archiver_pipeline.domain.protection import is_protected
from archiver_pipeline.domain.retention import RETENTION_FLOOR_DAYS
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.domain.windows import Window
from archiver_pipeline.engine.archived import list_stored
from archiver_pipeline.engine.drift import require_known_columns
from archiver_pipeline.engine.fallback import settle_kept
from archiver_pipeline.engine.holds import with_holds
from archiver_pipeline.engine.leaves import leaf_warnings, leaves_to_archive
from archiver_pipeline.engine.protection import session_protections
from archiver_pipeline.engine.reconcile import reconcile_table
from archiver_pipeline.engine.recording import record_plan
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.steps import timed_step
from archiver_pipeline.errors import PreflightError
from archiver_pipeline.postgres.catalog import inspect_table, system_identifier
from archiver_pipeline.postgres.connection import connect
from archiver_pipeline.postgres.eligible import batch_bounds, measure_eligible, source_clock
from archiver_pipeline.postgres.maintenance import table_bytes


def plan_archive(
    session: ArchiveSession, windows: Sequence[Window], *, limit_rows: int | None = None, ignore_hours: bool = False
) -> Plan:
    """Lock the table, settle what a crash or an outage left behind, then plan the eligible rows of windows that are not
    protected.

    `limit_rows` is rounded up to whole batches. Outside the allowed hours, and under pressure that does not end, the
    plan has no batch and says why; `ignore_hours` overrides the hours, which the audit trail is told.

    Raises LockHeldError, PreflightError or PermissionDeniedError, ManifestError when a protection cannot be read, what
    `with_holds` does before anything is settled, and the store's errors when the audit trail takes no entry.
    Safe to repeat: every call is a new attempt.
    """
    with timed_step(session, "plan", len(windows), 0) as watch:
        shape = with_holds(session, inspect_table(session.connection, session.settings))
        session.lock.require_held()
        session.remove_other_staging(None)
        _require_same_cluster(session, shape)
        listed = list_stored(session.store, shape.name)
        told = (*_below_floor(session), *_ignored_hours(session, ignore_hours=ignore_hours))
        settled = reconcile_table(session, shape, listed)
        warnings = require_known_columns(session, shape, listed)
        uploaded, kept_before = settle_kept(session, shape)
        leaves = leaves_to_archive(session, shape)
        warnings = (*warnings, *leaf_warnings(session, leaves))
        session.throttle.begin()
        stopped = session.throttle.refusal(shape, "plan", ignore_hours=ignore_hours)
        limit_rows = 0 if stopped else limit_rows
        plan = _plan_windows(session, shape, windows, leaves.leaves, limit_rows, (*settled, *uploaded))
        plan = replace(plan, kept_before=kept_before, warnings=(*told, *warnings), stopped=stopped)
        plan = replace(plan, ignores_hours=ignore_hours, pauses=session.throttle.take_pauses())
        record_plan(session, plan, session.settings.retention_days)
    return replace(plan, seconds=watch.seconds)


def _below_floor(session: ArchiveSession) -> tuple[str, ...]:
    """Of a retention below the floor every plan leaves an entry in the audit trail, before anything is settled or
    planned, and a warning."""
    override = session.settings.below_floor
    if override is None:
        return ()
    session.audit.record(
        AuditKind.override,
        rule="retention_floor",
        floor_days=RETENTION_FLOOR_DAYS,
        retention_days=override.retention_days,
        reason=override.reason,
    )
    return (shown(str(override)),)


def _ignored_hours(session: ArchiveSession, *, ignore_hours: bool) -> tuple[str, ...]:
    """That somebody lets batches begin outside the allowed hours, told before anything begins."""
    if session.settings.allowed_hours is None or not ignore_hours:
        return ()
    session.audit.record(AuditKind.override, rule="allowed_hours", allowed_hours=str(session.settings.allowed_hours))
    return (f"allowed_hours ({session.settings.allowed_hours}) are ignored, as asked for",)


def cutoff_of(session: ArchiveSession) -> datetime:
    """The exclusive cutoff: now by the primary's clock, less retention, in UTC."""
    return source_clock(session.connection).astimezone(UTC) - timedelta(days=session.settings.retention_days)


def _plan_windows(
    session: ArchiveSession,
    shape: TableShape,
    windows: Sequence[Window],
    leaves: Sequence[Leaf],
    limit_rows: int | None,
    settled: tuple[SettledBatch, ...],
) -> Plan:
    cutoff = cutoff_of(session)
    # Under the lock: a restore that ended before has its protection in the store, and none can begin.
    protections = session_protections(session)
    batches: list[PlannedBatch] = []
    eligible_rows, staged_bytes, planned_all = 0, 0.0, True
    size: BatchSize | None = None
    rows_left = limit_rows if limit_rows is not None else math.inf
    for window, leaf in _parts(windows, leaves):
        if is_protected(window, protections):
            continue
        eligible = measure_eligible(session.connection, shape, window, cutoff, leaf)
        eligible_rows += eligible.rows
        size = size or (size_of_batches(session, eligible.row_bytes) if eligible.rows else None)
        room = (session.settings.max_staged_bytes - staged_bytes) / max(eligible.row_bytes, 1)
        take = min(eligible.rows, math.ceil(max(room, 0)), rows_left)
        planned_rows = min(_whole_batches(size, take), eligible.rows) if size else 0
        planned_all = planned_all and planned_rows == eligible.rows
        if size and planned_rows:
            batches += _cut(session, shape, window, cutoff, leaf, len(batches), planned_rows, size)
        staged_bytes += planned_rows * eligible.row_bytes
        rows_left -= planned_rows
    return Plan(
        attempt_id=secrets.token_hex(8),
        run_id=session.run_id,
        shape=shape,
        cutoff=cutoff,
        lock_token=session.lock.token,
        windows=tuple(windows),
        batches=tuple(batches),
        eligible_rows=eligible_rows,
        estimated_bytes=int(staged_bytes),
        planned_all=planned_all,
        table_bytes_before=table_bytes(session.connection, shape.name),
        settled=settled,
        protections=tuple(protections),
        batch_size=size or size_of_batches(session, 0),
    )


def _parts(windows: Sequence[Window], leaves: Sequence[Leaf]) -> Iterator[tuple[Window, Leaf | None]]:
    """What batches are cut of: each window, leaf by leaf where the table is archived so. No batch is of two leaves."""
    for window in windows:
        if leaves:
            yield from ((window, leaf) for leaf in leaves if leaf.may_overlap(window))
        else:
            yield window, None


def size_of_batches(session: ArchiveSession, row_bytes: float) -> BatchSize:
    """How many rows a batch of rows of this width should have now."""
    return choose_batch_size(
        session.settings.adaptive_batch_size,
        session.settings.batch_size,
        row_bytes=row_bytes,
        pace=session.known_pace,
        is_pressed=session.throttle.is_pressed,
    )


def _whole_batches(size: BatchSize, rows: float) -> int:
    return math.ceil(max(rows, 0) / size.rows) * size.rows


def _cut(
    session: ArchiveSession,
    shape: TableShape,
    window: Window,
    cutoff: datetime,
    leaf: Leaf | None,
    first_index: int,
    rows: int,
    size: BatchSize,
) -> Iterator[PlannedBatch]:
    bounds = batch_bounds(session.connection, shape, window, cutoff, batch_size=size.rows, limit_rows=rows, leaf=leaf)
    for offset, (lower, upper) in enumerate(zip([None, *bounds], bounds, strict=False)):
        yield PlannedBatch(first_index + offset, window, lower, upper, leaf=leaf)


def _require_same_cluster(session: ArchiveSession, shape: TableShape) -> None:
    """A replica must be a physical copy: only then do ctid and xmin mean the same on both."""
    if session.database.replica is None:
        return
    with connect(session.database.replica) as connection:
        if system_identifier(connection) != shape.system_identifier:
            raise PreflightError(
                f"{session.database.replica.host} is not a physical replica of {session.primary.host}",
                hint="read_replica must be a streaming replica of this very cluster",
            )
