"""Streams a batch's rows and row versions out of one snapshot, as Arrow, without a Python step per row."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import adbc_driver_manager
import numpy as np
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from psycopg import sql

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

_BATCH_HINT_BYTES = 1 << 20
_READ_ONLY_SNAPSHOT = {
    "default_transaction_isolation": "repeatable read",
    "default_transaction_read_only": "on",
}


@dataclass(frozen=True, slots=True)
class RowsAndVersions:
    """A stretch of a batch: `text` is its rows as JSON lines, `versions` their row versions in the same order."""

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

        def attempt() -> dbapi.Connection:
            with adbc_errors(source):
                return dbapi.connect(connection_string(source, **_READ_ONLY_SNAPSHOT, **settings), autocommit=False)

        self._connection = with_current_secret(source.password, attempt)
        if source.require_tls:
            self._require_tls()

    def close(self) -> None:
        with adbc_errors(self._source):
            self._connection.close()

    def _require_tls(self) -> None:
        """By the server's word, since this driver does not tell; a Unix socket has no client address. Raises TlsError
        when the connection is in clear."""
        with adbc_errors(self._source), self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT ssl OR pg_catalog.inet_client_addr() IS NULL FROM pg_catalog.pg_stat_ssl"
                " WHERE pid = pg_catalog.pg_backend_pid()"
            )
            is_encrypted = cursor.fetchall() == [(True,)]
            self._connection.rollback()
        if not is_encrypted:
            self.close()
            raise not_in_tls(self._source)

    def cancel(self) -> None:
        """Stop the running statement; safe from another thread."""
        with adbc_errors(self._source):
            self._connection.adbc_cancel()

    def read_batch(
        self, shape: TableShape, batch: PlannedBatch, cutoff: datetime
    ) -> tuple[SnapshotFacts, Generator[RowsAndVersions]]:
        """Open the snapshot; returns its facts and the rows. It ends when the rows are exhausted or closed."""
        with adbc_errors(self._source):
            facts = self._facts(shape, batch, cutoff)
        return facts, self._rows(shape, batch, cutoff)

    def _facts(self, shape: TableShape, batch: PlannedBatch, cutoff: datetime) -> SnapshotFacts:
        with self._connection.cursor() as cursor:
            cursor.execute(_facts_query(shape, batch, cutoff).as_string())
            rows, first, last, taken_at = cursor.fetchall()[0]
        return SnapshotFacts(int(rows), first or "", last or "", datetime.fromisoformat(taken_at))

    def _rows(self, shape: TableShape, batch: PlannedBatch, cutoff: datetime) -> Generator[RowsAndVersions]:
        try:
            with adbc_errors(self._source), self._connection.cursor() as cursor:
                hint = {"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_HINT_BYTES)}
                cursor.adbc_statement.set_options(**hint)
                cursor.execute(_rows_query(shape, batch, cutoff).as_string())
                for record_batch in cursor.fetch_record_batch():
                    if record_batch.num_rows:
                        yield _split(record_batch, shape)
        finally:
            with adbc_errors(self._source):
                self._connection.rollback()


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
        "SELECT pg_catalog.count(*), pg_catalog.min({0})::pg_catalog.text, pg_catalog.max({0})::pg_catalog.text,"
        " pg_catalog.clock_timestamp()::pg_catalog.text FROM {1} AS {2} WHERE {3}"
    ).format(column, rows_reference(shape, batch.leaf), ALIAS, batch_condition(shape, batch, cutoff))


def _rows_query(shape: TableShape, batch: PlannedBatch, cutoff: datetime) -> sql.Composed:
    """One statement for rows and versions, so that both come from the same tuples in the same order."""
    alias = row_alias(shape.columns)
    keys = key_values(shape.key, shape.columns, ALIAS)
    return sql.SQL(
        "SELECT pg_catalog.row_to_json({alias})::pg_catalog.text || E'\\n', {table_alias}.tableoid::pg_catalog.int8,"
        " {table_alias}.ctid::pg_catalog.text, {table_alias}.xmin::pg_catalog.text::pg_catalog.int8, {keys}"
        " FROM {table} AS {table_alias} CROSS JOIN LATERAL (SELECT {columns}) AS {alias} WHERE {condition}"
    ).format(
        alias=alias,
        table_alias=ALIAS,
        keys=sql.SQL(", ").join(keys),
        table=rows_reference(shape, batch.leaf),
        columns=rendered_columns(shape.columns, ALIAS),
        condition=batch_condition(shape, batch, cutoff),
    )


def _split(record_batch: pa.RecordBatch, shape: TableShape) -> RowsAndVersions:
    text, offsets = _contiguous_text(record_batch.column(0))
    schema = versions_schema(shape)
    columns: list[Any] = record_batch.columns[1:]
    versions = pa.RecordBatch.from_arrays(columns, names=schema.names).cast(schema)
    return RowsAndVersions(text, versions, int(np.diff(offsets).max(initial=0)))


def _contiguous_text(column: pa.Array) -> tuple[memoryview, Any]:
    """The string column's buffer, which already is the lines one after the other, and the line offsets in it."""
    if column.null_count:
        raise SourceError("the server returned a row without text")
    _, offset_buffer, data = column.buffers()
    width = np.int64 if pa.types.is_large_string(column.type) else np.int32
    offsets = np.frombuffer(offset_buffer, dtype=width)[column.offset : column.offset + len(column) + 1]
    return memoryview(data)[int(offsets[0]) : int(offsets[-1])], offsets
