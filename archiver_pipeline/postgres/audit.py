"""Asks a table, without changing or locking anything, whether archived row versions are in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from psycopg import sql

from archiver_pipeline.domain.table import INTEGER_TYPES, KeyColumn, TableName
from archiver_pipeline.postgres.catalog import (
    refuse_row_security,
    require_privileges,
    require_relation,
    require_version,
    system_identifier,
)
from archiver_pipeline.postgres.connection import Connection, fetch_one
from archiver_pipeline.postgres.eligible import ALIAS, table_reference
from archiver_pipeline.postgres.sample import match_versions, version_literals, version_names


@dataclass(frozen=True, slots=True)
class LiveTable:
    """What a validation knows of the table of today. `columns` is name → type in table order."""

    name: TableName
    columns: dict[str, str]
    system_identifier: str

    def key_like(self, archived: Sequence[KeyColumn]) -> tuple[KeyColumn, ...] | None:
        """The archived key with the table's own types; None when a value of one could not be a value of the other."""
        found = [KeyColumn(part.name, self.columns.get(part.name, ""), part.is_integer) for part in archived]
        same = all(
            own.type == part.type or (own.type in INTEGER_TYPES and part.is_integer)
            for own, part in zip(found, archived, strict=True)
        )
        return tuple(found) if same else None


def look_at_table(connection: Connection, name: TableName) -> LiveTable:
    """The table's columns and its cluster. Needs no more than SELECT.

    Raises PreflightError when there is no such table or rows are hidden from this user, PermissionDeniedError, with
    the grant, when it may not be read.
    """
    require_version(connection)
    relation = require_relation(connection, name)
    require_privileges(connection, name, relation, ("SELECT",), temporary=False, to="validation")
    refuse_row_security(connection, name, relation)
    rows = connection.execute(
        "SELECT attname::text, pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute"
        " WHERE attrelid = %s::pg_catalog.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (relation.oid,),
    ).fetchall()
    return LiveTable(name, dict(rows), system_identifier(connection))


def count_live_versions(connection: Connection, table: LiveTable, key: Sequence[KeyColumn], versions: pa.Table) -> int:
    """How many of these row versions (xmin and key) are in the table now. Meant for a small sample.

    `key` has the types of the table itself (`LiveTable.key_like`): types out of a document never become SQL.
    """
    query = sql.SQL("SELECT pg_catalog.count(*) FROM (VALUES {}) AS wanted({}) JOIN {} AS {} ON {}").format(
        sql.SQL(", ").join(version_literals(key, versions)),
        sql.SQL(", ").join(map(sql.Identifier, version_names(key))),
        table_reference(table.name),
        ALIAS,
        match_versions(key),
    )
    (rows,) = fetch_one(connection, query)
    return int(rows)
