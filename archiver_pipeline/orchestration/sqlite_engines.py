"""Keeps the engines of Dagster's SQLite storages for a while.

They make one for every single event: each compiles its statements anew, and closing its connection, the only one, folds
the file's journal back. That costs a run a second.
"""

import atexit
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any

from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage

# Every run has a file of its own, and a command may have many runs.
_MOST_ENGINES = 8


class _KeptEngines:
    """In the place of `create_engine`: the last few engines, by the file that they are of."""

    def __init__(self, create: Callable[..., Any]) -> None:
        self._create = create
        self._lock = Lock()
        self._kept: OrderedDict[str, tuple[Any, Callable[[], None]]] = OrderedDict()

    def __call__(self, url: str, **options: Any) -> Any:
        with self._lock:
            if url not in self._kept:
                self._kept[url] = self._opened(url, options)
            self._kept.move_to_end(url)
            while len(self._kept) > _MOST_ENGINES:
                _, (_, dispose) = self._kept.popitem(last=False)
                dispose()
            return self._kept[url][0]

    def dispose(self) -> None:
        with self._lock:
            for _, dispose in self._kept.values():
                dispose()
            self._kept.clear()

    def _opened(self, url: str, options: dict[str, Any]) -> tuple[Any, Callable[[], None]]:
        # With SQLAlchemy's own pool; Dagster asks for none, and disposes of an engine after each use.
        engine = self._create(url, **{name: value for name, value in options.items() if name != "poolclass"})
        dispose, engine.dispose = engine.dispose, _leave_open
        return engine, dispose


def keep_sqlite_engines() -> None:
    """From now on, in this process. Safe to repeat."""
    for module in (sqlite_event_log, sqlite_run_storage):
        storage: Any = module
        if not isinstance(storage.create_engine, _KeptEngines):
            storage.create_engine = kept = _KeptEngines(storage.create_engine)
            atexit.register(kept.dispose)


def _leave_open(close: bool = True) -> None:
    pass
