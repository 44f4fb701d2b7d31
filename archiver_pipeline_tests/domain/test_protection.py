"""Which windows a protection keeps, until when."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver_pipeline.domain.protection import (
    ProtectedRange,
    Protection,
    is_protected,
    longest_protection,
    merged_ranges,
    moment_of,
    protections_in_force,
    unprotected_spans,
)
from archiver_pipeline.domain.windows import WindowUnit, window_containing, window_of_key

FIRST = date(2024, 1, 1)
ORIGIN = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = st.tuples(st.integers(0, 40), st.integers(1, 5), st.booleans())


def day(number: int) -> datetime:
    return ORIGIN + timedelta(days=number)


def protection(*ranges: tuple[int, int], ends_at: str = "2030-01-01T00:00:00+00:00", open_start: bool = False):
    return Protection(
        1, "ab", "db", "public", "t", "run", "2026-01-01T00:00:00+00:00", ends_at, "restored",
        [ProtectedRange(day(start).isoformat(), day(end).isoformat(), open_start) for start, end in ranges],
    )  # fmt: skip


def window(key: str, unit: WindowUnit = WindowUnit.day):
    return window_of_key(unit, key, first=FIRST)


@pytest.mark.parametrize(
    ("key", "unit", "expected"),
    [
        ("2024-01-10", WindowUnit.day, False),
        ("2024-01-11", WindowUnit.day, True),
        ("2024-01-12", WindowUnit.day, True),
        ("2024-01-13", WindowUnit.day, False),
        ("2024-01-10T23", WindowUnit.hour, False),
        ("2024-01-11T00", WindowUnit.hour, True),
        ("2024-01-12T23", WindowUnit.hour, True),
        ("2024-01-13T00", WindowUnit.hour, False),
        ("2024-01-08", WindowUnit.week, True),
        ("2024-01-15", WindowUnit.week, False),
        ("2024-02-01", WindowUnit.month, False),
    ],
)
def test_a_window_is_protected_when_a_range_reaches_into_it(key, unit, expected):
    assert is_protected(window(key, unit), [protection((10, 12))]) is expected


def test_the_first_window_is_open_to_the_past_and_so_reached_by_every_older_range():
    first, second = window("2024-01-01"), window("2024-01-02")
    older = protection((-900, -899))
    assert is_protected(first, [older])
    assert not is_protected(second, [older])


def test_a_range_open_to_the_past_reaches_every_older_window():
    open_range = protection((10, 11), open_start=True)
    for key, expected in [("2024-01-05", True), ("2024-01-11", True), ("2024-01-12", False)]:
        assert is_protected(window(key), [open_range]) is expected


def test_a_protection_is_in_force_until_its_end_exclusive():
    one = protection((1, 2), ends_at="2026-05-05T12:00:00+00:00")
    end = datetime(2026, 5, 5, 12, tzinfo=UTC)
    assert protections_in_force([one], end - timedelta(microseconds=1)) == [one]
    assert protections_in_force([one], end) == []
    assert protections_in_force([one], end.astimezone()) == []


def test_of_several_the_one_that_ends_last_is_told():
    early, late = (protection((1, 2), ends_at=f"20{year}-01-01T00:00:00+00:00") for year in (27, 28))
    other = protection((5, 6), ends_at="2099-01-01T00:00:00+00:00")
    assert longest_protection(window("2024-01-02"), [early, late, other]) is late
    assert longest_protection(window("2024-01-04"), [early, late, other]) is None
    assert str(late) == "protected until 2028-01-01 00:00 UTC: restored rows"


@given(st.lists(DAYS, min_size=1, max_size=8))
def test_merging_changes_nothing_of_what_is_protected(spans):
    """Day by day, and no two of the merged ranges touch."""
    merged = merged_ranges((day(start), day(start + length), is_open) for start, length, is_open in spans)
    for number in range(60):
        held = any((is_open or start <= number) and number < start + length for start, length, is_open in spans)
        found = [
            one
            for one in merged
            if (one.open_start or moment_of(one.start) <= day(number)) and day(number) < moment_of(one.end)
        ]
        assert len(found) == held
    for before, after in pairwise(merged):
        assert moment_of(before.end) < moment_of(after.start)
        assert not after.open_start


@given(st.integers(0, 60), st.sampled_from(WindowUnit), DAYS)
def test_a_protected_moment_is_in_a_protected_window_of_any_unit(number, unit, span):
    """Whatever the unit is when the next plan is made, no restored row lies in a window that is not protected."""
    start, length, is_open = span
    one = protection((start, start + length), open_start=is_open)
    if (is_open or start <= number) and number < start + length:
        assert is_protected(window_containing(unit, day(number), first=FIRST), [one])


@given(st.sampled_from(WindowUnit), st.lists(st.tuples(DAYS, st.integers(-3, 3)), max_size=5), st.integers(0, 60))
def test_unprotected_spans_are_the_windows_that_no_protection_reaches_into(unit, ranges, number):
    held = [
        protection((start + shift, start + shift + length), open_start=is_open)
        for (start, length, is_open), shift in ranges
    ]
    end = window_containing(unit, day(number), first=FIRST).end
    spans = unprotected_spans(unit, end, held, first=FIRST)
    for before, after in pairwise(spans):
        assert before[1] < after[0]
    one = window_containing(unit, day(-500), first=FIRST)
    while one.end <= end:
        inside = [span for span in spans if (span[0] is None or span[0] <= one.start) and one.end <= span[1]]
        outside = [span for span in spans if span[1] <= one.start or (span[0] is not None and one.end <= span[0])]
        assert (len(inside), len(outside)) == ((0, len(spans)) if is_protected(one, held) else (1, len(spans) - 1))
        assert not (inside and one.open_start) or inside[0][0] is None
        one = window_containing(unit, one.end, first=FIRST)


@pytest.mark.parametrize("text", ["2026-01-01T00:00:00", "2026-01-01T00:00:00+02:00", "soon", ""])
def test_a_time_that_is_not_in_utc_is_none(text):
    with pytest.raises(ValueError):
        moment_of(text)
