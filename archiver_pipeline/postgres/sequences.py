"""Moves a restored table's sequences past its rows, so that the application's next insert does not collide."""

from psycopg import sql

from archiver_pipeline.errors import PermissionDeniedError
from archiver_pipeline.postgres.catalog import quoted
from archiver_pipeline.postgres.connection import Connection, fetch_one
from archiver_pipeline.postgres.eligible import table_reference
from archiver_pipeline.postgres.target import TargetShape


def advance_sequences(connection: Connection, shape: TargetShape) -> list[str]:
    """Set every ascending sequence that a column owns to the column's greatest value where it is behind it.

    Never moves one back. Returns the columns whose sequence was moved. Raises PermissionDeniedError.
    """
    return [column for column in shape.owned_sequences if _advance(connection, shape, column)]


def _advance(connection: Connection, shape: TargetShape, column: str) -> bool:
    table = table_reference(shape.name)
    (sequence,) = fetch_one(
        connection,
        sql.SQL("SELECT pg_catalog.pg_get_serial_sequence(%s, %s)"),
        (table.as_string(), column),
    )
    if sequence is None:
        return False
    _require_privileges(connection, sequence)
    # The name comes from the server, qualified and quoted.
    (moved,) = fetch_one(
        connection,
        sql.SQL(
            "SELECT pg_catalog.count(pg_catalog.setval(s.seqrelid, least(m.greatest, s.seqmax)))"
            " FROM {sequence} AS q"
            " CROSS JOIN (SELECT pg_catalog.max({column})::pg_catalog.int8 AS greatest FROM {table}) AS m"
            " JOIN pg_catalog.pg_sequence AS s ON s.seqrelid = {literal}::pg_catalog.regclass"
            " WHERE s.seqincrement > 0"
            " AND (q.last_value < m.greatest OR (q.last_value = m.greatest AND NOT q.is_called))"
        ).format(sequence=sql.SQL(sequence), column=sql.Identifier(column), table=table, literal=sql.Literal(sequence)),
    )
    return bool(moved)


def _require_privileges(connection: Connection, sequence: str) -> None:
    """Raises PermissionDeniedError with the grant that lacks; the sequence's name is qualified and quoted."""
    user, may_read, may_set = fetch_one(
        connection,
        sql.SQL(
            "SELECT current_user, pg_catalog.has_sequence_privilege(%(name)s, 'SELECT'),"
            " pg_catalog.has_sequence_privilege(%(name)s, 'UPDATE')"
        ),
        {"name": sequence},
    )
    if not (may_read and may_set):
        raise PermissionDeniedError(
            f"user {user} may not read and set the sequence {sequence}",
            hint=f"GRANT SELECT, UPDATE ON SEQUENCE {sequence} TO {quoted(user)}",
        )
