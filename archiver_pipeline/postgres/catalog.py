"""Reads a table's shape from the catalog and refuses, in words, what cannot be archived safely."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.domain.layout import DataFormat
from archiver_pipeline.domain.table import (
    INTEGER_TYPES,
    Column,
    KeyColumn,
    TableName,
    TableShape,
    TimedTable,
    TimestampType,
    timestamp_type_of,
)
from archiver_pipeline.errors import PermissionDeniedError, PreflightError
from archiver_pipeline.postgres.connection import Connection, fetch_one
from archiver_pipeline.postgres.rendering import rendering_of

MINIMUM_VERSION = 110000
ORDINARY_KINDS = ("r", "p")
_CASCADING_ACTIONS = {"c": "ON DELETE CASCADE", "n": "ON DELETE SET NULL", "d": "ON DELETE SET DEFAULT"}
_PRIVILEGES = ("SELECT", "DELETE")


@dataclass(frozen=True, slots=True)
class _Attribute:
    name: str
    type: str
    base_type: str
    not_null: bool
    output_function: str
    type_schema: str
    base_kind: str


def table_name(settings: TableSettings) -> TableName:
    return TableName(settings.database, settings.schema, settings.table)


def inspect_table(connection: Connection, settings: TableSettings, *, with_warnings: bool = True) -> TableShape:
    """The table's shape, for archiving. Looking for warnings may read the whole table, the rest reads the catalog only.

    Raises PreflightError or PermissionDeniedError with what to do when the table is missing, is no ordinary table,
    has no usable timestamp column or unique key, has foreign keys that would delete elsewhere, or privileges lack.
    """
    name = table_name(settings)
    require_version(connection)
    relation = require_relation(connection, name)
    require_privileges(connection, name, relation, _PRIVILEGES, temporary=True, to="run")
    attributes = _attributes(connection, relation)
    timestamp_type = _require_timestamp(name, attributes, settings)
    key = _require_key(connection, name, relation, attributes, settings)
    refuse_row_security(connection, name, relation)
    _refuse_cascades(connection, name, relation)
    return TableShape(
        name=name,
        columns=_columns(attributes, key, DataFormat(settings.format)),
        key=tuple(KeyColumn(part, attributes[part].type, attributes[part].type in INTEGER_TYPES) for part in key),
        timestamp_column=settings.timestamp_column,
        timestamp_type=timestamp_type,
        fingerprint=table_fingerprint(connection, name),
        system_identifier=system_identifier(connection),
        warnings=tuple(_warnings(connection, name, relation, settings, attributes)) if with_warnings else (),
    )


def find_timed_tables(connection: Connection, tables: Sequence[TableSettings]) -> dict[TableName, TimedTable]:
    """Those of the tables that exist and have their timestamp column, with its type, by one query for all of them.

    Says nothing of why another one is missing: `inspect_table` does, with what to do.
    """
    rows = connection.execute(
        "SELECT w.schema, w.name, w.column, pg_catalog.format_type(a.atttypid, a.atttypmod)"
        " FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[]))"
        ' AS w(schema, name, "column")'
        " JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema"
        " JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind = ANY(%s)"
        " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = w.column"
        " AND a.attnum > 0 AND NOT a.attisdropped",
        (
            [table.schema for table in tables],
            [table.table for table in tables],
            [table.timestamp_column for table in tables],
            list(ORDINARY_KINDS),
        ),
    ).fetchall()
    databases = {(table.schema, table.table): table.database for table in tables}
    found = {}
    for schema, table, column, type_name in rows:
        name = TableName(databases[schema, table], schema, table)
        if (kind := timestamp_type_of(type_name)) is not None:
            found[name] = TimedTable(name, column, kind)
    return found


def server_version(connection: Connection) -> int:
    """The server's version as PostgreSQL counts it: 160004 is 16.4."""
    (version,) = fetch_one(connection, sql.SQL("SELECT pg_catalog.current_setting('server_version_num')::int"))
    return int(version)


def system_identifier(connection: Connection) -> str:
    """The cluster's identifier, equal on a primary and its physical replicas, different after dump and restore."""
    (identifier,) = fetch_one(
        connection, sql.SQL("SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system()")
    )
    return str(identifier)


def table_fingerprint(connection: Connection, name: TableName) -> str:
    """A hash over all columns ever made, dropped ones included; equal before and after means no DDL on columns."""
    rows = connection.execute(
        "SELECT attnum, attname, atttypid::int8, atttypmod, attisdropped, attrelid::int8 FROM pg_catalog.pg_attribute"
        " WHERE attrelid = (SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
        " ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s) AND attnum > 0 ORDER BY attnum",
        (name.schema, name.table),
    ).fetchall()
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def has_index_on(connection: Connection, name: TableName, column: str) -> bool:
    """Whether a valid index begins with the column."""
    (found,) = fetch_one(
        connection,
        sql.SQL(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_index i"
            " JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]"
            " WHERE n.nspname = %s AND c.relname = %s AND a.attname = %s AND i.indisvalid AND i.indpred IS NULL)"
        ),
        (name.schema, name.table, column),
    )
    return bool(found)


