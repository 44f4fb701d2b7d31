"""Lets workers do most of their work at once, and merge archives in order where these may hold versions of one row."""

import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from archiver_pipeline.engine.work import StoppedError

_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Turn:
    """What is known of an archive before its manifest is read: the run that settled it, and when (aware)."""

    run: Hashable
    settled_at: datetime


class Turns:
    """Numbered turns, in the order in which archives must be merged: settled ever later, or ever earlier.

    Two turns of one run do not wait for each other when the later one was extracted before the earlier one was
    settled: then the rows of both were in the table at once, under a unique key, and no key is in both. All others do.
    Free of deadlock as long as turns are begun in their order.
    """

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = turns
        self._extracted_at: dict[int, datetime] = {}
        self._finished: set[int] = set()
        self._first_unfinished = 0
        self._is_broken = False
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, number: int) -> Iterator[None]:
        """One turn, finished when the body ends. After an error no turn that waits goes on: a later try takes this one
        again, and must not find that an archive of its future was merged before it."""
        try:
            yield
        except BaseException:
            with self._changed:
                self._is_broken = True
                self._changed.notify_all()
            raise
        with self._changed:
            self._finish(number)
            self._changed.notify_all()

    def wait_for(self, number: int, extracted_at: datetime, stopping: threading.Event) -> None:
        """Wait until every lower turn that may hold another version of one of this turn's rows is finished.

        `extracted_at` is when the turn's own rows were read. Raises StoppedError when `stopping` is set, or a turn
        ended by an error.
        """
        with self._changed:
            self._extracted_at[number] = extracted_at
            self._changed.notify_all()
            while any(self._may_share_rows(lower, number) for lower in self._unfinished_below(number)):
                if self._is_broken or stopping.is_set():
                    raise StoppedError("the run is being stopped")
                self._changed.wait(_LOOK_SECONDS)

    def _finish(self, number: int) -> None:
        self._finished.add(number)
        while self._first_unfinished in self._finished:
            self._finished.discard(self._first_unfinished)
            self._first_unfinished += 1

    def _unfinished_below(self, number: int) -> Iterator[int]:
        return (lower for lower in range(self._first_unfinished, number) if lower not in self._finished)

    def _may_share_rows(self, lower: int, number: int) -> bool:
        """Also true as long as it is not known when the later one was extracted."""
        one, other = self._turns[lower], self._turns[number]
        if one.run != other.run:
            return True
        later, earlier = (lower, other) if one.settled_at > other.settled_at else (number, one)
        extracted_at = self._extracted_at.get(later)
        return extracted_at is None or extracted_at > earlier.settled_at
