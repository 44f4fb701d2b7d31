"""Retrieving archives from cold classes before they are restored; what validation may read."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from archiver_pipeline.domain.prices import RETRIEVAL_TERMS
from archiver_pipeline.domain.restore import Archive, RetrievalTier
from archiver_pipeline.domain.retrieval import Readiness, RetrievalState, expected_at, retrieval_dollars
from archiver_pipeline.engine.work import run_all
from archiver_pipeline.storage.s3 import ObjectColdError, S3Store, require_terms

_REQUESTS_AT_ONCE = 4

Source = TypeVar("Source")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Which archives can be read now, and which must be waited for, both in the order they came.

    `started` retrievals were begun by this call and cost `dollars`; in a preview they would be. `ready_at` is when the
    last waiting archive should be readable (UTC), None when none waits. The store does not say when or with which tier
    a retrieval was begun, so those under way are expected as if begun now with the tier asked for.
    """

    readable: tuple[Archive, ...]
    waiting: tuple[Archive, ...]
    started: int
    ready_at: datetime | None
    dollars: float


@dataclass(frozen=True, slots=True)
class _Found:
    archive: Archive
    state: RetrievalState

    @property
    def is_readable(self) -> bool:
        return self.state.readiness is Readiness.readable


def retrieve_cold(
    store: S3Store, archives: Sequence[Archive], *, tier: RetrievalTier, days: int, now: datetime
) -> Retrieval:
    """Start the retrieval of every archive that is cold; copies stay for `days`.

    Raises PreflightError before any is started when a class does not know the tier, ObjectMissingError when an object
    went away after it was listed. Safe to repeat: what is under way is not started twice, and after an error in the
    middle the next call starts the rest.
    """
    found = _find(store, archives, now)
    cold = _startable(found, tier, days)

    def start(item: _Found) -> bool:
        return store.start_retrieval(
            item.archive.data_key, storage_class=item.state.storage_class, days=days, tier=tier
        )

    begun = _for_each(cold, start)
    started = [item for item, was_begun in zip(cold, begun, strict=True) if was_begun]
    return _retrieval(found, started, tier, days, now)


def preview_retrieval(
    store: S3Store, archives: Sequence[Archive], *, tier: RetrievalTier, days: int, now: datetime
) -> Retrieval:
    """What `retrieve_cold` would start. Starts nothing; raises the same."""
    found = _find(store, archives, now)
    return _retrieval(found, _startable(found, tier, days), tier, days, now)


def retrieval_states(store: S3Store, keys: Iterable[str], *, now: datetime) -> dict[str, RetrievalState]:
    """How every one of these objects of cold classes stands at `now`: one HEAD each, and one read for all of them.

    Some stores keep the name of a class and nothing else of it: there is no retrieval, and every object can be read.
    An object that nobody has retrieved and that can be read all the same gives such a store away.
    Raises ObjectMissingError when one is not there.
    """
    names = tuple(keys)
    states = dict(zip(names, _for_each(names, store.retrieval_state), strict=True))
    # Asked before `at`: an expired copy can often still be read, and would give away nothing.
    untouched = [key for key, state in states.items() if state.readiness is Readiness.cold]
    if untouched and _can_be_read(store, untouched[0]):
        states |= {key: RetrievalState(states[key].storage_class, Readiness.readable) for key in untouched}
    return {key: state.at(now) for key, state in states.items()}


def readiness_of(store: S3Store, keys: Iterable[str], *, now: datetime) -> Readiness:
    """How a waiting restore stands: `retrieving` while any object is on its way, else `cold` when any is.

    `cold` means that waiting is in vain: a copy expired before it was read, so the restore must be run again, which
    starts the retrieval anew. One HEAD an object, up to the first one that is still on its way.
    Raises ObjectMissingError when one is not there.
    """
    worst = Readiness.readable
    for key in keys:
        readiness = store.retrieval_state(key).at(now).readiness
        if readiness is Readiness.retrieving:
            return readiness
        if readiness is Readiness.cold:
            worst = readiness
    return worst


def readable_again(store: S3Store, keys: Iterable[str], *, now: datetime) -> bool:
    """Whether all objects of a waiting restore can be read. Raises ObjectMissingError when one is not there."""
    return readiness_of(store, keys, now=now) is Readiness.readable


def _find(store: S3Store, archives: Sequence[Archive], now: datetime) -> tuple[_Found, ...]:
    """The archives with their states; only those that are listed in a cold class are asked for."""
    keys = [archive.data_key for archive in archives if archive.stored.is_cold]
    states = retrieval_states(store, keys, now=now)
    return tuple(
        _Found(
            archive,
            states.get(archive.data_key) or RetrievalState(archive.stored.storage_class, Readiness.readable),
        )
        for archive in archives
    )


def _startable(found: tuple[_Found, ...], tier: RetrievalTier, days: int) -> tuple[_Found, ...]:
    """The archives whose retrieval nobody has asked for. Raises PreflightError when it cannot be asked for so."""
    cold = tuple(item for item in found if item.state.readiness is Readiness.cold)
    for storage_class in sorted({item.state.storage_class for item in cold}):
        require_terms(storage_class, days=days, tier=tier)
    return cold


def _retrieval(
    found: tuple[_Found, ...], started: Sequence[_Found], tier: RetrievalTier, days: int, now: datetime
) -> Retrieval:
    waiting = [item for item in found if not item.is_readable]
    return Retrieval(
        readable=tuple(item.archive for item in found if item.is_readable),
        waiting=tuple(item.archive for item in waiting),
        started=len(started),
        ready_at=max((_expected_at(item, tier, now) for item in waiting), default=None),
        dollars=_dollars(started, tier, days),
    )


def _expected_at(item: _Found, tier: RetrievalTier, now: datetime) -> datetime:
    """A retrieval under way may have been begun with a tier that is refused now: Standard is known to every class."""
    storage_class = item.state.storage_class
    return expected_at(now, storage_class, tier if tier in RETRIEVAL_TERMS[storage_class] else RetrievalTier.Standard)


def _dollars(started: Sequence[_Found], tier: RetrievalTier, days: int) -> float:
    sizes: dict[str, list[int]] = {}
    for item in started:
        sizes.setdefault(item.state.storage_class, []).append(item.archive.stored.object_bytes)
    return sum(retrieval_dollars(found, storage_class, tier, days) for storage_class, found in sizes.items())


def _can_be_read(store: S3Store, key: str) -> bool:
    try:
        next(store.read_blocks(key), None)
    except ObjectColdError:
        return False
    return True


def _for_each(items: tuple[Source, ...], work: Callable[[Source], Result]) -> tuple[Result, ...]:
    """Requests are short, so the first error waits for the few that are under way."""
    return run_all(items, work, _REQUESTS_AT_ONCE, threading.Event(), cancel=lambda: None)
