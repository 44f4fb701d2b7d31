"""What a table holds, by estimates that cost next to nothing to get."""

from dataclasses import dataclass
from datetime import datetime

from archiver_pipeline.domain.table import TableName


@dataclass(frozen=True, slots=True)
class TableMeasure:
    """One table in estimates. `row_bytes` is a row's length as JSON; `disk_bytes` is exact: the table with indexes,
    TOAST and partitions. `oldest` and `newest` are row times, UTC, None when unknown; `cutoff` is exclusive, UTC.
    `month_rows` is how many rows 30 days bring. `key_bytes` is what a row's key takes in a manifest.
    `is_analyzed` tells whether the server has statistics to estimate from; `notes` are for people.
    """

    name: TableName
    rows: float
    row_bytes: float
    disk_bytes: int
    oldest: datetime | None
    newest: datetime | None
    cutoff: datetime
    eligible_rows: float
    month_rows: float
    key_bytes: float
    is_analyzed: bool
    notes: tuple[str, ...] = ()

    @property
    def eligible_share(self) -> float:
        """The part of the rows that is older than the cutoff, 0 to 1."""
        return self.eligible_rows / self.rows if self.rows else 0.0

    @property
    def eligible_bytes(self) -> float:
        """The disk that the eligible rows take, indexes included, if all rows take the same."""
        return self.disk_bytes * self.eligible_share

    @property
    def eligible_days(self) -> float:
        """From the oldest row to the cutoff; 0 when nothing is older."""
        return max(0.0, (self.cutoff - self.oldest).total_seconds() / 86_400) if self.oldest else 0.0
