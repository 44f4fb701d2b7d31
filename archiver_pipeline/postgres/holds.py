"""Legal holds in a table, and what makes a hold usable: a predicate that fits the columns of the held table.

A hold that commits before a delete does must win. So the delete transaction locks the hold table in SHARE mode before
it reads it, until it commits: whoever wrote a hold has committed before that, or waits until the delete is over.

Every function leaves the translation of driver errors to its caller.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

from psycopg import errors, sql

from archiver_pipeline.codec.predicates import parse_predicate
from archiver_pipeline.domain.holds import Holds, LegalHold, matches_name
from archiver_pipeline.domain.predicate import Or, Predicate
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.errors import ConfigError, NetworkError, PermissionDeniedError, PreflightError
from archiver_pipeline.postgres.catalog import quoted, server_version
from archiver_pipeline.postgres.connection import Connection, fetch_one
from archiver_pipeline.postgres.predicate import check_predicate

_LOCK_WAIT_MS = 2_000
"""Longer than deadlock_timeout, after which an autovacuum that is in the way is cancelled by the server."""
_MAINTAIN_VERSION = 170_000
_TEXT = frozenset({"text", "character varying", "character", "name"})
_TIMES = frozenset({"timestamp with time zone", "timestamp without time zone", "date"})
_COLUMNS = {
    "table_name": _TEXT,
    "schema_name": _TEXT,
    "reason": _TEXT,
    "requestor": _TEXT,
    "start_date": _TIMES,
    "expiration_date": _TIMES,
}
_OPTIONAL_COLUMNS = {"database_name": _TEXT, "where_clause": _TEXT}


@dataclass(frozen=True, slots=True)
class HoldTable:
    """Where holds are written. With `check_expiration` False a hold never ends."""

    schema: str
    table: str
    check_expiration: bool

    @property
    def reference(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.table)

    @property
    def lock_function(self) -> sql.Identifier:
        """A function that locks the table for those who may only read it."""
        return sql.Identifier(self.schema, f"lock_{self.table}"[:63])

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True, slots=True)
class WrittenHold:
    """A hold as it stands in the table, in force or not, with the names that it is for; None and `*` are all."""

    database: str | None
    schema: str | None
    table: str | None
    hold: LegalHold
    in_force: bool

    def is_for(self, name: TableName) -> bool:
        return (
            matches_name(self.database, name.database)
            and matches_name(self.schema, name.schema)
            and matches_name(self.table, name.table)
        )

    def __str__(self) -> str:
        names = [part or "*" for part in (self.database, self.schema, self.table)]
        return f"{'.'.join(names)}: {self.hold}"


@dataclass(frozen=True, slots=True)
class HoldGuard:
    """What a delete transaction asks about holds on table `name`.

    `known` were read a moment ago, from everywhere. `table` is the hold table of this very database, None when there is
    none. `last_look`, called on the deleting connection right before COMMIT, reads again what no lock of this
    transaction keeps still, and holds it still until it is closed as far as that goes.
    """

    known: Holds
    name: TableName
    table: HoldTable | None
    last_look: Callable[[Connection], AbstractContextManager[Holds]]


def create_statement(table: HoldTable) -> str:
    """The statements that make a hold table, for people."""
    return (
        f"CREATE TABLE {table.reference.as_string()} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
        " database_name text, schema_name text NOT NULL DEFAULT 'public', table_name text NOT NULL,"
        " where_clause text, reason text NOT NULL, requestor text NOT NULL,"
        " start_date timestamptz NOT NULL DEFAULT now(), expiration_date timestamptz);"
    )


def lock_statement(table: HoldTable) -> str:
    """The statement that lets a user who may only read the table lock it, for people."""
    return (
        f"CREATE FUNCTION {table.lock_function.as_string()}() RETURNS void LANGUAGE plpgsql SECURITY DEFINER"
        f" SET search_path = '' AS $$ BEGIN LOCK TABLE {table.reference.as_string()} IN SHARE MODE; END $$;"
        f" REVOKE ALL ON FUNCTION {table.lock_function.as_string()}() FROM PUBLIC;"
    )


def require_hold_table(connection: Connection, table: HoldTable) -> None:
    """Raises PreflightError when there is no such table, or not with these columns, or it can't be locked;
    PermissionDeniedError when it may not be read. Each with the statement that helps. Changes nothing."""
    oid = _require_table(connection, table)
    _require_columns(connection, table, oid)
    _require_readable(connection, table, oid)
    _lock_query(connection, table, oid)


def read_hold_table(connection: Connection, table: HoldTable, name: TableName) -> list[LegalHold]:
    """The holds on one table that are in force, by the clock of the database that has the hold table."""
    return [one.hold for one in read_written_holds(connection, table, name) if one.in_force]


def read_written_holds(connection: Connection, table: HoldTable, name: TableName | None) -> list[WrittenHold]:
    """All holds of the table, or those that may concern `name`; in force or not. Raises PreflightError or
    PermissionDeniedError when they can't be read."""
    oid = _require_table(connection, table)
    types = _require_columns(connection, table, oid)
    _require_readable(connection, table, oid)
    source = f"table {table} in database {connection.info.dbname}"
    rows = connection.execute(_read_query(table, types, name)).fetchall()
    return [_written(source, *row) for row in rows]


