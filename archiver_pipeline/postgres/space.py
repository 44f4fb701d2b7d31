"""Measures how much of a table's files is free: by pgstattuple or pg_freespacemap where they are installed and allowed,
else by the planner's statistics, which is an estimate and says so."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from psycopg import Error, sql

from archiver_pipeline.config.effective import SourceSettings
from archiver_pipeline.domain.disk import ESTIMATE, UNKNOWN, LeafSpace, RelationKind, RelationSpace, TableSpace
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.postgres.connection import Connection, connect, fetch_one, source_errors
from archiver_pipeline.postgres.eligible import table_reference

LONGEST_LOOK_SECONDS = 30
"""Of one look at one relation; one that takes longer is estimated instead."""
_PAGE_BYTES = 8192
_PAGE_HEADER_BYTES = 24
_BTREE_PAGE_EXTRA_BYTES = 40
_HEAP_TUPLE_BYTES = 28
_INDEX_TUPLE_BYTES = 12
_TOAST_TUPLES_PER_PAGE = 4
_BTREE_FILL = 0.9
_MEASURED_INDEX_BYTES = 1 << 30
"""pgstatindex reads a whole index; one larger than this is estimated, so that a run does not read it each time."""

_LEAVES = """
WITH RECURSIVE tree(oid) AS (SELECT {}::pg_catalog.regclass::pg_catalog.oid
    UNION ALL SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON tree.oid = i.inhparent)
SELECT c.oid, n.nspname::text, c.relname::text, c.reltoastrelid,
    pg_catalog.pg_table_size(c.oid), CASE WHEN c.reltoastrelid = 0 THEN 0 ELSE
        pg_catalog.pg_total_relation_size(c.reltoastrelid) END,
    c.relpages, c.reltuples::pg_catalog.float8,
    coalesce((SELECT pg_catalog.sum((1 - s.null_frac) * s.avg_width) FROM pg_catalog.pg_stats s
        WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND NOT s.inherited), 0)::pg_catalog.float8,
    coalesce(t.relpages, 0), coalesce(t.reltuples, 0)::pg_catalog.float8
FROM tree JOIN pg_catalog.pg_class c USING (oid) JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid
WHERE c.relkind = 'r' ORDER BY c.relname, c.oid
"""
_INDEXES = """
SELECT x.indexrelid, n.nspname::text, c.relname::text, a.amname::text, pg_catalog.pg_total_relation_size(c.oid),
    c.relpages, c.reltuples::pg_catalog.float8,
    coalesce((SELECT pg_catalog.sum(greatest(s.avg_width, 1)) FROM pg_catalog.pg_attribute k
        JOIN pg_catalog.pg_attribute w ON w.attrelid = x.indrelid AND w.attnum = ANY(x.indkey)
            AND w.attnum = x.indkey[k.attnum - 1]
        JOIN pg_catalog.pg_class o ON o.oid = x.indrelid JOIN pg_catalog.pg_namespace m ON m.oid = o.relnamespace
        JOIN pg_catalog.pg_stats s ON s.schemaname = m.nspname AND s.tablename = o.relname AND s.attname = w.attname
            AND NOT s.inherited
        WHERE k.attrelid = x.indexrelid), 0)::pg_catalog.float8
FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class c ON c.oid = x.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_am a ON a.oid = c.relam
WHERE x.indrelid = %s::pg_catalog.oid ORDER BY c.relname
"""
_FUNCTIONS = """
SELECT p.proname::text, n.nspname::text FROM pg_catalog.pg_extension e
JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = e.oid
    AND d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.deptype = 'e'
JOIN pg_catalog.pg_proc p ON p.oid = d.objid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE e.extname IN ('pgstattuple', 'pg_freespacemap')
    AND p.proname IN ('pgstattuple_approx', 'pgstatindex', 'pg_freespace')
    AND p.proargtypes[0] = 'pg_catalog.regclass'::pg_catalog.regtype
    AND p.pronargs = CASE p.proname WHEN 'pg_freespace' THEN 2 ELSE 1 END
    AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
    AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
