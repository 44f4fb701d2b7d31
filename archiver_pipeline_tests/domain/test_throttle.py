"""Limits, verdicts and pauses: pure."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver_pipeline.domain.throttle import NO_PAUSES, Pauses, Reading, Signal, judge

numbers = st.floats(min_value=0, max_value=1e12, allow_nan=False)
readings = st.lists(st.builds(Reading, st.sampled_from(Signal), numbers, numbers), max_size=6)


@given(readings, st.floats(min_value=1, max_value=100))
def test_over_is_what_is_above_its_limit_and_pressed_holds_all_of_it(known, percent):
    verdict = judge(known, percent)
    assert set(verdict.over) == {reading for reading in known if reading.value > reading.limit}
    assert set(verdict.over) <= set(verdict.pressed) <= set(known)
    assert bool(verdict.reason) == bool(verdict.over)


@given(st.builds(Reading, st.sampled_from(Signal), numbers, st.sampled_from([math.nan]), problem=st.just("gone")))
def test_what_is_not_known_is_over_its_limit(reading):
    assert judge([reading], 75).over == (reading,)
    assert "can't be read: gone" in str(reading)


@pytest.mark.parametrize(
    ("value", "limit", "percent", "is_pressed", "is_over"),
    [
        (0, 0, 75, False, False),
        (1, 0, 75, True, True),
        (74, 100, 75, False, False),
        (75, 100, 75, True, False),
        (100, 100, 75, True, False),
        (100.1, 100, 75, True, True),
        (math.inf, 0, 75, True, True),
        (math.nan, 5, 75, True, True),
        (-3, 0, 75, False, False),
    ],
)
def test_the_edges(value, limit, percent, is_pressed, is_over):
    verdict = judge([Reading(Signal.probe, limit, value)], percent)
    assert (bool(verdict.pressed), bool(verdict.over)) == (is_pressed, is_over)


def test_signals_share_the_time_of_a_pause():
    both = judge([Reading(Signal.query_ms, 1, 2), Reading(Signal.probe, 0, math.inf)], 75)
    one = judge([Reading(Signal.query_ms, 1, 2)], 75)
    assert Pauses.of(4, both) + Pauses.of(3, one) + NO_PAUSES == Pauses(7, (("probe", 2.0), ("query_ms", 5.0)))
    assert both.reason == "query_ms is 2, its limit 1; probe says to wait"
