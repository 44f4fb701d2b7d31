"""What a table holds, value by value, to be compared before and after."""

from collections import Counter

import psycopg
from psycopg import sql

from archiver_pipeline_tests.ledger import EXACT_TEXT
from archiver_pipeline_tests.plugins.servers import Database

NO_BINARY_OUTPUT = {"aclitem", "aclitem[]"}

Picture = Counter[tuple[str, ...]]


def picture_of(database: Database, table: str, *, schema: str = "public", binary: bool = False) -> Picture:
    """A table's rows as a multiset: of each row its `t::text`, and every column's text in table order.

    `binary` adds every column's binary output: it tells apart what text may hide. Types without one are left out.
    """
    with database.connect(options=EXACT_TEXT) as connection:
        columns = _columns(connection, schema, table)
        names = [name for name, _ in columns]
        values = [_as_text(name) for name in names]
        if binary:
            values += [_as_binary(name) for name, type_name in columns if type_name not in NO_BINARY_OUTPUT]
        query = sql.SQL("SELECT {row}::text, ARRAY[{values}]::text[] FROM {table} AS {row}").format(
            row=sql.Identifier(_row_alias(names)),
            values=sql.SQL(", ").join(values),
            table=sql.Identifier(schema, table),
        )
        return Counter((row, *found) for row, found in connection.execute(query).fetchall())


def differences(before: Picture, after: Picture) -> str:
    """The rows that did not come back and those that are too many, in words; empty when there are none."""
    lost, surplus = before - after, after - before
    if not lost and not surplus:
        return ""
    found = [f"{lost.total()} rows did not come back, {surplus.total()} came back otherwise"]
    for row, other in zip(lost, surplus, strict=False):
        found += [f"{a!r:.200} became {b!r:.200}" for a, b in zip(row, other, strict=False) if a != b]
    return "\n".join(found[:12])


def _columns(connection: psycopg.Connection, schema: str, table: str) -> list[tuple[str, str]]:
    """Name and type of every column."""
    query = sql.SQL(
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = {}::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    return connection.execute(query.format(sql.Literal(sql.Identifier(schema, table).as_string()))).fetchall()


def _as_text(name: str) -> sql.Composed:
    """Through `format`, which asks the type's output function, where a cast may be a function of its own."""
    column = sql.Identifier(name)
    return sql.SQL("CASE WHEN num_nulls({0}) = 1 THEN NULL ELSE format('%s|', {0}) END").format(column)


def _as_binary(name: str) -> sql.Composed:
    return sql.SQL("encode(record_send(ROW({})), 'hex')").format(sql.Identifier(name))


def _row_alias(names: list[str]) -> str:
    alias = "whole_row"
    while alias in names:
        alias += "_"
    return alias
