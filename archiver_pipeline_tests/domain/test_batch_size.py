"""The size of a batch: within its bounds whatever was measured, and moving the right way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver_pipeline.domain.batch_size import BatchBounds, BatchSize, DeletePace, choose_batch_size

bounds = st.builds(
    lambda low, more, seconds, size: BatchBounds(low, low + more, seconds, size),
    st.integers(1, 100_000),
    st.integers(0, 1_000_000),
    st.floats(0.01, 60),
    st.integers(1 << 10, 1 << 32),
)
paces = st.none() | st.builds(
    DeletePace, st.integers(0, 10**9), st.floats(0, 1e5, allow_nan=False), st.integers(0, 10**6)
)
widths = st.floats(0, 1e9, allow_nan=False)


def chosen(some, configured, row_bytes, pace, *, is_pressed=False):
    return choose_batch_size(some, configured, row_bytes=row_bytes, pace=pace, is_pressed=is_pressed)


@given(bounds, st.integers(1, 10**6), widths, paces, st.booleans())
def test_it_is_within_its_bounds_and_says_why(some, configured, row_bytes, pace, is_pressed):
    size = chosen(some, configured, row_bytes, pace, is_pressed=is_pressed)
    assert some.min_rows <= size.rows <= some.max_rows
    assert size.reason
    assert size == chosen(some, configured, row_bytes, pace, is_pressed=is_pressed)


@given(bounds, st.integers(1, 10**6), widths, paces)
def test_pressure_never_makes_it_larger_and_speed_never_smaller(some, configured, row_bytes, pace):
    calm = chosen(some, configured, row_bytes, pace)
    assert chosen(some, configured, row_bytes, pace, is_pressed=True).rows <= calm.rows
    assert chosen(some, configured, row_bytes + 1, pace).rows <= calm.rows
    if pace and pace.seconds and pace.rows:
        faster = DeletePace(pace.rows * 2, pace.seconds, pace.batch_rows)
        assert chosen(some, configured, row_bytes, faster).rows >= calm.rows


@given(st.integers(1, 10**6), widths, paces, st.booleans())
def test_without_bounds_it_is_what_is_configured(configured, row_bytes, pace, is_pressed):
    assert chosen(None, configured, row_bytes, pace, is_pressed=is_pressed) == BatchSize(configured, "batch_size")


@pytest.mark.parametrize(
    ("pace", "row_bytes", "rows", "said"),
    [
        (None, 500, 10_000, "no delete was measured"),
        (DeletePace(100_000, 2.0, 40_000), 500, 25_000, "0.5 s at 50,000 rows/s"),
        (DeletePace(100_000, 0.2, 10_000), 500, 20_000, "twice the last 10,000"),
        (DeletePace(100_000, 100.0, 10_000), 500, 1_000, "min_rows"),
        (DeletePace(10_000_000, 1.0, 90_000), 500, 100_000, "max_rows"),
        (DeletePace(100_000, 2.0, 40_000), 1 << 14, 4096, "max_bytes 64 MiB"),
    ],
)
def test_what_decides(pace, row_bytes, rows, said):
    size = chosen(BatchBounds(1_000, 100_000, 0.5, 64 << 20), 10_000, row_bytes, pace)
    assert size.rows == rows
    assert said in size.reason
