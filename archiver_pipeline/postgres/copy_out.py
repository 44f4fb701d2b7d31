"""Streams a batch's rows and row versions out of one snapshot, as Arrow, without a Python step per row.

A row comes from the server as one message, which its driver holds as a whole. So a long row is left out of the stream
and fetched afterwards, in the same snapshot, in slices: it is then behind the batch's other rows.
"""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import adbc_driver_manager
import adbc_driver_postgresql
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_manager._reader import AdbcRecordBatchReader
from psycopg import sql

from archiver_pipeline.codec.long_lines import LONG_LINE_BYTES
from archiver_pipeline.codec.rows import key_schema
from archiver_pipeline.codec.versions import CTID, TABLEOID, XMIN
from archiver_pipeline.config.effective import SourceSettings
from archiver_pipeline.domain.batch import PlannedBatch
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.errors import SourceError
from archiver_pipeline.postgres.connection import connection_string, error_of_sqlstate, not_in_tls
from archiver_pipeline.postgres.eligible import ALIAS, batch_condition, order_columns, rows_reference
from archiver_pipeline.postgres.rendering import key_values, rendered_columns, row_alias
from archiver_pipeline.secret_sources.secret import with_current_secret

_BATCH_HINT_BYTES = 512 << 10
_SLICE_BYTES = 1 << 20
_READ_ONLY_SNAPSHOT = {
    "default_transaction_isolation": "repeatable read",
    "default_transaction_read_only": "on",
}


@dataclass(frozen=True, slots=True)
class RowsAndVersions:
    """A stretch of a batch: `text` is its rows as JSON lines, `versions` their row versions in the same order.

    Of a long row several stretches bring a slice each; its version comes with the last.
    """

    text: memoryview
    versions: pa.RecordBatch
    longest_row_bytes: int


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """What the same snapshot says of a batch by a second, independent statement. Times are PostgreSQL text."""

    rows: int
    first_row_time: str
    last_row_time: str
    taken_at: datetime


class RowStream:
    """A connection that reads batches, each in one short REPEATABLE READ READ ONLY transaction."""

    def __init__(self, source: SourceSettings, **settings: str) -> None:
        self._source = source

        def attempt() -> tuple[adbc_driver_manager.AdbcDatabase, adbc_driver_manager.AdbcConnection]:
            with adbc_errors(source):
                return _opened(connection_string(source, **_READ_ONLY_SNAPSHOT, **settings))

        self._database, self._connection = with_current_secret(source.password, attempt)
        if source.require_tls:
            self._require_tls()

    def close(self) -> None:
        with adbc_errors(self._source):
            self._connection.close()
            self._database.close()

    def _require_tls(self) -> None:
        """By the server's word, since this driver does not tell; a Unix socket has no client address. Raises TlsError
        when the connection is in clear."""
        query = (
            "SELECT ssl OR pg_catalog.inet_client_addr() IS NULL AS is_safe FROM pg_catalog.pg_stat_ssl"
            " WHERE pid = pg_catalog.pg_backend_pid()"
        )
        with adbc_errors(self._source):
            answer = [row for found in self._answer(query) for row in found.to_pylist()]
            self._connection.rollback()
        is_encrypted = answer == [{"is_safe": True}]
        if not is_encrypted:
            self.close()
            raise not_in_tls(self._source)

    def cancel(self) -> None:
        """Stop the running statement; safe from another thread."""
        with adbc_errors(self._source):
            self._connection.cancel()

    def read_batch(
        self, shape: TableShape, batch: PlannedBatch, cutoff: datetime
    ) -> tuple[SnapshotFacts, Generator[RowsAndVersions]]:
        """Open the snapshot; returns its facts and the rows. It ends when the rows are exhausted or closed."""
        with adbc_errors(self._source):
            facts = self._facts(shape, batch, cutoff)
        return facts, self._rows(shape, batch, cutoff)

    def _facts(self, shape: TableShape, batch: PlannedBatch, cutoff: datetime) -> SnapshotFacts:
        [found] = [
            row for part in self._answer(_facts_query(shape, batch, cutoff).as_string()) for row in part.to_pylist()
        ]
        return SnapshotFacts(
            int(found["rows"]), found["first"] or "", found["last"] or "", datetime.fromisoformat(found["taken_at"])
        )

    def _rows(self, shape: TableShape, batch: PlannedBatch, cutoff: datetime) -> Generator[RowsAndVersions]:
        try:
            with adbc_errors(self._source):
                long_rows: list[pa.RecordBatch] = []
                with closing(self._answer(_rows_query(shape, batch, cutoff).as_string())) as answer:
                    for record_batch in answer:
                        if record_batch.num_rows:
                            stretch, long_row_versions = _split(record_batch, shape)
                            long_rows.append(long_row_versions)
                            yield stretch
                for version in (rows.slice(at, 1) for rows in long_rows for at in range(rows.num_rows)):
                    yield from self._long_row(shape, batch, version)
        finally:
            with adbc_errors(self._source):
                self._connection.rollback()

    def _long_row(self, shape: TableShape, batch: PlannedBatch, version: pa.RecordBatch) -> Iterator[RowsAndVersions]:
        """One row in slices. Raises SourceError when it does not come as a whole."""
        sent_bytes, row_bytes = 0, None
        for record_batch in self._answer(_slices_query(shape, batch, version).as_string()):
            for piece, size in zip(record_batch.column(0), record_batch.column(1).to_pylist(), strict=True):
                row_bytes = size
                text = memoryview(piece.as_buffer())
                sent_bytes += len(text)
                yield RowsAndVersions(text, version if sent_bytes == size else version.slice(0, 0), sent_bytes)
        if sent_bytes != row_bytes:
            raise SourceError(f"{shape.name}: of a row of {row_bytes} bytes {sent_bytes} came")

    def _answer(self, query: str) -> Generator[pa.RecordBatch]:
        with adbc_driver_manager.AdbcStatement(self._connection) as statement:
            statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_HINT_BYTES)})
            statement.set_sql_query(query)
            handle, _ = statement.execute_query()
            with AdbcRecordBatchReader._import_from_c(handle.address) as reader:
                yield from reader


