"""Leaves of a natively partitioned table: which of them nothing young can enter any more, and how one of them ended."""

from dataclasses import dataclass
from datetime import datetime

from archiver_pipeline.domain.windows import Window


@dataclass(frozen=True, slots=True)
class Leaf:
    """A partition that holds rows itself, not in partitions of its own.

    `path` leads from the table down to the leaf's parent, (schema, name) each; `bound` is the leaf's own, as
    PostgreSQL writes it. `lower` (inclusive) and `upper` bound the timestamp column by RANGE, at whatever level, aware
    UTC; None is not bounded, or not known. `upper` is exclusive unless `upper_included`. `obstacle` says why the leaf
    can't be dropped whatever it holds; empty when nothing is in the way.
    """

    schema: str
    table: str
    oid: int
    path: tuple[tuple[str, str], ...]
    bound: str
    lower: datetime | None
    upper: datetime | None
    upper_included: bool
    obstacle: str = ""

    def is_closed(self, cutoff: datetime) -> bool:
        """Whether no row that is younger than `cutoff` (exclusive) can be in it, now or later."""
        if self.upper is None:
            return False
        return self.upper < cutoff if self.upper_included else self.upper <= cutoff

    def may_overlap(self, window: Window) -> bool:
        """Whether it may hold rows of the window."""
        begins_before_end = self.lower is None or self.lower < window.end
        return begins_before_end and (window.open_start or self.upper is None or self.upper >= window.start)

    @property
    def parent(self) -> tuple[str, str]:
        """Schema and name of the table that it is a partition of."""
        return self.path[-1]

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True, slots=True)
class LeafEnd:
    """How a leaf ended whose rows a run archived: dropped as a whole, or its rows deleted batch by batch for `reason`.

    `rows` are those archived from it; `dropped_bytes` is what it took on disk with its indexes, 0 unless `dropped`.
    """

    leaf: Leaf
    rows: int
    dropped: bool
    dropped_bytes: int = 0
    reason: str = ""

    def __str__(self) -> str:
        if self.dropped:
            return f"{self.leaf} dropped with {self.rows} rows, {self.dropped_bytes} bytes"
        return f"{self.leaf} not dropped, rows deleted instead: {self.reason}"
