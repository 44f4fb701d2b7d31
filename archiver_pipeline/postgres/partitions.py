"""Leaves of a natively partitioned table in the catalog, and dropping one whose rows are all proved.

A leaf goes in one transaction, or not at all: it is locked against writers, its rows are counted and each is held
against the row versions that were proved, then it is detached and dropped, never with CASCADE.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pyarrow as pa
from psycopg import errors, sql

from archiver_pipeline.domain.manifest import ManifestLeaf
from archiver_pipeline.domain.partitions import Leaf
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.errors import SourceError
from archiver_pipeline.postgres.catalog import quoted
from archiver_pipeline.postgres.connection import Connection, fetch_one, source_errors
from archiver_pipeline.postgres.delete import KEYS, VERSIONS, DeleteGuard, DeleteSession, RowsHeldError, key_match
from archiver_pipeline.postgres.eligible import ALIAS, held_condition, leaf_reference, table_reference

DROP_WAITS_SECONDS = (0.2, 0.5, 1.0, 2.0)
"""Pauses between the tries to lock the parent. Each try waits no longer than `lock_timeout`: nobody queues for long."""
LEAF_LOCK_WAIT_MS = 2_000
"""Longer than deadlock_timeout, after which an autovacuum that is in the way is cancelled by the server."""
CHECK_SECONDS = 300
"""The longest a leaf is locked against writers while its rows are looked at."""
_RANGE = re.compile(r"FOR VALUES FROM \((?P<lower>.+)\) TO \((?P<upper>.+)\)")
_FIRST_VALUE = re.compile(r"'(?P<text>[^']*)'(?:, .+)?")
_DELETES = 8
_ATTACHED = sql.SQL("NOT coalesce((pg_catalog.to_jsonb(i) ->> 'inhdetachpending')::pg_catalog.bool, false)")
"""Not amid a DETACH CONCURRENTLY: queries of the parent see such a one no more. Before 14 there is no such column."""


class LeafKeptError(SourceError):
    """The leaf was not dropped, and nothing was changed: what it holds is not what was proved, somebody uses it, or
    something depends on it."""


@dataclass(frozen=True, slots=True)
class Leaves:
    """The leaves of a table in name order. With `obstacle` nothing can be archived leaf by leaf, and it says why."""

    leaves: tuple[Leaf, ...]
    obstacle: str = ""
    has_default: bool = False
    """Whether the table itself has a DEFAULT partition, which takes rows that no other one does."""


@dataclass(frozen=True, slots=True)
class _Node:
    """A relation of the tree. `is_range` tells whether its own partitions are ranges that begin with the timestamp."""

    oid: int
    parent: int | None
    schema: str
    table: str
    kind: str
    bound: str
    is_range: bool
    range_columns: int
    is_owned: bool
    is_readable: bool
    hides_rows: bool


def find_leaves(connection: Connection, shape: TableShape) -> Leaves:
    """The table's leaves with their bounds, and what is in the way of dropping them. Reads the catalog only."""
    nodes = {node.oid: node for node in _nodes(connection, shape)}
    leaves = [node for node in nodes.values() if node.kind != "p" and node.parent is not None]
    if not any(node.kind == "p" for node in nodes.values()):
        return Leaves((), f"{shape.name.schema}.{shape.name.table} is not natively partitioned")
    if strange := [node for node in leaves if node.kind != "r" or not node.is_readable or node.hides_rows]:
        return Leaves((), f"this user can't read partition {strange[0].schema}.{strange[0].table} by itself")
    obstacles = _obstacles(connection, list(nodes))
    found = sorted((_leaf(node, nodes, obstacles) for node in leaves), key=str)
    has_default = any(node.bound == "DEFAULT" and nodes[node.parent or 0].parent is None for node in leaves)
    return Leaves(tuple(found), has_default=has_default)


