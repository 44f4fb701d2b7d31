"""A run that waits for the database, ends early when that takes too long, and never loses or doubles a row by it."""

import itertools
import threading
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from archiver_pipeline.domain.audit import AuditKind
from archiver_pipeline.domain.hours import AllowedHours
from archiver_pipeline.domain.throttle import Signal, ThrottleSettings
from archiver_pipeline.engine import delete, extract
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.progress import SilentProgress
from archiver_pipeline.engine.throttle import Throttle
from archiver_pipeline.engine.work import StoppedError
from archiver_pipeline.errors import LockLostError
from archiver_pipeline.postgres.pressure import PressureReader
from archiver_pipeline.sandbox.postgres_server import PostgresReplica
from archiver_pipeline_tests.engine.running import planned
from archiver_pipeline_tests.sandbox.waiting import wait_until

PROBE = "SELECT busy FROM public.load"


def throttled(limit=0.0, *, signal=Signal.probe, **settings):
    settings = {"probe": PROBE, "poll_seconds": 0.1, "max_pause_seconds": 20} | settings
    return ThrottleSettings(((signal, limit),), **settings)


class Listening(SilentProgress):
    """Does something when a pause begins, or when a batch is finished."""

    def __init__(self, *, paused=None, finished=None):
        self.told = []
        self._paused = paused or (lambda: None)
        self._finished = finished or (lambda step: None)

    def archive_paused(self, table, step, reason):
        self.told.append((step, reason))
        self._paused()

    def archive_resumed(self, table, step, seconds):
        self.told.append((step, seconds))

    def batch_finished(self, table, step, batch):
        self._finished(step)


@pytest.fixture
def load(database):
    """Sets what the probe gives."""
    database.execute("CREATE TABLE load (busy int)")
    database.execute("INSERT INTO load VALUES (0)")
    return lambda busy: database.execute("UPDATE load SET busy = %s", [busy])


@pytest.fixture
def run(archiving, monkeypatch):
    """Archive everything with a listener and these settings."""

    def archive(listener=None, *, ignore_hours=False, **settings):
        session = archiving.session(**settings)
        session.progress = listener or SilentProgress()
        session.throttle._progress = session.progress
        windows = archiving.windows(session)
        try:
            return archive_windows(session, windows, ignore_hours=ignore_hours)
        finally:
            session.close()

    return archive


def test_it_waits_and_goes_on(archiving, audit, database, load, run):
    def relieve():
        states = database.execute(
            "SELECT count(*) FILTER (WHERE state <> 'idle' OR backend_xmin IS NOT NULL), count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'archiver test'"
        )
        held.extend(states)
        load(0)

    held = []
    load(3)
    listener = Listening(paused=relieve)
    report = run(listener, throttle=throttled())
    audit.account_all_archived()
    assert held[0][0] == 0 < held[0][1]
    assert listener.told[0] == ("plan", "probe is 3, its limit 0")
    assert 0 < report.pauses.seconds < 10
    assert dict(report.pauses.by_signal) == {"probe": report.pauses.seconds}
    assert report.stopped_reason == ""


@pytest.mark.parametrize("step", ["plan", "extract", "delete"])
def test_it_ends_early_and_the_next_run_goes_on(archiving, audit, load, run, step):
    """What was done stays done, what was proved and not deleted is put aside, and nothing is orphaned."""
    finished = []

    def press(at):
        finished.append(at)
        if finished.count(step) == 2:
            load(5)

    if step == "plan":
        load(5)
    report = run(Listening(finished=press), throttle=throttled(max_pause_seconds=0.3), workers=1)
    assert report.stopped_reason == "throttled, and waited 0.3 s in vain: probe is 5, its limit 0"
    assert not report.truncated
    assert report.left_behind_rows == 48 - report.rows
    assert report.pauses.seconds >= 0.3
    assert 0 < report.rows < 48 if step == "delete" else report.rows == 0
    audit.account()
    assert all(stored.receipt or stored.superseded for stored in audit.objects())
    load(0)
    again = run(throttle=throttled())
    assert again.rows == 48 - report.rows
    audit.account_all_archived()


def test_what_can_not_be_read_stops_it(archiving, audit, load, run, database):
    database.execute("DROP TABLE load")
    report = run(throttle=throttled(max_pause_seconds=0.3))
    assert "probe can't be read" in report.stopped_reason
    assert report.rows == 0
    assert audit.objects() == []
    audit.account()


def test_a_lock_lost_in_a_pause_is_noticed(archiving, audit, load, run, database):
    def lose():
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
        )
        load(0)

    load(1)
    with pytest.raises(LockLostError):
        run(Listening(paused=lose), throttle=throttled())
    audit.account()


def test_it_can_be_stopped_while_it_waits(archiving, audit, load):
    session = archiving.session(throttle=throttled(max_pause_seconds=60), workers=3)
    plan = planned(archiving, session)
    load(1)
    time.sleep(0.15)
    threading.Timer(0.5, session.stopping.set).start()
    began = time.monotonic()
    with pytest.raises(StoppedError):
        extract.extract_batches(session, plan)
    assert time.monotonic() - began < 5
    audit.account()


@pytest.mark.parametrize(("busy", "most"), [(80, 1), (10, 3)])
def test_near_a_limit_one_batch_at_a_time(archiving, audit, load, run, monkeypatch, busy, most):
    peak = peak_of(monkeypatch, extract, "extract_batch")
    load(busy)
    report = run(throttle=throttled(100.0), workers=3, connection_pool_size=8)
    assert peak() == most
    assert report.pauses.seconds == 0
    audit.account_all_archived()


