"""The restore watermark: which batches of a source were restored into which targets.

It is a set of batch ids, never a high-water mark: an archive of late rows has an older window than what was restored
already, and must still be taken.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from archiver_pipeline.domain.manifest import FORMAT_VERSION
from archiver_pipeline.domain.table import TableName


@dataclass(frozen=True, slots=True)
class RestoredBatch:
    """One batch that was restored whole."""

    batch_id: str
    data_key: str
    rows: int


@dataclass(frozen=True, slots=True)
class RememberedBatch:
    """When and by which run a batch was restored last. `restored_at` is aware, by the target server's clock."""

    data_key: str
    rows: int
    restored_at: datetime
    run_id: str

    def __post_init__(self) -> None:
        if self.restored_at.tzinfo is None:
            raise ValueError("restored_at has no time zone")


@dataclass(frozen=True, slots=True)
class WatermarkTarget:
    """What was restored into one target, by batch id."""

    database: str
    schema: str
    table: str
    restored: dict[str, RememberedBatch]

    @property
    def name(self) -> TableName:
        return TableName(self.database, self.schema, self.table)


@dataclass(frozen=True, slots=True)
class WatermarkDocument:
    """The watermark of one source table as it lies in the store. Every target is in it at most once."""

    format_version: int
    database: str
    schema: str
    table: str
    targets: list[WatermarkTarget]

    def __post_init__(self) -> None:
        names = [target.name for target in self.targets]
        if len(set(names)) != len(names):
            raise ValueError("a target is in it twice")

    @property
    def source(self) -> TableName:
        return TableName(self.database, self.schema, self.table)

    def restored_into(self, target: TableName) -> Mapping[str, RememberedBatch]:
        """What was restored into a target, by batch id."""
        return next((entry.restored for entry in self.targets if entry.name == target), {})


def empty_watermark(source: TableName) -> WatermarkDocument:
    """The watermark of a source of which nothing was restored yet."""
    return WatermarkDocument(FORMAT_VERSION, source.database, source.schema, source.table, [])


def merge_restored(
    document: WatermarkDocument, target: TableName, restored: Mapping[str, RememberedBatch]
) -> WatermarkDocument:
    """The document with these batches of one target added; where it has one already, the later restore stays.

    In whatever order several restores are merged, the result is the same; a document that holds all of them comes back
    equal.
    """
    if not restored:
        return document
    known = document.restored_into(target)
    merged = dict(known) | {
        batch_id: max(batch, known.get(batch_id, batch), key=_lateness) for batch_id, batch in restored.items()
    }
    entry = WatermarkTarget(target.database, target.schema, target.table, dict(sorted(merged.items())))
    others = [other for other in document.targets if other.name != target]
    return replace(document, targets=_in_order([*others, entry]))


def _lateness(batch: RememberedBatch) -> tuple[datetime, str]:
    return batch.restored_at, batch.run_id


def _in_order(targets: Iterable[WatermarkTarget]) -> list[WatermarkTarget]:
    return sorted(targets, key=lambda target: (target.database, target.schema, target.table))
