"""What goes wrong, said in words and in the exit code; a mistake of the user's is never a traceback."""

import time

import pytest
from psycopg import sql

from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.cli.faulty_store import damaging_store
from archiver_pipeline_tests.cli.workplace import PASSWORD_VARIABLE, SECRET_VARIABLE
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, create_audit_table

PARTIAL, FAILED, CONFIG, LOCKED, PERMISSION, NETWORK = 1, 2, 3, 4, 5, 7


def test_every_problem_of_the_configuration_is_listed(workplace):
    workplace.document["defaults"]["retention_days"] = -1
    workplace.document["s3"]["bukket"] = workplace.document["s3"].pop("bucket")
    del workplace.document["databases"][0]["host"]
    workplace.write()
    found = workplace.run("run")
    assert (found.code, found.stdout) == (CONFIG, "")
    for told in ("archiver.yaml", "defaults.retention_days", "s3.bukket", "bucket", "databases[0].host"):
        assert told in found.error


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "--frobnicate"], "--frobnicate"),
        (["run", "--limit", "0"], "--limit"),
        (["run", "--start-date", "yesterday"], "--start-date"),
        (["run", "--start-date", "2026-02-02", "--end-date", "2026-02-01"], "--end-date 2026-02-01 is before"),
        (["rum"], "rum"),
        (["run", "--table", "audit_log"], "audit_logs"),
        (["run", "--table", "public.audit_log"], "public.audit_logs"),
        (["list", "--database", "appbd"], "appdb"),
    ],
)
def test_mistakes_on_the_command_line(workplace, arguments, told):
    found = workplace.run(*arguments)
    assert (found.code, found.stdout) == (CONFIG, "")
    assert told in found.error


def test_no_configuration_at_all(workplace):
    workplace.config_path.unlink()
    found = workplace.run("run")
    assert found.code == CONFIG
    assert "archiver.yaml" in found.error


def test_a_table_of_legal_holds_that_is_not_there(workplace):
    """Holds that can't be read stop the table before anything is written."""
    workplace.document["legal_holds"] = {"enabled": True}
    workplace.write()
    found = workplace.run("run")
    assert found.code == CONFIG
    assert "legal_holds" in found.error
    assert workplace.bucket.archive_keys() == []


def test_a_dagster_home_that_is_not_there(workplace):
    workplace.environment["DAGSTER_HOME"] = str(workplace.folder / "nowhere")
    found = workplace.run("run")
    assert found.code == CONFIG
    assert "DAGSTER_HOME" in found.error


def test_a_missing_bucket(workplace):
    workplace.document["s3"]["bucket"] = "no-such-bucket"
    workplace.write()
    found = workplace.run("run")
    assert found.code == CONFIG
    assert "there is no bucket 'no-such-bucket'" in found.error
    assert "correct s3.bucket" in found.error


@pytest.mark.parametrize("face", [[], ["--direct"]])
def test_a_lock_that_is_held_names_its_holder(workplace, face):
    ledger = workplace.ledger()
    with workplace.hold_lock() as holder:
        found = workplace.run("run", *face, within_seconds=30)
        pid = holder.info.backend_pid
    assert found.code == LOCKED
    assert "appdb.public.audit_logs is being worked on by another archiver" in found.error
    assert f"backend {pid}" in found.error
    assert workplace.bucket.archive_keys() == []
    ledger.account()


def test_a_wrong_password(workplace):
    workplace.environment[PASSWORD_VARIABLE] = "not-the-password"
    found = workplace.run("run")
    assert found.code == PERMISSION
    assert "password_env" in found.error
    assert "not-the-password" not in found.error


def test_a_wrong_secret_of_the_store(workplace):
    workplace.environment[SECRET_VARIABLE] = "not-the-secret"
    found = workplace.run("run")
    assert found.code == PERMISSION
    assert "check the store's credentials" in found.error
    assert "not-the-secret" not in found.error