class PartitionSession(DeleteSession):
    """A delete session that can also drop a leaf."""

    def count_in_leaf(self, leaf: Leaf, most_rows: int) -> int:
        """The rows of the leaf, counting no further than `most_rows`; 0 when it is no partition any more. Takes no
        lock that anybody waits for. Raises LeafKeptError when it can't be counted."""
        with source_errors(self._source), _kept(leaf):
            if not self._is_leaf(leaf):
                return 0
            query = sql.SQL("SELECT pg_catalog.count(*) FROM (SELECT 1 FROM {} LIMIT {}) AS counted")
            (rows,) = fetch_one(self._connection, query.format(leaf_reference(leaf), sql.Literal(most_rows)))
            return int(rows)

    def drop_leaf(
        self,
        leaf: Leaf,
        versions: Iterable[pa.Table],
        rows: int,
        guard: DeleteGuard,
        pause: Callable[[float], object],
    ) -> int:
        """Drop the leaf if it holds exactly these row versions, `rows` in all, and commit; returns the bytes it took on
        disk. `pause` waits that many seconds between two tries to lock its parent; `guard.last_row_time` is not used.

        Raises LeafKeptError, RowsHeldError or TooYoungError after a rollback: nothing was changed. So it is after any
        error of reading legal holds. Raises NetworkError when the connection broke: the outcome is unknown until the
        batches are settled, which finds either all of their rows or none.
        """
        with (
            ExitStack() as until_committed,
            source_errors(self._source),
            _kept(leaf),
            self._connection.transaction(),
        ):
            self._join_deletes()
            self._set_lock_timeout(guard.lock_timeout_ms)
            self._require_lock(guard.lock)
            for some in versions:
                self._load_versions(some)
            self._keep_still(leaf, guard)
            last_row_time = self._require_exactly(leaf, rows)
            self._require_unchanged_columns()
            self._require_past_retention(replace(guard, last_row_time=last_row_time))
            self._refuse_held_in(leaf, guard)
            size_bytes = self._size_of(leaf)
            self._detach_and_drop(leaf, guard, until_committed, pause)
            guard.lock.require_outer_held()
        return size_bytes

    def count_outside(self, leaf_oid: int) -> int:
        """Inside `settle`: how many of the loaded keys' row versions are in the relation of this oid, if it is there
        and is no partition of the table any more."""
        row = self._connection.execute(_OUTSIDE, {"oid": leaf_oid, "root": self._root_text()}).fetchone()
        if row is None:
            return 0
        (rows,) = fetch_one(self._connection, self._matching_keys(sql.Identifier(row[0], row[1])))
        return int(rows)

    def _keep_still(self, leaf: Leaf, guard: DeleteGuard) -> None:
        """Until the transaction ends nobody writes to the leaf, and it stays where it is. Readers go on, also while
        this waits, so it may wait longer than for a lock that stops them."""
        for schema, table in leaf.path:
            self._connection.execute(
                sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(sql.Identifier(schema, table))
            )
        self._set_lock_timeout(max(guard.lock_timeout_ms, LEAF_LOCK_WAIT_MS))
        self._connection.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(leaf_reference(leaf)))
        self._set_lock_timeout(guard.lock_timeout_ms)
        if not self._is_leaf(leaf):
            raise LeafKeptError(f"{leaf} is no partition of this table any more")
        found = find_leaves(self._connection, self._shape)
        now = next((one for one in found.leaves if one.oid == leaf.oid), None)
        if now is None or now.obstacle or (now.path, now.bound) != (leaf.path, leaf.bound):
            raise LeafKeptError(now.obstacle if now and now.obstacle else f"{leaf} is not where it was")

    def _is_leaf(self, leaf: Leaf) -> bool:
        """Whether the relation of this name is still the very partition that was planned."""
        (is_leaf,) = fetch_one(
            self._connection,
            sql.SQL(
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
                " ON n.oid = c.relnamespace JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid"
                " WHERE c.oid = %s::pg_catalog.oid AND n.nspname = %s AND c.relname = %s"
                " AND i.inhparent = %s::pg_catalog.regclass AND {})"
            ).format(_ATTACHED),
            (leaf.oid, leaf.schema, leaf.table, sql.Identifier(*leaf.parent).as_string()),
        )
        return bool(is_leaf)

    def _require_exactly(self, leaf: Leaf, rows: int) -> str:
        """The loaded row versions are all that the leaf holds; returns the time of its youngest row as text.

        Two looks that share nothing: how many rows there are, and how many of them are among the proved. The second
        counts a row once even if it was proved twice, so that both are `rows` only if each version is in one batch.
        """
        self._limit_statements(CHECK_SECONDS)
        held, last_row_time = fetch_one(self._connection, _leaf_facts_query(self._shape, leaf))
        if held != rows:
            raise LeafKeptError(f"it holds {held} rows, and {rows} of it were proved in this run")
        (proved,) = fetch_one(self._connection, self._proved_query(leaf))
        if proved != rows:
            raise LeafKeptError(f"{rows - proved} of its {rows} rows changed since they were read")
        return str(last_row_time)

    def _limit_statements(self, seconds: int) -> None:
        self._connection.execute(
            "SELECT pg_catalog.set_config('statement_timeout', CASE WHEN setting::pg_catalog.int4 = 0"
            " THEN %(most)s::pg_catalog.text ELSE least(setting::pg_catalog.int4, %(most)s)::pg_catalog.text END, true)"
            " FROM pg_catalog.pg_settings WHERE name = 'statement_timeout'",
            {"most": seconds * 1000},
        )

    def _refuse_held_in(self, leaf: Leaf, guard: DeleteGuard) -> None:
        """As before the delete of a batch: of rows that are in the leaf, all of which are about to go."""
        if guard.holds is None:
            return
        holds = self._holds_now(guard.holds)
        if holds.is_whole:
            raise RowsHeldError(holds.reason)
        if holds:
            query = sql.SQL("SELECT EXISTS (SELECT FROM {} AS {} WHERE {})").format(
                leaf_reference(leaf), ALIAS, held_condition(holds, self._shape.types)
            )
            if fetch_one(self._connection, query)[0]:
                raise RowsHeldError(holds.reason)

    def _size_of(self, leaf: Leaf) -> int:
        (size_bytes,) = fetch_one(
            self._connection, sql.SQL("SELECT pg_catalog.pg_total_relation_size(%s::pg_catalog.oid)"), (leaf.oid,)
        )
        return int(size_bytes)

    def _detach_and_drop(
        self, leaf: Leaf, guard: DeleteGuard, until_committed: ExitStack, pause: Callable[[float], object]
    ) -> None:
        """The parent is locked for a moment only, and whoever reads it is never waited for longer than `lock_timeout`.

        So what may take long, a look at legal holds that are kept elsewhere, comes before each try and not after it:
        the lock on the parent would stop the application.
        """
        detach = sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(
            sql.Identifier(*leaf.parent), leaf_reference(leaf)
        )
        for seconds in (*DROP_WAITS_SECONDS, None):
            self._refuse_new_holds(guard, until_committed)
            self._require_lock(guard.lock)
            try:
                with self._connection.transaction():
                    self._connection.execute(detach)
                    self._connection.execute(sql.SQL("DROP TABLE {}").format(leaf_reference(leaf)))
            except errors.LockNotAvailable:
                if seconds is None:
                    raise
                pause(seconds)
            else:
                return

    def _proved_query(self, leaf: Leaf) -> sql.Composed:
        return sql.SQL(
            "SELECT pg_catalog.count(*) FROM {leaf} AS {alias} WHERE EXISTS (SELECT FROM {versions} AS v WHERE"
            " {alias}.tableoid = v.v_tableoid AND {alias}.ctid = v.v_ctid AND {alias}.xmin = v.v_xmin AND {keys})"
        ).format(leaf=leaf_reference(leaf), alias=ALIAS, versions=VERSIONS, keys=key_match(self._shape, "v"))

    def _matching_keys(self, table: sql.Identifier) -> sql.Composed:
        return sql.SQL("SELECT pg_catalog.count(*) FROM {} AS {} JOIN {} AS k ON {}.xmin = k.v_xmin AND {}").format(
            table, ALIAS, KEYS, ALIAS, key_match(self._shape, "k")
        )

    def _root_text(self) -> str:
        return table_reference(self._shape.name).as_string()