def test_a_standby_that_lags(archiving, audit, database, postgres_server, run):
    """The whole way, with a signal of a real second server."""

    def ask(query):
        with psycopg.connect(replica.dsn(), autocommit=True) as connection:
            return connection.execute(query).fetchall()

    with PostgresReplica(postgres_server) as replica:
        wait_until(lambda: ask("SELECT count(*) FROM pg_stat_wal_receiver") == [(1,)], "it streams")
        ask("SELECT pg_wal_replay_pause()")
        database.execute("CREATE TABLE heap AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
        listener = Listening(paused=lambda: ask("SELECT pg_wal_replay_resume()"))
        report = run(listener, throttle=throttled(1 << 20, signal=Signal.replication_lag_bytes))
    assert listener.told[0][1].startswith("replication_lag_bytes is ")
    assert report.pauses.seconds > 0
    audit.account_all_archived()


class TestHours:
    ALWAYS = AllowedHours(((0, 24 * 60),))

    @staticmethod
    def not_now():
        """Hours of an hour that is half a day away."""
        hour = (datetime.now(UTC) + timedelta(hours=12)).hour
        return AllowedHours(((hour * 60, (hour + 1) * 60),))

    def test_within_them_all_goes_on(self, archiving, audit, run):
        assert run(allowed_hours=self.ALWAYS).stopped_reason == ""
        audit.account_all_archived()

    def test_outside_nothing_begins_and_the_report_says_so(self, archiving, audit, run):
        report = run(allowed_hours=self.not_now())
        assert report.stopped_reason.startswith("outside allowed_hours (")
        assert "the next begin at" in report.stopped_reason
        assert (report.rows, report.left_behind_rows) == (0, 48)
        assert audit.objects() == []
        audit.account()

    def test_they_can_be_overridden_and_the_trail_tells(self, archiving, audit, run, monkeypatch):
        told = []
        session_type = type(archiving.session().audit)
        original = session_type.record
        monkeypatch.setattr(
            session_type,
            "record",
            lambda self, kind, **facts: (told.append((kind, facts)), original(self, kind, **facts)),
        )
        hours = self.not_now()
        report = run(ignore_hours=True, allowed_hours=hours)
        assert (AuditKind.override, {"rule": "allowed_hours", "allowed_hours": str(hours)}) in told
        assert any("are ignored" in warning for warning in report.warnings)
        audit.account_all_archived()

    @pytest.mark.parametrize("step", ["extract", "delete"])
    def test_they_end_in_the_middle(self, archiving, audit, run, monkeypatch, step):
        """By the source's clock. What was staged is left, what was proved is put aside; VACUUM waits as well."""
        finished = []
        now = datetime.now(UTC).replace(hour=5, minute=59)
        closing = now.replace(hour=6, minute=0)
        monkeypatch.setattr(PressureReader, "clock", lambda self: closing if finished.count(step) >= 2 else now)
        monkeypatch.setattr(Throttle, "_look", uncached(Throttle._look))
        report = run(
            Listening(finished=finished.append),
            allowed_hours=AllowedHours(((22 * 60, 6 * 60),)),
            workers=1,
            vacuum_strategy="standard",
        )
        assert "outside allowed_hours (22:00-06:00 UTC)" in report.stopped_reason
        assert report.rows == (0 if step == "extract" else 20)
        assert finished.count("upload") == (0 if step == "extract" else 6)
        assert (
            report.vacuum
            == {
                "extract": "nothing to vacuum",
                "delete": "standard: skipped, outside allowed_hours",
            }[step]
        )
        audit.account()
        assert all(stored.receipt or stored.superseded for stored in audit.objects())
        run()
        audit.account_all_archived()


def uncached(look):
    return lambda self, shape, *, ignore_hours, again=False: look(self, shape, ignore_hours=ignore_hours, again=True)


class TestUnhurried:
    """A run that rests between batches keeps the rest of its work small as well, unless it is told otherwise."""

    @pytest.mark.parametrize(("workers", "sleep", "most"), [(None, 0.2, 1), (None, 0, 2), (3, 0.2, 2)])
    def test_only_deletes_go_on_at_once(self, archiving, audit, run, monkeypatch, workers, sleep, most):
        peak = peak_of(monkeypatch, extract, "extract_batch")
        run(workers=workers, sleep_between_batches_seconds=sleep, connection_pool_size=10)
        assert (peak() == 1) if most == 1 else (peak() >= most)
        audit.account_all_archived()

    def test_deletes_are_spread_over_the_rest(self, archiving, audit, run, monkeypatch):
        begun = []
        original = delete.intend_batch
        monkeypatch.setattr(
            delete, "intend_batch", lambda *arguments: (begun.append(time.monotonic()), original(*arguments))[1]
        )
        run(workers=2, sleep_between_batches_seconds=0.6)
        between = [later - earlier for earlier, later in itertools.pairwise(begun)]
        assert len(between) == 5
        assert min(between) > 0.2
        audit.account_all_archived()


def peak_of(monkeypatch, module, name):
    """Counts how many calls of a function are under way at once."""
    at_once, peak, counting = 0, 0, threading.Lock()
    original = getattr(module, name)

    def counted(*arguments):
        nonlocal at_once, peak
        with counting:
            at_once += 1
            peak = max(peak, at_once)
        time.sleep(0.05)
        with counting:
            at_once -= 1
        return original(*arguments)

    monkeypatch.setattr(module, name, counted)
    return lambda: peak
