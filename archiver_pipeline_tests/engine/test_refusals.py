"""What a plan refuses, in which words and with which exit code; and what it only warns of."""

import secrets

import pytest

from archiver_pipeline.engine.backlog import measure_backlog
from archiver_pipeline.engine.plan import plan_archive
from archiver_pipeline.errors import ArchiverError, NetworkError, PermissionDeniedError, PreflightError
from archiver_pipeline_tests.plugins.archiving import create_audit_table

PREPARATIONS = {
    "view": (
        "CREATE VIEW v AS SELECT * FROM audit_logs",
        {"table": "v"},
        "is not an ordinary table",
    ),
    "no primary key": (
        "ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_pkey",
        {},
        "has no primary key",
    ),
    "unique but nullable": (
        "ALTER TABLE audit_logs ADD COLUMN code text; CREATE UNIQUE INDEX ON audit_logs (code)",
        {"primary_key": ("code",)},
        "not unique and not null",
    ),
    "unique but partial": (
        "CREATE UNIQUE INDEX ON audit_logs (created_at) WHERE id > 0",
        {"primary_key": ("created_at",)},
        "not unique and not null",
    ),
    "unique but deferrable": (
        "ALTER TABLE audit_logs ADD UNIQUE (created_at) DEFERRABLE",
        {"primary_key": ("created_at",)},
        "not unique and not null",
    ),
    "unique by an expression": (
        "CREATE UNIQUE INDEX ON audit_logs ((actor || id))",
        {"primary_key": ("actor",)},
        "not unique and not null",
    ),
    "part of a unique key": (
        "CREATE UNIQUE INDEX ON audit_logs (actor, created_at); ALTER TABLE audit_logs ALTER actor SET NOT NULL",
        {"primary_key": ("created_at",)},
        "not unique and not null",
    ),
    "a unique key that only includes the column": (
        "CREATE UNIQUE INDEX ON audit_logs (id) INCLUDE (created_at)",
        {"primary_key": ("created_at",)},
        "not unique and not null",
    ),
    "missing key column": ("SELECT", {"primary_key": ("nope",)}, "has no column 'nope'"),
    "time of the wrong type": ("SELECT", {"timestamp_column": "actor"}, "has type text"),
    "missing time column": ("SELECT", {"timestamp_column": "createdat"}, "has no column 'createdat'"),
    "hours of a date": (
        "ALTER TABLE audit_logs ALTER created_at TYPE date",
        {"window": "hour"},
        "is a date",
    ),
    "foreign key that cascades": (
        "CREATE TABLE child (audit_id bigint REFERENCES audit_logs ON DELETE CASCADE)",
        {},
        "ON DELETE CASCADE",
    ),
    "foreign key that sets null": (
        "CREATE TABLE child (audit_id bigint REFERENCES audit_logs ON DELETE SET NULL)",
        {},
        "ON DELETE SET NULL",
    ),
    "inheritance children": ("CREATE TABLE child () INHERITS (audit_logs)", {}, "inheritance children"),
}


@pytest.mark.parametrize("case", PREPARATIONS)
def test_refused_with_a_clear_message(archiving, audit, case):
    prepare, overrides, message = PREPARATIONS[case]
    archiving.database.execute(prepare)
    ledger = archiving.ledger()
    with pytest.raises(PreflightError, match=message) as refused:
        archiving.archive(**overrides)
    assert refused.value.exit_code == 3
    assert refused.value.hint
    ledger.account()
    assert ledger.objects() == []


@pytest.mark.parametrize(("table", "suggested"), [("Audit_Logs", "public.audit_logs"), ("audit_log", "audit_logs")])
def test_a_missing_table_is_answered_with_similar_ones(archiving, audit, table, suggested):
    with pytest.raises(PreflightError, match="no such table") as refused:
        archiving.archive(table=table)
    assert suggested in refused.value.hint
    assert refused.value.exit_code == 3


@pytest.fixture
def role(archiving):
    """A login role without privileges, which goes away with all it owns."""
    name = f"role_{secrets.token_hex(4)}"
    archiving.database.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{archiving.database.password}'")
    yield name
    archiving.database.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_missing_privileges_are_answered_with_the_statement_that_grants_them(archiving, audit, role):
    archiving.database.execute(f"GRANT SELECT ON audit_logs TO {role}")
    with pytest.raises(PermissionDeniedError, match=f"user {role} may not") as refused:
        archiving.archive(user=role)
    archiving.database.execute(refused.value.hint)
    assert refused.value.exit_code == 5
    archiving.archive(user=role)
    audit.account_all_archived()