def test_a_role_without_delete(workplace):
    ledger = workplace.ledger()
    use_role(workplace, "SELECT")
    found = workplace.run("run")
    assert found.code == PERMISSION
    assert "GRANT" in found.error.upper()
    assert "DELETE" in found.error
    assert workplace.bucket.archive_keys() == []
    ledger.account()


def test_a_role_with_select_and_delete_is_enough(workplace):
    ledger = workplace.ledger()
    use_role(workplace, "SELECT, DELETE")
    found = workplace.run("run")
    assert found.code == 0, found.stderr
    ledger.account_all_archived()


@pytest.mark.parametrize("server", ["database", "store"])
def test_a_server_that_is_down(workplace, server):
    port = free_port()
    if server == "database":
        workplace.document["databases"][0]["port"] = port
    else:
        workplace.document["s3"]["endpoint"] = f"http://127.0.0.1:{port}"
    workplace.write()
    started = time.monotonic()
    found = workplace.run("run")
    assert found.code == NETWORK
    assert f"127.0.0.1:{port}" in found.error
    # Five attempts at the store, with pauses of chance between them, and the start of Python on a busy machine.
    assert time.monotonic() - started < 25


def test_one_of_two_tables_is_missing(workplace):
    ledger = workplace.ledger()
    workplace.tables.insert(0, {"name": "gone", "timestamp_column": "created_at"})
    workplace.write()
    found = workplace.run("run", "--json")
    assert (found.code, len(found.json["reports"])) == (PARTIAL, 1)
    [error] = found.json["errors"]
    assert "gone" in error["table"] + error["message"]
    ledger.account_all_archived()


def test_every_table_failing_is_a_failure_of_their_kind(workplace):
    workplace.tables[:] = []
    workplace.add_table("gone")
    workplace.add_table("gone_too")
    workplace.write()
    found = workplace.run("run")
    assert found.code == CONFIG
    assert "public.gone" in found.error
    assert "public.gone_too" in found.error


def test_two_kinds_of_failure_are_a_failure(workplace):
    workplace.add_table("gone")
    workplace.write()
    with workplace.hold_lock():
        assert workplace.run("run").code == FAILED


def test_a_locked_row_is_left_behind_and_said(workplace):
    ledger = workplace.ledger()
    with workplace.database.connect(autocommit=False) as application:
        application.execute("SELECT FROM audit_logs WHERE id = 7 FOR UPDATE")
        found = workplace.run("run")
    assert found.code == PARTIAL
    assert " 1 (" in found.stdout
    assert "lock" in found.stdout
    ledger.account()
    assert len(ledger.archived_rows()) == OLD_ROWS - 1
    assert workplace.run("run").code == 0
    ledger.account_all_archived()


@pytest.mark.parametrize("face", [[], ["--direct"]])
def test_objects_that_come_back_damaged_end_the_run_and_cost_no_row(workplace, face):
    ledger = workplace.ledger()
    with damaging_store(workplace.bucket.endpoint) as endpoint:
        workplace.document["s3"]["endpoint"] = endpoint
        workplace.write()
        found = workplace.run("run", *face)
    assert found.code == FAILED
    assert ".jsonl.gz" in found.error
    assert workplace.keys_like("manifest.json") == workplace.keys_like("receipt.json") == []
    ledger.account()
    assert ledger.archived_rows() == []


def test_a_failed_table_does_not_stop_the_next_one(workplace):
    create_audit_table(workplace.database, "others")
    workplace.add_table("others")
    workplace.write()
    ledger = workplace.ledger("others")
    with workplace.hold_lock():
        found = workplace.run("run")
    assert found.code == PARTIAL
    assert "being worked on" in found.error
    ledger.account_all_archived()


def use_role(workplace, privileges):
    """Let the command connect as a role with these privileges on the table and nothing else."""
    role = f"limited_{workplace.database.name}"
    with workplace.database.connect() as connection:
        make = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
            sql.Identifier(role), sql.Literal(workplace.database.password)
        )
        connection.execute(make)
        connection.execute(sql.SQL("GRANT {} ON audit_logs TO {}").format(sql.SQL(privileges), sql.Identifier(role)))
    workplace.document["databases"][0]["user"] = role
    workplace.write()
