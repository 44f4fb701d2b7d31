"""Batches that could not be uploaded and are kept on a local disk until a later run uploads them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

KEPT_SUFFIX = ".kept.json"
STALE_SUFFIX = ".stale.json"


class KeptState(StrEnum):
    """What the files of a kept batch say of it."""

    waiting = "waiting"
    """Whole: the next run uploads it, if its rows are still in the table as they were."""
    stale = "stale"
    """Never uploaded any more; the mark beside it says why."""
    damaged = "damaged"
    """A file of it is missing, cannot be read or has other bytes."""
    unfinished = "unfinished"
    """A run was killed while it wrote the files. Its rows were never deleted by that run."""


@dataclass(frozen=True, slots=True)
class StaleMark:
    """Why a kept batch will never be uploaded, and since when."""

    format_version: int
    marked_at: str
    reason: str


@dataclass(frozen=True, slots=True)
class KeptBatch:
    """One kept batch as its files show it. `path` is its data object; `since` is aware; `rows` None is unknown."""

    path: Path
    key: str
    state: KeptState
    reason: str
    since: datetime
    size_bytes: int
    window_key: str = ""
    batch_id: str = ""
    rows: int | None = None

    def __str__(self) -> str:
        what = f"{self.rows:,} rows" if self.rows is not None else f"{self.size_bytes:,} bytes"
        return f"{self.path}: {self.state.value} since {self.since:%Y-%m-%d %H:%M} UTC, {what}: {self.reason}"
