"""How many rows a batch should have: between bounds, by what was measured. Pure: the same inputs give the same size."""

from dataclasses import dataclass

_MOST_GROWTH = 2
"""A size at most doubles from one attempt to the next: what was measured at a quiet moment may not hold."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class BatchBounds:
    """`target_seconds` is how long the delete of one batch should take; `max_bytes` bounds its rows as JSON text."""

    min_rows: int
    max_rows: int
    target_seconds: float
    max_bytes: int


@dataclass(frozen=True, slots=True)
class DeletePace:
    """What earlier deletes of the table took: rows, seconds of their transactions, and rows of a batch then."""

    rows: int
    seconds: float
    batch_rows: int

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class BatchSize:
    """Rows of a full batch, and why so many, for people."""

    rows: int
    reason: str


def choose_batch_size(
    bounds: BatchBounds | None,
    configured_rows: int,
    *,
    row_bytes: float,
    pace: DeletePace | None,
    is_pressed: bool,
) -> BatchSize:
    """Without bounds what is configured, always. With them as many rows as take `target_seconds` to delete at the last
    pace, or what is configured before anything was measured; half of that under pressure; at most twice as many as last
    time, no more than fit in `max_bytes`, and never outside the bounds."""
    if bounds is None:
        return BatchSize(configured_rows, "batch_size")
    rows, reason = float(configured_rows), "batch_size, because no delete was measured yet"
    if pace is not None and pace.rows_per_second > 0:
        rows = pace.rows_per_second * bounds.target_seconds
        reason = f"{bounds.target_seconds:g} s at {pace.rows_per_second:,.0f} rows/s of the last deletes"
        if 0 < pace.batch_rows * _MOST_GROWTH < rows:
            rows, reason = pace.batch_rows * _MOST_GROWTH, f"twice the last {pace.batch_rows:,}; {reason} would be more"
    if is_pressed:
        rows, reason = rows / 2, f"half, because the database is under pressure: {reason}"
    if row_bytes > 0 and bounds.max_bytes / row_bytes < rows:
        rows, reason = bounds.max_bytes / row_bytes, f"max_bytes {bounds.max_bytes / _MIB:,.0f} MiB of such rows"
    if rows < bounds.min_rows:
        return BatchSize(bounds.min_rows, f"min_rows; less was wanted: {reason}")
    if rows > bounds.max_rows:
        return BatchSize(bounds.max_rows, f"max_rows; more was wanted: {reason}")
    return BatchSize(int(rows), reason)
