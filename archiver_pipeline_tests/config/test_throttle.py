"""What may be written under `throttle` and `allowed_hours`, and what is said of mistakes."""

import pytest

from archiver_pipeline.domain.hours import AllowedHours
from archiver_pipeline.domain.throttle import Signal
from archiver_pipeline_tests.config.conftest import with_table

TABLE = "databases[0].tables[0]"


def table_of(load, lines):
    return load(with_table(lines)).tables[0]


def test_every_signal_has_its_limit_in_the_units_of_its_name(load):
    settings = table_of(
        load,
        "throttle: {replication_lag_seconds: 10, replication_lag_bytes: 64MiB, wal_bytes_per_second: 32MB,"
        " pending_wal_files: 20, dead_row_percent: 20, blocked_sessions: 0, query_ms: 50,"
        " longest_transaction_seconds: 300, probe: 'select 1; ', probe_limit: 7}",
    ).throttle
    assert dict(settings.limits) == {
        Signal.replication_lag_seconds: 10,
        Signal.replication_lag_bytes: 64 << 20,
        Signal.wal_bytes_per_second: 32_000_000,
        Signal.pending_wal_files: 20,
        Signal.dead_row_percent: 20,
        Signal.blocked_sessions: 0,
        Signal.query_ms: 50,
        Signal.longest_transaction_seconds: 300,
        Signal.probe: 7,
    }
    assert settings.probe == "select 1"
    assert (settings.shrink_at_percent, settings.poll_seconds, settings.max_pause_seconds) == (75, 2, 600)


def test_a_table_may_do_without_the_throttle_of_the_defaults(load):
    text = with_table("throttle: {}") + "defaults: {throttle: {query_ms: 5}}\n"
    assert load(text).tables[0].throttle is None
    assert dict(load(with_table("") + "defaults: {throttle: {query_ms: 5}}\n").tables[0].throttle.limits) == {
        Signal.query_ms: 5
    }


@pytest.mark.parametrize(
    ("written", "spans", "zone", "days"),
    [
        ("'22:00-06:00'", ((1320, 360),), "UTC", 7),
        ("['22:00-24:00', '00:00 - 06:30']", ((1320, 1440), (0, 390)), "UTC", 7),
        ("{hours: '01:00-02:00', time_zone: Europe/Berlin, days: [sat, sun]}", ((60, 120),), "Europe/Berlin", 2),
    ],
)
def test_hours(load, written, spans, zone, days):
    hours = table_of(load, f"allowed_hours: {written}").allowed_hours
    assert (hours.spans, hours.time_zone, len(hours.days)) == (spans, zone, days)
    assert isinstance(hours, AllowedHours)


@pytest.mark.parametrize(
    ("written", "place", "said"),
    [
        ("allowed_hours: 22-6", "allowed_hours.hours[0]", "like 22:00-06:00"),
        ("allowed_hours: '24:00-06:00'", "allowed_hours.hours[0]", "like 22:00-06:00"),
        ("allowed_hours: '06:00-06:00'", "allowed_hours.hours[0]", "00:00-24:00"),
        ("allowed_hours: {hours: '01:00-02:00', time_zone: Berlin}", "allowed_hours.time_zone", "Europe/Berlin"),
        ("allowed_hours: {hours: '01:00-02:00', days: [monday]}", "allowed_hours.days[0]", "mon"),
        ("allowed_hours: {time_zone: UTC}", "allowed_hours.hours", "required"),
        ("throttle: {replication_lag: 5}", "throttle.replication_lag", "replication_lag_"),
        ("throttle: {probe: DELETE FROM t}", "throttle.probe", "SELECT"),
        ("throttle: {probe_limit: 5}", "throttle", "limits nothing"),
        ("throttle: {query_ms: -1}", "throttle.query_ms", "0"),
    ],
)
def test_mistakes(problems, written, place, said):
    found = problems(with_table(written))
    assert said in str(found[f"{TABLE}.{place}"]), found
