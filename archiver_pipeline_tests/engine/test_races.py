"""What people do to a table and its roles amid a run: what was not done as proved is not done at all."""

from dataclasses import replace

import pytest

from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.sandbox.postgres_server import PostgresReplica
from archiver_pipeline_tests.engine.faults import POINTS, place
from archiver_pipeline_tests.engine.running import pending
from archiver_pipeline_tests.engine.test_replica import ask, caught_up
from archiver_pipeline_tests.plugins.archiving import Archiving
from archiver_pipeline_tests.sandbox.waiting import wait_until

AMID = ["plan", "amid extract", "verify", "before a manifest", "after a manifest"]


def archive_amid(archiving, point, happening, **overrides):
    """A run during which something happens once; its error, if it had one."""
    with pytest.MonkeyPatch.context() as patch:
        place(POINTS[point], happening, patch.setattr)
        try:
            archiving.archive(**overrides)
        except ArchiverError as error:
            return error
    return None


@pytest.fixture
def clerk(archiving, audit):
    """A role that may archive the table."""
    role = f"clerk_{archiving.database.name}"
    archiving.database.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{archiving.database.password}'")
    archiving.database.execute(f"GRANT SELECT, UPDATE, DELETE ON public.audit_logs TO {role}")
    yield role
    archiving.database.execute(f"DROP OWNED BY {role}")
    archiving.database.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("privileges", ["DELETE", "SELECT", "SELECT, UPDATE, DELETE"])
@pytest.mark.parametrize("point", AMID)
def test_privileges_are_taken_away(archiving, audit, clerk, point, privileges):
    revoke = f"REVOKE {privileges} ON public.audit_logs FROM {clerk}"
    error = archive_amid(archiving, point, lambda: archiving.database.execute(revoke), user=clerk)
    assert error is not None
    assert error.exit_code == 5, error
    archiving.archive()
    audit.account_all_archived()


@pytest.mark.parametrize("point", AMID)
def test_the_table_is_emptied(archiving, audit, point):
    archive_amid(archiving, point, lambda: audit.execute("TRUNCATE public.audit_logs"))
    archiving.archive()
    audit.account_all_archived()


@pytest.mark.parametrize("point", AMID)
def test_the_table_is_dropped_and_made_anew(archiving, audit, point):
    def anew():
        with archiving.database.connect() as connection, connection.transaction():
            connection.execute("LOCK TABLE public.audit_logs")
            connection.execute("CREATE TABLE public.audit_copy (LIKE public.audit_logs INCLUDING ALL)")
            connection.execute("INSERT INTO public.audit_copy SELECT * FROM public.audit_logs")
            connection.execute("DROP TABLE public.audit_logs")
            connection.execute("ALTER TABLE public.audit_copy RENAME TO audit_logs")

    archive_amid(archiving, point, anew)
    archiving.archive()
    audit.account_all_archived()


@pytest.mark.parametrize("point", ["after a manifest", "after a delete committed"])
def test_the_replica_takes_over(archiving, audit, bucket, database, postgres_server, tmp_path, point):
    """A batch that the old primary left pending is settled on the new one: a physical copy has the same versions."""
    pending(archiving, audit, point)
    with PostgresReplica(postgres_server) as replica:
        caught_up(database, replica)
        ask(replica, "SELECT pg_promote()")
        wait_until(lambda: ask(replica, "SELECT pg_is_in_recovery()") == [(False,)], "the replica was promoted")
        promoted = replace(database, host=replica.host, port=replica.port, conninfo=replica.dsn(database.name))
        after = Archiving(promoted, bucket, tmp_path / "after")
        ledger = after.ledger()
        ledger.expected = audit.expected
        after.archive()
        for session in after.opened:
            session.close()
        ledger.account_all_archived()
