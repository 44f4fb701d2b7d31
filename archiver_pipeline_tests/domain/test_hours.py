"""Allowed hours by the wall clock, over midnight, days of the week and changes of the clock."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver_pipeline.domain.hours import AllowedHours, closed_at

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
minutes = st.integers(0, 24 * 60 - 1)
spans = st.tuples(minutes, st.integers(1, 24 * 60)).filter(lambda span: span[0] != span[1])
days = st.frozensets(st.integers(0, 6), min_size=1)
allowed = st.builds(AllowedHours, st.lists(spans, min_size=1, max_size=3).map(tuple), st.sampled_from(ZONES), days)
moments = st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC))


def hours(text, zone="Europe/Berlin", days=range(7)):
    first, end = (int(part[:2]) * 60 + int(part[3:]) for part in text.split("-"))
    return AllowedHours(((first, end),), zone, frozenset(days))


def berlin(text):
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("span", "moment", "is_open"),
    [
        ("22:00-06:00", "2026-03-10T21:59", False),
        ("22:00-06:00", "2026-03-10T22:00", True),
        ("22:00-06:00", "2026-03-11T05:59:59", True),
        ("22:00-06:00", "2026-03-11T06:00", False),
        ("00:00-24:00", "2026-03-10T23:59:59", True),
        ("09:00-17:00", "2026-03-10T08:59:59", False),
    ],
)
def test_the_end_is_exclusive_and_midnight_is_passed(span, moment, is_open):
    assert hours(span).is_open(berlin(moment)) is is_open


def test_a_span_belongs_to_the_day_on_which_it_begins():
    friday_night = hours("22:00-06:00", days=[4])
    assert friday_night.is_open(berlin("2026-03-13T23:00"))
    assert friday_night.is_open(berlin("2026-03-14T05:00"))
    assert not friday_night.is_open(berlin("2026-03-13T05:00"))
    assert not friday_night.is_open(berlin("2026-03-14T23:00"))
    assert friday_night.opens_at(berlin("2026-03-14T06:00")) == berlin("2026-03-20T22:00")


def test_in_spring_a_skipped_hour_has_no_time_in_it():
    """On 29 March 2026 the clock goes from 02:00 to 03:00."""
    before = datetime(2026, 3, 29, 0, 0, tzinfo=UTC)
    night = [before + timedelta(minutes=minute) for minute in range(180)]
    assert not any(hours("02:00-03:00").is_open(moment) for moment in night)
    assert sum(hours("01:30-03:30").is_open(moment) for moment in night) == 60
    assert hours("02:00-03:00").opens_at(before) == datetime(2026, 3, 30, 0, 0, tzinfo=UTC)


def test_in_autumn_a_doubled_hour_is_open_twice():
    """On 25 October 2026 the clock goes from 03:00 back to 02:00."""
    night = [datetime(2026, 10, 25, 0, 0, tzinfo=UTC) + timedelta(minutes=minute) for minute in range(180)]
    assert sum(hours("02:00-03:00").is_open(moment) for moment in night) == 120


@given(allowed, moments)
def test_it_opens_when_it_is_said_to_and_not_before(some, now):
    opens_at = some.opens_at(now)
    if opens_at is None:
        return
    assert some.is_open(opens_at)
    assert now < opens_at <= now + timedelta(days=8)
    assert not some.is_open(opens_at - timedelta(minutes=1)) or opens_at - timedelta(minutes=1) <= now


@given(allowed, moments)
def test_closed_says_the_opposite_of_open(some, now):
    assert (closed_at(some, now) is None) == some.is_open(now)
    assert closed_at(None, now) is None


def test_what_is_said():
    closed = closed_at(hours("22:00-06:00", days=[0, 6]), berlin("2026-03-10T12:00"))
    assert str(closed) == (
        "outside allowed_hours (22:00-06:00 Europe/Berlin on mon, sun), the next begin at 2026-03-15 21:00 UTC"
    )
