"""The SQL that docs/how-rows-are-proved.md shows is the SQL that runs."""

import re
from datetime import UTC, date, datetime

import pytest

from archiver_pipeline.domain.batch import PlannedBatch
from archiver_pipeline.domain.table import Column, KeyColumn, Rendering, TableName, TableShape, TimestampType
from archiver_pipeline.domain.windows import WindowUnit, window_of_key
from archiver_pipeline.postgres import copy_out, delete
from archiver_pipeline_tests.docs.reading import ROOT

PAGE = ROOT / "docs" / "how-rows-are-proved.md"
SHOWN = dict(re.findall(r"^<!-- sql: ([\w ]+) -->\n```sql\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))
SHAPE = TableShape(
    name=TableName("shop", "public", "audit_logs"),
    columns=(
        Column("id", "bigint", True, Rendering.native, "pg_catalog.int8out", is_key=True),
        Column("created_at", "timestamp with time zone", True, Rendering.native, "pg_catalog.timestamptz_out"),
        Column("tags", "text[]", True, Rendering.text, "pg_catalog.array_out"),
        Column("changes", "jsonb", False, Rendering.jsonb, "pg_catalog.jsonb_out"),
    ),
    key=(KeyColumn("id", "bigint", is_integer=True),),
    timestamp_column="created_at",
    timestamp_type=TimestampType.timestamptz,
    fingerprint="",
    system_identifier="",
)
BATCH = PlannedBatch(
    0,
    window_of_key(WindowUnit.day, "2025-01-15", first=date(2020, 1, 1)),
    None,
    ("2025-01-15 08:00:00+00", "120"),
)
CUTOFF = datetime(2025, 6, 1, tzinfo=UTC)


def words(query: str) -> str:
    """The statement without layout, comments and the times of this very run."""
    query = re.sub(r"^\s*--.*$", "", query, flags=re.MULTILINE)
    query = re.sub(r"'[^']*'(?=::timestamp with time zone)", "'time'", query)
    return re.sub(r"(?<=\() | (?=\))", "", " ".join(query.split())).strip(" ;")


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("facts", copy_out._facts_query(SHAPE, BATCH, CUTOFF)),
        ("rows", copy_out._rows_query(SHAPE, BATCH, CUTOFF)),
        ("locate", delete._locate_query(SHAPE)),
    ],
)
def test_a_statement_is_shown_as_it_is_built(name, query):
    assert words(SHOWN[name]) == words(query.as_string())


def test_the_delete_transaction_is_shown_as_the_server_logs_it(archiving, audit, database, postgres_server):
    database.execute(f"ALTER DATABASE {database.name} SET log_statement = 'all'")
    archiving.archive(limit_rows=10)
    logged = _statements_of_the_deleting_backend(postgres_server.log_path.read_text(), database.name)
    blocks = ("temporary tables", "delete transaction", "receipt transaction")
    shown = [statement for block in blocks for statement in SHOWN[block].split(";")]
    assert logged == [words(statement) for statement in shown if words(statement)]


def _statements_of_the_deleting_backend(log: str, database: str) -> list[str]:
    line = re.compile(rf"^\S+ \S+ \S+ \[(\d+)\] \S*@{database} LOG:  (?:statement|execute \S+): (.*)$", re.MULTILINE)
    found = line.findall(log)
    backend = next(pid for pid, statement in found if statement.startswith("CREATE TEMPORARY TABLE archiver_versions"))
    return [words(statement) for pid, statement in found if pid == backend]