_OUTSIDE = sql.SQL("""
WITH RECURSIVE above(oid) AS (SELECT %(oid)s::pg_catalog.oid
    UNION ALL SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN above ON above.oid = i.inhrelid AND {})
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %(oid)s::pg_catalog.oid AND c.relkind = 'r'
    AND NOT EXISTS (SELECT FROM above WHERE above.oid = %(root)s::pg_catalog.regclass)
""").format(_ATTACHED)


@contextmanager
def _kept(leaf: Leaf) -> Iterator[None]:
    """What PostgreSQL says when a leaf can't be dropped now, in words; the transaction has been rolled back."""
    try:
        yield
    except errors.LockNotAvailable:
        raise LeafKeptError("an application holds a lock on it or on its parent") from None
    except errors.QueryCanceled:
        raise LeafKeptError("a statement took too long while its writers were kept waiting") from None
    except _REFUSALS as refusal:
        raise LeafKeptError(refusal.diag.message_primary or type(refusal).__name__) from None


_REFUSALS = (
    errors.DependentObjectsStillExist,
    errors.ForeignKeyViolation,
    errors.ObjectNotInPrerequisiteState,
    errors.ObjectInUse,
    errors.FeatureNotSupported,
    errors.InsufficientPrivilege,
    errors.RaiseException,
    errors.UndefinedTable,
    errors.WrongObjectType,
    errors.DeadlockDetected,
)


