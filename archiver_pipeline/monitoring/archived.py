"""What the store says was archived: receipts, which never change, each read once and added up.

The store is the truth about rows: it also knows what `--direct` archived, and what runs did that were deleted since.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.domain.layout import BatchState, StoredBatch
from archiver_pipeline.domain.manifest import Receipt
from archiver_pipeline.engine.archived import list_stored
from archiver_pipeline.engine.inventory import ArchivedBatch, read_receipts
from archiver_pipeline.monitoring.watch import Touch
from archiver_pipeline.postgres.catalog import table_name
from archiver_pipeline.storage.s3 import S3Store

READ_AT_ONCE = 500
THREADS = 4


@dataclass(frozen=True, slots=True)
class Archived:
    """All archives of a table, added up. `batches` counts by outcome, superseded ones included; `pending` are those
    with a manifest and without a receipt now. `last_at` is when the newest receipt was written, UTC."""

    rows: int
    rows_bytes: int
    object_bytes: int
    batches: Mapping[str, int]
    pending: int
    last_at: datetime | None


class TableArchives:
    """Adds up the archives of one table. What was counted once stays counted, also when its object expires."""

    def __init__(self, settings: TableSettings) -> None:
        self.settings = settings
        self.published: Archived | None = None
        """None until everything that is listed was read: a part would be taken for the whole."""
        self._counted: set[int] = set()
        self._void: set[int] = set()
        self._batches: Counter[str] = Counter({outcome.value: 0 for outcome in Outcome})
        self._rows = self._rows_bytes = self._object_bytes = 0
        self._last_at: datetime | None = None

    def look(self, store: S3Store, touch: Touch) -> None:
        """List the table and read the receipts that are new. `touch` is called as it goes on.

        Raises StoreError or ManifestError; what was read before is kept and not read again. Safe to repeat.
        """
        listed = list_stored(store, table_name(self.settings))
        touch()
        new = [batch for batch in listed if _is_receipted(batch) and _number(batch) not in self._counted]
        for start in range(0, len(new), READ_AT_ONCE):
            some = [ArchivedBatch(batch, None) for batch in new[start : start + READ_AT_ONCE]]
            self._add(read_receipts(store, some, THREADS, touch))
        self._count_void(batch for batch in listed if batch.state is BatchState.superseded)
        self.published = Archived(
            rows=self._rows,
            rows_bytes=self._rows_bytes,
            object_bytes=self._object_bytes,
            batches=dict(self._batches),
            pending=sum(batch.state is BatchState.pending for batch in listed),
            last_at=self._last_at,
        )

    def _add(self, read: Iterable[ArchivedBatch]) -> None:
        for batch in read:
            if batch.receipt is not None:
                self._counted.add(_number(batch.stored))
                self._add_receipt(batch.receipt)

    def _add_receipt(self, receipt: Receipt) -> None:
        self._batches[receipt.outcome.value] += 1
        self._rows += receipt.rows
        self._rows_bytes += receipt.rows_bytes
        self._object_bytes += receipt.object_bytes
        settled_at = datetime.fromisoformat(receipt.settled_at).astimezone(UTC)
        self._last_at = max(settled_at, self._last_at or settled_at)

    def _count_void(self, void: Iterable[StoredBatch]) -> None:
        self._void.update(map(_number, void))
        self._batches[Outcome.superseded.value] = len(self._void)


def _is_receipted(batch: StoredBatch) -> bool:
    """The receipt stays when the object expires, so a count of what was ever archived does not fall."""
    return batch.has_receipt


def _number(batch: StoredBatch) -> int:
    """A batch's id, in the least memory: there may be millions."""
    return int(batch.batch_id, 16)