def _opened(conninfo: str) -> tuple[adbc_driver_manager.AdbcDatabase, adbc_driver_manager.AdbcConnection]:
    """Without the driver's DB-API layer: it brings a large part of Arrow that nothing here needs into memory."""
    database = adbc_driver_postgresql.connect(conninfo)
    try:
        connection = adbc_driver_manager.AdbcConnection(database)
    except BaseException:
        database.close()
        raise
    connection.set_autocommit(False)
    return database, connection


def versions_schema(shape: TableShape) -> pa.Schema:
    """The Arrow schema of row versions: tableoid, ctid, xmin, then the key columns."""
    system = [pa.field(TABLEOID, pa.int64()), pa.field(CTID, pa.string()), pa.field(XMIN, pa.int64())]
    return pa.schema([*system, *key_schema(shape.key)])


@contextmanager
def adbc_errors(source: SourceSettings) -> Iterator[None]:
    """Translate driver errors, keeping the first line only: later lines quote the query and its literals."""
    try:
        yield
    except adbc_driver_manager.Error as error:
        place = f"{source.host}:{source.port}/{source.dbname}"
        raise error_of_sqlstate(
            error.sqlstate or None, f"{place}: {_first_line(str(error))}", user=source.user
        ) from None


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no answer"


def _facts_query(shape: TableShape, batch: PlannedBatch, cutoff: datetime) -> sql.Composed:
    column = order_columns(shape)[0]
    return sql.SQL(
        "SELECT pg_catalog.count(*) AS rows, pg_catalog.min({0})::pg_catalog.text AS first,"
        " pg_catalog.max({0})::pg_catalog.text AS last, pg_catalog.clock_timestamp()::pg_catalog.text AS taken_at"
        " FROM {1} AS {2} WHERE {3}"
    ).format(column, rows_reference(shape, batch.leaf), ALIAS, batch_condition(shape, batch, cutoff))