def test_a_schema_that_may_not_be_used(archiving, role):
    archiving.database.execute("CREATE SCHEMA app")
    create_audit_table(archiving.database, "app.audit_logs")
    archiving.database.execute(f"GRANT SELECT, DELETE ON app.audit_logs TO {role}")
    with pytest.raises(PermissionDeniedError) as refused:
        archiving.archive(schema="app", user=role)
    archiving.database.execute(refused.value.hint)
    archiving.archive(schema="app", user=role)


def test_the_privileges_that_are_asked_for_are_enough(archiving, audit, role):
    archiving.database.execute(f"GRANT SELECT, DELETE ON audit_logs TO {role}")
    archiving.archive(user=role, vacuum_strategy="standard")
    audit.account_all_archived()


def test_a_wrong_password_is_a_lack_of_permission(archiving, audit):
    with pytest.raises(PermissionDeniedError) as refused:
        archiving.archive(user="nobody")
    assert refused.value.exit_code == 5


def test_row_level_security_that_hides_rows(archiving, audit, role):
    archiving.database.execute(f"GRANT SELECT, DELETE ON audit_logs TO {role}")
    archiving.database.execute(
        "ALTER TABLE audit_logs ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON audit_logs USING (id % 2 = 0)"
    )
    with pytest.raises(PreflightError, match="row-level security") as refused:
        archiving.archive(user=role)
    assert refused.value.exit_code == 3
    # The owner sees everything.
    archiving.archive()
    audit.account_all_archived()


def test_rows_without_a_time_stay_and_are_told(archiving, audit):
    archiving.database.execute("ALTER TABLE audit_logs ALTER created_at DROP NOT NULL")
    audit.execute("UPDATE public.audit_logs SET created_at = NULL WHERE id < 4")
    report = archiving.archive()
    assert any("3 rows have no created_at" in warning for warning in report.warnings)
    audit.account_all_archived()


def test_a_missing_index_is_told(archiving, audit):
    archiving.database.execute("DROP INDEX audit_logs_created_at_idx")
    report = archiving.archive()
    assert any("no index begins with created_at" in warning for warning in report.warnings)
    audit.account_all_archived()


def test_triggers_that_fire_on_delete_are_told(archiving, audit):
    archiving.database.execute(
        "CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';"
        "CREATE TRIGGER on_delete BEFORE DELETE ON audit_logs FOR EACH ROW EXECUTE PROCEDURE noop()"
    )
    report = archiving.archive()
    assert any("on_delete" in warning for warning in report.warnings)
    audit.account_all_archived()


def test_a_trigger_that_keeps_rows_keeps_the_whole_batch(archiving, audit):
    archiving.database.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER kept BEFORE DELETE ON audit_logs FOR EACH ROW WHEN (OLD.id = 3) EXECUTE PROCEDURE keep()"
    )
    report = archiving.archive()
    assert report.left_behind_rows > 0
    audit.account()


def test_a_foreign_key_that_forbids_the_delete_harms_nothing(archiving, audit):
    archiving.database.execute("CREATE TABLE child (audit_id bigint REFERENCES audit_logs)")
    archiving.database.execute("INSERT INTO child VALUES (3)")
    try:
        archiving.archive()
    except ArchiverError as error:
        assert "foreign key" in str(error)
    audit.account()
    archiving.database.execute("DROP TABLE child")
    archiving.archive()
    audit.account_all_archived()


def test_a_plan_whose_connection_breaks_is_a_network_error(archiving, audit):
    session = archiving.session()
    windows = archiving.windows(session)
    pid = session.connection.info.backend_pid
    archiving.database.execute(f"SELECT pg_terminate_backend({pid})")
    with pytest.raises(NetworkError) as broken:
        plan_archive(session, windows)
    assert broken.value.transient


def test_looking_for_windows_over_a_broken_connection_is_a_network_error(archiving, audit):
    session = archiving.session()
    pid = session.connection.info.backend_pid
    archiving.database.execute(f"SELECT pg_terminate_backend({pid})")
    with pytest.raises(NetworkError):
        measure_backlog(session, most_rows=1)


def test_a_server_that_is_not_there(archiving, audit):
    session = archiving.session()
    away = session.database.__class__(**{**vars(session.database), "primary": archiving.source(port=1)})
    session.database = away
    with pytest.raises(NetworkError) as broken:
        measure_backlog(session, most_rows=1)
    assert broken.value.exit_code == 7
