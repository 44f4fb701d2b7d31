"""Deletes exactly the row versions that were proved, in one transaction, or nothing.

A row version is named by (tableoid, xmin, key). ctid is only the fast way to it and proves nothing alone: rows loaded
by one transaction share xmin, and VACUUM FULL or CLUSTER moves another of them under the same ctid.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import pyarrow as pa
import pyarrow.csv as pa_csv
from psycopg import sql
from psycopg.errors import LockNotAvailable

from archiver_pipeline.config.effective import SourceSettings
from archiver_pipeline.domain.holds import Holds
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.errors import LockLostError, PermissionDeniedError, PreflightError, SourceError
from archiver_pipeline.postgres.advisory_lock import NOTICE_DEAD_CLIENTS, AdvisoryTableLock, is_held, settle_key
from archiver_pipeline.postgres.catalog import table_fingerprint
from archiver_pipeline.postgres.connection import (
    READ_LOCK_TIMEOUT_MS,
    Connection,
    RowsLockedError,
    connect,
    fetch_one,
    source_errors,
)
from archiver_pipeline.postgres.eligible import (
    ALIAS,
    held_condition,
    source_clock,
    table_reference,
    timestamp_literal,
    typed_literal,
)
from archiver_pipeline.postgres.holds import HoldGuard, read_while_locked

VERSIONS = sql.SQL("pg_temp.archiver_versions")
KEYS = sql.SQL("pg_temp.archiver_keys")
_SETTLE_WAIT_MS = 60_000
_CANCEL_SECONDS = 5


class VersionsChangedError(SourceError):
    """Fewer rows matched than were proved: some row was changed, deleted or moved since. Nothing was deleted."""

    def __init__(self, message: str, *, matched_rows: int) -> None:
        super().__init__(message)
        self.matched_rows = matched_rows


class TooYoungError(PreflightError):
    """A row of the batch is within retention by the source's clock. Nothing was deleted."""


class RowsHeldError(SourceError):
    """A legal hold covers a row of the batch, or may. Nothing was deleted."""


@dataclass(frozen=True, slots=True)
class DeleteGuard:
    """What must still be true inside the delete transaction. `last_row_time` is PostgreSQL text; `holds` is None only
    where no source of legal holds is configured."""

    lock: AdvisoryTableLock
    retention_days: int
    last_row_time: str
    lock_timeout_ms: int
    holds: HoldGuard | None


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """Why a batch could not be deleted: rows no longer there as proved, and rows an application has locked.

    Fewer `locked_keys` than `locked_rows` when the locked rows cannot be told from the others. `is_held` when a legal
    hold was the reason; which rows it covers is for the next pass to find.
    """

    changed_rows: int
    locked_rows: int
    locked_keys: tuple[tuple[str, ...], ...]
    is_held: bool = False


