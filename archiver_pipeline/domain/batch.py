"""A batch on its way from the table to the store, one frozen value per finished step.

These values are references: paths, keys, counts and hashes, never rows. They are what Dagster's ops hand on.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from archiver_pipeline.domain.batch_size import BatchSize, DeletePace
from archiver_pipeline.domain.fallback import KeptBatch
from archiver_pipeline.domain.partitions import Leaf, LeafEnd
from archiver_pipeline.domain.protection import Protection
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.domain.throttle import NO_PAUSES, Pauses
from archiver_pipeline.domain.windows import Window

_NO_SIZE = BatchSize(0, "")


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """Which rows a batch takes: those of `window` with lower < (timestamp, key) <= upper.

    The bounds are PostgreSQL text, timestamp first, then the key columns in order; None is unbounded. With `leaf` only
    rows of that partition are meant.
    """

    index: int
    window: Window
    lower: tuple[str, ...] | None
    upper: tuple[str, ...] | None
    excluded_keys: tuple[tuple[str, ...], ...] = ()
    leaf: Leaf | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What one attempt will archive.

    `cutoff` is exclusive, UTC, by the source's clock. `lock_token` names the lock session under which the plan was
    made: as long as it is held, no other archiver can have taken the same rows. `planned_all` is False when the
    staging limit cut the plan short. Windows that `protections`, those in force, reach into have no batches.
    `kept_before` is what earlier runs kept on the local disk and this one could not upload; `warnings` are
    for people. `stopped` says why nothing may begin now; empty when it may. With `ignores_hours` somebody overrode the
    allowed hours. `pauses` are those of this step, here and in what later steps hand on.
    """

    attempt_id: str
    run_id: str
    shape: TableShape
    cutoff: datetime
    lock_token: str
    windows: tuple[Window, ...]
    batches: tuple[PlannedBatch, ...]
    eligible_rows: int
    estimated_bytes: int
    planned_all: bool
    table_bytes_before: int
    settled: tuple["SettledBatch", ...] = ()
    protections: tuple[Protection, ...] = ()
    kept_before: tuple[KeptBatch, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    stopped: str = ""
    ignores_hours: bool = False
    pauses: Pauses = NO_PAUSES
    batch_size: BatchSize = _NO_SIZE


@dataclass(frozen=True, slots=True)
class ExtractedBatch:
    """Rows and row versions staged on local disk. `rows_path` and `versions_path` belong to this attempt alone."""

    planned: PlannedBatch
    rows_path: Path
    versions_path: Path
    rows: int
    rows_bytes: int
    rows_sha256: str
    longest_row_bytes: int
    first_row_time: str
    last_row_time: str
    extracted_at: datetime

    @property
    def extracted(self) -> "ExtractedBatch":
        """Itself, so that every later form of a batch leads back to what was extracted."""
        return self


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """The data object as it will be stored, staged on local disk, and the key made for it."""

    extracted: ExtractedBatch
    batch_id: str
    key: str
    object_path: Path
    object_bytes: int
    object_sha256: str


@dataclass(frozen=True, slots=True)
class UploadedBatch:
    """A data object that the store has acknowledged; nothing is proved yet."""

    encoded: EncodedBatch

    @property
    def extracted(self) -> ExtractedBatch:
        return self.encoded.extracted


@dataclass(frozen=True, slots=True)
class VerifiedBatch:
    """A data object that was read back and equals what was extracted."""

    encoded: EncodedBatch
    sampled_rows: int
    sampled_rows_changed: int

    @property
    def extracted(self) -> ExtractedBatch:
        return self.encoded.extracted


class Outcome(StrEnum):
    """How a batch ended."""

    deleted = "deleted"
    """Its delete committed: all its row versions left the table."""
    absent = "absent"
    """None of its row versions was in the table any more when a crash was settled."""
    superseded = "superseded"
    """Not deleted: a row changed or was locked. Its rows are taken by a later batch."""


@dataclass(frozen=True, slots=True)
class SettledBatch:
    """The end of a batch. `rows` counts the batch's rows, whatever the outcome; `reason` says why if superseded."""

    batch_id: str
    key: str
    window_key: str
    rows: int
    rows_bytes: int
    object_bytes: int
    outcome: Outcome
    reason: str = ""
    changed_rows: int = 0
    locked_rows: int = 0

    @property
    def archived_rows(self) -> int:
        return 0 if self.outcome is Outcome.superseded else self.rows


@dataclass(frozen=True, slots=True)
class Extraction:
    """All batches of a plan that were staged. `truncated` tells that the staging limit left batches for a later run,
    `stopped` why the throttle or the allowed hours did; empty when they did not."""

    plan: Plan
    batches: tuple[ExtractedBatch, ...]
    truncated: bool
    seconds: float
    stopped: str = ""
    pauses: Pauses = NO_PAUSES


@dataclass(frozen=True, slots=True)
class Encoding:
    """All encoded batches of a plan."""

    extraction: Extraction
    batches: tuple[EncodedBatch, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Upload:
    """All uploaded batches of a plan; the store did not take those that are `kept` on the local disk."""

    encoding: Encoding
    batches: tuple[UploadedBatch, ...]
    seconds: float
    kept: tuple[KeptBatch, ...] = ()


@dataclass(frozen=True, slots=True)
class Verification:
    """All verified batches of a plan: only now may a delete begin. The store did not give back the `kept` ones."""

    upload: Upload
    batches: tuple[VerifiedBatch, ...]
    seconds: float
    kept: tuple[KeptBatch, ...] = ()


@dataclass(frozen=True, slots=True)
class Deletion:
    """How every batch of a plan ended, the ones settled for an earlier crash included.

    `protections` were in force when the deletes began: those of the plan, unless its lock was given up in between.
    `stopped` says why verified batches were put aside, if they were; `pace` is None when nothing was deleted.
    `leaves` tells of each partition that might have been dropped as a whole.
    """

    verification: Verification
    batches: tuple[SettledBatch, ...]
    seconds: float
    protections: tuple[Protection, ...] = ()
    stopped: str = ""
    pauses: Pauses = NO_PAUSES
    leaves: tuple[LeafEnd, ...] = ()
    pace: DeletePace | None = None
