"""Each signal on real servers rises with its cause and falls when that is gone; what can't be read says so."""

import contextlib
import math
import threading
import time

import psycopg
import pytest

from archiver_pipeline.domain.throttle import Signal, ThrottleSettings
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline.postgres.connection import connect
from archiver_pipeline.postgres.pressure import PressureReader
from archiver_pipeline.sandbox.postgres_server import PostgresReplica, PostgresServer
from archiver_pipeline_tests.sandbox.waiting import wait_until

STRANGER = "throttle_stranger"


@pytest.fixture(scope="module")
def replica_server(postgres_server):
    with PostgresReplica(postgres_server) as replica:
        yield replica


@pytest.fixture
def reader_of(archiving, audit):
    """Readers of the table's signals, each with one limit that does not matter here."""
    opened = []
    with connect(archiving.source()) as connection:
        shape = inspect_table(connection, archiving.settings())

    def reader(*signals, probe="", replica=None, **source):
        settings = ThrottleSettings(tuple((signal, 1.0) for signal in signals), probe=probe, timeout_seconds=1)
        opened.append(PressureReader(archiving.source(**source), replica, shape, settings))
        return opened[-1]

    yield reader
    for one in opened:
        one.close()


@pytest.fixture
def stranger(database):
    """A role that may read the table and connect, and nothing else."""
    database.execute(f"CREATE ROLE {STRANGER} LOGIN PASSWORD '{database.password}'")
    database.execute(f"GRANT SELECT ON audit_logs TO {STRANGER}")
    yield STRANGER
    database.execute(f"DROP OWNED BY {STRANGER}; DROP ROLE {STRANGER}")


def value(reader):
    [reading] = reader.read()
    assert not reading.problem, reading.problem
    return reading.value


def problem(reader):
    [reading] = reader.read()
    assert math.isnan(reading.value)
    assert reading.is_over
    return reading.problem


def ask(server, query):
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall() if cursor.description else []


def write_wal(database, megabytes=4):
    database.execute("CREATE TABLE IF NOT EXISTS heap (t text)")
    database.execute(
        "INSERT INTO heap SELECT repeat(md5(random()::text), 32) FROM generate_series(1, %s)", [megabytes * 1000]
    )


class TestReplication:
    @pytest.mark.parametrize("signal", [Signal.replication_lag_bytes, Signal.replication_lag_seconds])
    @pytest.mark.parametrize("is_read_from", [False, True])
    def test_a_standby_that_stands_still_and_goes_on(
        self, archiving, database, reader_of, replica_server, signal, is_read_from
    ):
        wait_until(lambda: ask(replica_server, "SELECT count(*) FROM pg_stat_wal_receiver") == [(1,)], "it streams")
        replica = archiving.source(host=replica_server.host, port=replica_server.port, dbname="postgres")
        reader = reader_of(signal, replica=replica if is_read_from else None)
        least = 1 << 20 if signal is Signal.replication_lag_bytes else 0.5
        wait_until(lambda: value(reader) < least, "it has caught up")
        ask(replica_server, "SELECT pg_wal_replay_pause()")
        write_wal(database)
        try:
            wait_until(lambda: value(reader) > least, "the lag is seen")
        finally:
            ask(replica_server, "SELECT pg_wal_replay_resume()")
        wait_until(lambda: value(reader) < least, "the lag is gone")

    def test_a_slot_that_nobody_uses_counts_in_bytes(self, database, reader_of):
        reader = reader_of(Signal.replication_lag_bytes)
        database.execute("SELECT pg_create_physical_replication_slot('left_alone', true)")
        try:
            write_wal(database)
            assert value(reader) > 1 << 20
        finally:
            database.execute("SELECT pg_drop_replication_slot('left_alone')")
        wait_until(lambda: value(reader) < 1 << 20, "nobody lags")

    def test_a_replica_that_is_gone_or_none_can_not_be_read(self, archiving, reader_of):
        gone = reader_of(Signal.replication_lag_seconds, replica=archiving.source(port=1))
        assert "can't be" not in problem(gone)
        assert "is no standby" in problem(reader_of(Signal.replication_lag_bytes, replica=archiving.source()))

    def test_who_may_not_see_standbys_is_told_what_to_grant(self, replica_server, database, reader_of, stranger):
        wait_until(lambda: database.execute("SELECT count(*) FROM pg_stat_replication")[0][0] > 0, "it streams")
        reader = reader_of(Signal.replication_lag_seconds, user=stranger)
        assert "GRANT pg_monitor" in problem(reader)
        database.execute(f"GRANT pg_monitor TO {stranger}")
        assert value(reader) >= 0
        database.execute(f"REVOKE pg_monitor FROM {stranger}")


