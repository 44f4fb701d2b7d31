"""How hard a database works: one reading of each configured signal. Nothing is held between readings: every one is a
short statement of its own on a read-only connection with a statement timeout."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import psycopg
from psycopg import sql

from archiver_pipeline.config.effective import SourceSettings
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.domain.throttle import Reading, Signal, ThrottleSettings
from archiver_pipeline.errors import ArchiverError, PermissionDeniedError, SourceError
from archiver_pipeline.postgres.connection import Connection, connect, fetch_one, source_errors
from archiver_pipeline.postgres.eligible import source_clock, table_reference

_FIRST_RATE_SECONDS = 0.5
_REMEMBERED_POSITIONS = 4096
_MONITOR_HINT = "GRANT pg_monitor TO the user that archives"
_POSITION = sql.SQL(
    "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0')::pg_catalog.float8,"
    " extract(epoch FROM pg_catalog.clock_timestamp())::pg_catalog.float8"
)
_STANDBYS = sql.SQL(
    "SELECT state, pg_catalog.pg_wal_lsn_diff(replay_lsn, '0/0')::pg_catalog.float8,"
    " extract(epoch FROM replay_lag)::pg_catalog.float8, coalesce(application_name, '')"
    " FROM pg_catalog.pg_stat_replication"
)
# A standby that is gone is in no list, but what its slot keeps for it is.
_LEFT_SLOTS = sql.SQL(
    "SELECT pg_catalog.pg_wal_lsn_diff(restart_lsn, '0/0')::pg_catalog.float8"
    " FROM pg_catalog.pg_replication_slots WHERE NOT active AND restart_lsn IS NOT NULL"
)
_REPLAYED = sql.SQL(
    "SELECT pg_catalog.pg_is_in_recovery(),"
    " pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_replay_lsn(), '0/0')::pg_catalog.float8"
)
_MAY_LIST_READY = sql.SQL(
    "SELECT coalesce(pg_catalog.has_function_privilege("
    "pg_catalog.to_regprocedure('pg_catalog.pg_ls_archive_statusdir()')::pg_catalog.oid, 'EXECUTE'), false)"
)
_READY = sql.SQL(
    "SELECT pg_catalog.count(*)::pg_catalog.float8 FROM pg_catalog.pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"
)
# Both names are of 24 hexadecimal digits: timeline, then the position in segments.
_ARCHIVER = sql.SQL(
    "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), last_archived_wal, last_failed_wal,"
    " pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))::pg_catalog.float8,"
    " pg_catalog.current_setting('archive_mode')"
    " FROM pg_catalog.pg_stat_archiver"
)
_DEAD_ROWS = sql.SQL(
    "WITH RECURSIVE leaves(oid) AS (SELECT {}::pg_catalog.regclass::pg_catalog.oid"
    " UNION ALL SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN leaves ON leaves.oid = i.inhparent)"
    " SELECT coalesce(pg_catalog.sum(s.n_dead_tup), 0)::pg_catalog.float8,"
    " coalesce(pg_catalog.sum(s.n_live_tup), 0)::pg_catalog.float8"
    " FROM leaves JOIN pg_catalog.pg_stat_all_tables s ON s.relid = leaves.oid"
)
# Locks can be seen by everybody, unlike what other users' sessions wait for.
_BLOCKED = sql.SQL(
    "WITH ours AS (SELECT pid FROM pg_catalog.pg_stat_activity"
    " WHERE application_name = pg_catalog.current_setting('application_name') AND usename = CURRENT_USER),"
    " waiting AS (SELECT DISTINCT pid FROM pg_catalog.pg_locks WHERE NOT granted)"
    " SELECT pg_catalog.count(*)::pg_catalog.float8 FROM waiting WHERE pid NOT IN (SELECT pid FROM ours)"
    " AND EXISTS (SELECT FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(pid)) AS blocker"
    " WHERE blocker IN (SELECT pid FROM ours))"
)
_LONGEST = sql.SQL(
    "SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'),"
    " coalesce(pg_catalog.max(extract(epoch FROM pg_catalog.clock_timestamp() - xact_start)), 0)::pg_catalog.float8"
    " FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database()"
    " AND pid <> pg_catalog.pg_backend_pid() AND backend_type = 'client backend' AND NOT (usename = CURRENT_USER"
    " AND application_name = pg_catalog.current_setting('application_name'))"
)


@dataclass(frozen=True, slots=True)
class _Position:
    """Where the primary's WAL ended, in bytes, at a moment of its clock, in seconds."""

    wal_bytes: float
    at_seconds: float


