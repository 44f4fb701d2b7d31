"""Who holds table locks in a database, and since when, by one look."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from archiver_pipeline.domain.table import TableName
from archiver_pipeline.postgres.advisory_lock import table_key
from archiver_pipeline.postgres.connection import Connection


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The session that holds a table's advisory lock. `since` is when it connected, aware: not later than the lock."""

    description: str
    since: datetime


def find_lock_holders(connection: Connection, names: Iterable[TableName]) -> dict[TableName, LockHolder]:
    """Holders of the advisory locks of these tables of the connected database; free ones are left out."""
    rows = connection.execute(
        "SELECT l.classid::int8, l.objid::int8, a.application_name, a.usename::text, a.client_addr::text, a.pid,"
        " a.backend_start FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid"
        " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND a.backend_start IS NOT NULL"
        " AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
    ).fetchall()
    held = {(row[0], row[1]): row[2:] for row in rows}
    keys = {name: table_key(name) for name in names}
    return {name: _holder(*held[key.high, key.low]) for name, key in keys.items() if (key.high, key.low) in held}


def _holder(application: str, user: str, address: str | None, pid: int, since: datetime) -> LockHolder:
    place = f"user {user}, from {address or 'local'}, backend {pid}"
    return LockHolder(f"{application or 'a session'} ({place})", since.astimezone(UTC))