def require_version(connection: Connection) -> None:
    """Raises PreflightError when the server is too old, or keeps text whose characters it does not know."""
    version = server_version(connection)
    if version < MINIMUM_VERSION:
        raise PreflightError(f"PostgreSQL {version // 10000} is too old", hint="11 or newer is needed")
    (encoding,) = fetch_one(connection, sql.SQL("SELECT pg_catalog.current_setting('server_encoding')"))
    if encoding == "SQL_ASCII":
        raise PreflightError(
            "the database has encoding SQL_ASCII, so its text has no defined characters and cannot be archived exactly",
            hint="convert the database to UTF8",
        )


@dataclass(frozen=True, slots=True)
class Relation:
    """A table in the catalog. `kind` is `r` for an ordinary table, `p` for a partitioned one."""

    oid: int
    kind: str
    access_method: str
    has_children: bool


def require_relation(connection: Connection, name: TableName) -> Relation:
    """The table in the catalog. Raises PreflightError when it is missing or no plain heap table."""
    row = connection.execute(
        "SELECT c.oid::int8, c.relkind::text, coalesce(am.amname::text, 'heap'),"
        " EXISTS (SELECT 1 FROM pg_catalog.pg_inherits WHERE inhparent = c.oid)"
        " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam WHERE n.nspname = %s AND c.relname = %s",
        (name.schema, name.table),
    ).fetchone()
    if row is None:
        raise PreflightError(f"{name}: there is no such table", hint=_similar_tables(connection, name))
    relation = Relation(*row)
    if relation.kind not in ORDINARY_KINDS:
        raise PreflightError(f"{name} is not an ordinary table", hint="views and foreign tables cannot be archived")
    if relation.access_method != "heap":
        raise PreflightError(
            f"{name} uses the table access method {relation.access_method}", hint="only heap is supported"
        )
    if relation.kind == "r" and relation.has_children:
        raise PreflightError(
            f"{name} has inheritance children, over which its key is not unique",
            hint="configure each child table by itself",
        )
    return relation


def _similar_tables(connection: Connection, name: TableName) -> str:
    rows = connection.execute(
        "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
        " ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_|^information_schema$'"
        " AND (pg_catalog.lower(c.relname) = pg_catalog.lower(%s)"
        " OR c.relname LIKE '%%' || pg_catalog.left(%s, 4) || '%%') ORDER BY 1 LIMIT 5",
        (name.table, name.table),
    ).fetchall()
    found = ", ".join(str(row[0]) for row in rows)
    return f"tables with similar names: {found}" if found else "check schema and name; both are case-sensitive"


def require_privileges(
    connection: Connection, name: TableName, relation: Relation, privileges: Sequence[str], *, temporary: bool, to: str
) -> None:
    """Raises PermissionDeniedError with the grants that this user lacks: on the table, on its schema and, for work with
    `temporary` tables, on the database. `to` says what for, like "archive"."""
    missing = [privilege for privilege in privileges if not has_privilege(connection, relation, privilege)]
    user, usage, may_make_temporary = fetch_one(
        connection,
        sql.SQL(
            "SELECT current_user, pg_catalog.has_schema_privilege(%s, 'USAGE'),"
            " pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY')"
        ),
        (name.schema,),
    )
    grants = [f"GRANT {', '.join(missing)} ON {quoted(name.schema, name.table)}"] if missing else []
    grants += [] if usage else [f"GRANT USAGE ON SCHEMA {quoted(name.schema)}"]
    if temporary and not may_make_temporary:
        grants.append(f"GRANT TEMPORARY ON DATABASE {quoted(connection.info.dbname)}")
    if grants:
        raise PermissionDeniedError(
            f"{name}: user {user} may not do everything that a {to} needs",
            hint="; ".join(f"{grant} TO {quoted(user)}" for grant in grants),
        )


def quoted(*names: str) -> str:
    """An identifier to be pasted into psql."""
    return sql.Identifier(*names).as_string()


def has_privilege(connection: Connection, relation: Relation, privilege: str) -> bool:
    """Whether the connected user has this privilege on the table."""
    (has,) = fetch_one(
        connection,
        sql.SQL("SELECT pg_catalog.has_table_privilege(%s::pg_catalog.oid, %s)"),
        (relation.oid, privilege),
    )
    return bool(has)


