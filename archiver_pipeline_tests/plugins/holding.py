"""Legal holds for tests: a hold table in the test's database, and the settings that read it."""

from dataclasses import dataclass
from typing import Any

import pytest
from psycopg import sql

from archiver_pipeline.config.effective import HoldSettings
from archiver_pipeline.config.enums import HoldSource
from archiver_pipeline.postgres.holds import HoldTable, create_statement
from archiver_pipeline_tests.plugins.servers import Database

HOLD_TABLE = HoldTable("public", "legal_holds", check_expiration=True)
FROM_TABLE = HoldSettings(sources=frozenset({HoldSource.DATABASE}))


@dataclass
class Holding:
    """Places and lifts holds in the table `legal_holds`, as a legal department does."""

    database: Database

    def place(self, where: str | None = None, **columns: Any) -> None:
        """Commit a hold on audit_logs, or on what the columns say; values are SQL text or None."""
        values = {"table_name": "audit_logs", "reason": "case 7", "requestor": "legal", "where_clause": where} | columns
        query = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            HOLD_TABLE.reference,
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(map(sql.Literal, values.values())),
        )
        with self.database.connect() as connection:
            connection.execute(query)

    def lift_all(self) -> None:
        self.database.execute("DELETE FROM legal_holds")


@pytest.fixture
def holding(database: Database) -> Holding:
    """An empty hold table."""
    database.execute(create_statement(HOLD_TABLE))
    return Holding(database)
