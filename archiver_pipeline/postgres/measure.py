"""Measures a table cheaply: the planner's estimates, both ends of an index, a few sampled pages. Never a full scan."""

from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import sql

from archiver_pipeline.domain.measure import TableMeasure
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.postgres.catalog import has_index_on
from archiver_pipeline.postgres.connection import Connection, fetch_one
from archiver_pipeline.postgres.eligible import ALIAS, between, count_between, source_clock, table_reference
from archiver_pipeline.postgres.maintenance import table_bytes
from archiver_pipeline.postgres.rendering import row_alias

MONTH_DAYS = 30
_COUNTED_ROWS = 20_000
_SAMPLED_PAGES = 20
_SAMPLED_ROWS = 400
_PAGE_BYTES = 8192
_KEY_PUNCTUATION_BYTES = {True: 1, False: 3}
"""After an integer stands a comma, around text quotes too."""


def measure_table(connection: Connection, shape: TableShape, retention_days: int) -> TableMeasure:
    """Rows, width, age, eligible part and growth of a table, each an estimate but its size on disk.

    Costs a few index look-ups, up to 20,000 entries of the index on the timestamp, and up to 20 pages of the table.
    """
    now = source_clock(connection).astimezone(UTC)
    cutoff = now - timedelta(days=retention_days)
    indexed = has_index_on(connection, shape.name, shape.timestamp_column)
    analyzed = _is_analyzed(connection, shape)
    rows = _planned_rows(connection, shape, sql.SQL("true")) if _has_rows(connection, shape) else 0.0
    row_bytes, key_bytes = _widths(connection, shape)
    oldest, newest = _ends(connection, shape, indexed=indexed)
    eligible = _rows_between(connection, shape, None, cutoff, indexed=indexed) if rows else 0.0
    month = _rows_between(connection, shape, now - timedelta(days=MONTH_DAYS), now, indexed=indexed) if rows else 0.0
    return TableMeasure(
        name=shape.name,
        rows=rows,
        row_bytes=row_bytes,
        disk_bytes=table_bytes(connection, shape.name),
        oldest=oldest,
        newest=newest,
        cutoff=cutoff,
        eligible_rows=min(eligible, rows) if oldest is None or oldest < cutoff else 0.0,
        month_rows=min(month, rows),
        key_bytes=key_bytes,
        is_analyzed=analyzed,
        notes=tuple(_notes(shape, analyzed=analyzed, indexed=indexed)),
    )


def _notes(shape: TableShape, *, analyzed: bool, indexed: bool) -> list[str]:
    notes = [] if analyzed else ["never analyzed, so rows are guessed from its size: ANALYZE it for better ones"]
    if not indexed:
        notes.append(f"no index begins with {shape.timestamp_column}, so age and growth come from statistics only")
    return notes


def _planned_rows(connection: Connection, shape: TableShape, condition: sql.Composable) -> float:
    """How many rows the planner expects, from its statistics and the table's size now; partitions included."""
    (plan,) = fetch_one(
        connection,
        sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {} AS {} WHERE {}").format(
            table_reference(shape.name), ALIAS, condition
        ),
    )
    return float(plan[0]["Plan"]["Plan Rows"])


def _has_rows(connection: Connection, shape: TableShape) -> bool:
    """An empty table is ten pages long to the planner."""
    query = sql.SQL("SELECT EXISTS (SELECT 1 FROM {})").format(table_reference(shape.name))
    return bool(fetch_one(connection, query)[0])


def _rows_between(
    connection: Connection, shape: TableShape, start: datetime | None, end: datetime, *, indexed: bool
) -> float:
    """Rows from `start` (inclusive) to `end` (exclusive): counted in the index while they are few, else planned."""
    planned = _planned_rows(connection, shape, between(shape, start, end))
    if not indexed:
        return planned
    counted = count_between(connection, shape, start, end, _COUNTED_ROWS)
    return float(counted) if counted < _COUNTED_ROWS else max(planned, float(counted))


def _time(shape: TableShape) -> sql.Composed:
    return sql.SQL("{}.{}").format(ALIAS, sql.Identifier(shape.timestamp_column))


