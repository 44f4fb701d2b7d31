"""The table lock: a session-level advisory lock on a connection of its own.

The key is the first half of SHA-256 over the table's name, so it is the same in every process and version. Advisory
locks are per database. A second key guards the moment of decision: delete transactions take it shared, and whoever
settles a batch of unknown fate takes it exclusively, so that no delete is in flight while the fate is read.
"""

import hashlib
from dataclasses import dataclass

from psycopg import Error, sql

from archiver_pipeline.config.effective import SourceSettings
from archiver_pipeline.domain.lock import TableLock
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.errors import LockHeldError, LockLostError
from archiver_pipeline.postgres.connection import Connection, connect, fetch_one, source_errors

NOTICE_DEAD_CLIENTS = {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}
"""Settings of sessions that hold locks: the server's own default is to believe for two hours in a client whose machine
is gone."""


@dataclass(frozen=True, slots=True)
class LockKey:
    """The two 32-bit halves that `pg_locks` shows."""

    high: int
    low: int

    @property
    def value(self) -> int:
        """The signed 64-bit number that the advisory lock functions take."""
        unsigned = (self.high << 32) | self.low
        return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned


def table_key(name: TableName) -> LockKey:
    return _key("table", name)


def settle_key(name: TableName) -> LockKey:
    return _key("settle", name)


def _key(purpose: str, name: TableName) -> LockKey:
    text = "\x00".join(["archiver_pipeline", purpose, name.schema, name.table])
    digest = hashlib.sha256(text.encode()).digest()
    return LockKey(int.from_bytes(digest[:4]), int.from_bytes(digest[4:8]))


class AdvisoryTableLock:
    """A held table lock. `token` names this lock session; another process, or this one after a loss, gets another.

    `outer` is a lock of another kind that was taken before this one and counts as part of it: whoever lacks either has
    no lock.
    """

    def __init__(
        self, source: SourceSettings, name: TableName, connection: Connection, outer: TableLock | None = None
    ) -> None:
        self._source = source
        self._name = name
        self._connection = connection
        self._outer = outer
        self.key = table_key(name)
        self.backend_pid = connection.info.backend_pid
        self.token = " ".join([self._session_token(), *([outer.token] if outer else [])])

    def require_held(self) -> None:
        """Raises LockLostError when the session that holds the lock is gone or no longer holds it, or the outer lock
        is lost; NetworkError when that can't be found out."""
        self.require_outer_held()
        try:
            held = is_held(self._connection, self.key, self.backend_pid)
        except Error as error:
            raise LockLostError(f"{self._name}: the connection that held the table lock is gone") from error
        if not held:
            raise LockLostError(f"{self._name}: the table lock is no longer held")

    def require_outer_held(self) -> None:
        """Raises LockLostError or NetworkError when there is an outer lock and it is not surely held."""
        if self._outer is not None:
            self._outer.require_held()

    def release(self) -> None:
        """Close the session, which frees the lock, and give the outer one back. Safe to repeat."""
        self._connection.close()
        if self._outer is not None:
            self._outer.release()

    def _session_token(self) -> str:
        (started,) = fetch_one(
            self._connection,
            sql.SQL(
                "SELECT backend_start::pg_catalog.text FROM pg_catalog.pg_stat_activity"
                " WHERE pid = pg_catalog.pg_backend_pid()"
            ),
        )
        return f"{self.backend_pid}@{started}"


def acquire_table_lock(source: SourceSettings, name: TableName, *, outer: TableLock | None = None) -> AdvisoryTableLock:
    """Take the table lock without waiting. `outer`, held already, becomes part of it; after an error it is not.

    Raises LockHeldError that names the holder and since when it is connected.
    """
    connection = connect(source, **NOTICE_DEAD_CLIENTS)
    key = table_key(name)
    with source_errors(source):
        (taken,) = fetch_one(connection, sql.SQL("SELECT pg_catalog.pg_try_advisory_lock(%s)"), (key.value,))
        if taken:
            return AdvisoryTableLock(source, name, connection, outer)
        holder = _holder(connection, key)
        connection.close()
    raise LockHeldError(f"{name} is being worked on by {holder}", hint="wait for that run, or stop it, then run again")


def is_held(connection: Connection, key: LockKey, backend_pid: int) -> bool:
    """Whether the backend holds the lock, as the server sees it. Works on any connection to the same database."""
    (held,) = fetch_one(
        connection,
        sql.SQL(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted"
            " AND classid = %s::pg_catalog.oid AND objid = %s::pg_catalog.oid AND objsubid = 1 AND pid = %s"
            " AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))"
        ),
        (key.high, key.low, backend_pid),
    )
    return bool(held)


def is_locked(connection: Connection, name: TableName) -> bool:
    """Whether any session holds the table's lock."""
    key = table_key(name)
    (held,) = fetch_one(
        connection,
        sql.SQL(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted"
            " AND classid = %s::pg_catalog.oid AND objid = %s::pg_catalog.oid AND objsubid = 1"
            " AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))"
        ),
        (key.high, key.low),
    )
    return bool(held)


def _holder(connection: Connection, key: LockKey) -> str:
    row = connection.execute(
        "SELECT a.application_name, a.usename::text, a.client_addr::text, a.pid, a.backend_start::text"
        " FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid"
        " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
        " AND l.classid = %s::pg_catalog.oid AND l.objid = %s::pg_catalog.oid AND l.database ="
        " (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())",
        (key.high, key.low),
    ).fetchone()
    if row is None:
        return "a session that has just ended"
    application, user, address, pid, since = row
    place = f"user {user}, from {address or 'local'}, backend {pid}, since {since or 'unknown'}"
    return f"{application or 'a session'} ({place})"