def _attributes(connection: Connection, relation: Relation) -> dict[str, _Attribute]:
    """The live columns in table order. Domains are followed down to their base type."""
    rows = connection.execute(
        "WITH RECURSIVE base(attnum, oid, typmod, depth) AS ("
        " SELECT attnum, atttypid, atttypmod, 0 FROM pg_catalog.pg_attribute"
        " WHERE attrelid = %(oid)s::pg_catalog.oid AND attnum > 0 AND NOT attisdropped"
        " UNION ALL SELECT b.attnum, t.typbasetype, t.typtypmod, b.depth + 1 FROM base b"
        " JOIN pg_catalog.pg_type t ON t.oid = b.oid AND t.typtype = 'd'),"
        " bottom AS (SELECT DISTINCT ON (attnum) attnum, oid, typmod FROM base ORDER BY attnum, depth DESC)"
        " SELECT a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),"
        " pg_catalog.format_type(bottom.oid, bottom.typmod), a.attnotnull,"
        " pg_catalog.quote_ident(fn.nspname) || '.' || pg_catalog.quote_ident(f.proname), tn.nspname::text,"
        " t.typtype::text"
        " FROM pg_catalog.pg_attribute a JOIN bottom ON bottom.attnum = a.attnum"
        " JOIN pg_catalog.pg_type t ON t.oid = bottom.oid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace"
        " JOIN pg_catalog.pg_proc f ON f.oid = t.typoutput JOIN pg_catalog.pg_namespace fn ON fn.oid = f.pronamespace"
        " WHERE a.attrelid = %(oid)s::pg_catalog.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        {"oid": relation.oid},
    ).fetchall()
    return {row[0]: _Attribute(*row) for row in rows}


def _columns(attributes: dict[str, _Attribute], key: Sequence[str], data_format: DataFormat) -> tuple[Column, ...]:
    return tuple(
        Column(
            name=attribute.name,
            type=attribute.type,
            not_null=attribute.not_null,
            rendering=rendering_of(attribute.type, attribute.base_type, data_format, is_key=attribute.name in key),
            output_function=attribute.output_function,
            is_key=attribute.name in key,
        )
        for attribute in attributes.values()
    )


def _require_timestamp(name: TableName, attributes: dict[str, _Attribute], settings: TableSettings) -> TimestampType:
    attribute = attributes.get(settings.timestamp_column)
    if attribute is None:
        times = [a.name for a in attributes.values() if timestamp_type_of(a.type) is not None]
        raise PreflightError(
            f"{name} has no column {settings.timestamp_column!r}",
            hint=f"columns that hold a time: {', '.join(times) or 'none'}",
        )
    found = timestamp_type_of(attribute.type)
    if found is None:
        raise PreflightError(
            f"{name}: timestamp_column {attribute.name!r} has type {attribute.type}",
            hint="a column of type date, timestamp or timestamptz is needed",
        )
    if found is TimestampType.date and settings.window == "hour":
        raise PreflightError(f"{name}: {attribute.name!r} is a date", hint="use window: day, week or month")
    return found


def _require_key(
    connection: Connection,
    name: TableName,
    relation: Relation,
    attributes: dict[str, _Attribute],
    settings: TableSettings,
) -> tuple[str, ...]:
    """The configured key, or the primary key. It must cover a unique index that holds at every instant."""
    indexes = unique_indexes(connection, relation)
    if settings.primary_key is None:
        primary = next((columns for columns, is_primary in indexes if is_primary), None)
        if primary is None:
            raise PreflightError(f"{name} has no primary key", hint=_key_hint(indexes))
        key = primary
    else:
        key = settings.primary_key
        _require_unique(name, attributes, key, indexes)
    for part in key:
        _require_comparable(name, attributes[part])
    return key


def _require_unique(
    name: TableName,
    attributes: dict[str, _Attribute],
    key: tuple[str, ...],
    indexes: list[tuple[tuple[str, ...], bool]],
) -> None:
    if missing := [part for part in key if part not in attributes]:
        raise PreflightError(f"{name} has no column {missing[0]!r}", hint=_key_hint(indexes))
    if not any(set(columns) <= set(key) for columns, _ in indexes):
        raise PreflightError(
            f"{name}: primary_key {', '.join(key)} is not unique and not null by any index",
            hint=_key_hint(indexes),
        )


def _require_comparable(name: TableName, attribute: _Attribute) -> None:
    """Only built-in operators are used, so that no function of a user's schema decides what is deleted."""
    if attribute.type_schema != "pg_catalog" and attribute.base_kind != "e":
        raise PreflightError(
            f"{name}: key column {attribute.name!r} has the extension type {attribute.type}",
            hint="name another unique key of built-in types as primary_key",
        )


