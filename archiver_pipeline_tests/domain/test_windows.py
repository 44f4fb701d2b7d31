"""Windows against brute force: boundaries, keys, and Dagster's end offsets that never show a young window."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver_pipeline.domain.windows import (
    Window,
    WindowUnit,
    eligible_since,
    end_of_eligible,
    floor_to_unit,
    is_wholly_before,
    next_start,
    partition_end_offset,
    window_containing,
    window_of_key,
    window_starting,
)

FIRST = date(2020, 1, 1)
UNITS = st.sampled_from(list(WindowUnit))
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
RETENTIONS = st.integers(0, 4000)


@given(UNITS, MOMENTS)
def test_a_window_holds_the_moment_it_was_asked_for(unit, moment):
    start = floor_to_unit(unit, moment)
    assert start <= moment < next_start(unit, start)
    assert floor_to_unit(unit, start) == start
    assert floor_to_unit(unit, next_start(unit, start)) == next_start(unit, start)


@given(UNITS, MOMENTS)
def test_a_key_names_one_window(unit, moment):
    window = window_containing(unit, moment, first=FIRST)
    assert window_of_key(unit, window.key, first=FIRST) == window


@given(UNITS, MOMENTS)
def test_windows_adjoin(unit, moment):
    window = window_containing(unit, moment, first=FIRST)
    following = window_starting(unit, window.end, first=FIRST)
    assert following.start == window.end
    assert not following.open_start


@given(UNITS, st.datetimes(datetime(1, 1, 1), datetime(2019, 12, 25), timezones=st.just(UTC)))
def test_everything_before_the_first_window_belongs_to_it(unit, moment):
    window = window_containing(unit, moment, first=FIRST)
    assert window.open_start
    assert window.start == floor_to_unit(unit, datetime(2020, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("unit", "moment", "start", "end"),
    [
        ("hour", "2024-03-31T01:59:59.999999", "2024-03-31T01:00", "2024-03-31T02:00"),
        ("hour", "2024-12-31T23:30", "2024-12-31T23:00", "2025-01-01T00:00"),
        ("day", "2024-02-29T23:59", "2024-02-29", "2024-03-01"),
        ("day", "2024-10-27T02:30", "2024-10-27", "2024-10-28"),
        ("week", "2024-12-31", "2024-12-30", "2025-01-06"),
        ("week", "2024-12-30", "2024-12-30", "2025-01-06"),
        ("month", "2024-02-29", "2024-02-01", "2024-03-01"),
        ("month", "2024-12-31T23:59", "2024-12-01", "2025-01-01"),
        ("month", "2024-01-31", "2024-01-01", "2024-02-01"),
    ],
)
def test_known_windows(unit, moment, start, end):
    """Months of every length, years that end, and the days on which clocks change, which UTC does not know."""
    window = window_containing(WindowUnit(unit), _utc(moment), first=FIRST)
    assert (window.start, window.end) == (_utc(start), _utc(end))


@pytest.mark.parametrize(
    ("unit", "key"), [("week", "2024-12-31"), ("month", "2024-12-02"), ("day", "2024-13-01"), ("hour", "2024-01-01")]
)
def test_a_key_of_no_window_is_refused(unit, key):
    with pytest.raises(ValueError, match=key[:4]):
        window_of_key(WindowUnit(unit), key, first=FIRST)


@given(UNITS, MOMENTS, RETENTIONS)
def test_what_dagster_shows_is_old_enough(unit, now, retention_days):
    """Counted as Dagster counts: the windows that have ended by now, without the last -end_offset of them."""
    last_end = floor_to_unit(unit, now)
    for _ in range(-partition_end_offset(unit, retention_days) if unit is not WindowUnit.hour else 0):
        last_end = floor_to_unit(unit, last_end - timedelta(microseconds=1))
    if unit is WindowUnit.hour:
        last_end += timedelta(hours=partition_end_offset(unit, retention_days))
    assert last_end == end_of_eligible(unit, now, retention_days)
    assert last_end <= now - timedelta(days=retention_days)


@given(UNITS, MOMENTS, RETENTIONS)
def test_no_window_is_hidden_for_long(unit, now, retention_days):
    """Day and hour exactly; a week may wait one more week, months some days for each 28 of retention."""
    slack = {
        WindowUnit.hour: timedelta(hours=1),
        WindowUnit.day: timedelta(days=1),
        WindowUnit.week: timedelta(days=14),
        WindowUnit.month: timedelta(days=62 + retention_days / 28 * 3),
    }
    assert now - timedelta(days=retention_days) - end_of_eligible(unit, now, retention_days) < slack[unit]


@given(UNITS, MOMENTS, RETENTIONS)
def test_a_window_is_eligible_from_the_moment_that_the_end_reaches_it(unit, moment, retention_days):
    window = window_containing(unit, moment, first=FIRST)
    since = eligible_since(window, retention_days)
    assert end_of_eligible(unit, since, retention_days) >= window.end
    assert end_of_eligible(unit, since - timedelta(microseconds=1), retention_days) < window.end


def test_a_window_ends_before_the_cutoff_or_it_does_not():
    window = Window(WindowUnit.day, _utc("2024-01-01"), _utc("2024-01-02"))
    assert is_wholly_before(window, _utc("2024-01-02"))
    assert not is_wholly_before(window, _utc("2024-01-01T23:59:59.999999"))


def _utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