"""


@dataclass(frozen=True, slots=True)
class _Heap:
    """A heap as the catalog knows it. `row_bytes` 0 is unknown, `rows` below 0 is never counted."""

    oid: int
    name: str
    kind: RelationKind
    size_bytes: int
    pages: int
    rows: float
    row_bytes: float


def measure_space(source: SourceSettings, name: TableName) -> TableSpace:
    """The free space in every file of the table. Best after VACUUM; reads at most a few pages of an estimated relation,
    those not wholly visible of a measured table, and all of a measured index. Takes no lock but the weakest."""
    limits = {"statement_timeout": f"{LONGEST_LOOK_SECONDS}s"}
    with source_errors(source), connect(source, **limits) as connection:
        look = _Look(connection)
        leaves = connection.execute(sql.SQL(_LEAVES).format(sql.Literal(table_reference(name).as_string()))).fetchall()
        return TableSpace(tuple(look.leaf(name.database, row) for row in leaves))


class _Look:
    """One connection, and what it may call."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        found = connection.execute(_FUNCTIONS).fetchall()
        self._functions = {function: sql.Identifier(schema, function) for function, schema in found}

    def leaf(self, database: str, row: tuple[Any, ...]) -> LeafSpace:
        oid, schema, table, toast, heap_bytes, toast_bytes, pages, rows, row_bytes, toast_pages, toast_rows = row
        relations = [self._heap(_Heap(oid, table, RelationKind.heap, heap_bytes - toast_bytes, pages, rows, row_bytes))]
        if toast:
            heap = _Heap(toast, f"long values of {table}", RelationKind.toast, toast_bytes, toast_pages, toast_rows, 0)
            relations.append(self._heap(heap))
        relations.extend(self._indexes(oid))
        return LeafSpace(TableName(database, schema, table), tuple(relations))

    def _heap(self, heap: _Heap) -> RelationSpace:
        free, method = self._measured_heap(heap.oid)
        if free is None:
            free, method = _estimated_heap(heap)
        return RelationSpace(heap.name, heap.kind, heap.size_bytes, _within(free, heap.size_bytes), method)

    def _measured_heap(self, oid: int) -> tuple[int | None, str]:
        found = self._ask("pgstattuple_approx", "approx_free_space + dead_tuple_len", oid)
        if found is not None:
            return found, "pgstattuple"
        return self._ask_map(oid), "pg_freespacemap"

    def _ask_map(self, oid: int) -> int | None:
        """Page by page: the function for a whole relation finds its own helper by search_path, which is empty here."""
        if "pg_freespace" not in self._functions:
            return None
        query = sql.SQL(
            "SELECT coalesce(pg_catalog.sum({}(%s::pg_catalog.oid::pg_catalog.regclass, page)), 0)::pg_catalog.int8"
            " FROM pg_catalog.generate_series(0::int8, pg_catalog.pg_relation_size(%s::pg_catalog.oid) / {} - 1) page"
        ).format(self._functions["pg_freespace"], sql.Literal(_PAGE_BYTES))
        with suppress(Error):
            (found,) = fetch_one(self._connection, query, (oid, oid))
            return int(found)
        return None

    def _indexes(self, oid: int) -> Iterator[RelationSpace]:
        for index, _, name, method, size, pages, rows, key_bytes in self._connection.execute(
            _INDEXES, (oid,)
        ).fetchall():
            free, way = self._measured_index(index, size) if method == "btree" else (None, UNKNOWN)
            if free is None and method == "btree":
                free, way = _estimated_index(pages, rows, key_bytes)
            yield RelationSpace(name, RelationKind.index_, size, _within(free, size), way)

    def _measured_index(self, oid: int, size_bytes: int) -> tuple[int | None, str]:
        if size_bytes > _MEASURED_INDEX_BYTES:
            return None, UNKNOWN
        free = (
            f"((empty_pages + deleted_pages) * {_PAGE_BYTES} + leaf_pages * {_PAGE_BYTES} * greatest("
            f"0, 1 - CASE WHEN avg_leaf_density = 'NaN' THEN 100 ELSE avg_leaf_density END / {100 * _BTREE_FILL}))"
        )
        return self._ask("pgstatindex", free, oid), "pgstattuple"

    def _ask(self, function: str, value: str, oid: int) -> int | None:
        """None when the function is not there, or did not answer in time."""
        if function not in self._functions:
            return None
        query = sql.SQL("SELECT ({})::pg_catalog.int8 FROM {}(%s::pg_catalog.oid::pg_catalog.regclass)").format(
            sql.SQL(value), self._functions[function]
        )
        with suppress(Error):
            (found,) = fetch_one(self._connection, query, (oid,))
            return int(found)
        return None


def _estimated_heap(heap: _Heap) -> tuple[int | None, str]:
    """Pages less those that its rows would fill, by the statistics of VACUUM and ANALYZE."""
    if heap.size_bytes <= 2 * _PAGE_BYTES:
        return 0, ESTIMATE
    if heap.rows < 0 or (heap.rows == 0 and heap.pages == 0):
        return None, UNKNOWN
    if heap.kind is RelationKind.toast:
        needed = heap.rows / _TOAST_TUPLES_PER_PAGE
    elif heap.rows and not heap.row_bytes:
        return None, UNKNOWN
    else:
        needed = heap.rows * (_aligned(heap.row_bytes) + _HEAP_TUPLE_BYTES) / (_PAGE_BYTES - _PAGE_HEADER_BYTES)
    return int((heap.pages - needed) * _PAGE_BYTES), ESTIMATE


def _estimated_index(pages: int, rows: float, key_bytes: float) -> tuple[int | None, str]:
    if rows < 0 or not pages or (rows and not key_bytes):
        return None, UNKNOWN
    usable = _BTREE_FILL * (_PAGE_BYTES - _BTREE_PAGE_EXTRA_BYTES)
    needed = 1 + rows * (_aligned(key_bytes) + _INDEX_TUPLE_BYTES) / usable
    return int((pages - needed) * _PAGE_BYTES), ESTIMATE


def _aligned(width: float) -> float:
    return (width + 7) // 8 * 8


def _within(free: int | None, size_bytes: int) -> int | None:
    return None if free is None else min(max(0, free), size_bytes)
