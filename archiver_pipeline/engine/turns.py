"""Lets workers do most of their work at once and one part of it in order."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from archiver_pipeline.engine.work import StoppedError

_LOOK_SECONDS = 0.2


class Turns:
    """Numbered turns, each taken by a known number of items. Items of one turn never wait for each other.

    Free of deadlock as long as items are begun in the order of their turns.
    """

    def __init__(self, turns: Iterable[int]) -> None:
        self._unfinished = Counter(turns)
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, turn: int) -> Iterator[None]:
        """One item of the turn, finished when the body ends, however it ends."""
        try:
            yield
        finally:
            with self._changed:
                self._unfinished[turn] -= 1
                if not self._unfinished[turn]:
                    del self._unfinished[turn]
                self._changed.notify_all()

    def wait_for(self, turn: int, stopping: threading.Event) -> None:
        """Wait until every item of every lower turn is finished. Raises StoppedError when `stopping` is set."""
        with self._changed:
            while min(self._unfinished, default=turn) < turn:
                if stopping.is_set():
                    raise StoppedError("the run is being stopped")
                self._changed.wait(_LOOK_SECONDS)
