"""Which rows are old enough: always by the source's own clock, in UTC, strictly older than retention.

And not under legal hold: every condition here leaves out the rows that the shape's holds cover.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache

from psycopg import sql

from archiver_pipeline.codec.predicates import parse_predicate
from archiver_pipeline.domain.batch import PlannedBatch
from archiver_pipeline.domain.holds import NO_HOLDS, Holds
from archiver_pipeline.domain.partitions import Leaf
from archiver_pipeline.domain.table import TableName, TableShape, TimedTable, TimestampType
from archiver_pipeline.domain.windows import Window
from archiver_pipeline.postgres.connection import Connection, fetch_one
from archiver_pipeline.postgres.predicate import predicate_sql
from archiver_pipeline.postgres.rendering import row_alias

ALIAS = sql.Identifier("t")
_AVERAGE_SAMPLE_ROWS = 200
_parsed = lru_cache(maxsize=4096)(parse_predicate)


@dataclass(frozen=True, slots=True)
class Eligible:
    """What a window holds that is old enough. `row_bytes` is the average length of a row's JSON text."""

    rows: int
    row_bytes: float


def source_clock(connection: Connection) -> datetime:
    """The source's time, aware."""
    (now,) = fetch_one(connection, sql.SQL("SELECT pg_catalog.clock_timestamp()"))
    if not isinstance(now, datetime):
        raise TypeError("clock_timestamp() did not return a time")
    return now


def table_reference(name: TableName) -> sql.Identifier:
    return sql.Identifier(name.schema, name.table)


def leaf_reference(leaf: Leaf) -> sql.Identifier:
    return sql.Identifier(leaf.schema, leaf.table)


def rows_reference(shape: TableShape, leaf: Leaf | None) -> sql.Identifier:
    """Where the rows of a batch are read: in the leaf that it belongs to, else in the whole table."""
    return table_reference(shape.name) if leaf is None else leaf_reference(leaf)


def timestamp_literal(shape: TableShape | TimedTable, moment: datetime) -> sql.Composed:
    """A moment as a literal of the column's type; naive columns hold UTC. A date is the day that `moment` lies in,
    so `column < literal` never takes a day that is not over."""
    text = moment.strftime("%Y-%m-%d" if shape.timestamp_type is TimestampType.date else "%Y-%m-%d %H:%M:%S.%f")
    suffix = "+00" if shape.timestamp_type is TimestampType.timestamptz else ""
    return typed_literal(text + suffix, shape.timestamp_type.value)


def typed_literal(text: str, type_name: str) -> sql.Composed:
    """A literal with its type. `type_name` comes from the catalog, already quoted by the server."""
    return sql.SQL("{}::{}").format(sql.Literal(text), sql.SQL(type_name))


def held_condition(holds: Holds, types: Mapping[str, str]) -> sql.Composed:
    """True for the rows of ALIAS that the holds cover, false for all others; `types` are the columns' from the catalog.

    Execute it without parameters. Raises ConfigError for a predicate that does not fit: holds without `defect` do.
    """
    if holds.is_whole or not holds:
        return sql.SQL("{}").format(sql.SQL("true" if holds else "false"))
    conditions = (
        predicate_sql(_parsed(text), types, lambda name: sql.SQL("{}.{}").format(ALIAS, sql.Identifier(name)))
        for text in holds.predicates
    )
    return sql.SQL("(({}) IS TRUE)").format(sql.SQL(" OR ").join(conditions))


def _unless_held(shape: TableShape | TimedTable, condition: sql.Composed) -> sql.Composed:
    if isinstance(shape, TimedTable) or not shape.holds:
        return condition
    return sql.SQL("{} AND NOT {}").format(condition, held_condition(shape.holds, shape.types))


def window_condition(shape: TableShape, window: Window, cutoff: datetime) -> sql.Composed:
    """Rows of the window that are older than the cutoff (exclusive) and not held; the first window is open to the
    past."""
    return _unless_held(shape, _in_window(shape, window, cutoff))


def _in_window(shape: TableShape, window: Window, cutoff: datetime) -> sql.Composed:
    column = sql.SQL("{}.{}").format(ALIAS, sql.Identifier(shape.timestamp_column))
    end = timestamp_literal(shape, min(window.end, cutoff))
    condition = sql.SQL("{} < {}").format(column, end)
    if window.open_start:
        return condition
    return sql.SQL("{} >= {} AND {}").format(column, timestamp_literal(shape, window.start), condition)


def _planned_condition(shape: TableShape, window: Window, cutoff: datetime, leaf: Leaf | None) -> sql.Composed:
    """Rows of the window, of this very leaf if there is one: not those of another table that was given its name."""
    condition = window_condition(shape, window, cutoff)
    if leaf is None:
        return condition
    return sql.SQL("{}.tableoid = {}::pg_catalog.oid AND {}").format(ALIAS, sql.Literal(leaf.oid), condition)


