"""Row accounting, independent of the engine: every row is in the table or in exactly one receipted object.

Nothing here imports the package under test: objects are found by their names, unpacked with the standard library or
pyarrow, and their values go back through PostgreSQL's own input functions. A row is its `t::text`.
"""

import datetime as dt
import gzip
import hashlib
import io
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import psycopg
import pyarrow.parquet as pq
from psycopg import sql

from archiver_pipeline_tests.plugins.servers import Bucket, Database

EXACT_TEXT = (
    "-c DateStyle=ISO,YMD -c IntervalStyle=iso_8601 -c extra_float_digits=3 -c TimeZone=UTC"
    " -c bytea_output=hex -c lc_monetary=C -c search_path="
)
DATA_SUFFIXES = (".jsonl.gz", ".parquet")


@dataclass(frozen=True)
class StoredObject:
    """A data object with the documents beside it, as they were read."""

    stem: str
    data_key: str
    data: bytes
    manifest: dict[str, Any] | None
    receipt: dict[str, Any] | None
    superseded: dict[str, Any] | None


class Ledger:
    """What a table's rows should be: those it had at first, and every change made through `execute`."""

    def __init__(
        self,
        database: Database,
        bucket: Bucket,
        database_id: str,
        schema: str,
        table: str,
        timestamp_column: str,
        retention_days: int,
    ) -> None:
        self._database = database
        self._bucket = bucket
        self._schema, self._table = schema, table
        self._timestamp_column = timestamp_column
        self._retention_days = retention_days
        self.prefix = _prefix(bucket.prefix, database_id, schema, table)
        self.expected = Counter(self.table_rows())

    def execute(self, query: str, *, patience_ms: int = 0) -> None:
        """Let an application change the table in one transaction, and account for what it changed.

        Raises psycopg's LockNotAvailable when it waited so long for a lock; 0 waits for ever.
        """
        with self._connect() as connection, connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{patience_ms}ms",))
            connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(self._name))
            before = Counter(self._rows(connection))
            connection.execute(query.encode())
            after = Counter(self._rows(connection))
        self.expected += after - before
        self.expected -= before - after

    def table_rows(self) -> list[str]:
        """The rows in the table now."""
        with self._connect() as connection:
            return self._rows(connection)

    def archived_rows(self) -> list[str]:
        """The rows in all receipted objects."""
        return [row for found in self.receipted() for row in self.rows_of(found)]

    def receipted(self) -> list[StoredObject]:
        return [found for found in self.objects() if found.receipt is not None]

    def objects(self) -> list[StoredObject]:
        """Every data object of the table, by name; another table's never begin like this."""
        keys = self._bucket.keys(self.prefix + "year=")
        return [self._stored(key, set(keys)) for key in keys if key.endswith(DATA_SUFFIXES)]

    def rows_of(self, found: StoredObject) -> list[str]:
        """An object's rows as PostgreSQL reads them back by the documented rule: `->>`, then the type's input."""
        columns = self._columns()
        lines = _decoded(found)
        values = sql.SQL(", ").join(_value(name, type_name) for name, type_name in columns)
        query = sql.SQL("SELECT ROW({})::text FROM unnest({}::text[]) WITH ORDINALITY AS u(line, n) ORDER BY n")
        with self._connect() as connection:
            return [row for (row,) in connection.execute(query.format(values, sql.Literal(lines))).fetchall()]

    @staticmethod
    def lines_of(found: StoredObject) -> list[str]:
        """An object's rows as JSON text."""
        return _decoded(found)

    def account(self) -> None:
        """Assert that the table and the receipted objects together are exactly the expected rows."""
        receipted = self.receipted()
        archived = Counter(row for found in receipted for row in self.rows_of(found))
        found = Counter(self.table_rows()) + archived
        lost, surplus = self.expected - found, found - self.expected
        assert not lost, f"{lost.total()} rows are in neither table nor archive, such as {_some(lost)}"
        assert not surplus, f"{surplus.total()} rows are once too often, such as {_some(surplus)}"
        for stored in receipted:
            _require_proof(stored)
        self._require_old_enough(receipted)

    def account_all_archived(self) -> None:
        """As `account`, and nothing eligible is left in the table."""
        self.account()
        assert self.old_rows_in_table() == 0

    def old_rows_in_table(self) -> int:
        """Rows in the table whose day ended before the retention began."""
        query = sql.SQL(
            "SELECT count(*) FROM {} WHERE {} < date_trunc('day', now() - make_interval(days => {}))"
        ).format(self._name, sql.Identifier(self._timestamp_column), sql.Literal(self._retention_days))
        with self._connect() as connection:
            [(count,)] = connection.execute(query).fetchall()
        return count

    @property
    def _name(self) -> sql.Identifier:
        return sql.Identifier(self._schema, self._table)

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return self._database.connect(options=EXACT_TEXT)

    def _rows(self, connection: psycopg.Connection[tuple[Any, ...]]) -> list[str]:
        columns = sql.SQL(", ").join(sql.Identifier(name) for name, _ in self._columns(connection))
        query = sql.SQL("SELECT ROW({})::text FROM {}").format(columns, self._name)
        return [row for (row,) in connection.execute(query).fetchall()]

    def _columns(self, connection: psycopg.Connection[tuple[Any, ...]] | None = None) -> list[tuple[str, str]]:
        query = sql.SQL(
            "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = {}::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        ).format(sql.Literal(self._name.as_string()))
        if connection is not None:
            return connection.execute(query).fetchall()
        with self._connect() as own:
            return own.execute(query).fetchall()

    def _stored(self, data_key: str, keys: set[str]) -> StoredObject:
        stem = next(data_key.removesuffix(end) for end in DATA_SUFFIXES if data_key.endswith(end))

        def document(kind: str) -> dict[str, Any] | None:
            key = f"{stem}.{kind}.json"
            return json.loads(self._bucket.read(key)) if key in keys else None

        return StoredObject(
            stem,
            data_key,
            self._bucket.read(data_key),
            document("manifest"),
            document("receipt"),
            document("superseded"),
        )

    def _require_old_enough(self, receipted: list[StoredObject]) -> None:
        """Nothing younger than the retention is in a receipted object."""
        with self._connect() as connection:
            for found in receipted:
                [(young,)] = connection.execute(
                    "SELECT count(*) FROM unnest(%s::text[]) AS u(line)"
                    " WHERE (line::json ->> %s)::timestamptz >= now() - make_interval(days => %s)",
                    [_decoded(found), self._timestamp_column, self._retention_days],
                ).fetchall()
                assert young == 0, f"{found.data_key} holds {young} rows that are too young"


def _value(name: str, type_name: str) -> sql.Composed:
    """The documented rule. A cast from text looks a regclass up by name, and `-` is the name of none: only its input
    function reads that as 0."""
    text = sql.SQL("(line::json ->> {})").format(sql.Literal(name))
    if type_name == "regclass":
        return sql.SQL("pg_catalog.regclassin(pg_catalog.textout({}))").format(text)
    return sql.SQL("{}::{}").format(text, sql.SQL(type_name))


def _prefix(prefix: str, database_id: str, schema: str, table: str) -> str:
    parts = [prefix, database_id, *([] if schema == "public" else [schema]), table]
    return "/".join(_key_part(part) for part in parts) + "/"


def _key_part(name: str) -> str:
    """As the format has it; a name of dots alone would mean another folder."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


def _require_proof(found: StoredObject) -> None:
    """Receipt and manifest tell the truth about the object beside them."""
    assert found.receipt is not None
    assert found.manifest is not None, f"{found.stem} has a receipt and no manifest"
    for document in (found.receipt, found.manifest):
        assert document["object_sha256"] == hashlib.sha256(found.data).hexdigest()
        assert document["rows"] == len(_decoded(found))
        assert document["data_key"] == found.data_key
    assert found.superseded is None, f"{found.stem} is both receipted and superseded"


def _decoded(found: StoredObject) -> list[str]:
    """An object's rows as JSON objects, whatever its format."""
    if found.data_key.endswith(".jsonl.gz"):
        text = gzip.decompress(found.data).decode()
        return text.removesuffix("\n").split("\n")
    table = pq.read_table(io.BytesIO(found.data))
    return [json.dumps({name: _as_text(value) for name, value in row.items()}) for row in table.to_pylist()]


def _as_text(value: Any) -> Any:
    """A typed value of a Parquet column as text that PostgreSQL reads back the same."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dt.date):
        return value.isoformat()
    return repr(value) if isinstance(value, float) else str(value)


def _some(rows: Counter[str]) -> str:
    return "; ".join(list(rows)[:3])
