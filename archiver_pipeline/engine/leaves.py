"""Leaves: native partitions all of whose rows a run has proved are dropped as a whole instead of row by row.

Nothing of the proof changes: each batch of a leaf has its object, read back, and its manifest, before the leaf goes,
and its receipt after. One transaction drops the leaf, so of its rows all are in the table or none, as with the delete
of a batch, and whoever settles a crash finds one or the other. Where a leaf can't be dropped, its batches are deleted
as those of any table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta

from archiver_pipeline.codec.versions import read_versions
from archiver_pipeline.config.enums import PartitionStrategy
from archiver_pipeline.domain.batch import Plan, SettledBatch, VerifiedBatch
from archiver_pipeline.domain.layout import StoredBatch, stem_of
from archiver_pipeline.domain.partitions import Leaf, LeafEnd
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.engine.finding import Finding, Level
from archiver_pipeline.engine.holds import hold_guard
from archiver_pipeline.engine.intent import Intent, intend_batch, receipt_deleted
from archiver_pipeline.engine.recording import record_leaf
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.postgres.delete import RowsHeldError, TooYoungError
from archiver_pipeline.postgres.eligible import source_clock
from archiver_pipeline.postgres.partitions import LeafKeptError, Leaves, find_leaves

_OBSTACLES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class LeafWork:
    """What became of the leaves: batches with their ends, and those that are still to be deleted, some of which have
    their manifests."""

    settled: tuple[tuple[VerifiedBatch, SettledBatch], ...]
    remaining: tuple[VerifiedBatch | Intent, ...]
    ends: tuple[LeafEnd, ...]


def leaves_to_archive(session: ArchiveSession, shape: TableShape) -> Leaves:
    """The table's leaves if it is to be archived leaf by leaf, none otherwise."""
    if session.settings.partitions is not PartitionStrategy.DROP:
        return Leaves(())
    return find_leaves(session.connection, shape)


def leaf_warnings(session: ArchiveSession, found: Leaves) -> Iterator[str]:
    """Why `partitions: drop` can't do what it says, for people: in one line, and only if it concerns every leaf."""
    if session.settings.partitions is not PartitionStrategy.DROP:
        return
    closing = [leaf for leaf in found.leaves if leaf.upper]
    obstacles = dict.fromkeys(leaf.obstacle for leaf in closing)
    if found.obstacle:
        yield f"partitions: drop has no effect: {found.obstacle}"
    elif not closing:
        yield f"partitions: drop has no effect: no partition is a range of {session.settings.timestamp_column}"
    elif all(obstacles):
        yield f"partitions: drop has no effect: {'; '.join(list(obstacles)[:_OBSTACLES_SHOWN])}"


def leaf_findings(session: ArchiveSession, shape: TableShape, subject: str) -> Iterator[Finding]:
    """What `archiver check` says of `partitions: drop`; nothing without it."""
    if session.settings.partitions is not PartitionStrategy.DROP:
        return
    found = leaves_to_archive(session, shape)
    warnings = list(leaf_warnings(session, found))
    for warning in warnings:
        yield Finding(subject, Level.warning, warning, "rows are deleted instead; docs/partitions.md")
    if warnings:
        return
    cutoff = source_clock(session.connection).astimezone(UTC) - timedelta(days=session.settings.retention_days)
    closed = [leaf for leaf in found.leaves if leaf.is_closed(cutoff)]
    free = sum(not leaf.obstacle for leaf in closed)
    message = f"partitions: drop: {free} of {len(closed)} partitions that are wholly old can be dropped"
    yield Finding(subject, Level.ok, message)
    if not found.has_default:
        message = "a row that comes late for a partition that was dropped will be refused by PostgreSQL"
        yield Finding(subject, Level.warning, message, "a DEFAULT partition would take it; docs/partitions.md")