def read_while_locked(connection: Connection, guard: HoldGuard, types: Mapping[str, str]) -> Holds:
    """The holds of the guard's table in this database, which nobody can add to until this transaction ends."""
    if guard.table is None:
        return Holds()
    lock_hold_table(connection, guard.table)
    found = read_hold_table(connection, guard.table, guard.name)
    return usable_beside(connection, found, guard.known, types)


@contextmanager
def locked_hold_table(connection: Connection, table: HoldTable) -> Iterator[None]:
    """A transaction of its own in which nobody can write a hold."""
    with connection.transaction():
        lock_hold_table(connection, table)
        yield


def lock_hold_table(connection: Connection, table: HoldTable) -> None:
    """Keep holds from being written until the transaction ends. Those of transactions that have not ended are waited
    for, for a moment: raises NetworkError, which is tried again, when one does not end."""
    oid = _require_table(connection, table)
    (before,) = fetch_one(connection, sql.SQL("SELECT pg_catalog.current_setting('lock_timeout')"))
    connection.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", (f"{_LOCK_WAIT_MS}ms",))
    try:
        connection.execute(_lock_query(connection, table, oid))
    except errors.LockNotAvailable:
        raise NetworkError(
            f"legal holds can't be read: somebody has been writing to {table} for {_LOCK_WAIT_MS / 1000:.0f} s"
            " without a commit, so nothing is deleted",
            hint="end that transaction, or try again",
        ) from None
    connection.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", (before,))
    _require_locked(connection, table, oid)


def usable(connection: Connection, holds: Sequence[LegalHold], types: Mapping[str, str]) -> Holds:
    """The holds, each with its `defect` when its predicate can't be read or does not fit the columns."""
    parsed = {hold.predicate: _parsed(hold.predicate) for hold in holds if hold.predicate is not None}
    predicates = [found for found in parsed.values() if not isinstance(found, str)]
    together = predicates[0] if len(predicates) == 1 else Or(tuple(predicates))
    if not predicates or not _misfit(connection, together, types):
        defects = {text: found if isinstance(found, str) else "" for text, found in parsed.items()}
    else:
        defects = {
            text: found if isinstance(found, str) else _misfit(connection, found, types)
            for text, found in parsed.items()
        }
    return Holds(tuple(replace(hold, defect=defects.get(hold.predicate or "", "")) for hold in holds))


def usable_beside(connection: Connection, found: Sequence[LegalHold], known: Holds, types: Mapping[str, str]) -> Holds:
    """As `usable`, asking the server only about those that it was not asked about for `known`, a moment ago."""
    tried = {replace(hold, defect=""): hold for hold in known.holds}
    new = usable(connection, [hold for hold in found if hold not in tried], types)
    return Holds((*(tried[hold] for hold in found if hold in tried), *new.holds))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Predicate | str:
    """The predicate, or why there is none."""
    try:
        return parse_predicate(text)
    except ConfigError as error:
        return error.message