def _ends(connection: Connection, shape: TableShape, *, indexed: bool) -> tuple[datetime | None, datetime | None]:
    """The times of the oldest and the newest row: of the index, else of the statistics' histogram."""
    if indexed:
        query = sql.SQL("SELECT pg_catalog.min({0})::text, pg_catalog.max({0})::text FROM {1} AS {2}").format(
            _time(shape), table_reference(shape.name), ALIAS
        )
        first, last = fetch_one(connection, query)
    else:
        first, last = _histogram_ends(connection, shape)
    return _moment(first), _moment(last)


def _histogram_ends(connection: Connection, shape: TableShape) -> tuple[Any, Any]:
    array = sql.SQL("s.histogram_bounds::pg_catalog.text::{}[]").format(sql.SQL(shape.timestamp_type.value))
    query = sql.SQL(
        "SELECT ({array})[1]::text, ({array})[pg_catalog.array_upper({array}, 1)]::text FROM pg_catalog.pg_stats s"
        " WHERE s.schemaname = %s AND s.tablename = %s AND s.attname = %s ORDER BY s.inherited DESC LIMIT 1"
    ).format(array=array)
    names = (shape.name.schema, shape.name.table, shape.timestamp_column)
    return connection.execute(query, names).fetchone() or (None, None)


def _moment(text: str | None) -> datetime | None:
    """A time of the server's as aware UTC; None for infinity and for times that no datetime can hold."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _widths(connection: Connection, shape: TableShape) -> tuple[float, float]:
    """The average length of a row's JSON, and of its key in a manifest, of some pages spread over the table."""
    share = _sampled_percent(connection, shape)
    sampled = sql.SQL("TABLESAMPLE SYSTEM ({}) REPEATABLE (1)").format(sql.Literal(share))
    found = _average_widths(connection, shape, sampled) or _average_widths(connection, shape, sql.SQL(""))
    return found or (0.0, 0.0)


def _average_widths(connection: Connection, shape: TableShape, sample: sql.Composable) -> tuple[float, float] | None:
    """None when the sample has no rows."""
    row = row_alias(shape.columns)
    query = sql.SQL(
        "SELECT pg_catalog.avg(pg_catalog.octet_length(pg_catalog.row_to_json({row})::pg_catalog.text)),"
        " pg_catalog.avg({key}) FROM (SELECT {alias}.* FROM {table} AS {alias} {sample} LIMIT {limit}) AS {row}"
    ).format(
        row=row,
        key=_key_length(row, shape),
        alias=ALIAS,
        table=table_reference(shape.name),
        sample=sample,
        limit=sql.Literal(_SAMPLED_ROWS),
    )
    row_bytes, key_bytes = fetch_one(connection, query)
    return None if row_bytes is None else (float(row_bytes), float(key_bytes) + _punctuation_bytes(shape))


def _key_length(row: sql.Composable, shape: TableShape) -> sql.Composed:
    return sql.SQL(" + ").join(
        sql.SQL("pg_catalog.octet_length({}.{}::pg_catalog.text)").format(row, sql.Identifier(part.name))
        for part in shape.key
    )


def _punctuation_bytes(shape: TableShape) -> int:
    return sum(_KEY_PUNCTUATION_BYTES[part.is_integer] for part in shape.key)


def _sampled_percent(connection: Connection, shape: TableShape) -> float:
    """The share of pages to sample; of a partitioned table, of each partition."""
    pages = table_bytes(connection, shape.name) / _PAGE_BYTES
    return min(100.0, 100.0 * _SAMPLED_PAGES / max(pages, 1.0))


def _is_analyzed(connection: Connection, shape: TableShape) -> bool:
    (found,) = fetch_one(
        connection,
        sql.SQL(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_stats WHERE schemaname = %s AND tablename = %s)"
            " OR EXISTS (SELECT 1 FROM pg_catalog.pg_stats s JOIN pg_catalog.pg_class c ON c.relname = s.tablename"
            " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = s.schemaname"
            " JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid WHERE i.inhparent = {}::pg_catalog.regclass)"
        ).format(sql.Literal(table_reference(shape.name).as_string())),
        (shape.name.schema, shape.name.table),
    )
    return bool(found)