def test_wal_rate(database, reader_of):
    reader = reader_of(Signal.wal_bytes_per_second)
    calm = value(reader)
    write_wal(database, 8)
    busy = value(reader)
    assert busy > 1 << 20
    assert calm < busy
    time.sleep(0.3)
    assert value(reader) < busy / 2


@pytest.fixture(scope="module")
def failing(postgres_server):
    """A server whose archive command fails as long as it is `false`."""
    with PostgresServer(bin_dir=postgres_server.bin_dir, durable=False) as server:
        server.create_database("kept")
        ask(server, "ALTER SYSTEM SET archive_mode = on")
        server.restart()
        yield server


class TestArchiving:
    @pytest.mark.parametrize("may_list", [True, False])
    def test_files_that_wait(self, failing, may_list, archiving, reader_of):
        ask(failing, "ALTER SYSTEM SET archive_command = 'false'")
        ask(failing, "SELECT pg_reload_conf()")
        user = failing.user
        if not may_list:
            user = "lister"
            ask(failing, f"CREATE ROLE {user} LOGIN PASSWORD '{failing.password}'")
        password = archiving.source().password.__class__(failing.password)
        reader = reader_of(
            Signal.pending_wal_files, host=failing.host, port=failing.port, dbname="kept", user=user, password=password
        )
        for _ in range(3):
            ask(failing, "SELECT pg_switch_wal() FROM pg_logical_emit_message(true, 'x', 'y')")
        wait_until(lambda: value(reader) >= 2, "files wait")
        ask(failing, "ALTER SYSTEM SET archive_command = 'true'")
        ask(failing, "SELECT pg_reload_conf()")
        wait_until(lambda: value(reader) == 0, "all are archived")

    def test_without_archiving_nothing_waits(self, reader_of, stranger):
        assert value(reader_of(Signal.pending_wal_files)) == 0
        assert value(reader_of(Signal.pending_wal_files, user=stranger)) == 0


def test_dead_rows(database, reader_of):
    reader = reader_of(Signal.dead_row_percent)
    database.execute("ALTER TABLE audit_logs SET (autovacuum_enabled = off)")
    database.execute("ANALYZE audit_logs")
    assert value(reader) == 0
    database.execute("DELETE FROM audit_logs WHERE id < 40")
    wait_until(lambda: 45 < value(reader) < 55, "39 of 78 rows are dead")
    database.execute("VACUUM audit_logs")
    wait_until(lambda: value(reader) == 0, "none is dead")


def test_dead_rows_of_partitions_count(archiving, database):
    database.execute("CREATE TABLE split (id int PRIMARY KEY, created_at timestamptz NOT NULL) PARTITION BY RANGE (id)")
    database.execute("CREATE TABLE split_1 PARTITION OF split FOR VALUES FROM (0) TO (1000)")
    database.execute("ALTER TABLE split_1 SET (autovacuum_enabled = off)")
    database.execute("INSERT INTO split SELECT n, now() FROM generate_series(1, 100) n")
    database.execute("DELETE FROM split WHERE id <= 50")
    with connect(archiving.source()) as connection:
        shape = inspect_table(connection, archiving.settings(table="split"))
    settings = ThrottleSettings(((Signal.dead_row_percent, 1.0),))
    with contextlib.closing(PressureReader(archiving.source(), None, shape, settings)) as reader:
        wait_until(lambda: value(reader) == 50, "half are dead")


