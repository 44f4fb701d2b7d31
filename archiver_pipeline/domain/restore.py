"""What a restore is asked for and what it did: the mirror of a plan and its report."""

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from archiver_pipeline.domain.layout import StoredBatch
from archiver_pipeline.domain.manifest import Receipt
from archiver_pipeline.domain.table import TableName


class ConflictStrategy(StrEnum):
    """What happens to a row whose key is in the target already."""

    skip = "skip"
    """The target's row stays as it is."""
    overwrite = "overwrite"
    """The target's row becomes the archived one in every column; columns that the archive lacks get their default."""
    fail = "fail"
    """No row of the object is restored."""
    upsert = "upsert"
    """The target's row takes the archived columns; columns that the archive lacks keep their values."""

    @property
    def updates(self) -> bool:
        """Whether rows of the target are changed."""
        return self in (ConflictStrategy.overwrite, ConflictStrategy.upsert)


class SchemaStrategy(StrEnum):
    """What happens when archived columns are not those of the target."""

    strict = "strict"
    """The object is refused with a diff."""
    lenient = "lenient"
    """Columns are mapped by name: missing ones take defaults, archived ones without a home are left out and told, and
    a cast that would lose something refuses the object."""


class RetrievalTier(StrEnum):
    """How fast a cold object is retrieved, as S3 calls it."""

    Expedited = "Expedited"
    Standard = "Standard"
    Bulk = "Bulk"


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """Which archives of `source` go into `target`.

    `target.database` is the id of a configured database. `data_key` names one object; without it all archives are
    taken whose rows may lie between the days `start` and `end` (UTC, both inclusive, None is open), and of these only
    the ones in `only_keys` unless it is empty. Rows outside the days, or for which `where` is not true, are left out.
    """

    source: TableName
    target: TableName
    data_key: str | None = None
    start: date | None = None
    end: date | None = None
    conflict: ConflictStrategy = ConflictStrategy.skip
    schema: SchemaStrategy = SchemaStrategy.strict
    where: str | None = None
    allow_lossy_casts: bool = False
    ignore_watermark: bool = False
    protect_days: int | None = None
    """Days for which restored rows are not archived again; None takes the target table's `restore_protection_days`."""
    retrieval_tier: RetrievalTier = RetrievalTier.Standard
    retrieval_days: int = 7
    """Days for which a cold object stays readable after its retrieval."""
    only_keys: tuple[str, ...] = ()
    """Keys of data objects: what an earlier restore of the same request had to wait for."""

    @property
    def takes_parts(self) -> bool:
        """Whether some rows of an object may be left out on purpose."""
        return self.where is not None or self.start is not None or self.end is not None


@dataclass(frozen=True, slots=True)
class Archive:
    """A receipted batch: what can be restored."""

    stored: StoredBatch
    receipt: Receipt

    @property
    def data_key(self) -> str:
        return self.receipt.data_key


class RestoreOutcome(StrEnum):
    """How one object ended."""

    restored = "restored"
    """Its transaction committed; the counts say what became of its rows."""
    failed = "failed"
    """Rolled back: none of its rows was restored."""
    waiting = "waiting"
    """It is in a cold class and being retrieved."""


@dataclass(frozen=True, slots=True)
class RestoredObject:
    """What became of one object's rows: rows = restored + skipped + filtered + failed (+ all of a waiting one).

    `restored_rows` were inserted or, of these, `replaced_rows` updated; `skipped_rows` were in the target already;
    `filtered_rows` were left out by dates or `where`; `failed_rows` are all of a failed object.
    """

    data_key: str
    batch_id: str
    window_key: str
    rows: int
    outcome: RestoreOutcome
    restored_rows: int = 0
    replaced_rows: int = 0
    skipped_rows: int = 0
    filtered_rows: int = 0
    failed_rows: int = 0
    reason: str = ""
    seconds: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether every row of the object is in the target now: only then a watermark may remember it."""
        return self.outcome is RestoreOutcome.restored and self.filtered_rows == 0


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What one restore did, object by object in the order of their keys.

    `remembered` counts objects left out because the watermark knows them. `protected_until` is None when nothing was
    protected. `ready_at` is when the last waiting object should be readable; `retrieval_dollars` what that costs.
    """

    source: TableName
    target: TableName
    run_id: str
    objects: tuple[RestoredObject, ...]
    remembered: int
    protected_until: datetime | None
    ready_at: datetime | None
    retrieval_dollars: float
    warnings: tuple[str, ...]
    seconds: float

    @property
    def restored_rows(self) -> int:
        return sum(item.restored_rows for item in self.objects)

    @property
    def replaced_rows(self) -> int:
        return sum(item.replaced_rows for item in self.objects)

    @property
    def skipped_rows(self) -> int:
        return sum(item.skipped_rows for item in self.objects)

    @property
    def filtered_rows(self) -> int:
        return sum(item.filtered_rows for item in self.objects)

    @property
    def failed_rows(self) -> int:
        return sum(item.failed_rows for item in self.objects)

    def count(self, outcome: RestoreOutcome) -> int:
        """How many objects ended so."""
        return sum(item.outcome is outcome for item in self.objects)