def _misfit(connection: Connection, predicate: Predicate, types: Mapping[str, str]) -> str:
    """Why it does not fit the columns; empty when it does."""
    try:
        check_predicate(connection, predicate, types)
    except ConfigError as error:
        return error.message
    return ""


def _relation(connection: Connection, table: HoldTable) -> tuple[int, str] | None:
    """Its oid and kind."""
    row = connection.execute(
        "SELECT c.oid::pg_catalog.int8, c.relkind::pg_catalog.text FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        (table.schema, table.table),
    ).fetchone()
    return (row[0], row[1]) if row else None


def _require_table(connection: Connection, table: HoldTable) -> int:
    found = _relation(connection, table)
    if found is None:
        raise PreflightError(
            f"legal holds can't be read: there is no table {table} in database {connection.info.dbname}, so nothing"
            " is deleted",
            hint=f"correct legal_holds.table and schema, or create it: {create_statement(table)}",
        )
    if found[1] not in ("r", "p"):
        raise PreflightError(
            f"legal holds can't be read: {table} is no table, so nothing is deleted",
            hint="the writers of a view's tables can't be kept out while a delete commits: name the table itself",
        )
    return found[0]


def _require_columns(connection: Connection, table: HoldTable, oid: int) -> dict[str, str]:
    rows = connection.execute(
        "SELECT attname::pg_catalog.text, pg_catalog.format_type(atttypid, NULL) FROM pg_catalog.pg_attribute"
        " WHERE attrelid = %s::pg_catalog.oid AND attnum > 0 AND NOT attisdropped",
        (oid,),
    ).fetchall()
    types: dict[str, str] = dict(rows)
    missing = [name for name in _COLUMNS if name not in types]
    wrong = [name for name, kinds in (_COLUMNS | _OPTIONAL_COLUMNS).items() if types.get(name) not in {*kinds, None}]
    if missing or wrong:
        problems = [*(f"column {name} is missing" for name in missing)]
        problems += [f"column {name} has type {types[name]}" for name in wrong]
        raise PreflightError(
            f"legal holds can't be read: {table} is not as expected: {', '.join(problems)}; so nothing is deleted",
            hint=f"expected is: {create_statement(table)}",
        )
    return types


def _require_readable(connection: Connection, table: HoldTable, oid: int) -> None:
    (usage,) = fetch_one(connection, sql.SQL("SELECT pg_catalog.has_schema_privilege(%s, 'USAGE')"), (table.schema,))
    if usage and _has_privilege(connection, oid, "SELECT"):
        return
    user = quoted(connection.info.user)
    raise PermissionDeniedError(
        f"legal holds can't be read: user {connection.info.user} may not read {table}, so nothing is deleted",
        hint=f"GRANT USAGE ON SCHEMA {quoted(table.schema)} TO {user};"
        f" GRANT SELECT ON {table.reference.as_string()} TO {user};",
    )


def _lock_query(connection: Connection, table: HoldTable, oid: int) -> sql.Composed:
    """What locks the table for this user. Raises PermissionDeniedError when nothing does."""
    if any(_has_privilege(connection, oid, privilege) for privilege in _locking_privileges(connection)):
        return sql.SQL("LOCK TABLE {} IN SHARE MODE").format(table.reference)
    if _may_call(connection, table):
        return sql.SQL("SELECT {}()").format(table.lock_function)
    user = quoted(connection.info.user)
    maintain = f"GRANT MAINTAIN ON {table.reference.as_string()} TO {user};"
    function = f"{lock_statement(table)} GRANT EXECUTE ON FUNCTION {table.lock_function.as_string()}() TO {user};"
    raise PermissionDeniedError(
        f"user {connection.info.user} may not lock {table}, so a hold could be placed while a delete commits;"
        " nothing is deleted",
        hint=f"as the table's owner: {maintain if server_version(connection) >= _MAINTAIN_VERSION else function}",
    )


