"""Select: which archives a restore takes, before anything is changed."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from archiver_pipeline.codec.predicates import parse_predicate
from archiver_pipeline.domain.layout import (
    BatchState,
    StoredBatch,
    batch_stem_of,
    group_batches,
    table_of_key,
)
from archiver_pipeline.domain.restore import Archive, RestoreRequest
from archiver_pipeline.engine.archived import list_stored, read_receipt
from archiver_pipeline.engine.restore_session import RestoreSession
from archiver_pipeline.engine.retrieval import preview_retrieval, retrieve_cold
from archiver_pipeline.engine.watermark import Watermark
from archiver_pipeline.errors import ConfigError, PreflightError
from archiver_pipeline.postgres.connection import source_errors
from archiver_pipeline.postgres.eligible import source_clock
from archiver_pipeline.postgres.predicate import check_predicate
from archiver_pipeline.postgres.target import TargetShape, inspect_target

_ISO_DATE = len("2026-01-31")
_LONGEST_WINDOW = timedelta(days=31)
_READING_THREADS = 16
_STATE_HINTS = {
    BatchState.pending: "its run was interrupted: `archiver run` settles it, then it can be restored",
    BatchState.superseded: "it is void: its rows stayed in the table or are in another object",
    BatchState.expired: "its own retention was over, so its rows were removed; its receipt says how many there were",
    BatchState.expiring: "its own retention is over, and a part of it is removed already",
    BatchState.orphaned: "it was never finished: its rows stayed in the table",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """What one restore takes, the oldest archive first.

    `remembered` archives were restored before and are left out; `waiting` ones are being retrieved from a cold class.
    `started` of these retrievals were begun now (in a dry run: would be); `ready_at` is when the last waiting one
    should be readable (UTC). `pending` batches were left open by an interrupted archive run; nobody knows yet whether
    their rows are in the table. `overtaken` archives are older than one that was restored before.
    """

    request: RestoreRequest
    archives: tuple[Archive, ...]
    waiting: tuple[Archive, ...]
    started: int
    remembered: int
    ready_at: datetime | None
    retrieval_dollars: float
    pending: int
    overtaken: int
    expired: int = 0
    expired_since: datetime | None = None
    """`expired` batches that may have held rows of the days have nothing left; the first since then."""

    @property
    def rows(self) -> int:
        return sum(archive.receipt.rows for archive in self.archives)


def select_archives(session: RestoreSession, *, dry_run: bool = False) -> Selection:
    """List, take the days, leave out what the watermark remembers, start the retrieval of what is cold.

    The target is looked at first, so that a mistake is told before a retrieval costs anything. With `dry_run` nothing
    is started or written. Raises PreflightError when the table has no archives, or the named object is not one.
    """
    with source_errors(session.target):
        shape = inspect_target(session.connection, session.request.target, session.request.conflict)
        _check_where(session, shape)
        stored = _stored(session)
        found = _within_days(session, _read_receipts(session, _candidates(session, stored)))
        remembered = _remembered(session, dry_run=dry_run)
        now = source_clock(session.connection).astimezone(UTC)
    gone = _gone(session, stored)
    fresh = [archive for archive in found if archive.receipt.batch_id not in remembered]
    retrieve = preview_retrieval if dry_run else retrieve_cold
    request = session.request
    retrieval = retrieve(session.store, fresh, tier=request.retrieval_tier, days=request.retrieval_days, now=now)
    return Selection(
        request=request,
        archives=tuple(retrieval.readable),
        waiting=tuple(retrieval.waiting),
        started=retrieval.started,
        remembered=len(found) - len(fresh),
        ready_at=retrieval.ready_at,
        retrieval_dollars=retrieval.dollars,
        pending=sum(batch.state is BatchState.pending for batch in stored),
        overtaken=_overtaken(found, remembered),
        expired=len(gone),
        expired_since=min((batch.modified_at for batch in gone), default=None),
    )


def watermark_of(session: RestoreSession) -> Watermark:
    """What was restored before from the request's source into its target, the same one during a session: what could
    not be written when a restore broke off is written by the next try."""
    if session.watermark is None:
        request = session.request
        session.watermark = Watermark(
            session.store, session.watermark_settings, request.source, request.target, session.run_id
        )
    return session.watermark


def _check_where(session: RestoreSession, shape: TargetShape) -> None:
    if session.request.where is not None:
        check_predicate(session.connection, parse_predicate(session.request.where), shape.types)


def _stored(session: RestoreSession) -> list[StoredBatch]:
    """The named batch, or all of the source's."""
    if session.request.data_key is not None:
        return [_named_batch(session, session.request.data_key)]
    return list_stored(session.store, session.request.source)


def _read_receipts(session: RestoreSession, batches: Sequence[StoredBatch]) -> list[Archive]:
    """The batches with their receipts, the oldest settled first."""
    with ThreadPoolExecutor(_READING_THREADS) as threads:
        receipts = threads.map(lambda batch: read_receipt(session.store, batch.stem), batches)
        found = [Archive(batch, receipt) for batch, receipt in zip(batches, receipts, strict=True)]
    return sorted(found, key=lambda archive: (archive.receipt.settled_at, archive.data_key))


