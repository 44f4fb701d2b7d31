"""Doing the same to many items with a few threads, and stopping all of them at the first error."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

from archiver_pipeline.domain.batch_size import DeletePace
from archiver_pipeline.errors import ArchiverError

Source = TypeVar("Source")
Result = TypeVar("Result")


class StoppedError(ArchiverError):
    """An item was not begun because another one failed or the run was interrupted."""


class DeleteWatch:
    """Rows and seconds of delete transactions, from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows, self._seconds = 0, 0.0

    @contextmanager
    def timing(self, rows: int) -> Iterator[None]:
        """Around one delete; one that fails does not count."""
        began = perf_counter()
        yield
        with self._lock:
            self._rows += rows
            self._seconds += perf_counter() - began

    def take(self, batch_rows: int) -> DeletePace | None:
        """What was measured since this was last asked, of batches of so many rows; None when nothing was."""
        with self._lock:
            rows, seconds = self._rows, self._seconds
            self._rows, self._seconds = 0, 0.0
        return DeletePace(rows, seconds, batch_rows) if rows else None


def run_all(
    items: tuple[Source, ...],
    work: Callable[[Source], Result],
    workers: int,
    stopping: threading.Event,
    cancel: Callable[[], None],
) -> tuple[Result, ...]:
    """Do `work` on every item with `workers` threads, begun in the items' order; results come in the same order.

    The first error stops the rest: `stopping` is set, queued items are not begun, and `cancel` must end what runs.
    """

    def unless_stopping(item: Source) -> Result:
        if stopping.is_set():
            raise StoppedError("the run is being stopped")
        return work(item)

    with ThreadPoolExecutor(workers) as threads:
        futures = [threads.submit(unless_stopping, item) for item in items]
        try:
            _raise_first_error(futures)
        except BaseException:
            _stop(futures, stopping, cancel)
            raise
    return tuple(future.result() for future in futures)


def _stop(futures: list[Future[Result]], stopping: threading.Event, cancel: Callable[[], None]) -> None:
    stopping.set()
    for future in futures:
        future.cancel()
    cancel()
    wait(futures)
    stopping.clear()


def _raise_first_error(futures: list[Future[Result]]) -> None:
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        if not future.cancelled() and (error := future.exception()) is not None:
            raise error