def _leaf_facts_query(shape: TableShape, leaf: Leaf) -> sql.Composed:
    return sql.SQL("SELECT pg_catalog.count(*), pg_catalog.max({}.{})::pg_catalog.text FROM {} AS {}").format(
        ALIAS, sql.Identifier(shape.timestamp_column), leaf_reference(leaf), ALIAS
    )


def _nodes(connection: Connection, shape: TableShape) -> list[_Node]:
    names = {"root": table_reference(shape.name).as_string(), "column": shape.timestamp_column}
    return [_Node(*row) for row in connection.execute(_TREE, names).fetchall()]


_TREE = sql.SQL("""
WITH RECURSIVE tree(oid, parent) AS (SELECT %(root)s::pg_catalog.regclass::pg_catalog.oid, NULL::pg_catalog.oid
    UNION ALL SELECT i.inhrelid, i.inhparent FROM pg_catalog.pg_inherits i JOIN tree ON tree.oid = i.inhparent AND {})
SELECT c.oid::int8, tree.parent::int8, n.nspname::text, c.relname::text, c.relkind::text,
    coalesce(pg_catalog.pg_get_expr(c.relpartbound, c.oid), ''),
    coalesce(p.partstrat = 'r' AND a.attname = %(column)s, false), coalesce(p.partnatts, 0)::int4,
    pg_catalog.pg_has_role(c.relowner, 'USAGE'),
    pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT'),
    pg_catalog.row_security_active(c.oid)
FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = c.oid
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
""").format(_ATTACHED)


def _leaf(node: _Node, nodes: dict[int, _Node], obstacles: dict[int, str]) -> Leaf:
    path = _path(node, nodes)
    lower, upper, included = _bounds([*path[1:], node], nodes)
    return Leaf(
        schema=node.schema,
        table=node.table,
        oid=node.oid,
        path=tuple((above.schema, above.table) for above in path),
        bound=node.bound,
        lower=lower,
        upper=upper,
        upper_included=included,
        obstacle=_obstacle_of(node, path, obstacles),
    )