def _locking_privileges(connection: Connection) -> tuple[str, ...]:
    """Any of these allows to lock in SHARE mode; only MAINTAIN does not also allow to change holds."""
    maintain = ("MAINTAIN",) if server_version(connection) >= _MAINTAIN_VERSION else ()
    return (*maintain, "UPDATE", "DELETE", "TRUNCATE")


def _has_privilege(connection: Connection, oid: int, privilege: str) -> bool:
    (granted,) = fetch_one(
        connection, sql.SQL("SELECT pg_catalog.has_table_privilege(%s::pg_catalog.oid, %s)"), (oid, privilege)
    )
    return bool(granted)


def _may_call(connection: Connection, table: HoldTable) -> bool:
    """Whether there is the function, without arguments, and this user may execute it."""
    (may,) = fetch_one(
        connection,
        sql.SQL(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace"
            " WHERE n.nspname = %s AND p.proname = %s AND p.pronargs = 0"
            " AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE'))"
        ),
        (table.schema, f"lock_{table.table}"[:63]),
    )
    return bool(may)


def _require_locked(connection: Connection, table: HoldTable, oid: int) -> None:
    """The lock is looked for, whoever was asked to take it."""
    (held,) = fetch_one(
        connection,
        sql.SQL(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'relation' AND granted"
            " AND pid = pg_catalog.pg_backend_pid() AND relation = %s::pg_catalog.oid AND mode IN"
            " ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') AND database ="
            " (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))"
        ),
        (oid,),
    )
    if not held:
        raise PreflightError(
            f"{table.lock_function.as_string()}() does not lock {table}, so nothing is deleted",
            hint=f"drop it, then: {lock_statement(table)}",
        )


def _read_query(table: HoldTable, types: Mapping[str, str], name: TableName | None) -> sql.Composed:
    def text(column: str) -> sql.Composed:
        if column not in types:
            return sql.SQL("{}").format(sql.SQL("NULL"))
        return sql.SQL("h.{}::pg_catalog.text").format(sql.Identifier(column))

    begun = sql.SQL("coalesce(h.start_date::pg_catalog.timestamptz <= pg_catalog.clock_timestamp(), true)")
    end = _end(types["expiration_date"])
    over = sql.SQL("coalesce({} <= pg_catalog.clock_timestamp(), false)").format(end)
    columns = ("database_name", "schema_name", "table_name", "reason", "requestor", "where_clause")
    return sql.SQL("SELECT {texts}, {start}, {end}, {begun} AND NOT {over} FROM {table} AS h WHERE {condition}").format(
        texts=sql.SQL(", ").join(map(text, columns)),
        start=text("start_date"),
        end=text("expiration_date"),
        begun=begun,
        over=over if table.check_expiration else sql.SQL("false"),
        table=table.reference,
        condition=sql.SQL("true") if name is None else _concerns(name, text),
    )


def _end(type_name: str) -> sql.SQL:
    """When a hold ends; one that ends on a day ends when the day is over."""
    day = " + '1 day'::pg_catalog.interval" if type_name == "date" else ""
    return sql.SQL(f"(h.expiration_date::pg_catalog.timestamptz{day})")


def _concerns(name: TableName, text: Callable[[str], sql.Composed]) -> sql.Composed:
    wanted = {"database_name": name.database, "schema_name": name.schema, "table_name": name.table}
    return sql.SQL(" AND ").join(
        sql.SQL("coalesce({column}, '*') IN ('*', {value})").format(column=text(column), value=sql.Literal(value))
        for column, value in wanted.items()
    )


def _written(
    source: str,
    database: str | None,
    schema: str | None,
    table: str | None,
    reason: str | None,
    requestor: str | None,
    predicate: str | None,
    start: str | None,
    end: str | None,
    in_force: bool,
) -> WrittenHold:
    rows = predicate if predicate is not None and predicate.strip() else None
    hold = LegalHold(source, reason or "", requestor or "", start or "", end or "", rows)
    return WrittenHold(database, schema, table, hold, in_force)
