"""The roles of deploy/postgres/roles.sql, made by psql on a real server: each may do all that it must, and no less is
enough: every privilege is taken away once, and what is then said gives it back when it is executed."""

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from archiver_pipeline.config.effective import DatabaseSettings
from archiver_pipeline.config.enums import WatermarkStorage
from archiver_pipeline.domain.restore import ConflictStrategy
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.validation import ValidationRequest
from archiver_pipeline.engine.backlog import look_at_tables
from archiver_pipeline.engine.costing import measure_configured
from archiver_pipeline.engine.due import DueCursor, DueLimits, look_for_due
from archiver_pipeline.engine.report import ArchiveReport
from archiver_pipeline.engine.validate import validate_table
from archiver_pipeline.errors import PermissionDeniedError
from archiver_pipeline.postgres.holds import HoldTable, create_statement
from archiver_pipeline.sandbox.postgres_server import packaged_bin_dir
from archiver_pipeline_tests.ledger import Ledger
from archiver_pipeline_tests.plugins.archiving import DATABASE_ID, OLD_ROWS, Archiving, create_audit_table
from archiver_pipeline_tests.plugins.holding import FROM_TABLE
from archiver_pipeline_tests.plugins.restoring import Restoring

pytestmark = pytest.mark.matrix

SCRIPT = Path(__file__).parents[2] / "deploy" / "postgres" / "roles.sql"
ARCHIVE, RESTORE, VALIDATE, HOLDS_READER = ROLES = (
    "archiver_archive",
    "archiver_restore",
    "archiver_validate",
    "archiver_holds_reader",
)
SCHEMA, TABLE = "app", "Audit Logs"
"""A name that a script without quotes would not find."""
HOLD_TABLE = HoldTable("legal", "legal_holds", check_expiration=True)
HOLDS = replace(FROM_TABLE, schema="legal")
NAME = TableName(DATABASE_ID, SCHEMA, TABLE)
MAINTAIN = 17
LIMITS = DueLimits(windows=10, per_table=10, turns=0, look_seconds=60, sweep_seconds=60)
PREPARED = """
CREATE SCHEMA app; CREATE SCHEMA legal; CREATE TABLE app.other (id int); CREATE TABLE public.elsewhere (id int);
"""
# What PostgreSQL gives to everybody would make up for what a role lacks.
NOTHING_FOR_EVERYBODY = "REVOKE ALL ON DATABASE {db} FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC"


@dataclass
class Roles:
    """A database with the roles, and what they are for."""

    archiving: Archiving
    restoring: Restoring
    major: int

    def execute(self, statements: str) -> None:
        """As the owner."""
        with self.archiving.database.connect() as connection:
            connection.execute(statements.format(db=self.archiving.database.name).encode())

    @property
    def settings(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "table": TABLE, "vacuum_strategy": "standard"}

    def ledger(self) -> Ledger:
        return self.archiving.ledger(TABLE, schema=SCHEMA)

    def archive(self) -> ArchiveReport:
        return self.archiving.archive(user=ARCHIVE, holds=HOLDS, **self.settings)

    def check_holds(self) -> None:
        """As `archiver check` does: a run would find out at its first delete."""
        session = self.archiving.session(user=ARCHIVE, holds=HOLDS, **self.settings)
        session.hold_sources.require(session.connection)

    def restore(self, conflict: ConflictStrategy = ConflictStrategy.upsert) -> tuple[str, ...]:
        """Everything, to where it was; what is warned of."""
        report = self.restoring.restore(
            NAME, user=RESTORE, conflict=conflict, watermark=WatermarkStorage.BOTH, ignore_watermark=True
        )
        assert report.restored_rows + report.skipped_rows == OLD_ROWS
        return report.warnings

    def validate(self) -> None:
        now = datetime.now(UTC)
        session = self.archiving.session(user=VALIDATE, **self.settings)
        try:
            assert validate_table(session, ValidationRequest(now=now, day=now.date())).is_clean
        finally:
            session.close()

    def connect(self, role: str) -> psycopg.Connection[tuple[Any, ...]]:
        database = self.archiving.database
        return psycopg.connect(database.conninfo, user=role, autocommit=True)


@pytest.fixture(scope="module", autouse=True)
def no_role_stays(postgres_server):
    yield
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute(f"DROP ROLE IF EXISTS {', '.join(ROLES)}")


@pytest.fixture
def roles(archiving, restoring, postgres_major):
    """The script has run twice: it may be repeated."""
    database = archiving.database
    made = Roles(archiving, restoring, postgres_major)
    made.execute(PREPARED)
    create_audit_table(database, f'{SCHEMA}."{TABLE}"')
    made.execute(f'ALTER TABLE {SCHEMA}."{TABLE}" ALTER id ADD GENERATED BY DEFAULT AS IDENTITY')
    made.execute(create_statement(HOLD_TABLE))
    made.execute(NOTHING_FOR_EVERYBODY)
    for _ in range(2):
        run_script(database)
    for role in ROLES[:3]:
        made.execute(f"ALTER ROLE {role} PASSWORD '{database.password}'")
    return made