def _path(node: _Node, nodes: dict[int, _Node]) -> list[_Node]:
    """From the table down to the node's parent."""
    found: list[_Node] = []
    while node.parent is not None:
        node = nodes[node.parent]
        found.insert(0, node)
    return found


def _bounds(line: Sequence[_Node], nodes: dict[int, _Node]) -> tuple[datetime | None, datetime | None, bool]:
    """The narrowest range of time that the levels of a line give, and whether its end is inside."""
    lower: datetime | None = None
    upper: datetime | None = None
    included = False
    for node in line:
        parent = nodes[node.parent] if node.parent is not None else node
        match = _RANGE.fullmatch(node.bound) if parent.is_range else None
        if match is None:
            continue
        begin, end = _moment(match["lower"]), _moment(match["upper"])
        lower = begin if lower is None or (begin is not None and begin > lower) else lower
        if end is not None and (upper is None or end < upper):
            upper, included = end, parent.range_columns > 1
    return lower, upper, included


def _moment(values: str) -> datetime | None:
    """The first of a bound's values as a time in UTC; None for MINVALUE, MAXVALUE, and times no datetime can hold."""
    match = _FIRST_VALUE.fullmatch(values)
    try:
        moment = datetime.fromisoformat(match["text"] if match else "")
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _obstacle_of(node: _Node, path: Sequence[_Node], obstacles: dict[int, str]) -> str:
    """What is in the way of dropping a leaf, its own or that of a table above it."""
    if node.bound == "DEFAULT":
        return "it is a DEFAULT partition"
    for owned in (path[-1], node):
        if not owned.is_owned:
            return f"this user does not own {owned.schema}.{owned.table}"
    return next((obstacles[one.oid] for one in (*path, node) if one.oid in obstacles), "")


def _obstacles(connection: Connection, oids: Sequence[int]) -> dict[int, str]:
    """What a drop would pass over in silence, or be refused for, by the relation that it is tied to."""
    rows = connection.execute(_OBSTACLES, {"oids": list(oids), "deletes": _DELETES}).fetchall()
    return dict(reversed(rows))


_OBSTACLES = """
SELECT confrelid::int8, 'foreign key ' || conname || ' of ' || conrelid::pg_catalog.regclass::text || ' refers to it'
FROM pg_catalog.pg_constraint WHERE contype = 'f' AND confrelid = ANY(%(oids)s::pg_catalog.oid[])
UNION ALL
SELECT tgrelid::int8, 'trigger ' || tgname || ' wants to see each deleted row' FROM pg_catalog.pg_trigger
WHERE tgrelid = ANY(%(oids)s::pg_catalog.oid[]) AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & %(deletes)s <> 0
UNION ALL
SELECT ev_class::int8, 'rule ' || rulename || ' wants to see each delete' FROM pg_catalog.pg_rewrite
WHERE ev_class = ANY(%(oids)s::pg_catalog.oid[]) AND ev_type = '4' AND ev_enabled <> 'D'
UNION ALL
SELECT c.oid::int8, 'publication ' || p.pubname || ' sends deletes to subscribers, and would not send a drop'
FROM pg_catalog.pg_publication_tables t JOIN pg_catalog.pg_publication p ON p.pubname = t.pubname AND p.pubdelete
JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
WHERE c.oid = ANY(%(oids)s::pg_catalog.oid[])
UNION ALL
SELECT d.refobjid::int8, 'sequence ' || s.relname || ' belongs to it' FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
JOIN pg_catalog.pg_inherits i ON i.inhrelid = d.refobjid
WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')
    AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = ANY(%(oids)s::pg_catalog.oid[])
"""


def leaf_statement(leaf: ManifestLeaf) -> str:
    """The statement that makes a leaf anew, for people: to restore into it."""
    parent, child = (leaf.parent_schema, leaf.parent_table), (leaf.schema, leaf.table)
    return f"CREATE TABLE {quoted(*child)} PARTITION OF {quoted(*parent)} {leaf.bound};"
