"""Fetches single rows again, rendered exactly as they were extracted."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from psycopg import sql

from archiver_pipeline.codec.long_lines import LONG_LINE_BYTES
from archiver_pipeline.codec.versions import XMIN
from archiver_pipeline.domain.table import KeyColumn, TableShape
from archiver_pipeline.postgres.connection import Connection
from archiver_pipeline.postgres.eligible import ALIAS, table_reference, typed_literal
from archiver_pipeline.postgres.rendering import rendered_columns, row_alias


@dataclass(frozen=True, slots=True)
class LiveRow:
    """A row as it is in the table: its JSON text, or of a long one only the SHA-256 of that, by the server."""

    text: bytes | None
    sha256: str | None


def fetch_live_rows(connection: Connection, shape: TableShape, versions: pa.Table) -> list[LiveRow | None]:
    """Each row version as it is live, in the order given; None where that version is no longer in the table.

    Meant for a small sample: one literal row per version.
    """
    alias = row_alias(shape.columns)
    query = sql.SQL(
        "SELECT wanted.position,"
        " CASE WHEN pg_catalog.octet_length(rendered.line) <= {longest} THEN rendered.line END,"
        " CASE WHEN pg_catalog.octet_length(rendered.line) > {longest} THEN"
        " pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(rendered.line, 'UTF8')), 'hex') END"
        " FROM (VALUES {values}) AS wanted({names}) JOIN {table} AS {table_alias} ON {match}"
        " CROSS JOIN LATERAL (SELECT pg_catalog.row_to_json({alias})::pg_catalog.text AS line"
        " FROM (SELECT {columns}) AS {alias} OFFSET 0) AS rendered"
    ).format(
        alias=alias,
        longest=sql.Literal(LONG_LINE_BYTES),
        values=sql.SQL(", ").join(version_literals(shape.key, versions)),
        names=sql.SQL(", ").join(map(sql.Identifier, version_names(shape.key))),
        table=table_reference(shape.name),
        table_alias=ALIAS,
        match=match_versions(shape.key),
        columns=rendered_columns(shape.columns, ALIAS),
    )
    found = {
        position: LiveRow(None if text is None else text.encode(), sha256)
        for position, text, sha256 in connection.execute(query).fetchall()
    }
    return [found.get(position) for position in range(versions.num_rows)]


def version_names(key: Sequence[KeyColumn]) -> list[str]:
    """The column names of `version_literals`."""
    return ["position", "row_xmin", *_key_names(key)]


def version_literals(key: Sequence[KeyColumn], versions: pa.Table) -> Sequence[sql.Composed]:
    """Row versions as rows of a VALUES list: position, xmin, key. The key's types must come from the catalog."""
    rows = versions.select([XMIN, *(part.name for part in key)]).to_pylist()
    return [
        sql.SQL("({})").format(
            sql.SQL(", ").join(
                [
                    sql.Literal(position),
                    typed_literal(str(row[XMIN]), "pg_catalog.xid"),
                    *(typed_literal(str(row[part.name]), part.type) for part in key),
                ]
            )
        )
        for position, row in enumerate(rows)
    ]


def match_versions(key: Sequence[KeyColumn]) -> sql.Composed:
    """The condition that a row of the table is the very version `wanted`."""
    parts = [sql.SQL("{}.xmin = wanted.row_xmin").format(ALIAS)]
    for part, name in zip(key, _key_names(key), strict=True):
        parts.append(sql.SQL("{}.{} = wanted.{}").format(ALIAS, sql.Identifier(part.name), sql.Identifier(name)))
    return sql.SQL(" AND ").join(parts)


def _key_names(key: Sequence[KeyColumn]) -> list[str]:
    return [f"key_{position}" for position in range(len(key))]
