"""What docs/operating.md says of privileges, VACUUM and foreign keys, tried on a real server."""

import re

import pytest
import yaml
from psycopg import sql

from archiver_pipeline.config.enums import VacuumStrategy
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.orchestration import launch, ops, sensors
from archiver_pipeline_tests.docs.reading import ROOT
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS

PAGE = ROOT / "docs" / "operating.md"
GRANTS = re.search(r"^```sql\n(CREATE ROLE .*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)[1]


@pytest.fixture
def role(audit, database):
    """The role that the page makes, and nothing that PUBLIC may do by default."""
    name = f"archiver_{database.name}"
    own = GRANTS.replace("archiver", name).replace("shop", database.name).replace("'secret'", f"'{database.password}'")
    with database.connect() as connection:
        connection.execute(f"REVOKE ALL ON DATABASE {database.name} FROM PUBLIC".encode())
        connection.execute(b"REVOKE ALL ON SCHEMA public FROM PUBLIC")
        connection.execute(own.encode())
    yield name
    with database.connect() as connection:
        connection.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


@pytest.mark.matrix
def test_the_documented_privileges_are_enough_even_with_a_locked_row(archiving, audit, role, database):
    with database.connect(autocommit=False) as connection:
        connection.execute("SELECT 1 FROM audit_logs WHERE id = 5 FOR UPDATE")
        report = archiving.archive(user=role)
    assert (report.rows, report.left_behind_rows) == (OLD_ROWS - 1, 1)
    audit.account()


@pytest.mark.parametrize(
    "grant",
    [
        line.removeprefix("GRANT ").partition(" TO ")[0]
        for line in GRANTS.splitlines()
        if line.startswith("GRANT") and "UPDATE" not in line
    ],
)
def test_each_documented_privilege_is_needed(archiving, role, database, grant):
    granted = grant.replace("shop", database.name)
    database.execute(f"REVOKE {granted} FROM {role}")
    with pytest.raises(ArchiverError, match=r"permission denied|may not do everything"):
        archiving.archive(user=role)


def test_without_update_a_locked_row_keeps_its_batch_back(archiving, audit, role, database):
    database.execute(f"REVOKE UPDATE (id) ON audit_logs FROM {role}")
    with database.connect(autocommit=False) as connection:
        connection.execute("SELECT 1 FROM audit_logs WHERE id = 5 FOR UPDATE")
        report = archiving.archive(user=role)
    assert 1 < report.left_behind_rows <= archiving.settings().batch_size
    audit.account()


def test_vacuum_by_a_role_that_may_not_is_said_to_be_skipped(archiving, audit, role, database):
    report = archiving.archive(user=role, vacuum_strategy=VacuumStrategy.FULL)
    assert "skipped" in report.vacuum
    assert database.execute("SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'audit_logs'") == [(0,)]


def test_a_row_that_another_table_refers_to_keeps_its_batch_only(archiving, audit, database):
    database.execute("CREATE TABLE child (parent bigint REFERENCES audit_logs)")
    database.execute("INSERT INTO child VALUES (5)")
    for _ in range(2):
        report = archiving.archive()
        assert 1 <= report.left_behind_rows <= archiving.settings().batch_size
        assert "child_parent_fkey" in report.stopped_reason
        audit.account()
    database.execute("DROP TABLE child")
    archiving.archive()
    audit.account_all_archived()


def test_figures_are_those_of_the_code():
    concurrency = yaml.safe_load((ROOT / "dagster.yaml").read_text())["concurrency"]
    per_database, per_table = (limit["limit"] for limit in concurrency["runs"]["tag_concurrency_limits"])
    text = " ".join(PAGE.read_text().split())
    for figure in (
        f"`due_<database>` (every {sensors._SENSOR_SECONDS} s)",
        f"the sensor at most {sensors._WINDOWS_PER_TICK} windows per table, the schedule at most"
        f" {sensors._WINDOWS_PER_NIGHT}",
        f"windows in runs of up to {launch.WINDOWS_PER_RUN}",
        f"tries again every {ops._LOCK_WAIT_SECONDS} s, up to {ops._LOCK_TRIES} times",
        f"{concurrency['pools']['default_limit']} ops at once per pool",
        f"{concurrency['runs']['max_concurrent_runs']} runs at once, {per_database} runs at once per database",
        f"and {per_table} per table",
    ):
        assert figure in text, figure