def batch_condition(shape: TableShape, batch: PlannedBatch, cutoff: datetime) -> sql.Composed:
    """Rows of one batch: the window's and the leaf's, between the batch's bounds, without the excluded keys."""
    parts = [_planned_condition(shape, batch.window, cutoff, batch.leaf)]
    if batch.lower is not None:
        parts.append(_bound(shape, batch.lower, ">", ">="))
    if batch.upper is not None:
        parts.append(_bound(shape, batch.upper, "<=", "<="))
    if batch.excluded_keys:
        parts.append(_without_keys(shape, batch.excluded_keys))
    return sql.SQL(" AND ").join(parts)


def _bound(shape: TableShape, bound: tuple[str, ...], row_operator: str, time_operator: str) -> sql.Composed:
    """A keyset bound, with the timestamp alone in front so that an index on it alone serves."""
    types = [shape.timestamp_type.value, *(part.type for part in shape.key)]
    literals = [typed_literal(text, name) for text, name in zip(bound, types, strict=True)]
    columns = order_columns(shape)
    return sql.SQL("{} {} {} AND ROW({}) {} ROW({})").format(
        columns[0],
        sql.SQL(time_operator),
        literals[0],
        sql.SQL(", ").join(columns),
        sql.SQL(row_operator),
        sql.SQL(", ").join(literals),
    )


def _without_keys(shape: TableShape, keys: tuple[tuple[str, ...], ...]) -> sql.Composed:
    rows = [
        sql.SQL("({})").format(
            sql.SQL(", ").join(typed_literal(text, part.type) for text, part in zip(key, shape.key, strict=True))
        )
        for key in keys
    ]
    return sql.SQL("ROW({}) NOT IN (VALUES {})").format(
        sql.SQL(", ").join(order_columns(shape)[1:]), sql.SQL(", ").join(rows)
    )


def order_columns(shape: TableShape) -> list[sql.Composed]:
    """The columns batches are cut along: timestamp, then key."""
    names = [shape.timestamp_column, *(part.name for part in shape.key)]
    return [sql.SQL("{}.{}").format(ALIAS, sql.Identifier(name)) for name in names]


def measure_eligible(
    connection: Connection, shape: TableShape, window: Window, cutoff: datetime, leaf: Leaf | None = None
) -> Eligible:
    """Count the window's eligible rows, of one leaf or of all, and sample their length."""
    condition, table = _planned_condition(shape, window, cutoff, leaf), rows_reference(shape, leaf)
    (rows,) = fetch_one(
        connection,
        sql.SQL("SELECT pg_catalog.count(*) FROM {} AS {} WHERE {}").format(table, ALIAS, condition),
    )
    (average,) = fetch_one(
        connection,
        sql.SQL(
            "SELECT coalesce(pg_catalog.avg("
            "pg_catalog.octet_length(pg_catalog.row_to_json({row})::pg_catalog.text)), 0)"
            " FROM (SELECT {alias}.* FROM {table} AS {alias} WHERE {condition} LIMIT {limit}) AS {row}"
        ).format(
            row=row_alias(shape.columns),
            alias=ALIAS,
            table=table,
            condition=condition,
            limit=sql.Literal(_AVERAGE_SAMPLE_ROWS),
        ),
    )
    return Eligible(int(rows), float(average))


def batch_bounds(
    connection: Connection,
    shape: TableShape,
    window: Window,
    cutoff: datetime,
    *,
    batch_size: int,
    limit_rows: int,
    leaf: Leaf | None = None,
) -> list[tuple[str, ...]]:
    """The last (timestamp, key) of each batch among the first `limit_rows` eligible rows, as text, in order.

    `limit_rows` beyond the rows there are leaves the last, partial batch out: give what was counted.
    """
    columns = sql.SQL(", ").join(order_columns(shape))
    names = [sql.Identifier(f"c{position}") for position in range(len(shape.key) + 1)]
    named = sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(column, name) for column, name in zip(order_columns(shape), names, strict=True)
    )
    query = sql.SQL(
        "SELECT {texts} FROM (SELECT {named}, pg_catalog.row_number() OVER (ORDER BY {columns}) AS position"
        " FROM {table} AS {alias} WHERE {condition} ORDER BY {columns} LIMIT {limit}) AS numbered"
        " WHERE position % {size} = 0 OR position = {limit} ORDER BY position"
    ).format(
        texts=sql.SQL(", ").join(sql.SQL("{}::pg_catalog.text").format(name) for name in names),
        named=named,
        columns=columns,
        table=rows_reference(shape, leaf),
        alias=ALIAS,
        condition=_planned_condition(shape, window, cutoff, leaf),
        limit=sql.Literal(limit_rows),
        size=sql.Literal(batch_size),
    )
    return [tuple(row) for row in connection.execute(query).fetchall()]