def _rows_query(shape: TableShape, batch: PlannedBatch, cutoff: datetime) -> sql.Composed:
    """One statement for rows and versions, so that both come from the same tuples in the same order. A long row's text
    is NULL. `OFFSET 0` keeps the server from rendering a row once for its length and once more for its text."""
    keys = key_values(shape.key, shape.columns, ALIAS)
    return sql.SQL(
        "SELECT CASE WHEN pg_catalog.octet_length(rendered.line) <= {longest} THEN rendered.line END,"
        " {table_alias}.tableoid::pg_catalog.int8,"
        " {table_alias}.ctid::pg_catalog.text, {table_alias}.xmin::pg_catalog.text::pg_catalog.int8, {keys}"
        " FROM {table} AS {table_alias} CROSS JOIN LATERAL ({line}) AS rendered WHERE {condition}"
    ).format(
        longest=sql.Literal(LONG_LINE_BYTES),
        table_alias=ALIAS,
        keys=sql.SQL(", ").join(keys),
        table=rows_reference(shape, batch.leaf),
        line=_line_query(shape),
        condition=batch_condition(shape, batch, cutoff),
    )


def _line_query(shape: TableShape) -> sql.Composed:
    return sql.SQL(
        "SELECT pg_catalog.row_to_json({alias})::pg_catalog.text || E'\\n' AS line FROM (SELECT {columns}) AS {alias}"
        " OFFSET 0"
    ).format(alias=row_alias(shape.columns), columns=rendered_columns(shape.columns, ALIAS))


def _slices_query(shape: TableShape, batch: PlannedBatch, version: pa.RecordBatch) -> sql.Composed:
    """One long row's line as UTF-8, slice after slice, each with the size of the whole. The row is that very version:
    in one snapshot its place names it."""
    [place] = version.select([TABLEOID, CTID, XMIN]).to_pylist()
    return sql.SQL(
        "SELECT pg_catalog.substring(whole.bytes, slice.first, {slice_bytes}), pg_catalog.octet_length(whole.bytes)"
        " FROM (SELECT pg_catalog.convert_to(rendered.line, 'UTF8') AS bytes FROM {table} AS {alias}"
        " CROSS JOIN LATERAL ({line}) AS rendered WHERE {alias}.ctid = {ctid}::pg_catalog.tid"
        " AND {alias}.tableoid = {tableoid}::pg_catalog.oid AND {alias}.xmin = {xmin}::pg_catalog.xid"
        " OFFSET 0) AS whole CROSS JOIN LATERAL"
        " pg_catalog.generate_series(1, pg_catalog.octet_length(whole.bytes), {slice_bytes}) AS slice(first)"
    ).format(
        slice_bytes=sql.Literal(_SLICE_BYTES),
        table=rows_reference(shape, batch.leaf),
        alias=ALIAS,
        line=_line_query(shape),
        ctid=sql.Literal(place[CTID]),
        tableoid=sql.Literal(str(place[TABLEOID])),
        xmin=sql.Literal(str(place[XMIN])),
    )


def _split(record_batch: pa.RecordBatch, shape: TableShape) -> tuple[RowsAndVersions, pa.RecordBatch]:
    """The short rows with their versions, and the versions of the long ones."""
    schema = versions_schema(shape)
    columns: list[Any] = record_batch.columns[1:]
    versions = pa.RecordBatch.from_arrays(columns, names=schema.names).cast(schema)
    # The text of a long row is NULL and takes no bytes, so the others still stand one after the other.
    text, offsets = _contiguous_text(record_batch.column(0))
    is_long = record_batch.column(0).is_null()
    return (
        RowsAndVersions(text, versions.filter(pc.invert(is_long)), int(np.diff(offsets).max(initial=0))),
        versions.filter(is_long),
    )


def _contiguous_text(column: pa.Array) -> tuple[memoryview, Any]:
    """The string column's buffer, which already is the lines one after the other, and the line offsets in it."""
    _, offset_buffer, data = column.buffers()
    width = np.int64 if pa.types.is_large_string(column.type) else np.int32
    offsets = np.frombuffer(offset_buffer, dtype=width)[column.offset : column.offset + len(column) + 1]
    return memoryview(data)[int(offsets[0]) : int(offsets[-1])], offsets