def _named_batch(session: RestoreSession, key: str) -> StoredBatch:
    try:
        stem = batch_stem_of(key)
        table = table_of_key(session.store.settings.prefix, key)
    except ValueError as error:
        raise ConfigError(f"{error}", hint="`archiver list --objects` shows the keys") from error
    if table != session.request.source:
        raise ConfigError(f"{key} is an object of {table}, not of {session.request.source}", hint="name its own table")
    batches = group_batches(session.store.list_objects(stem + "."))
    if not batches:
        raise PreflightError(f"there is no object {key!r}", hint="`archiver list --objects` shows the keys")
    if not batches[0].is_archive:
        raise PreflightError(f"{key} is {batches[0].state.value}", hint=_STATE_HINTS[batches[0].state])
    return batches[0]


def _candidates(session: RestoreSession, stored: Sequence[StoredBatch]) -> list[StoredBatch]:
    """Archives whose windows may reach into the days, by the listing alone."""
    source = session.request.source
    receipted = [batch for batch in stored if batch.is_archive]
    if not receipted:
        expired = sum(map(_has_nothing_left, stored))
        others = f"; {len(stored) - expired} batches are not finished" if len(stored) > expired else ""
        others += f"; {expired} are expired: their own retention was over" if expired else ""
        raise PreflightError(
            f"no archives found for {source}{others}",
            hint="`archiver list` shows what the store holds; check s3.prefix and the table's name",
        )
    oldest = min(batch.window_key for batch in receipted)
    reaching = [batch for batch in receipted if _may_reach(session, batch, is_oldest=batch.window_key == oldest)]
    return _only_wanted(session.request.only_keys, reaching)


def _only_wanted(keys: Sequence[str], batches: list[StoredBatch]) -> list[StoredBatch]:
    """The batches of these objects, all when none is named. Raises PreflightError when one is not there."""
    if not keys:
        return batches
    wanted = set(keys)
    found = [batch for batch in batches if batch.data_key in wanted]
    missing = wanted.difference(batch.data_key for batch in found)
    if missing:
        raise PreflightError(f"{len(missing)} of the archives are not there, like {min(missing)}")
    return found


def _may_reach(session: RestoreSession, batch: StoredBatch, *, is_oldest: bool) -> bool:
    """Whether a batch can hold rows of the days: a window has at most 31 days, and the first is open to the past."""
    request = session.request
    day = date.fromisoformat(batch.window_key[:_ISO_DATE])
    late_enough = request.start is None or day + _LONGEST_WINDOW >= request.start
    return late_enough and (request.end is None or day <= request.end or is_oldest)


def _gone(session: RestoreSession, stored: Sequence[StoredBatch]) -> list[StoredBatch]:
    """Batches that may have held rows of the days, and of which nothing is left."""
    oldest = min((batch.window_key for batch in stored), default="")
    gone = [batch for batch in stored if _has_nothing_left(batch)]
    return [batch for batch in gone if _may_reach(session, batch, is_oldest=batch.window_key == oldest)]


def _has_nothing_left(batch: StoredBatch) -> bool:
    """Whether its rows were removed from the store, at least in part."""
    return batch.state is BatchState.expired or (batch.state is BatchState.expiring and not batch.is_archive)


def _within_days(session: RestoreSession, found: Sequence[Archive]) -> list[Archive]:
    """The archives with rows in the days, by the times that their receipts state."""
    request = session.request
    return [
        archive
        for archive in found
        if (request.start is None or moment_of_text(archive.receipt.last_row_time).date() >= request.start)
        and (request.end is None or moment_of_text(archive.receipt.first_row_time).date() <= request.end)
    ]


def _remembered(session: RestoreSession, *, dry_run: bool) -> frozenset[str]:
    watermark = watermark_of(session)
    if not dry_run:
        watermark.open(session.connection)
    remembered = watermark.remembered(session.connection)
    return frozenset() if session.request.ignore_watermark else remembered


def _overtaken(found: Sequence[Archive], remembered: frozenset[str]) -> int:
    """How many archives are restored only now although a later one was before."""
    before = [archive.receipt.settled_at for archive in found if archive.receipt.batch_id in remembered]
    last = max(map(moment_of_text, before), default=None)
    if last is None:
        return 0
    left = [archive.receipt for archive in found if archive.receipt.batch_id not in remembered]
    return sum(moment_of_text(receipt.settled_at) < last for receipt in left)


def moment_of_text(text: str) -> datetime:
    """A time as PostgreSQL prints it (ISO, UTC); what no datetime can hold becomes the nearest that one can."""
    if text.startswith("-infinity") or text.endswith(" BC"):
        return datetime.min.replace(tzinfo=UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)
    return moment.replace(tzinfo=moment.tzinfo or UTC)
