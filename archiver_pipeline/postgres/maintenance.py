"""Sizes and VACUUM: what the table weighs, and giving its space back."""

from psycopg import sql

from archiver_pipeline.config.effective import SourceSettings
from archiver_pipeline.config.enums import VacuumStrategy
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.errors import PermissionDeniedError
from archiver_pipeline.postgres.catalog import quoted
from archiver_pipeline.postgres.connection import Connection, connect, fetch_one, source_errors
from archiver_pipeline.postgres.eligible import table_reference

_COMMANDS = {
    VacuumStrategy.ANALYZE: "VACUUM (ANALYZE) {}",
    VacuumStrategy.STANDARD: "VACUUM {}",
    VacuumStrategy.FULL: "VACUUM (FULL, ANALYZE) {}",
}
_LOCK_TIMEOUT_MS = 5_000
_GENTLE_PACE = {"vacuum_cost_delay": "2ms", "vacuum_cost_limit": "1000"}


def table_bytes(connection: Connection, name: TableName) -> int:
    """Bytes on disk of the table with its indexes, TOAST and, when partitioned, all its partitions."""
    (size,) = fetch_one(
        connection,
        sql.SQL(
            "WITH RECURSIVE leaves(oid) AS (SELECT {}::pg_catalog.regclass::pg_catalog.oid"
            " UNION ALL SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN leaves ON leaves.oid = i.inhparent)"
            " SELECT coalesce(pg_catalog.sum(pg_catalog.pg_total_relation_size(oid)), 0)::pg_catalog.int8 FROM leaves"
        ).format(sql.Literal(table_reference(name).as_string())),
    )
    return int(size)


def vacuum_table(source: SourceSettings, name: TableName, strategy: VacuumStrategy, *, gently: bool) -> None:
    """Run the strategy's VACUUM, giving up rather than waiting behind an application's lock; `gently` with pauses, as
    autovacuum does, only shorter ones.

    Raises RowsLockedError when the table is locked, PermissionDeniedError when PostgreSQL skipped it because the user
    does not own it. Safe to repeat.
    """
    if strategy is VacuumStrategy.NONE:
        return
    warnings: list[str] = []
    pace = _GENTLE_PACE if gently else {}
    with source_errors(source), connect(source, lock_timeout=f"{_LOCK_TIMEOUT_MS}ms", **pace) as connection:
        connection.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
        connection.execute(sql.SQL(_COMMANDS[strategy]).format(table_reference(name)))
    if any(("only " in warning and "vacuum" in warning) or "permission denied" in warning for warning in warnings):
        hint = f"from PostgreSQL 17: GRANT MAINTAIN ON {quoted(name.schema, name.table)} TO {quoted(source.user)}"
        raise PermissionDeniedError(
            f"{name}: PostgreSQL skipped the VACUUM, which only the owner may do; autovacuum does it in its time",
            hint=hint,
        )
