"""Fetches single rows again, rendered exactly as they were extracted."""

from collections.abc import Sequence

import pyarrow as pa
from psycopg import sql

from archiver_pipeline.codec.versions import XMIN
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.postgres.connection import Connection
from archiver_pipeline.postgres.eligible import ALIAS, table_reference, typed_literal
from archiver_pipeline.postgres.rendering import rendered_columns, row_alias


def fetch_live_rows(connection: Connection, shape: TableShape, versions: pa.Table) -> list[str | None]:
    """The live JSON text of each row version, in the order given; None where that version is no longer in the table.

    Meant for a small sample: one literal row per version.
    """
    alias = row_alias(shape.columns)
    query = sql.SQL(
        "SELECT wanted.position, pg_catalog.row_to_json({alias})::pg_catalog.text"
        " FROM (VALUES {values}) AS wanted({names}) JOIN {table} AS {table_alias} ON {match}"
        " CROSS JOIN LATERAL (SELECT {columns}) AS {alias}"
    ).format(
        alias=alias,
        values=sql.SQL(", ").join(_wanted(shape, versions)),
        names=sql.SQL(", ").join(map(sql.Identifier, ["position", "row_xmin", *_key_names(shape)])),
        table=table_reference(shape.name),
        table_alias=ALIAS,
        match=_match(shape),
        columns=rendered_columns(shape.columns, ALIAS),
    )
    found: dict[int, str] = dict(connection.execute(query).fetchall())
    return [found.get(position) for position in range(versions.num_rows)]


def _wanted(shape: TableShape, versions: pa.Table) -> Sequence[sql.Composed]:
    rows = versions.select([XMIN, *(part.name for part in shape.key)]).to_pylist()
    return [
        sql.SQL("({})").format(
            sql.SQL(", ").join(
                [
                    sql.Literal(position),
                    typed_literal(str(row[XMIN]), "pg_catalog.xid"),
                    *(typed_literal(str(row[part.name]), part.type) for part in shape.key),
                ]
            )
        )
        for position, row in enumerate(rows)
    ]


def _match(shape: TableShape) -> sql.Composed:
    parts = [sql.SQL("{}.xmin = wanted.row_xmin").format(ALIAS)]
    for part, name in zip(shape.key, _key_names(shape), strict=True):
        parts.append(sql.SQL("{}.{} = wanted.{}").format(ALIAS, sql.Identifier(part.name), sql.Identifier(name)))
    return sql.SQL(" AND ").join(parts)


def _key_names(shape: TableShape) -> list[str]:
    return [f"key_{position}" for position in range(len(shape.key))]