def drop_leaves(
    session: ArchiveSession, plan: Plan, batches: Sequence[VerifiedBatch], stored: dict[str, StoredBatch]
) -> LeafWork:
    """Drop each leaf that holds nothing but rows of these batches; what remains is to be deleted batch by batch.

    Safe to repeat: a leaf of which an earlier try left a manifest is not dropped any more, its batches are settled.
    """
    settled: list[tuple[VerifiedBatch, SettledBatch]] = []
    remaining: list[VerifiedBatch | Intent] = []
    ends: list[LeafEnd] = []
    for leaf, own in _by_leaf(batches).items():
        rows = sum(batch.extracted.rows for batch in own)
        # What is refused now is put aside batch by batch.
        refused = leaf and session.throttle.refusal(plan.shape, "delete", ignore_hours=plan.ignores_hours)
        if leaf is None or refused or any(stem_of(batch.encoded.key) in _manifested(stored) for batch in own):
            remaining += own
            continue
        if reason := leaf.obstacle or _why_not_now(session, plan, leaf, rows):
            ends.append(LeafEnd(leaf, rows, dropped=False, reason=reason))
            remaining += own
            continue
        intended = session.for_each(tuple(own), lambda batch: intend_batch(session, plan, batch, None))
        intents = [one for one in intended if isinstance(one, Intent)]
        settled += [(batch, one) for batch, one in zip(own, intended, strict=True) if isinstance(one, SettledBatch)]
        end = _drop(session, plan.shape, leaf, intents, rows)
        ends.append(end)
        if end.dropped:
            receipts = _receipts(session, plan.shape, intents)
            settled += [(intent.batch, receipt) for intent, receipt in zip(intents, receipts, strict=True)]
        else:
            remaining += intents
    return LeafWork(tuple(settled), tuple(remaining), tuple(ends))


def _by_leaf(batches: Sequence[VerifiedBatch]) -> dict[Leaf | None, list[VerifiedBatch]]:
    found: dict[Leaf | None, list[VerifiedBatch]] = {}
    for batch in batches:
        found.setdefault(batch.extracted.planned.leaf, []).append(batch)
    return found


def _manifested(stored: dict[str, StoredBatch]) -> set[str]:
    return {stem for stem, batch in stored.items() if batch.has_manifest}


def _why_not_now(session: ArchiveSession, plan: Plan, leaf: Leaf, rows: int) -> str:
    """Why the leaf will not be dropped, without a lock that anybody waits for; empty when it may be."""
    if not leaf.is_closed(plan.cutoff):
        return "rows that are not old enough may still come into it"
    if session.lock.token != plan.lock_token:
        return "the run was interrupted since its rows were read"
    try:
        with session.delete_sessions(plan.shape).take() as deleting:
            held = deleting.count_in_leaf(leaf, rows + 1)
    except LeafKeptError as refusal:
        return refusal.message
    return "" if held == rows else "it holds other rows besides those of this run"


def _drop(session: ArchiveSession, shape: TableShape, leaf: Leaf, intents: Sequence[Intent], rows: int) -> LeafEnd:
    """Drop the leaf whose batches have their manifests, in one transaction, or say why not."""
    if sum(intent.manifest.rows for intent in intents) != rows:
        return LeafEnd(leaf, rows, dropped=False, reason="some of its rows stay, or were settled already")
    record_leaf(session, "begin", leaf, rows=rows, batches=[intent.manifest.batch_id for intent in intents])
    try:
        size_bytes = _drop_proved(session, shape, leaf, intents, rows)
    except (LeafKeptError, RowsHeldError, TooYoungError) as refusal:
        record_leaf(session, "kept", leaf, reason=refusal.message)
        return LeafEnd(leaf, rows, dropped=False, reason=refusal.message)
    record_leaf(session, "dropped", leaf, rows=rows, bytes=size_bytes)
    return LeafEnd(leaf, rows, dropped=True, dropped_bytes=size_bytes)


def _drop_proved(session: ArchiveSession, shape: TableShape, leaf: Leaf, intents: Sequence[Intent], rows: int) -> int:
    versions = (read_versions(intent.batch.encoded.extracted.versions_path) for intent in intents)
    # With the holds of now, not those that the first of many manifests was written under.
    guard = Intent(intents[0].batch, intents[0].manifest, hold_guard(session, shape)).guard(session)
    with session.delete_sessions(shape).take() as deleting:
        try:
            return deleting.drop_leaf(leaf, versions, rows, guard, session.stopping.wait)
        except (LeafKeptError, RowsHeldError, TooYoungError) as refusal:
            kept = refusal
    raise kept


def _receipts(session: ArchiveSession, shape: TableShape, intents: Sequence[Intent]) -> tuple[SettledBatch, ...]:
    def receipt(intent: Intent) -> SettledBatch:
        with session.delete_sessions(shape).take() as deleting:
            return receipt_deleted(session, deleting, intent.manifest)

    return session.for_each(tuple(intents), receipt)
