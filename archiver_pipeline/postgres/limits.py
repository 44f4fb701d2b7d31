"""How many connections a server takes."""

from psycopg import sql

from archiver_pipeline.postgres.connection import Connection, fetch_one


def free_connections(connection: Connection) -> int:
    """Connections that ordinary users may have in all: `max_connections` less those kept for superusers."""
    most, reserved = fetch_one(
        connection,
        sql.SQL(
            "SELECT pg_catalog.current_setting('max_connections')::int,"
            " pg_catalog.current_setting('superuser_reserved_connections')::int"
        ),
    )
    return int(most) - int(reserved)