def test_blocked_sessions(archiving, database, reader_of, stranger):
    """Ours are known by name and user; a session that waits for anybody else's lock does not count."""
    reader = reader_of(Signal.blocked_sessions)
    assert value(reader) == 0
    update = "UPDATE audit_logs SET actor = 'x' WHERE id = 1"
    with database.connect(autocommit=False) as ours, database.connect(autocommit=False) as other:
        other.execute("UPDATE audit_logs SET actor = 'y' WHERE id = 1")
        waiting = threading.Thread(target=database.execute, args=[update])
        waiting.start()
        wait_until(lambda: database.execute("SELECT count(*) FROM pg_locks WHERE NOT granted") != [(0,)], "one waits")
        assert value(reader) == 0
        other.rollback()
        waiting.join()
        ours.execute("SELECT set_config('application_name', %s, false)", [archiving.source().application_name])
        ours.execute("DELETE FROM audit_logs WHERE id = 1")
        waiting = threading.Thread(target=database.execute, args=[update])
        waiting.start()
        wait_until(lambda: value(reader) == 1, "it waits for ours")
        ours.rollback()
        waiting.join()
    assert value(reader) == 0


def test_query_latency(database, reader_of):
    reader = reader_of(Signal.query_ms)
    assert 0 < value(reader) < 500
    with database.connect(autocommit=False) as blocker:
        blocker.execute("LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE")
        assert problem(reader)
    assert 0 < value(reader) < 500


def test_the_longest_transaction(archiving, database, reader_of, stranger):
    reader = reader_of(Signal.longest_transaction_seconds)
    with database.connect(autocommit=False) as open_transaction:
        open_transaction.execute("SELECT 1")
        wait_until(lambda: value(reader) > 0.3, "it is seen")
        stranger_reader = reader_of(Signal.longest_transaction_seconds, user=stranger)
        assert "GRANT pg_monitor" in problem(stranger_reader)
    wait_until(lambda: value(reader) < 0.3, "it is over")


class TestProbe:
    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("SELECT 42", 42.0),
            ("SELECT true", math.inf),
            ("SELECT false", 0.0),
            ("SELECT 1.5::numeric -- said", 1.5),
            ("SELECT count(*) FROM public.audit_logs", 78.0),
            ("VALUES (7)", 7.0),
            ("SELECT 'Infinity'::float8", math.inf),
        ],
    )
    def test_numbers_and_booleans(self, reader_of, query, expected):
        assert value(reader_of(Signal.probe, probe=query)) == expected

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ("SELECT NULL::int", "boolean or a number"),
            ("SELECT 'many'", "boolean or a number"),
            ("SELECT 'NaN'::float8", "boolean or a number"),
            ("SELECT 1 WHERE false", "one row"),
            ("SELECT generate_series(1, 9)", "one row"),
            ("SELECT 1, 2", "one row"),
            ("SELECT nothing", "nothing"),
            ("SELECT 1 FROM pg_sleep(3)", "timeout"),
            ("SELECT 1); DELETE FROM public.audit_logs; SELECT (2", "multiple commands"),
            ("SELECT 1 FROM public.audit_logs FOR UPDATE", "read-only"),
            ("SELECT set_config('transaction_read_only', 'off', false) = nextval('public.s')::text", "read"),
        ],
    )
    def test_anything_else_can_not_be_read(self, database, reader_of, query, said):
        database.execute("CREATE SEQUENCE s")
        reader = reader_of(Signal.probe, probe=query)
        assert said in problem(reader)
        assert database.execute("SELECT count(*) FROM audit_logs") == [(78,)]

    def test_a_failure_is_over_when_it_is_mended(self, database, reader_of):
        reader = reader_of(Signal.probe, probe="SELECT busy FROM public.load")
        assert "does not exist" in problem(reader)
        database.execute("CREATE TABLE load AS SELECT 3 AS busy")
        assert value(reader) == 3

    def test_no_transaction_is_left_open(self, database, reader_of):
        reader = reader_of(Signal.probe, Signal.blocked_sessions, probe="SELECT 1")
        reader.read()
        states = database.execute(
            "SELECT DISTINCT state FROM pg_stat_activity WHERE application_name = 'archiver test'"
            " AND datname = current_database()"
        )
        assert states == [("idle",)]


def test_a_server_that_is_gone_is_known_to_be(archiving, reader_of):
    assert problem(reader_of(Signal.blocked_sessions, port=1))