def run_script(database) -> None:
    variables = {"schema": SCHEMA, "table": TABLE, "holds": "legal_holds", "holds_schema": "legal"}
    variables |= {"watermarks": "restore_watermarks"}
    psql = [str(packaged_bin_dir(18) / "psql"), "--no-psqlrc", "--quiet", database.conninfo, "-f", str(SCRIPT)]
    options = [part for name, value in variables.items() for part in ("-v", f"{name}={value}")]
    done = subprocess.run([*psql, *options], env=os.environ, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.replace("NOTICE", "")) == (0, done.stderr.replace("NOTICE", "")), done.stderr


def test_they_are_enough(roles):
    ledger = roles.ledger()
    source = roles.archiving.source(user=ARCHIVE)
    table = roles.archiving.settings(**roles.settings)
    database = DatabaseSettings(DATABASE_ID, source, None, 6, (table,), holds=HOLDS)
    store = roles.archiving.store_settings()
    assert look_for_due(database, store, (table,), LIMITS, DueCursor()).windows
    [look] = look_at_tables(database, store, (table,), most_rows=1000)
    assert look.error is None and look.backlog.eligible_rows == OLD_ROWS
    assert measure_configured(database, table, compression_ratio=0.3).backlog.rows > 0
    assert roles.archiving.session(user=ARCHIVE, holds=HOLDS, **roles.settings).hold_sources.exist
    report = roles.archive()
    ledger.account_all_archived()
    vacuumed = report.vacuum
    assert vacuumed == "standard" if roles.major >= MAINTAIN else "skipped the VACUUM" in vacuumed
    roles.validate()
    for conflict in (ConflictStrategy.fail, ConflictStrategy.skip, ConflictStrategy.overwrite, ConflictStrategy.upsert):
        roles.restore(conflict)
    roles.validate()


def test_a_hold_placed_by_others_is_seen(roles):
    roles.execute(
        "INSERT INTO legal.legal_holds (schema_name, table_name, reason, requestor)"
        " VALUES ('app', 'Audit Logs', 'r', 'q')"
    )
    assert roles.archive().rows == 0


REFUSED = {
    ARCHIVE: [
        'INSERT INTO app."Audit Logs" (id, created_at, actor) VALUES (-1, now(), 1)',
        'UPDATE app."Audit Logs" SET actor = 1',
        'TRUNCATE app."Audit Logs"',
        'DROP TABLE app."Audit Logs"',
        "SELECT FROM app.other",
        "SELECT FROM public.elsewhere",
        "SELECT FROM public.restore_watermarks",
        "CREATE TABLE app.new (id int)",
        "INSERT INTO legal.legal_holds (table_name, reason, requestor) VALUES ('t', 'r', 'q')",
        "UPDATE legal.legal_holds SET table_name = 'x'",
        "DELETE FROM legal.legal_holds",
        "TRUNCATE legal.legal_holds",
    ],
    RESTORE: [
        'DELETE FROM app."Audit Logs"',
        'TRUNCATE app."Audit Logs"',
        "SELECT FROM app.other",
        "SELECT FROM legal.legal_holds",
        "DELETE FROM public.restore_watermarks",
        "CREATE TABLE public.new (id int)",
    ],
    VALIDATE: [
        'INSERT INTO app."Audit Logs" (id, created_at, actor) VALUES (-1, now(), 1)',
        'UPDATE app."Audit Logs" SET actor = 1',
        'DELETE FROM app."Audit Logs"',
        'TRUNCATE app."Audit Logs"',
        "CREATE TEMPORARY TABLE t (id int)",
        "CREATE TABLE public.new (id int)",
        "SELECT FROM app.other",
        "SELECT FROM legal.legal_holds",
        "SELECT setval('app.\"Audit Logs_id_seq\"', 1)",
    ],
}


