"""Reads from the catalog what a restore must know of its target, and refuses, in words, what is no safe target."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from archiver_pipeline.domain.restore import ConflictStrategy
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.errors import PreflightError
from archiver_pipeline.postgres.catalog import (
    Relation,
    refuse_row_security,
    require_privileges,
    require_relation,
    require_version,
    unique_indexes,
)
from archiver_pipeline.postgres.connection import Connection, fetch_one


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """One column. `type` is `format_type`'s; `is_json` tells that it is json, jsonb or a domain over them, which JSON
    functions do not read by the type's input function."""

    name: str
    type: str
    is_json: bool
    is_generated: bool


@dataclass(frozen=True, slots=True)
class TargetShape:
    """A table that rows can be restored to.

    `arbiters` are the column lists of its unique indexes, the primary key first. `changes_rows` tells that what is
    inserted may not be what is stored: triggers run before each row, or columns are generated.
    """

    name: TableName
    columns: tuple[TargetColumn, ...]
    arbiters: tuple[tuple[str, ...], ...]
    changes_rows: bool
    owned_sequences: tuple[str, ...]
    """Columns whose default comes from a sequence that belongs to them."""

    @property
    def types(self) -> dict[str, str]:
        """Name → type of every column that can be written."""
        return {column.name: column.type for column in self.columns if not column.is_generated}

    def arbiter_for(self, key: Sequence[str]) -> tuple[str, ...]:
        """The unique columns by which an archived row is known here.

        Raises PreflightError when no unique index is within the key: a repeated restore would double rows.
        """
        for columns in self.arbiters:
            if set(columns) <= set(key):
                return columns
        wanted = ", ".join(key)
        raise PreflightError(
            f"{self.name} has no unique index over NOT NULL columns within the archived key ({wanted}),"
            " so a row that is there already could not be told from a new one",
            hint=f"add a primary key or unique index on ({wanted})",
        )


def inspect_target(connection: Connection, name: TableName, conflict: ConflictStrategy) -> TargetShape:
    """The table's shape, for restoring.

    Raises PreflightError or PermissionDeniedError with what to do when the table is missing, is no plain table, hides
    rows from the user, has rules for inserts, or privileges lack.
    """
    require_version(connection)
    relation = require_relation(connection, name)
    needed = ("SELECT", "INSERT", "UPDATE") if conflict.updates else ("SELECT", "INSERT")
    require_privileges(connection, name, relation, needed, temporary=True, to="restore")
    refuse_row_security(connection, name, relation)
    _refuse_rules(connection, name, relation)
    return _shape(connection, name, relation)


def inspect_compared(connection: Connection, name: TableName) -> TargetShape:
    """The shape of a table that archived rows are only held against."""
    return _shape(connection, name, require_relation(connection, name))


def _shape(connection: Connection, name: TableName, relation: Relation) -> TargetShape:
    columns = _columns(connection, relation)
    generated = any(column.is_generated for column in columns)
    return TargetShape(
        name=name,
        columns=columns,
        arbiters=tuple(index for index, _ in unique_indexes(connection, relation)),
        changes_rows=generated or _has_row_triggers(connection, relation),
        owned_sequences=_owned_sequences(connection, relation),
    )


def _refuse_rules(connection: Connection, name: TableName, relation: Relation) -> None:
    rows = connection.execute(
        "SELECT rulename::text FROM pg_catalog.pg_rewrite WHERE ev_class = %s::pg_catalog.oid"
        " AND ev_type IN ('2', '3') ORDER BY 1",
        (relation.oid,),
    ).fetchall()
    if rows:
        found = ", ".join(str(row[0]) for row in rows)
        raise PreflightError(
            f"{name} has rules that turn an insert into something else: {found}",
            hint="restore to a table without rules",
        )


def _columns(connection: Connection, relation: Relation) -> tuple[TargetColumn, ...]:
    """The live columns in table order. `attgenerated` is read as JSON because PostgreSQL 11 does not have it."""
    rows = connection.execute(
        "SELECT a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), EXISTS ("
        "WITH RECURSIVE base(oid) AS (SELECT a.atttypid UNION ALL SELECT t.typbasetype"
        " FROM base JOIN pg_catalog.pg_type t ON t.oid = base.oid AND t.typtype = 'd')"
        " SELECT 1 FROM base"
        " WHERE oid IN ('pg_catalog.json'::pg_catalog.regtype, 'pg_catalog.jsonb'::pg_catalog.regtype)),"
        " coalesce(pg_catalog.to_jsonb(a) ->> 'attgenerated', '') FROM pg_catalog.pg_attribute a"
        " WHERE a.attrelid = %s::pg_catalog.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        (relation.oid,),
    ).fetchall()
    return tuple(
        TargetColumn(name=name, type=type_name, is_json=is_json, is_generated=bool(generated))
        for name, type_name, is_json, generated in rows
    )


def _has_row_triggers(connection: Connection, relation: Relation) -> bool:
    """Whether an enabled trigger runs before each inserted or updated row, on the table or one of its partitions.

    The bits of `tgtype` are those of PostgreSQL's catalog/pg_trigger.h: row 1, before 2, insert 4, update 16.
    """
    (found,) = fetch_one(
        connection,
        sql.SQL(
            "WITH RECURSIVE leaves(oid) AS (SELECT %s::pg_catalog.oid UNION ALL"
            " SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN leaves ON leaves.oid = i.inhparent)"
            " SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_trigger WHERE tgrelid IN (SELECT oid FROM leaves)"
            " AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 3 = 3 AND tgtype & 20 <> 0)"
        ),
        (relation.oid,),
    )
    return bool(found)


def _owned_sequences(connection: Connection, relation: Relation) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT a.attname::text FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class s ON s.oid = d.objid"
        " JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid"
        " WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.relkind = 'S' AND d.deptype IN ('a', 'i')"
        " AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = %s::pg_catalog.oid"
        " ORDER BY a.attnum",
        (relation.oid,),
    ).fetchall()
    return tuple(str(row[0]) for row in rows)
