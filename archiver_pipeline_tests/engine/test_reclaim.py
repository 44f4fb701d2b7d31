"""Giving disk back after a run: when it is done, what it returns, and when it must not be done."""

import re
import subprocess

import pytest

from archiver_pipeline.config.enums import VacuumStrategy
from archiver_pipeline.domain.disk import RelationKind
from archiver_pipeline.engine.finding import Level
from archiver_pipeline.engine.preflight import reclaim_findings
from archiver_pipeline.engine.reclaim import give_back
from archiver_pipeline.errors import PermissionDeniedError, PreflightError
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline_tests.engine.running import pending

TABLE = "audit_logs"
STANDARD = {"vacuum_strategy": VacuumStrategy.STANDARD}
FULL = STANDARD | {"reclaim": "full", "reclaim_min_bytes": 100_000}


@pytest.fixture
def wide(archiving, audit):
    """The table with much of it at its beginning, where a plain VACUUM gives nothing back."""
    with archiving.database.connect() as connection:
        connection.execute(f"ALTER TABLE {TABLE} ADD note text".encode())
        connection.execute(f"ALTER TABLE {TABLE} ALTER note SET STORAGE PLAIN".encode())
        connection.execute(f"UPDATE {TABLE} SET note = repeat('x', 6000)".encode())
        connection.execute(f"VACUUM FULL {TABLE}".encode())
        connection.execute(f"ANALYZE {TABLE}".encode())
    return archiving.ledger()


def shape_of(session):
    return inspect_table(session.connection, session.settings)


def test_the_table_is_written_anew_and_its_bytes_are_back_on_the_disk(archiving, wide, postgres_server):
    def used():
        archiving.database.execute("CHECKPOINT")
        command = ["du", "-s", "-B1", postgres_server.data_dir / "base"]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0])

    before = used()
    report = archiving.archive(**FULL)
    assert report.reclaim.leaves == (TABLE,)
    assert report.reclaim.returned_bytes > 300_000
    assert before - used() == pytest.approx(report.reclaim.returned_bytes, rel=0.3)
    assert report.disk.advice == ""
    wide.account_all_archived()


def test_without_a_reclaim_the_report_says_what_one_would_give(archiving, wide):
    report = archiving.archive(**STANDARD, reclaim_min_bytes=100_000)
    assert report.reclaim is None
    assert 300_000 < report.disk.free_bytes < report.disk.size_bytes
    assert report.disk.is_estimate
    assert report.disk.advice.startswith('VACUUM (FULL, ANALYZE) "public"."audit_logs" (with the extension pg_repack')
    assert "locks the table against reading and writing" in report.disk.advice
    assert archiving.archive(**STANDARD).disk is None


@pytest.mark.parametrize("limit", [{"reclaim_min_bytes": 100_000_000}, {"reclaim_min_free_ratio": 0.99}])
def test_little_free_space_is_left_alone(archiving, wide, limit):
    report = archiving.archive(**FULL | limit)
    assert (report.reclaim.leaves, report.reclaim.returned_bytes) == ((), 0)
    assert "bytes are free" in report.reclaim.skipped


def test_as_long_as_there_is_more_to_archive_nothing_is_written_anew(archiving, wide):
    report = archiving.archive(limit_rows=40, **FULL | {"reclaim_min_free_ratio": 0.1})
    assert report.reclaim.skipped == "there is more to archive first"
    assert archiving.archive(**FULL).reclaim.leaves == (TABLE,)
    wide.account_all_archived()


def test_never_while_a_batch_waits_to_be_settled(archiving, wide):
    """Its rows would get other versions, and it would not know them again."""
    pending(archiving, wide)
    wide.execute(f"DELETE FROM public.{TABLE} WHERE created_at < now() - interval '30 days'")
    archiving.database.execute(f"VACUUM {TABLE}")
    session = archiving.session(**FULL)
    session.lock.require_held()
    reclaim = give_back(session, shape_of(session)).reclaim
    assert reclaim.skipped == "1 batches are not settled: a row written anew is another version"


def test_a_locked_table_is_told_and_the_run_succeeds(archiving, wide, monkeypatch):
    monkeypatch.setattr("archiver_pipeline.postgres.maintenance._LOCK_TIMEOUT_MS", 50)
    with archiving.database.connect(autocommit=False) as application:
        application.execute(f"SELECT FROM {TABLE} LIMIT 1")
        report = archiving.archive(**FULL)
    assert "lock timeout" in report.reclaim.failed
    assert any(warning.startswith("reclaim failed, and no row is affected") for warning in report.warnings)
    wide.account_all_archived()


def test_long_values_and_indexes_are_measured_apart(archiving, audit):
    archiving.database.execute(f"ALTER TABLE {TABLE} ADD blob text")
    archiving.database.execute(f"ALTER TABLE {TABLE} ALTER blob SET STORAGE EXTERNAL")
    archiving.database.execute(f"UPDATE {TABLE} SET blob = repeat('y', 60000)")
    archiving.database.execute(f"DELETE FROM {TABLE} WHERE id < 40")
    archiving.database.execute(f"VACUUM ANALYZE {TABLE}")
    session = archiving.session(**STANDARD)
    disk = give_back(session, shape_of(session))
    assert disk.most_free[0].kind is RelationKind.toast
    assert disk.most_free[0].free_bytes == pytest.approx(39 * 61_000, rel=0.2)
    assert 0 < disk.index_bytes < disk.size_bytes


def test_check_tells_what_lacks_and_what_to_install(archiving, audit):
    assert not list(reclaim_findings(archiving.session(), "table"))
    assert [one.level for one in reclaim_findings(archiving.session(reclaim="full"), "table")] == [Level.ok]
    for strategy, hint in (
        ("repack", r"apt install postgresql-\d+-repack"),
        ("squeeze", r"CREATE EXTENSION pg_squeeze"),
    ):
        with pytest.raises(PreflightError) as refusal:
            list(reclaim_findings(archiving.session(reclaim=strategy), "table"))
        assert re.search(hint, str(refusal.value))


def test_a_run_whose_reclaim_lacks_its_extension_archives_all_the_same(archiving, wide):
    report = archiving.archive(**FULL | {"reclaim": "squeeze"})
    assert "the extension pg_squeeze is not in the database" in report.reclaim.failed
    wide.account_all_archived()


def test_only_the_owner_can_reclaim(archiving, audit):
    role = f"role_{archiving.database.name}"
    archiving.database.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{archiving.database.password}'")
    try:
        with pytest.raises(PermissionDeniedError, match="is for the owner of"):
            list(reclaim_findings(archiving.session(user=role, reclaim="full"), "table"))
    finally:
        for session in archiving.opened:
            session.close()
        archiving.database.execute(f"DROP ROLE {role}")