def test_they_may_do_nothing_else(roles):
    for role, statements in REFUSED.items():
        with roles.connect(role) as connection:
            for statement in statements:
                with pytest.raises(InsufficientPrivilege):
                    connection.execute(statement)
    with roles.archiving.database.connect() as connection:
        found = connection.execute(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'archiver\\_%' AND (rolsuper OR rolcreaterole"
            " OR rolcreatedb OR rolreplication OR rolbypassrls)"
        ).fetchall()
    assert found == []


TABLE_OF = f'ON {SCHEMA}."{TABLE}" FROM'
NEEDED: list[tuple[str, Callable[[Roles], Any], str]] = [
    (f"REVOKE SELECT {TABLE_OF} {ARCHIVE}", Roles.archive, "SELECT"),
    (f"REVOKE DELETE {TABLE_OF} {ARCHIVE}", Roles.archive, "DELETE"),
    (f"REVOKE USAGE ON SCHEMA {SCHEMA} FROM {ARCHIVE}", Roles.archive, "USAGE"),
    (f"REVOKE TEMPORARY ON DATABASE {{db}} FROM {ARCHIVE}", Roles.archive, "TEMPORARY"),
    (f"REVOKE CONNECT ON DATABASE {{db}} FROM {ARCHIVE}", Roles.archive, "CONNECT"),
    (f"REVOKE {HOLDS_READER} FROM {ARCHIVE}", Roles.archive, "SELECT"),
    (f"REVOKE SELECT ON legal.legal_holds FROM {HOLDS_READER}", Roles.archive, "SELECT"),
    (f"REVOKE USAGE ON SCHEMA legal FROM {HOLDS_READER}", Roles.archive, "USAGE"),
    (f"REVOKE SELECT {TABLE_OF} {RESTORE}", Roles.restore, "SELECT"),
    (f"REVOKE INSERT {TABLE_OF} {RESTORE}", Roles.restore, "INSERT"),
    (f"REVOKE UPDATE {TABLE_OF} {RESTORE}", Roles.restore, "UPDATE"),
    (f"REVOKE USAGE ON SCHEMA {SCHEMA} FROM {RESTORE}", Roles.restore, "USAGE"),
    (f"REVOKE TEMPORARY ON DATABASE {{db}} FROM {RESTORE}", Roles.restore, "TEMPORARY"),
    (f"REVOKE CONNECT ON DATABASE {{db}} FROM {RESTORE}", Roles.restore, "CONNECT"),
    (f"REVOKE SELECT ON public.restore_watermarks FROM {RESTORE}", Roles.restore, "SELECT"),
    (f"REVOKE INSERT ON public.restore_watermarks FROM {RESTORE}", Roles.restore, "INSERT"),
    (f"REVOKE UPDATE ON public.restore_watermarks FROM {RESTORE}", Roles.restore, "UPDATE"),
    (f"REVOKE USAGE ON SCHEMA public FROM {RESTORE}", Roles.restore, "USAGE"),
    (f"REVOKE SELECT {TABLE_OF} {VALIDATE}", Roles.validate, "SELECT"),
    (f"REVOKE USAGE ON SCHEMA {SCHEMA} FROM {VALIDATE}", Roles.validate, "USAGE"),
    (f"REVOKE CONNECT ON DATABASE {{db}} FROM {VALIDATE}", Roles.validate, "CONNECT"),
]


def test_each_of_their_privileges_is_needed_and_asked_for(roles):
    """What is said is a statement that gives back what was taken."""
    roles.archive()
    for revoke, work, privilege in [*NEEDED, *holding_still(roles)]:
        roles.execute(revoke)
        assert re.search(rf"GRANT [^;]*\b{privilege}\b", mended(roles, work)), revoke
        # The script gives privileges on the hold table to another role than the one that asked for them.
        roles.execute(f"REVOKE ALL ON legal.legal_holds FROM {ARCHIVE}; REVOKE ALL ON SCHEMA legal FROM {ARCHIVE}")
        run_script(roles.archiving.database)


def mended(roles: Roles, work: Callable[[Roles], Any]) -> str:
    """Do what is said until it works: what was said first. More than one thing may be missing."""
    said: list[str] = []
    while len(said) < 3:
        try:
            work(roles)
        except PermissionDeniedError as refused:
            assert refused.exit_code == 5
            said.append(refused.hint.removeprefix("as the table's owner: ").split("; what is in the store")[0])
            roles.execute(said[-1])
        else:
            break
    return said[0]


def holding_still(roles: Roles):
    """What lets the hold table be locked by who may only read it."""
    if roles.major >= MAINTAIN:
        return [(f"REVOKE MAINTAIN ON legal.legal_holds FROM {HOLDS_READER}", Roles.check_holds, "MAINTAIN")]
    return [("DROP FUNCTION legal.lock_legal_holds()", Roles.check_holds, "EXECUTE")]


def test_what_is_left_out_without_harm_is_told(roles):
    """The two privileges without which a run goes on."""
    if roles.major >= MAINTAIN:
        roles.execute(f"REVOKE MAINTAIN {TABLE_OF} {ARCHIVE}")
    assert "GRANT MAINTAIN ON" in roles.archive().vacuum
    assert not [warning for warning in roles.restore() if "sequence" in warning and "behind" in warning]
    for privilege in ("SELECT", "UPDATE"):
        roles.execute(f'REVOKE {privilege} ON SEQUENCE {SCHEMA}."{TABLE}_id_seq" FROM {RESTORE}')
        [warning] = [one for one in roles.restore() if "sequence" in one]
        assert f'GRANT SELECT, UPDATE ON SEQUENCE {SCHEMA}."{TABLE}_id_seq" TO' in warning
        run_script(roles.archiving.database)
