"""Connections shared by the worker threads of one run: each is used by one thread at a time."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, Protocol, TypeVar

from archiver_pipeline.errors import ArchiverError


class Closable(Protocol):
    def close(self) -> None: ...


class Cancellable(Closable, Protocol):
    def cancel(self) -> None: ...


Item = TypeVar("Item", bound=Cancellable)


class Pool(Generic[Item]):
    """Opens items when none is free. An item whose use failed is closed, never handed out again."""

    def __init__(self, open_item: Callable[[], Item]) -> None:
        self._open_item = open_item
        self._lock = threading.Lock()
        self._free: list[Item] = []
        self._used: list[Item] = []

    @contextmanager
    def take(self) -> Iterator[Item]:
        item = self._checked_out()
        try:
            yield item
        except BaseException:
            self._drop(item)
            raise
        with self._lock:
            self._used.remove(item)
            self._free.append(item)

    def cancel_all(self) -> None:
        """Stop what is running on every item in use, so that nothing goes on in the server after an interrupt."""
        with self._lock:
            used = list(self._used)
        for item in used:
            # One that cannot be reached has nothing running that we could stop; the others still must be.
            with suppress(ArchiverError):
                item.cancel()

    def close(self) -> None:
        """Close every free item. Safe to repeat."""
        with self._lock:
            free, self._free = self._free, []
        for item in free:
            item.close()

    def _checked_out(self) -> Item:
        with self._lock:
            item = self._free.pop() if self._free else None
        opened = item or self._open_item()
        with self._lock:
            self._used.append(opened)
        return opened

    def _drop(self, item: Item) -> None:
        with self._lock:
            self._used.remove(item)
        # The error that made the item unusable is the one to be told.
        with suppress(ArchiverError):
            item.close()
