"""pg_repack on a real server: what a run does with it, and what a run makes of tables that were repacked by hand."""

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from archiver_pipeline.config.enums import VacuumStrategy
from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.engine.finding import Level
from archiver_pipeline.engine.preflight import reclaim_findings
from archiver_pipeline.postgres.space import measure_space
from archiver_pipeline.sandbox.postgres_server import PostgresServer
from archiver_pipeline_tests.engine.running import pending
from archiver_pipeline_tests.plugins.servers import Database
from archiver_pipeline_tests.repack.debian import libraries_in, programs_in, readable_copy, unpacked_root

ROWS = 12_000
FILL = """
CREATE TABLE audit_logs (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, note text);
CREATE INDEX ON audit_logs (created_at);
INSERT INTO audit_logs
SELECT n, date_trunc('day', now()) - interval '40 days' - n * interval '1 second', repeat('x', 500)
FROM generate_series(1, {old}) AS n;
INSERT INTO audit_logs SELECT 1000000 + n, now() - n * interval '1 minute', 'young' FROM generate_series(1, 300) AS n;
"""
BATCHES = {"batch_size": 4_000, "vacuum_strategy": VacuumStrategy.STANDARD}
RECLAIM = {"reclaim": "repack", "reclaim_min_bytes": 1_000_000, "reclaim_wait_seconds": 3}


