"""Puts an object's rows straight into the table by COPY, where the outcome is the same as by way of a stage.

That is where no row is left out, changed or in conflict: then every strategy for conflicts does the same, an insert.
"""

from collections.abc import Iterable

from psycopg import errors, sql

from archiver_pipeline.codec.copy_text import NotPlainRowsError
from archiver_pipeline.domain.layout import DataFormat
from archiver_pipeline.domain.manifest import Manifest
from archiver_pipeline.postgres.connection import Connection, fetch_one
from archiver_pipeline.postgres.copy_in import MergedRows, RestoreRefusedError, RowFilter
from archiver_pipeline.postgres.eligible import table_reference, typed_literal
from archiver_pipeline.postgres.landing import Landing

_LOOKED_UP_KEYS = 32


class NotCopiedError(Exception):
    """The rows must go by way of a stage; nothing of the attempt is left in the transaction."""


def can_copy_directly(landing: Landing, rows: RowFilter) -> bool:
    """Whether every row is written as it is: no column is left out, cast or generated, and no trigger changes rows."""
    plain = all(c.target_type is not None and not c.is_retyped and not c.is_generated for c in landing.columns)
    return plain and rows.takes_all and not landing.shape.changes_rows


def seem_new(connection: Connection, landing: Landing, manifest: Manifest) -> bool:
    """Whether none of some rows of the object is in the table: a look that costs little and proves nothing.

    Not within a transaction: a type whose equality is not PostgreSQL's own makes the look fail, and its rows not new.
    """
    by_name = dict(zip(manifest.primary_key, manifest.keys, strict=True))
    rows = sorted({place * (manifest.rows - 1) // (_LOOKED_UP_KEYS - 1) for place in range(_LOOKED_UP_KEYS)})
    types = landing.shape.types
    wanted = [[typed_literal(str(by_name[name][row]), types[name]) for name in landing.arbiter] for row in rows]
    query = sql.SQL("SELECT EXISTS (SELECT FROM (VALUES {}) AS wanted({}) JOIN {} AS target ON {})").format(
        sql.SQL(", ").join(sql.SQL("({})").format(sql.SQL(", ").join(values)) for values in wanted),
        sql.SQL(", ").join(map(sql.Identifier, landing.arbiter)),
        table_reference(landing.shape.name),
        sql.SQL(" AND ").join(
            sql.SQL("target.{0} OPERATOR(pg_catalog.=) wanted.{0}").format(sql.Identifier(name))
            for name in landing.arbiter
        ),
    )
    try:
        (found,) = fetch_one(connection, query)
    except (errors.UndefinedFunction, errors.AmbiguousFunction):
        return False
    return not found


def copy_rows(connection: Connection, landing: Landing, pieces: Iterable[memoryview], rows: int) -> MergedRows:
    """COPY all rows of an object into the table, within the caller's transaction.

    `pieces` are COPY text for JSON lines, CSV for Parquet. Raises NotCopiedError when a row is there already or the
    lines are not plain, RestoreRefusedError when not exactly `rows` came in, and psycopg.Error when another constraint
    or a trigger says no.
    """
    try:
        with connection.transaction(), connection.cursor() as cursor:
            with cursor.copy(_copy_statement(landing)) as stream:
                for piece in pieces:
                    stream.write(piece)
            copied = cursor.rowcount
    except (errors.UniqueViolation, NotPlainRowsError) as reason:
        raise NotCopiedError from reason
    if copied != rows:
        raise RestoreRefusedError(f"{copied} rows came into the table instead of {rows}", hint="is there a trigger?")
    return MergedRows(restored_rows=copied, replaced_rows=0, skipped_rows=0, filtered_rows=0)


def _copy_statement(landing: Landing) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {})").format(
        table_reference(landing.shape.name),
        sql.SQL(", ").join(sql.Identifier(column.name) for column in landing.columns),
        sql.SQL("csv" if landing.format is DataFormat.parquet else "text"),
    )