def oldest_eligible(
    connection: Connection, shape: TableShape | TimedTable, end: datetime, *, after: datetime | None
) -> datetime | None:
    """The time of the oldest row before `end` (exclusive), at or after `after`; None when there is none.

    A time that no Python datetime can hold (-infinity, BC) comes back as the earliest one that it can.
    """
    column = sql.SQL("{}.{}").format(ALIAS, sql.Identifier(shape.timestamp_column))
    query = sql.SQL(
        "SELECT CASE WHEN m < '0002-01-01'::pg_catalog.timestamp THEN '0002-01-01'::pg_catalog.timestamp ELSE m END"
        " FROM (SELECT pg_catalog.min({})::pg_catalog.timestamp AS m FROM {} AS {} WHERE {}) AS oldest"
    ).format(column, table_reference(shape.name), ALIAS, between(shape, after, end))
    (oldest,) = fetch_one(connection, query)
    if oldest is None:
        return None
    return datetime.fromisoformat(f"{oldest}+00:00")


def count_up_to(connection: Connection, shape: TableShape, window: Window, cutoff: datetime, limit_rows: int) -> int:
    """The number of eligible rows of the window, counting no further than `limit_rows`."""
    return _counted(connection, shape, window_condition(shape, window, cutoff), limit_rows)


def count_held(connection: Connection, shape: TableShape, window: Window, cutoff: datetime, limit_rows: int) -> int:
    """The number of rows of the window that are old enough and held, counting no further than `limit_rows`."""
    if not shape.holds:
        return 0
    condition = sql.SQL("{} AND {}").format(_in_window(shape, window, cutoff), held_condition(shape.holds, shape.types))
    return _counted(connection, shape, condition, limit_rows)


def count_held_before(connection: Connection, shape: TableShape, end: datetime | None, limit_rows: int) -> int:
    """The number of rows that are held, before `end` (exclusive, None: of any age), no further than `limit_rows`."""
    condition = held_condition(shape.holds, shape.types)
    if end is not None:
        condition = sql.SQL("{} AND {}").format(between(replace(shape, holds=NO_HOLDS), None, end), condition)
    return _counted(connection, shape, condition, limit_rows)


def count_key(connection: Connection, shape: TableShape, key: Sequence[str], *, held: bool) -> int:
    """The number of rows, 0 or 1, with this key, given as text; with `held` only if a hold of the shape covers it."""
    same = sql.SQL("ROW({}) = ROW({})").format(
        sql.SQL(", ").join(order_columns(shape)[1:]),
        sql.SQL(", ").join(typed_literal(text, part.type) for text, part in zip(key, shape.key, strict=True)),
    )
    condition = sql.SQL("{} AND {}").format(same, held_condition(shape.holds, shape.types)) if held else same
    return _counted(connection, shape, condition, 1)


def _counted(connection: Connection, shape: TableShape | TimedTable, condition: sql.Composed, limit_rows: int) -> int:
    (rows,) = fetch_one(
        connection,
        sql.SQL("SELECT pg_catalog.count(*) FROM (SELECT 1 FROM {} AS {} WHERE {} LIMIT {}) AS counted").format(
            table_reference(shape.name), ALIAS, condition, sql.Literal(limit_rows)
        ),
    )
    return int(rows)


def count_between(
    connection: Connection, shape: TableShape | TimedTable, start: datetime | None, end: datetime, limit_rows: int
) -> int:
    """The number of rows from `start` (inclusive, None: the oldest) to `end` (exclusive), no further than
    `limit_rows`."""
    return _counted(connection, shape, between(shape, start, end), limit_rows)


def first_rows_between(
    connection: Connection, shape: TableShape | TimedTable, start: datetime, end: datetime, limit_rows: int
) -> tuple[int, datetime | None]:
    """How many rows there are from `start` (inclusive) to `end` (exclusive), no further than `limit_rows`, and the time
    of the last one that was counted, oldest first; None when there is none."""
    column = sql.SQL("{}.{}").format(ALIAS, sql.Identifier(shape.timestamp_column))
    rows, last = fetch_one(
        connection,
        sql.SQL(
            "SELECT pg_catalog.count(*), pg_catalog.max(moment)::pg_catalog.timestamp FROM"
            " (SELECT {column} AS moment FROM {table} AS {alias} WHERE {condition} ORDER BY {column} LIMIT {limit})"
            " AS counted"
        ).format(
            column=column,
            table=table_reference(shape.name),
            alias=ALIAS,
            condition=between(shape, start, end),
            limit=sql.Literal(limit_rows),
        ),
    )
    return int(rows), None if last is None else last.replace(tzinfo=UTC)


def between(shape: TableShape | TimedTable, start: datetime | None, end: datetime) -> sql.Composed:
    column = sql.SQL("{}.{}").format(ALIAS, sql.Identifier(shape.timestamp_column))
    condition = sql.SQL("{} < {}").format(column, timestamp_literal(shape, end))
    if start is not None:
        condition = sql.SQL("{} >= {} AND {}").format(column, timestamp_literal(shape, start), condition)
    return _unless_held(shape, condition)