class DeleteSession:
    """A connection with its temporary tables for one table's row versions. One transaction at a time."""

    def __init__(self, source: SourceSettings, shape: TableShape, **settings: str) -> None:
        self._source = source
        self._shape = shape
        plans = {"enable_nestloop": "off", "enable_mergejoin": "off"}
        self._connection = connect(source, **(plans | NOTICE_DEAD_CLIENTS | settings))
        with source_errors(source):
            _create_temporary_tables(self._connection, shape)

    def close(self) -> None:
        self._connection.close()

    def cancel(self) -> None:
        """Stop the running statement; safe from another thread."""
        with source_errors(self._source):
            self._connection.cancel_safe(timeout=_CANCEL_SECONDS)

    def delete_versions(self, versions: pa.Table, guard: DeleteGuard) -> None:
        """Delete exactly these row versions and commit.

        Raises VersionsChangedError, RowsLockedError, RowsHeldError or DeleteRefusedError after a rollback: nothing was
        deleted. So it is after any error of reading legal holds.
        Raises NetworkError when the connection broke: the outcome is unknown until it is settled.
        """
        with self._delete_transaction(guard):
            self._load_versions(versions)
            self._delete_loaded(versions.num_rows, guard)

    def delete_keys(self, keys: pa.Table, guard: DeleteGuard) -> None:
        """As `delete_versions`, for row versions known by xmin and key only, as a manifest has them."""
        with self._delete_transaction(guard):
            self._load_keys(keys)
            located = self._locate_loaded_keys()
            if located != keys.num_rows:
                raise VersionsChangedError(f"{located} of {keys.num_rows} rows are as proved", matched_rows=located)
            self._delete_loaded(keys.num_rows, guard)

    def settle(self, keys: pa.Table, decide: Callable[[int], None], lock: AdvisoryTableLock) -> None:
        """Call `decide` with the number of these row versions that are in the table, while no delete is in flight.

        A delete whose client died may still be committing; the exclusive settle lock waits for its end.
        """
        with self.in_peace(lock):
            self._load_keys(keys)
            decide(self._locate_loaded_keys())

    @contextmanager
    def in_peace(self, lock: AdvisoryTableLock) -> Iterator[None]:
        """A transaction during which no delete of this table's batches is in flight, without a look at the table."""
        with source_errors(self._source), self._connection.transaction():
            self._set_lock_timeout(_SETTLE_WAIT_MS)
            self._connection.execute(
                "SELECT pg_catalog.pg_advisory_xact_lock(%s)", (settle_key(self._shape.name).value,)
            )
            self._require_lock(lock)
            self._set_lock_timeout(READ_LOCK_TIMEOUT_MS)
            yield

    @contextmanager
    def at_work(self, lock: AdvisoryTableLock) -> Iterator[None]:
        """A transaction during which nobody else settles a batch of this table. Raises LockLostError at its beginning
        when somebody else may have done so already."""
        with source_errors(self._source), self._connection.transaction():
            self._join_deletes()
            self._require_lock(lock)
            yield

    def require_lock(self, lock: AdvisoryTableLock) -> None:
        """Inside `in_peace` and `at_work`: raises LockLostError when the table lock is lost, NetworkError when this
        transaction is. Safe from another thread while the one that began it waits."""
        with source_errors(self._source):
            self._require_lock(lock)

    def count_loaded_keys(self) -> int:
        """Inside `settle`: how many of the loaded keys are in the table, in whatever row version."""
        (rows,) = fetch_one(self._connection, _known_keys_query(self._shape))
        return int(rows)

    def count_present(self, versions: pa.Table, lock_timeout_ms: int) -> int:
        """How many of these row versions are in the table. Raises RowsLockedError when the table is locked."""
        with source_errors(self._source), self._connection.transaction(force_rollback=True):
            self._set_lock_timeout(lock_timeout_ms)
            self._load_versions(versions)
            return self._count_present()

    def explain_refusal(self, versions: pa.Table, lock_timeout_ms: int) -> LeftBehind:
        """Tell changed rows from locked ones after a refused delete. Locks rows for a moment, deletes none.

        When the whole table is locked, or the user may not lock rows, all rows that may be there count as locked.
        """
        present = versions.num_rows
        try:
            with source_errors(self._source), self._connection.transaction(force_rollback=True):
                self._set_lock_timeout(lock_timeout_ms)
                self._load_versions(versions)
                present = self._count_present()
                lockable = self._lockable_keys()
                locked = self._locked_keys() if lockable < present else ()
        except (RowsLockedError, PermissionDeniedError):
            return LeftBehind(versions.num_rows - present, present, ())
        return LeftBehind(versions.num_rows - present, present - lockable, locked)

    @contextmanager
    def _delete_transaction(self, guard: DeleteGuard) -> Iterator[None]:
        with ExitStack() as until_committed, source_errors(self._source), self._connection.transaction():
            self._join_deletes()
            self._set_lock_timeout(guard.lock_timeout_ms)
            self._require_lock(guard.lock)
            yield
            self._require_unchanged_columns()
            self._require_past_retention(guard)
            self._refuse_new_holds(guard, until_committed)
            guard.lock.require_outer_held()

    def _set_lock_timeout(self, milliseconds: int) -> None:
        self._connection.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", (f"{milliseconds}ms",))

    def _join_deletes(self) -> None:
        """Hold the settle lock shared, so that nobody reads a batch's fate while this delete is in flight.

        Another worker of this run may be settling a batch: that takes a moment and is waited for.
        """
        self._set_lock_timeout(_SETTLE_WAIT_MS)
        try:
            self._connection.execute(
                "SELECT pg_catalog.pg_advisory_xact_lock_shared(%s)", (settle_key(self._shape.name).value,)
            )
        except LockNotAvailable as error:
            raise LockLostError(f"{self._shape.name}: another session keeps settling batches of this table") from error

    def _require_lock(self, lock: AdvisoryTableLock) -> None:
        """Only once this transaction has the settle lock: whoever takes the table lock after this look must wait for
        the transaction's end before settling a batch."""
        lock.require_outer_held()
        if not is_held(self._connection, lock.key, lock.backend_pid):
            raise LockLostError(f"{self._shape.name}: the table lock was lost; nothing more is deleted")

    def _require_unchanged_columns(self) -> None:
        """After the delete has its table lock no column can change, and before it none may have."""
        if table_fingerprint(self._connection, self._shape.name) != self._shape.fingerprint:
            raise VersionsChangedError("the table's columns changed since the rows were read", matched_rows=0)

    def _require_past_retention(self, guard: DeleteGuard) -> None:
        shape = self._shape
        now = source_clock(self._connection)
        cutoff = timestamp_literal(shape, now - timedelta(days=guard.retention_days))
        last = typed_literal(guard.last_row_time, shape.timestamp_type.value)
        (is_past,) = fetch_one(self._connection, sql.SQL("SELECT {} < {}").format(last, cutoff))
        if not is_past:
            raise TooYoungError(
                f"{shape.name}: rows up to {guard.last_row_time} are younger than retention by the source's clock"
            )

    def _load_versions(self, versions: pa.Table) -> None:
        """Both temporary tables are empty at the start of every transaction."""
        self._copy_in(VERSIONS, versions)

    def _load_keys(self, keys: pa.Table) -> None:
        self._copy_in(KEYS, keys)

    def _copy_in(self, target: sql.SQL, rows: pa.Table) -> None:
        sink = io.BytesIO()
        pa_csv.write_csv(rows, sink, pa_csv.WriteOptions(include_header=False))
        copy = sql.SQL("COPY {} FROM STDIN (FORMAT csv)").format(target)
        with self._connection.cursor() as cursor, cursor.copy(copy) as stream:
            stream.write(sink.getbuffer())

    def _holds_now(self, guard: HoldGuard) -> Holds:
        """Those that are known, and those of the table of this database, which nobody can add to any more."""
        return guard.known + read_while_locked(self._connection, guard, self._shape.types)

    def _refuse_held(self, guard: DeleteGuard) -> None:
        """Before the delete, because afterwards this transaction no longer sees the rows that predicates ask about."""
        if guard.holds is None:
            return
        holds = self._holds_now(guard.holds)
        if holds.is_whole:
            raise RowsHeldError(holds.reason)
        if covering := self._covering(holds):
            raise RowsHeldError(covering.reason)

    def _covering(self, holds: Holds) -> Holds:
        """Those of these row holds that cover any of the loaded versions."""
        if not holds:
            return holds
        conditions = (held_condition(Holds((hold,)), self._shape.types) for hold in holds.holds)
        query = sql.SQL("SELECT ARRAY[{}] {}").format(
            sql.SQL(", ").join(map(sql.SQL("pg_catalog.bool_or({})").format, conditions)), _matching(self._shape)
        )
        (covers,) = fetch_one(self._connection, query)
        return Holds(tuple(hold for hold, does in zip(holds.holds, covers, strict=True) if does))

    def _refuse_new_holds(self, guard: DeleteGuard, until_committed: ExitStack) -> None:
        """The last thing before COMMIT. A hold that was not asked about the rows may cover any of them."""
        if guard.holds is None:
            return
        found = until_committed.enter_context(guard.holds.last_look(self._connection))
        if new := found.new_beside(guard.holds.known):
            raise RowsHeldError(new.reason)

    def _delete_loaded(self, expected_rows: int, guard: DeleteGuard) -> None:
        self._refuse_held(guard)
        cursor = self._connection.execute(_delete_query(self._shape))
        if cursor.rowcount != expected_rows:
            raise VersionsChangedError(
                f"{cursor.rowcount} of {expected_rows} rows are as proved", matched_rows=cursor.rowcount
            )

    def _locate_loaded_keys(self) -> int:
        """Find the loaded keys' row versions by key and xmin, and load their ctids; returns how many there are."""
        cursor = self._connection.execute(_locate_query(self._shape))
        return cursor.rowcount

    def _count_present(self) -> int:
        (rows,) = fetch_one(self._connection, sql.SQL("SELECT pg_catalog.count(*) {}").format(_matching(self._shape)))
        return int(rows)

    def _lockable_keys(self) -> int:
        """Lock every matching row that is free and remember its key; returns how many."""
        keys = sql.SQL(", ").join(_qualified_key_names(self._shape, "v"))
        cursor = self._connection.execute(
            sql.SQL(
                "WITH free AS (SELECT v.v_xmin, {keys} {matching} FOR UPDATE OF {alias} SKIP LOCKED)"
                " INSERT INTO {target} SELECT * FROM free"
            ).format(keys=keys, matching=_matching(self._shape), alias=ALIAS, target=KEYS)
        )
        return cursor.rowcount

    def _locked_keys(self) -> tuple[tuple[str, ...], ...]:
        keys = _temporary_key_names(self._shape)
        texts = sql.SQL(", ").join(sql.SQL("{}::pg_catalog.text").format(name) for name in keys)
        names = sql.SQL(", ").join(_qualified_key_names(self._shape, "v"))
        rows = self._connection.execute(
            sql.SQL(
                "SELECT {texts} FROM (SELECT v.v_xmin, {names} {matching} EXCEPT SELECT * FROM {free}) AS locked"
            ).format(texts=texts, names=names, matching=_matching(self._shape), free=KEYS)
        ).fetchall()
        return tuple(tuple(row) for row in rows)


