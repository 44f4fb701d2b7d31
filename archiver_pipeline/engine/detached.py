"""Partitions that somebody detached while the fate of their rows was open: the rows are in the table no more, and are
not gone either."""

from archiver_pipeline.domain.manifest import Manifest
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.errors import ManifestError
from archiver_pipeline.postgres.partitions import PartitionSession


class DetachedError(ManifestError):
    """Rows of a pending batch are in a table that was a partition. A receipt would be wrong when it is attached again,
    a superseded mark when it is dropped: nothing was written."""


def require_not_detached(shape: TableShape, manifest: Manifest, deleting: PartitionSession) -> None:
    """Inside `settle`, for a batch none of whose rows is in the table: raises DetachedError when the partition they
    were in still exists elsewhere, with any of them. Batches that mix partitions don't say where their rows were."""
    leaf = manifest.leaf
    rows = deleting.count_outside(leaf.oid) if leaf is not None else 0
    if leaf is None or not rows:
        return
    raise DetachedError(
        f"{manifest.data_key}: {rows} of its {manifest.rows} rows are in {leaf.schema}.{leaf.table}, which was"
        f" detached from {leaf.parent_schema}.{leaf.parent_table} before they were deleted",
        hint="attach it again, or drop it if its rows may go (the object is their archive), then run again",
    )
