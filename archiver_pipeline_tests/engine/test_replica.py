"""Reading from a streaming replica, deleting on the primary: what the replica does not know yet is never deleted."""

import psycopg
import pytest

from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.engine.delete import delete_batches
from archiver_pipeline.errors import PreflightError
from archiver_pipeline.sandbox.postgres_server import PostgresReplica, PostgresServer
from archiver_pipeline_tests.engine.running import verified
from archiver_pipeline_tests.plugins.servers import Database
from archiver_pipeline_tests.sandbox.waiting import wait_until

TABLE = "public.audit_logs"


@pytest.fixture(scope="module")
def replica_server(postgres_server):
    """One standby for all tests here."""
    with PostgresReplica(postgres_server) as replica:
        yield replica


@pytest.fixture
def replica(replica_server, database):
    """This test's database as the standby has it."""
    return Database(
        name=database.name,
        host=replica_server.host,
        port=replica_server.port,
        user=database.user,
        password=database.password,
        conninfo=replica_server.dsn(database.name),
    )


@pytest.fixture
def paused(replica_server, database, audit):
    """The standby has the table as it is now, and learns nothing more until the end of the test."""
    caught_up(database, replica_server)
    ask(replica_server, "SELECT pg_wal_replay_pause()")
    yield
    ask(replica_server, "SELECT pg_wal_replay_resume()")
    caught_up(database, replica_server)


def ask(replica_server, query, params=None):
    """In the database that is there from the beginning: the test's own may not have arrived."""
    with psycopg.connect(replica_server.dsn(), autocommit=True) as connection:
        return connection.execute(query, params).fetchall()


def caught_up(database, replica_server):
    [(position,)] = database.execute("SELECT pg_current_wal_lsn()::text")
    wait_until(
        lambda: ask(replica_server, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [position]) == [(True,)],
        "the replica has everything",
    )


def reader(archiving, replica):
    return archiving.source(host=replica.host, port=replica.port)


@pytest.mark.parametrize("data_format", ["jsonl.gz", "parquet"])
def test_rows_are_read_there_and_deleted_here(archiving, audit, database, replica_server, replica, data_format):
    caught_up(database, replica_server)
    archiving.archive(replica=reader(archiving, replica), format=data_format)
    audit.account_all_archived()


def test_the_rows_really_come_from_the_replica(archiving, audit, paused, replica):
    """Late rows that only the primary has are planned but not read, and stay."""
    audit.execute(
        f"INSERT INTO {TABLE} SELECT id + 5000, created_at, 'late', changes, tags, amount FROM {TABLE} WHERE id < 9"
    )
    archiving.archive(replica=reader(archiving, replica))
    audit.account()
    assert audit.old_rows_in_table() == 8


def test_rows_changed_on_the_primary_are_not_deleted(archiving, audit, paused, replica):
    session = archiving.session(replica=reader(archiving, replica))
    audit.execute(f"UPDATE {TABLE} SET actor = 'changed' WHERE id IN (3, 4, 17)")
    audit.execute(f"DELETE FROM {TABLE} WHERE id = 30")
    verification = verified(archiving, session)
    deletion = delete_batches(session, verification)
    session.close()
    assert {batch.outcome for batch in deletion.batches} == {Outcome.deleted, Outcome.superseded}
    audit.account()
    archiving.archive()
    audit.account_all_archived()


def test_a_table_rewritten_on_the_primary_only(archiving, audit, paused, replica):
    """Other rows lie under the positions that the replica still tells."""
    audit.execute(f"DELETE FROM {TABLE} WHERE id % 3 = 0")
    archiving.database.execute(f"VACUUM FULL {TABLE}")
    archiving.archive(replica=reader(archiving, replica))
    audit.account()


def test_another_server_is_no_replica(archiving, audit, database):
    with PostgresServer(bin_dir=None, durable=False) as other:
        other.create_database(database.name)
        elsewhere = archiving.source(host=other.host, port=other.port)
        elsewhere = elsewhere.__class__(**{**vars(elsewhere), "password": elsewhere.password.__class__(other.password)})
        with pytest.raises(PreflightError, match="not a physical replica") as refused:
            archiving.archive(replica=elsewhere)
    assert refused.value.exit_code == 3
    audit.account()
    assert audit.objects() == []
