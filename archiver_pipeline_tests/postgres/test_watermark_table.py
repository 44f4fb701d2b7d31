"""The table of restore watermarks: made once, whoever comes first; there and gone with the rows it speaks of."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.watermark import RestoredBatch
from archiver_pipeline.errors import PermissionDeniedError, PreflightError
from archiver_pipeline.postgres.connection import connect
from archiver_pipeline.postgres.watermark_table import ensure_watermark_table, remember_batch, remembered_batches
from archiver_pipeline_tests.docs.reading import ROOT, fenced

PAGE = ROOT / "docs" / "archive-format.md"
TABLE = "restore_watermarks"
SOURCE = TableName("appdb", "public", "audit_logs")
TARGET = TableName("otherdb", "public", "audit_logs")


@pytest.fixture
def connection(archiving):
    with connect(archiving.source()) as opened:
        yield opened


@pytest.fixture
def role(archiving):
    """A login role without privileges, called so that it must be quoted."""
    name = f'röle "{secrets.token_hex(4)}"'
    quoted = '"' + name.replace('"', '""') + '"'
    archiving.database.execute(f"CREATE ROLE {quoted} LOGIN PASSWORD '{archiving.database.password}'")
    archiving.database.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    yield name
    archiving.database.execute(f"DROP OWNED BY {quoted}; DROP ROLE {quoted}")


def remember(connection, batch_id, *, source=SOURCE, target=TARGET, table=TABLE, run_id="run"):
    batch = RestoredBatch(batch_id, f"archives/{batch_id}.jsonl.gz", 10)
    remember_batch(connection, table, source, target, batch, run_id)


@pytest.mark.matrix
@pytest.mark.parametrize("table", [TABLE, 'Weird "tablé".x', "t" * 63])
def test_what_is_remembered_is_known(connection, table):
    ensure_watermark_table(connection, table)
    ensure_watermark_table(connection, table)
    assert remembered_batches(connection, table, SOURCE, TARGET) == set()
    remember(connection, "one", table=table)
    remember(connection, "two", table=table)
    assert remembered_batches(connection, table, SOURCE, TARGET) == {"one", "two"}


def test_without_a_table_nothing_is_remembered_and_none_is_made(connection, database):
    assert remembered_batches(connection, TABLE, SOURCE, TARGET) == set()
    assert database.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_the_last_restore_of_a_batch_stays(connection, database):
    ensure_watermark_table(connection, TABLE)
    remember(connection, "one", run_id="first")
    [(before,)] = database.execute(f"SELECT restored_at FROM {TABLE}")
    remember(connection, "one", run_id="second")
    query = f"SELECT run_id, data_key, rows, restored_at > %s, restored_at <= clock_timestamp() FROM {TABLE}"
    assert database.execute(query, [before]) == [("second", "archives/one.jsonl.gz", 10, True, True)]


@pytest.mark.matrix
def test_the_note_vanishes_with_its_transaction(connection, database):
    ensure_watermark_table(connection, TABLE)
    with pytest.raises(ZeroDivisionError), connection.transaction():
        remember(connection, "one")
        raise ZeroDivisionError
    assert remembered_batches(connection, TABLE, SOURCE, TARGET) == set()
    assert database.execute(f"SELECT count(*) FROM {TABLE}") == [(0,)]


def test_sources_and_targets_do_not_mix(connection):
    ensure_watermark_table(connection, TABLE)
    names = [SOURCE, TableName("a", "b.c", "d"), TableName("a.b", "c", "d"), TableName("a", "b", "c.d")]
    names += [TableName("a", 'b"; --', "d"), TableName("a", "bé", "%s"), TableName("a", "BÉ", "%S")]
    for i, source in enumerate(names):
        for j, target in enumerate(names):
            remember(connection, f"{i}-{j}", source=source, target=target)
    for i, source in enumerate(names):
        for j, target in enumerate(names):
            assert remembered_batches(connection, TABLE, source, target) == {f"{i}-{j}"}


@pytest.mark.matrix
def test_many_create_it_at_once(archiving, database):
    barrier = Barrier(8)

    def create(number):
        with connect(archiving.source()) as connection:
            barrier.wait()
            ensure_watermark_table(connection, TABLE)
            remember(connection, f"batch {number}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(create, range(8)))
    assert database.execute(f"SELECT count(*) FROM {TABLE}") == [(8,)]


def test_the_documented_statement_makes_the_same_table(connection, database):
    [documented] = [block for block in fenced(PAGE.read_text(), "sql") if TABLE in block]
    described = (
        "SELECT array_agg((attname, format_type(atttypid, atttypmod), attnotnull)::text ORDER BY attnum),"
        " (SELECT min(pg_get_constraintdef(oid)) FROM pg_constraint WHERE conrelid = attrelid AND contype = 'p')"
        f" FROM pg_attribute WHERE attrelid = '{TABLE}'::regclass AND attnum > 0 GROUP BY attrelid"
    )
    database.execute(documented)
    ensure_watermark_table(connection, TABLE)
    by_hand = database.execute(described)
    database.execute(f"DROP TABLE {TABLE}")
    ensure_watermark_table(connection, TABLE)
    assert database.execute(described) == by_hand


def test_something_else_of_that_name_is_refused(connection, database):
    database.execute(f"CREATE TABLE {TABLE} (id int)")
    with pytest.raises(PreflightError, match="not a table of restore watermarks") as refused:
        ensure_watermark_table(connection, TABLE)
    assert "restore_watermark.table" in refused.value.hint


def test_a_missing_schema_is_told(connection, database):
    database.execute("DROP SCHEMA public")
    with pytest.raises(PreflightError, match="no schema public"):
        ensure_watermark_table(connection, TABLE)


@pytest.mark.parametrize("granted", [None, "USAGE"])
def test_who_may_not_create_it_is_told_the_statement_that_helps(archiving, database, role, granted):
    if granted:
        database.execute(f"GRANT {granted} ON SCHEMA public TO " + '"' + role.replace('"', '""') + '"')
    with connect(archiving.source(user=role)) as connection:
        with pytest.raises(PermissionDeniedError) as refused:
            ensure_watermark_table(connection, TABLE)
        database.execute(refused.value.hint)
        ensure_watermark_table(connection, TABLE)
        remember(connection, "one")


@pytest.mark.parametrize("granted", ["USAGE ON SCHEMA public", f"SELECT, INSERT, UPDATE ON {TABLE}"])
def test_who_may_not_use_it_is_told_the_statement_that_helps(archiving, database, connection, role, granted):
    ensure_watermark_table(connection, TABLE)
    database.execute(f"GRANT {granted} TO " + '"' + role.replace('"', '""') + '"')
    with connect(archiving.source(user=role)) as connection_of_role:
        with pytest.raises(PermissionDeniedError, match="may not be read and written") as refused:
            ensure_watermark_table(connection_of_role, TABLE)
        database.execute(refused.value.hint)
        ensure_watermark_table(connection_of_role, TABLE)
        remember(connection_of_role, "one")
        remember(connection_of_role, "one")
        assert remembered_batches(connection_of_role, TABLE, SOURCE, TARGET) == {"one"}