def _create_temporary_tables(connection: Connection, shape: TableShape) -> None:
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(name, sql.SQL(part.type))
        for name, part in zip(_temporary_key_names(shape), shape.key, strict=True)
    )
    connection.execute(
        sql.SQL(
            "CREATE TEMPORARY TABLE archiver_versions (v_tableoid pg_catalog.oid, v_ctid pg_catalog.tid,"
            " v_xmin pg_catalog.xid, {}) ON COMMIT DELETE ROWS"
        ).format(columns)
    )
    connection.execute(
        sql.SQL("CREATE TEMPORARY TABLE archiver_keys (v_xmin pg_catalog.xid, {}) ON COMMIT DELETE ROWS").format(
            columns
        )
    )


def _temporary_key_names(shape: TableShape) -> list[sql.Identifier]:
    return [sql.Identifier(f"v_key_{position}") for position in range(len(shape.key))]


def _qualified_key_names(shape: TableShape, alias: str) -> list[sql.Composed]:
    return [sql.SQL("{}.{}").format(sql.Identifier(alias), name) for name in _temporary_key_names(shape)]


def key_match(shape: TableShape, alias: str) -> sql.Composed:
    """True where a row of the table has the key of a row of one of the temporary tables, which is called `alias`."""
    return sql.SQL(" AND ").join(
        sql.SQL("{}.{} = {}.{}").format(ALIAS, sql.Identifier(part.name), sql.Identifier(alias), name)
        for part, name in zip(shape.key, _temporary_key_names(shape), strict=True)
    )


