"""Named points of a run at which a fault can be placed, and the placing of one."""

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Setter = Callable[[Any, str, Any], None]


@dataclass(frozen=True)
class Point:
    """After (or before) the `nth` call of a function. `owner` is a module, or module:Class."""

    owner: str
    name: str
    nth: int = 1
    before: bool = False


POINTS = {
    "plan": Point("archiver_pipeline.engine.archive", "plan_archive"),
    "amid extract": Point("archiver_pipeline.engine.extract", "extract_batch", nth=2),
    "extract": Point("archiver_pipeline.engine.archive", "extract_batches"),
    "amid compress": Point("archiver_pipeline.engine.compress", "compress_batch", nth=2),
    "compress": Point("archiver_pipeline.engine.archive", "compress_batches"),
    "amid upload": Point("archiver_pipeline.engine.upload", "upload_batch", nth=2),
    "upload": Point("archiver_pipeline.engine.archive", "upload_batches"),
    "amid verify": Point("archiver_pipeline.engine.verify", "verify_batch", nth=2),
    "verify": Point("archiver_pipeline.engine.archive", "verify_batches"),
    "before a manifest": Point("archiver_pipeline.engine.intent", "write_manifest", nth=2, before=True),
    "after a manifest": Point("archiver_pipeline.engine.intent", "write_manifest", nth=2),
    # The delete transaction reads the clock after the rows are deleted and before it commits.
    "in a delete transaction": Point("archiver_pipeline.postgres.delete", "source_clock", nth=2),
    "after a delete committed": Point("archiver_pipeline.postgres.delete:DeleteSession", "delete_versions", nth=2),
    "after a receipt": Point("archiver_pipeline.engine.intent", "write_receipt", nth=2),
    "delete": Point("archiver_pipeline.engine.archive", "delete_batches"),
    "report": Point("archiver_pipeline.engine.archive", "report_archive"),
}

_KEPT, _FALLBACK = "archiver_pipeline.engine.kept_files", "archiver_pipeline.engine.fallback"
KEEPING_POINTS = {
    "before the second batch is kept": Point(_FALLBACK, "write_kept", nth=2, before=True),
    "with its object and no description": Point(_KEPT, "encode_kept", nth=2, before=True),
    "after the second batch is kept": Point(_FALLBACK, "write_kept", nth=2),
}
"""Of a run that keeps its batches on the local disk."""

UPLOADING_POINTS = {
    "before a kept upload": Point("archiver_pipeline.storage.s3:S3Store", "put_file", nth=2, before=True),
    "after a kept upload": Point("archiver_pipeline.storage.s3:S3Store", "put_file", nth=2),
    "after a kept object is proved": Point(_FALLBACK, "compare_stored_sample", nth=2),
    "before a kept manifest": Point(_FALLBACK, "write_manifest", nth=2, before=True),
    "after a kept manifest": Point(_FALLBACK, "write_manifest", nth=2),
    "in a kept delete": Point("archiver_pipeline.postgres.delete:DeleteSession", "_delete_loaded", nth=2),
    "after a kept delete": Point("archiver_pipeline.postgres.delete:DeleteSession", "delete_keys", nth=2),
    "after a kept receipt": Point("archiver_pipeline.engine.reconcile", "write_receipt", nth=2),
    "before kept files are removed": Point(_FALLBACK, "remove_kept", nth=2, before=True),
    "after kept files are removed": Point(_FALLBACK, "remove_kept", nth=2),
    "between uploading and planning": Point("archiver_pipeline.engine.plan", "settle_kept"),
}
"""Of the run after it."""


class InterruptedRunError(Exception):
    """Stands for anything that ends a run."""


def interrupt() -> None:
    raise InterruptedRunError


def place(point: Point, fault: Callable[[], None], setter: Setter = setattr) -> None:
    """Let `fault` happen at the point, once; the function itself works as ever."""
    owner = _owner(point.owner)
    original = getattr(owner, point.name)
    calls = _Countdown(point.nth)

    def faulty(*args: Any, **options: Any) -> Any:
        now = calls.is_over()
        if now and point.before:
            fault()
        result = original(*args, **options)
        if now and not point.before:
            fault()
        return result

    setter(owner, point.name, faulty)


class _Countdown:
    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._lock = threading.Lock()

    def is_over(self) -> bool:
        with self._lock:
            self._calls -= 1
            return self._calls == 0


def _owner(path: str) -> Any:
    module, _, name = path.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found