def _key_hint(indexes: list[tuple[tuple[str, ...], bool]]) -> str:
    if not indexes:
        return "add a primary key, or a unique index over NOT NULL columns"
    found = "; ".join(", ".join(columns) for columns, _ in indexes)
    return f"unique and not null are: {found}; set primary_key to one of them"


def unique_indexes(connection: Connection, relation: Relation) -> list[tuple[tuple[str, ...], bool]]:
    """Column names of every immediate, valid, whole unique index over NOT NULL columns, and whether it is primary."""
    rows = connection.execute(
        "SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.position), i.indisprimary FROM pg_catalog.pg_index i"
        " CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, position)"
        " LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
        " WHERE i.indrelid = %s::pg_catalog.oid AND i.indisunique AND i.indimmediate AND i.indisvalid"
        " AND i.indpred IS NULL AND i.indexprs IS NULL AND k.position <= i.indnkeyatts"
        " GROUP BY i.indexrelid, i.indisprimary HAVING pg_catalog.bool_and(coalesce(a.attnotnull, false))"
        " ORDER BY i.indisprimary DESC, i.indexrelid",
        (relation.oid,),
    ).fetchall()
    return [(tuple(columns), bool(is_primary)) for columns, is_primary in rows]


def refuse_row_security(connection: Connection, name: TableName, relation: Relation) -> None:
    """Raises PreflightError when policies apply to the connected user."""
    active = _flag(connection, "SELECT pg_catalog.row_security_active(%s::pg_catalog.oid)", relation.oid)
    if active:
        raise PreflightError(
            f"{name} has row-level security that hides rows from this user",
            hint="archive with the table's owner or a role with BYPASSRLS",
        )


def _flag(connection: Connection, query: Any, oid: int) -> bool:
    (value,) = fetch_one(connection, sql.SQL(query), (oid,))
    return bool(value)


def _refuse_cascades(connection: Connection, name: TableName, relation: Relation) -> None:
    rows = connection.execute(
        "SELECT conname::text, conrelid::pg_catalog.regclass::text, confdeltype::text FROM pg_catalog.pg_constraint"
        " WHERE confrelid = %s::pg_catalog.oid AND contype = 'f' AND confdeltype IN ('c', 'n', 'd') ORDER BY 1",
        (relation.oid,),
    ).fetchall()
    if rows:
        found = "; ".join(f"{table} ({constraint}, {_CASCADING_ACTIONS[action]})" for constraint, table, action in rows)
        raise PreflightError(
            f"{name}: deleting its rows would change other tables: {found}",
            hint="archive those tables first, or make the foreign keys NO ACTION",
        )


def _warnings(
    connection: Connection,
    name: TableName,
    relation: Relation,
    settings: TableSettings,
    attributes: dict[str, _Attribute],
) -> list[str]:
    found = []
    if not has_index_on(connection, name, settings.timestamp_column):
        found.append(
            f"no index begins with {settings.timestamp_column}: every batch reads the whole table;"
            f" CREATE INDEX CONCURRENTLY ON {name.schema}.{name.table} ({settings.timestamp_column})"
        )
    if not attributes[settings.timestamp_column].not_null and (nulls := _null_timestamps(connection, name, settings)):
        found.append(f"{nulls} rows have no {settings.timestamp_column}: they are never old enough and stay")
    if triggers := _delete_triggers(connection, relation):
        found.append(f"triggers fire on every archived row: {', '.join(triggers)}")
    return found


_NULLS_COUNTED = 10_000


def _null_timestamps(connection: Connection, name: TableName, settings: TableSettings) -> str:
    """How many rows have no time, in words; empty when none has."""
    (rows,) = fetch_one(
        connection,
        sql.SQL("SELECT pg_catalog.count(*) FROM (SELECT 1 FROM {} WHERE {} IS NULL LIMIT {}) AS counted").format(
            sql.Identifier(name.schema, name.table),
            sql.Identifier(settings.timestamp_column),
            sql.Literal(_NULLS_COUNTED),
        ),
    )
    if rows == _NULLS_COUNTED:
        return f"{rows} or more"
    return str(rows) if rows else ""


def _delete_triggers(connection: Connection, relation: Relation) -> list[str]:
    rows = connection.execute(
        "SELECT tgname::text FROM pg_catalog.pg_trigger WHERE tgrelid = %s::pg_catalog.oid AND NOT tgisinternal"
        " AND tgenabled <> 'D' AND tgtype & 8 <> 0 ORDER BY 1",
        (relation.oid,),
    ).fetchall()
    return [str(row[0]) for row in rows]