def _version_match(shape: TableShape) -> sql.Composed:
    return sql.SQL(
        "{alias}.ctid = ANY(ARRAY(SELECT v_ctid FROM {versions})) AND {alias}.tableoid = v.v_tableoid"
        " AND {alias}.ctid = v.v_ctid AND {alias}.xmin = v.v_xmin AND {keys}"
    ).format(alias=ALIAS, versions=VERSIONS, keys=key_match(shape, "v"))


def _matching(shape: TableShape) -> sql.Composed:
    return sql.SQL("FROM {} AS {} JOIN {} AS v ON {}").format(
        table_reference(shape.name), ALIAS, VERSIONS, _version_match(shape)
    )


def _delete_query(shape: TableShape) -> sql.Composed:
    return sql.SQL("DELETE FROM {} AS {} USING {} AS v WHERE {}").format(
        table_reference(shape.name), ALIAS, VERSIONS, _version_match(shape)
    )


def _known_keys_query(shape: TableShape) -> sql.Composed:
    return sql.SQL("SELECT pg_catalog.count(*) FROM {} AS {} JOIN {} AS k ON {}").format(
        table_reference(shape.name), ALIAS, KEYS, key_match(shape, "k")
    )


def _locate_query(shape: TableShape) -> sql.Composed:
    names = sql.SQL(", ").join(_qualified_key_names(shape, "k"))
    return sql.SQL(
        "INSERT INTO {versions} SELECT {alias}.tableoid, {alias}.ctid, {alias}.xmin, {names}"
        " FROM {table} AS {alias} JOIN {keys} AS k ON {alias}.xmin = k.v_xmin AND {match}"
    ).format(
        versions=VERSIONS,
        alias=ALIAS,
        names=names,
        table=table_reference(shape.name),
        keys=KEYS,
        match=key_match(shape, "k"),
    )