@pytest.fixture(scope="session")
def repack_root() -> Iterator[Path]:
    """Debian's PostgreSQL with pg_repack, where servers can read it; its pg_repack is the one on PATH."""
    folder = Path(tempfile.mkdtemp(prefix="archiver-repack-"))
    root = readable_copy(unpacked_root(), folder)
    before = dict(os.environ)
    os.environ["PATH"] = f"{programs_in(root)}:{before['PATH']}"
    os.environ["LD_LIBRARY_PATH"] = ":".join(map(str, libraries_in(root)))
    yield root
    os.environ.clear()
    os.environ.update(before)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_server(repack_root: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(bin_dir=programs_in(repack_root), durable=False)
    server.start()
    yield server
    server.stop(immediate=True)


@pytest.fixture
def repackable(database: Database) -> Database:
    with database.connect() as connection:
        for extension in ("pg_repack", "pgstattuple"):
            connection.execute(f"CREATE EXTENSION {extension}".encode())
    return database


@pytest.fixture
def audit(archiving, repackable):
    with repackable.connect() as connection:
        connection.execute(FILL.format(old=ROWS).encode())
    return archiving.ledger()


def data_bytes(server: PostgresServer) -> int:
    """What the database's files take on the disk of the server."""
    printed = subprocess.run(["du", "-s", "-B1", server.data_dir / "base"], check=True, capture_output=True, text=True)
    return int(printed.stdout.split()[0])


def repack_by_hand(database: Database) -> None:
    environment = os.environ | {"PGPASSWORD": database.password}
    where = ["-h", database.host, "-p", str(database.port), "-U", database.user, "-d", database.name]
    subprocess.run(["pg_repack", "-n", "-t", "audit_logs", *where], check=True, capture_output=True, env=environment)


def test_a_run_repacks_its_table_and_the_bytes_are_back(archiving, audit, postgres_server):
    archiving.database.execute("CHECKPOINT")
    before = data_bytes(postgres_server)
    report = archiving.archive(**BATCHES, **RECLAIM)
    archiving.database.execute("CHECKPOINT")
    returned = before - data_bytes(postgres_server)
    assert not report.warnings
    assert report.reclaim.leaves == ("audit_logs",), report.reclaim
    assert (report.disk.method, report.disk.is_estimate) == ("pgstattuple", False)
    assert report.reclaim.returned_bytes > 6_000_000
    made = report.table_bytes_before - report.table_bytes_after
    assert report.reclaim.returned_bytes == pytest.approx(made, rel=0.02)
    assert returned == pytest.approx(report.reclaim.returned_bytes, rel=0.1)
    assert report.reclaim.returned_bytes == pytest.approx(report.disk.free_bytes, rel=0.1)
    audit.account_all_archived()


def test_a_locked_table_is_left_as_it_is_and_the_run_succeeds(archiving, audit):
    with archiving.database.connect(autocommit=False) as application:
        application.execute("SELECT count(*) FROM audit_logs")
        report = archiving.archive(**BATCHES, **RECLAIM | {"reclaim_wait_seconds": 1})
    assert "got no lock within 1 s" in report.reclaim.failed
    assert any("reclaim failed, and no row is affected" in warning for warning in report.warnings)
    audit.account_all_archived()
    assert archiving.archive(**BATCHES, **RECLAIM).reclaim.leaves == ("audit_logs",)


def test_only_the_partitions_that_are_worth_it(archiving, repackable):
    with repackable.connect() as connection:
        connection.execute(
            "CREATE TABLE audit_logs (id bigint, created_at timestamptz NOT NULL, note text,"
            " PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at)"
        )
        edge = connection.execute("SELECT (now() - interval '35 days')::text").fetchone()[0]
        connection.execute(f"CREATE TABLE old PARTITION OF audit_logs FOR VALUES FROM (MINVALUE) TO ('{edge}')")
        connection.execute(f"CREATE TABLE young PARTITION OF audit_logs FOR VALUES FROM ('{edge}') TO (MAXVALUE)")
        connection.execute(
            "INSERT INTO audit_logs SELECT n, now() - interval '50 days', repeat('x', 500)"
            " FROM generate_series(1, 6000) n"
        )
        connection.execute(
            "INSERT INTO audit_logs SELECT n, now() - interval '1 day', repeat('x', 500)"
            " FROM generate_series(10001, 12000) n"
        )
    audit = archiving.ledger()
    report = archiving.archive(**BATCHES, **RECLAIM | {"reclaim_min_bytes": 100_000})
    # VACUUM alone empties the old partition; its indexes are what is left to give back.
    assert report.reclaim.leaves in ((), ("old",))
    assert not report.reclaim.failed
    audit.account_all_archived()


def test_rows_repacked_by_hand_between_a_crash_and_the_next_run_are_not_doubled(archiving, audit):
    pending(archiving, audit, **BATCHES)
    repack_by_hand(archiving.database)
    report = archiving.archive(**BATCHES)
    assert [batch.outcome for batch in report.settled_before] == [Outcome.superseded]
    audit.account_all_archived()


def test_a_repack_by_hand_amid_a_run(archiving, audit):
    """Batches that were read before it do not match any more, and are taken anew."""
    repacking = threading.Thread(target=repack_by_hand, args=(archiving.database,))
    repacking.start()
    archiving.archive(**BATCHES)
    repacking.join()
    archiving.archive(**BATCHES)
    audit.account_all_archived()


def test_what_a_killed_repack_leaves_is_told_and_stops_the_next(archiving, audit):
    archiving.database.execute("CREATE TABLE repack.log_leftover ()")
    oid = archiving.database.execute("SELECT 'audit_logs'::regclass::oid")[0][0]
    archiving.database.execute(f"ALTER TABLE repack.log_leftover RENAME TO log_{oid}")
    found = list(reclaim_findings(archiving.session(**RECLAIM), "table"))
    assert [finding.level for finding in found] == [Level.ok, Level.warning]
    assert "DROP EXTENSION pg_repack CASCADE" in found[1].hint
    report = archiving.archive(**BATCHES, **RECLAIM)
    assert f"table repack.log_{oid} is there" in report.reclaim.failed
    audit.account_all_archived()


def test_the_free_space_is_measured_alike_by_both_extensions_and_the_estimate(archiving, audit):
    session = archiving.session()
    archiving.database.execute("DELETE FROM audit_logs WHERE id % 3 > 0 AND id < 1000000")
    archiving.database.execute("VACUUM ANALYZE audit_logs")
    found = {}
    for change in ("SELECT", "DROP EXTENSION pgstattuple", "CREATE EXTENSION pg_freespacemap"):
        archiving.database.execute(change)
        space = measure_space(session.primary, session.name)
        found[space.method] = space.free_bytes
    assert list(found) == ["pgstattuple", "estimate", "estimate, pg_freespacemap"]
    exact = found["pgstattuple"]
    assert all(free == pytest.approx(exact, rel=0.25) for free in found.values()), found
