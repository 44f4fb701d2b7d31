"""Finds the tables of a database, and from the catalog alone which of them might be archived."""

from typing import Any

from archiver_pipeline.domain.suggestion import FoundTable, TimeColumn
from archiver_pipeline.domain.table import timestamp_type_of
from archiver_pipeline.postgres.connection import Connection

_NOT_TABLES = {
    "f": "a foreign table: archive it where its rows are",
    "v": "a view",
    "m": "a materialized view",
}
_CLOCKS = ("now()", "current_timestamp", "current_date", "clock_timestamp()", "statement_timestamp()", "localtimestamp")

# Partitions are their parent's. Statistics of a partitioned table are those of its partitions.
_TABLES = """
SELECT n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, coalesce(am.amname::text, 'heap'),
    EXISTS (SELECT 1 FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary),
    EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND d.objid = c.oid AND d.deptype = 'e'),
    ARRAY(SELECT DISTINCT k.conrelid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_constraint k
        WHERE k.confrelid = c.oid AND k.contype = 'f' AND k.conrelid <> c.oid ORDER BY 1),
    coalesce(activity.inserted, 0)::int8, coalesce(activity.updated, 0)::int8
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
LEFT JOIN LATERAL (
    SELECT pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(part.oid)) AS inserted,
        pg_catalog.sum(pg_catalog.pg_stat_get_tuples_updated(part.oid)) AS updated
    FROM (SELECT c.oid UNION ALL SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid) AS part
) AS activity ON true
WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND NOT c.relispartition
    AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1, 2"""

_TIME_COLUMNS = """
SELECT n.nspname::text, c.relname::text, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
    EXISTS (SELECT 1 FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indkey[0] = a.attnum AND i.indisvalid
        AND i.indpred IS NULL),
    a.attnotnull, coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid), '')
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
    AND a.atttypid IN ('pg_catalog.date'::pg_catalog.regtype, 'pg_catalog.timestamp'::pg_catalog.regtype,
        'pg_catalog.timestamptz'::pg_catalog.regtype)
    AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY a.attrelid, a.attnum"""


def find_tables(connection: Connection) -> tuple[FoundTable, ...]:
    """Every table, view and foreign table outside the system's schemas, with what the catalog says against archiving
    it. Two queries, whatever the number of tables; no table is read."""
    columns = _time_columns(connection)
    return tuple(
        _found(row, tuple(columns.get((row[0], row[1]), ()))) for row in connection.execute(_TABLES).fetchall()
    )


def _time_columns(connection: Connection) -> dict[tuple[str, str], list[TimeColumn]]:
    found: dict[tuple[str, str], list[TimeColumn]] = {}
    for schema, table, name, type_name, is_indexed, is_not_null, default in connection.execute(_TIME_COLUMNS):
        kind = timestamp_type_of(type_name)
        if kind is not None:
            is_clock = any(clock in default.lower() for clock in _CLOCKS)
            found.setdefault((schema, table), []).append(TimeColumn(name, kind, is_indexed, is_not_null, is_clock))
    return found


def _found(row: tuple[Any, ...], columns: tuple[TimeColumn, ...]) -> FoundTable:
    schema, table, kind, persistence, access_method, has_key, is_of_extension, referred_by, inserted, updated = row
    reasons = {
        _NOT_TABLES.get(kind, ""): kind in _NOT_TABLES,
        "a table of an extension": is_of_extension,
        "unlogged: a crash empties it, so nobody keeps rows there for years": persistence == "u",
        f"stored by the access method {access_method}, only heap is supported": access_method != "heap",
        "no column of type date, timestamp or timestamptz": not columns,
        "no primary key": not has_key,
    }
    return FoundTable(
        schema=schema,
        table=table,
        refusal=next((reason for reason, holds in reasons.items() if holds), ""),
        time_columns=columns,
        referred_by=tuple(referred_by),
        inserted=inserted,
        updated=updated,
    )
