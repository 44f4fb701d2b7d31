"""When a message goes out: quiet hours, rate limit, digest; and that a failure is not silenced by any of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from archiver_pipeline.domain.alert import Activity, Alert, AlertKind, Severity
from archiver_pipeline.domain.alert_memory import MOST_HELD, AlertMemory, notes_of
from archiver_pipeline.domain.alert_policy import AlertPolicy, QuietHours, Verdict, judge
from archiver_pipeline.domain.usual import UsualBounds, has_grown_throughout, is_far_above, is_far_below

EVERYTHING = frozenset(AlertKind)
NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def message(kind, reason="", activity=Activity.archive):
    return Alert(kind, Severity.info, activity, "shop.public.t", f"{kind.value} {reason}", "happened", reason=reason)


FAILED = message(AlertKind.failed, "NetworkError")
SUCCEEDED = message(AlertKind.succeeded)
UNUSUAL = message(AlertKind.threshold, "few rows")


@pytest.mark.parametrize(
    ("start", "end", "quiet"),
    [
        (22, 6, {22, 23, 0, 1, 2, 3, 4, 5}),
        (0, 6, {0, 1, 2, 3, 4, 5}),
        (22, 0, {22, 23}),
        (23, 1, {23, 0}),
        (0, 23, set(range(23))),
        (23, 0, {23}),
        (9, 17, set(range(9, 17))),
        (1, 0, set(range(24)) - {0}),
    ],
)
def test_quiet_hours_of_the_whole_day(start, end, quiet):
    hours = QuietHours(start, end)
    assert {hour for hour in range(24) if hours.hold(NOON.replace(hour=hour))} == quiet
    assert hours.hold(NOON.replace(hour=start, minute=0))
    assert not hours.hold(NOON.replace(hour=end, minute=0))
    assert hours.hold(NOON.replace(hour=(end - 1) % 24, minute=59, second=59))


@pytest.mark.parametrize("hour", range(24))
def test_a_failure_is_never_quiet(hour):
    policy = AlertPolicy(EVERYTHING, digest_mode=True, quiet_hours=QuietHours(hour, (hour + 1) % 24))
    now = NOON.replace(hour=hour)
    assert judge(policy, AlertMemory(), FAILED, now) is Verdict.send
    assert judge(policy, AlertMemory(), UNUSUAL, now) is Verdict.quiet


@pytest.mark.parametrize("kind", [AlertKind.started, AlertKind.succeeded, AlertKind.failed, AlertKind.threshold])
def test_switches(kind):
    assert judge(AlertPolicy(EVERYTHING - {kind}), AlertMemory(), message(kind), NOON) is Verdict.unwanted
    assert judge(AlertPolicy(frozenset({kind})), AlertMemory(), message(kind), NOON) is Verdict.send


@pytest.mark.parametrize("kind", [AlertKind.test, AlertKind.digest, AlertKind.held_back])
def test_what_was_asked_for_always_goes_out(kind):
    policy = AlertPolicy(frozenset(), True, timedelta(hours=9), QuietHours(12, 13))
    assert judge(policy, AlertMemory().sending(message(kind), NOON), message(kind), NOON) is Verdict.send


@pytest.mark.parametrize(
    ("alert", "verdict"),
    [
        (message(AlertKind.started), Verdict.summarized),
        (SUCCEEDED, Verdict.summarized),
        (UNUSUAL, Verdict.send),
        (FAILED, Verdict.send),
    ],
)
def test_a_digest_takes_the_place_of_successes_and_starts(alert, verdict):
    assert judge(AlertPolicy(EVERYTHING, digest_mode=True), AlertMemory(), alert, NOON) is verdict


def test_the_all_clear_after_a_failure_is_no_matter_for_the_digest():
    memory = AlertMemory().seeing(FAILED, NOON)
    assert judge(AlertPolicy(EVERYTHING, digest_mode=True), memory, SUCCEEDED, NOON) is Verdict.send
    quiet = AlertPolicy(EVERYTHING, quiet_hours=QuietHours(12, 13))
    assert judge(quiet, memory, SUCCEEDED, NOON) is Verdict.quiet


HOURLY = AlertPolicy(EVERYTHING, rate_limit=timedelta(hours=4))


def test_the_rate_limit_is_of_one_table_and_kind():
    memory = AlertMemory().sending(FAILED, NOON)
    assert judge(HOURLY, memory, FAILED, NOON + timedelta(hours=3, minutes=59)) is Verdict.repeated
    assert judge(HOURLY, memory, FAILED, NOON + timedelta(hours=4)) is Verdict.send
    assert judge(HOURLY, memory, replace(FAILED, reason="VerificationError"), NOON) is Verdict.send
    assert judge(HOURLY, memory, replace(FAILED, activity=Activity.validate), NOON) is Verdict.send
    assert judge(HOURLY, memory, UNUSUAL, NOON) is Verdict.send
    assert judge(HOURLY, AlertMemory(), FAILED, NOON) is Verdict.send


def test_without_a_rate_limit_everything_is_repeated():
    assert judge(AlertPolicy(EVERYTHING), AlertMemory().sending(FAILED, NOON), FAILED, NOON) is Verdict.send


def test_a_clock_that_was_set_back_silences_nothing():
    memory = AlertMemory().sending(FAILED, NOON)
    assert judge(HOURLY, memory, FAILED, NOON - timedelta(hours=1)) is Verdict.send


def test_after_a_success_a_failure_is_a_first_one_again():
    memory = AlertMemory().seeing(FAILED, NOON).sending(FAILED, NOON)
    memory = memory.seeing(message(AlertKind.succeeded, activity=Activity.validate), NOON)
    assert judge(HOURLY, memory, FAILED, NOON) is Verdict.repeated
    assert judge(HOURLY, memory.seeing(SUCCEEDED, NOON), FAILED, NOON) is Verdict.send


def test_the_next_message_tells_how_many_were_held_back():
    memory = AlertMemory().seeing(FAILED, NOON).sending(FAILED, NOON)
    for hour in (1, 2):
        memory = memory.seeing(FAILED, NOON + timedelta(hours=hour)).repeating(FAILED)
    assert notes_of(memory, FAILED) == (
        "2 more like this since 2026-05-04 12:00 UTC were held back by the rate limit.",
        "It has failed 4 times in a row since 2026-05-04 12:00 UTC.",
    )
    assert notes_of(memory.sending(FAILED, NOON), UNUSUAL) == ()
    assert notes_of(memory, SUCCEEDED) == ("It works again: it had failed 3 times since 2026-05-04 12:00 UTC.",)
    assert notes_of(memory.seeing(SUCCEEDED, NOON), SUCCEEDED) == ()


def test_a_message_that_nobody_took_was_not_told():
    memory = AlertMemory().seeing(FAILED, NOON).failing_to_send()
    assert judge(HOURLY, memory, FAILED, NOON) is Verdict.send
    assert "1 earlier messages about shop.public.t could not be sent anywhere." in notes_of(memory, FAILED)
    assert memory.sending(FAILED, NOON).unsent == 0


def test_what_is_held_has_a_bound_and_keeps_the_newest():
    memory = AlertMemory()
    for number in range(MOST_HELD + 5):
        memory = memory.holding(replace(UNUSUAL, title=str(number)), NOON)
    assert [held.title for held in memory.held] == [str(number) for number in range(5, MOST_HELD + 5)]
    assert memory.releasing().held == ()


BOUNDS = UsualBounds(factor=5, least_runs=3)


@pytest.mark.parametrize(
    ("value", "past", "above", "below"),
    [
        (51, [10, 10, 10], True, False),
        (50, [10, 10, 10], False, False),
        (1.9, [10, 10, 10], False, True),
        (2, [10, 10, 10], False, False),
        (1000, [10, 10], False, False),
        (1000, [0, 0, 0], False, False),
        (300, [1, 60, 1000], False, False),
        (0, [10, 10, 10], False, True),
    ],
)
def test_far_from_usual(value, past, above, below):
    assert (is_far_above(value, past, BOUNDS), is_far_below(value, past, BOUNDS)) == (above, below)


@pytest.mark.parametrize(
    ("past", "grown"),
    [([1, 2, 3], True), ([9, 1, 2, 3], True), ([1, 2, 2], False), ([2, 3], False), ([3, 2, 4], False)],
)
def test_growth_throughout(past, grown):
    assert has_grown_throughout(past, BOUNDS) is grown