@dataclass(frozen=True, slots=True)
class _Standby:
    """How far somebody has replayed, in bytes of WAL, and the lag that the server tells."""

    replayed_bytes: float
    told_seconds: float = 0.0
    is_left_slot: bool = False


class PressureReader:
    """Reads one table's signals; keeps what rates and lags are measured against. For one thread at a time.

    The connection is opened at the first reading and again after it broke.
    """

    def __init__(
        self, primary: SourceSettings, replica: SourceSettings | None, shape: TableShape, settings: ThrottleSettings
    ) -> None:
        self._primary = primary
        self._replica = replica
        self._shape = shape
        self._settings = settings
        self._connections: dict[str, Connection] = {}
        self._positions: deque[_Position] = deque(maxlen=_REMEMBERED_POSITIONS)
        self._rate_from: _Position | None = None
        self._readers: dict[Signal, Callable[[], float]] = {
            Signal.replication_lag_seconds: self._lag_seconds,
            Signal.replication_lag_bytes: self._lag_bytes,
            Signal.wal_bytes_per_second: self._wal_rate,
            Signal.pending_wal_files: self._pending_wal,
            Signal.dead_row_percent: self._dead_percent,
            Signal.blocked_sessions: partial(self._number_of, _BLOCKED),
            Signal.query_ms: self._query_ms,
            Signal.longest_transaction_seconds: self._longest_transaction,
            Signal.probe: self._probe,
        }

    def read(self) -> tuple[Reading, ...]:
        """One reading of each configured signal. Never raises for one that can't be read: its reading says so."""
        return tuple(self._reading(signal, limit) for signal, limit in self._settings.limits)

    def clock(self) -> datetime:
        """The primary's time, UTC. Raises NetworkError and its like."""
        with self._primary_connection() as connection:
            return source_clock(connection).astimezone(UTC)

    def close(self) -> None:
        """Close the connections. Safe to repeat; a later reading opens them again."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _reading(self, signal: Signal, limit: float) -> Reading:
        try:
            value = self._readers[signal]()
        except ArchiverError as error:
            return Reading(signal, limit, problem=str(error))
        return Reading(signal, limit, value)

    def _primary_connection(self) -> AbstractContextManager[Connection]:
        return self._using("primary", self._primary)

    @contextmanager
    def _using(self, role: str, source: SourceSettings) -> Iterator[Connection]:
        """A connection that is dropped when its use failed."""
        known = self._connections.get(role)
        if known is None or known.closed:
            timeout = f"{math.ceil(self._settings.timeout_seconds * 1000)}ms"
            known = connect(source, default_transaction_read_only="on", statement_timeout=timeout, lock_timeout=timeout)
            self._connections[role] = known
        try:
            with source_errors(source):
                yield known
        except ArchiverError:
            with suppress(psycopg.Error):
                self._connections.pop(role).close()
            raise

    def _number_of(self, query: sql.SQL | sql.Composed) -> float:
        with self._primary_connection() as connection:
            return float(fetch_one(connection, query)[0])

    def _position(self) -> _Position:
        with self._primary_connection() as connection:
            return _Position(*fetch_one(connection, _POSITION))

    def _standbys(self) -> list[_Standby]:
        """Everybody that replays this primary's WAL, the read replica among them however it is fed."""
        with self._primary_connection() as connection:
            told = connection.execute(_STANDBYS).fetchall()
            left = connection.execute(_LEFT_SLOTS).fetchall()
        if any(state is None for state, *_ in told):
            raise PermissionDeniedError("how far standbys are may not be seen", hint=_MONITOR_HINT)
        found = [_Standby(replayed, lag or 0.0) for state, replayed, lag, _ in told if replayed is not None]
        return found + [_Standby(kept, is_left_slot=True) for (kept,) in left] + self._read_replica()

    def _read_replica(self) -> list[_Standby]:
        if self._replica is None:
            return []
        with self._using("replica", self._replica) as connection:
            in_recovery, replayed = fetch_one(connection, _REPLAYED)
        if not in_recovery or replayed is None:
            raise SourceError(f"{self._replica.host}:{self._replica.port} replays nothing: it is no standby")
        return [_Standby(replayed)]

    def _lag_bytes(self) -> float:
        end = self._position().wal_bytes
        return max((end - standby.replayed_bytes for standby in self._standbys()), default=0.0)

    def _lag_seconds(self) -> float:
        """By what was seen of the primary's end over time, because a standby that stands still tells no new lag."""
        now = self._position()
        self._positions.append(now)
        standbys = [standby for standby in self._standbys() if not standby.is_left_slot]
        behind = [standby for standby in standbys if standby.replayed_bytes < now.wal_bytes]
        lag = max((max(self._seen_lag(standby, now), standby.told_seconds) for standby in behind), default=0.0)
        least = min((standby.replayed_bytes for standby in standbys), default=now.wal_bytes)
        while self._positions and self._positions[0].wal_bytes <= least:
            self._positions.popleft()
        return lag

    def _seen_lag(self, standby: _Standby, now: _Position) -> float:
        """Since when the primary is known to have been further than the standby is now."""
        missing = (position for position in self._positions if position.wal_bytes > standby.replayed_bytes)
        return now.at_seconds - next(missing, now).at_seconds

    def _wal_rate(self) -> float:
        """Since the last reading; before the first, over a moment."""
        if self._rate_from is None:
            self._rate_from = self._position()
            time.sleep(_FIRST_RATE_SECONDS)
        now, before = self._position(), self._rate_from
        self._rate_from = now
        return (now.wal_bytes - before.wal_bytes) / max(now.at_seconds - before.at_seconds, 1e-3)

    def _pending_wal(self) -> float:
        """Counted where the list of files may be read, else by how far the last archived file is behind."""
        with self._primary_connection() as connection:
            if fetch_one(connection, _MAY_LIST_READY)[0]:
                return float(fetch_one(connection, _READY)[0])
            current, archived, failed, segment_bytes, mode = fetch_one(connection, _ARCHIVER)
        if mode == "off":
            return 0.0
        last = _segment(archived, segment_bytes)
        if last is None:
            first_failed = _segment(failed, segment_bytes)
            last = None if first_failed is None else first_failed - 1
        now = _segment(current, segment_bytes)
        return max(0.0, now - last - 1) if now is not None and last is not None else 0.0

    def _dead_percent(self) -> float:
        reference = table_reference(self._shape.name).as_string()
        with self._primary_connection() as connection:
            dead, live = fetch_one(connection, _DEAD_ROWS.format(sql.Literal(reference)))
        return float(100 * dead / (dead + live)) if dead else 0.0

    def _query_ms(self) -> float:
        """How long it takes to find the table's last key, the way there and back included."""
        columns = [sql.SQL("{} DESC").format(sql.Identifier(part.name)) for part in self._shape.key]
        query = sql.SQL("SELECT 1 FROM {} ORDER BY {} LIMIT 1").format(
            table_reference(self._shape.name), sql.SQL(", ").join(columns)
        )
        with self._primary_connection() as connection:
            began = time.perf_counter()
            connection.execute(query).fetchone()
            return (time.perf_counter() - began) * 1000

    def _longest_transaction(self) -> float:
        with self._primary_connection() as connection:
            is_permitted, seconds = fetch_one(connection, _LONGEST)
        if not is_permitted:
            raise PermissionDeniedError("since when other users' transactions run may not be seen", hint=_MONITOR_HINT)
        return float(seconds)

    def _probe(self) -> float:
        """The user's own query, in a read-only transaction that is rolled back."""
        # As a subquery it can be no other command; prepared, the server takes one statement only. The line break ends
        # a comment.
        query = f"SELECT * FROM ({self._settings.probe}\n) AS probe LIMIT 2"  # noqa: S608 - the file's owner wrote it
        with self._primary_connection() as connection:
            connection.execute("BEGIN READ ONLY")
            rows = connection.execute(query.encode(), prepare=True).fetchall()
            connection.execute("ROLLBACK")
        return _number_of_probe(rows)


def _number_of_probe(rows: list[tuple[Any, ...]]) -> float:
    """True counts as over any limit."""
    if len(rows) != 1 or len(rows[0]) != 1:
        raise SourceError("the probe must give one row with one value")
    (value,) = rows[0]
    if isinstance(value, bool):
        return math.inf if value else 0.0
    if isinstance(value, int | float | Decimal) and not math.isnan(value):
        return float(value)
    raise SourceError("the probe must give a boolean or a number")


def _segment(name: str | None, segment_bytes: float) -> float | None:
    """The number of a WAL file, counted from the beginning; None for a name of another kind."""
    digits = (name or "")[:24]
    try:
        high, low = int(digits[8:16], 16), int(digits[16:24], 16)
    except ValueError:
        return None
    return high * (2**32 // segment_bytes) + low if len(digits) == 24 else None
