"""What the configuration says of parallelism, as Dagster's limits.

All ops on one database share a pool, and one op of a run works at a time, so the pool's limit is the number of runs at
once on the database: as many as `connection_pool_size` has connections for. How many databases are worked on at once is
for the run queue: `max_concurrent_runs` of dagster.yaml, which only a person can write.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg

from archiver_pipeline.config.effective import DatabaseSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.engine.preflight import Finding, Level
from archiver_pipeline.engine.session import connections_of_run
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.orchestration.names import pool_of
from archiver_pipeline.postgres.connection import connect
from archiver_pipeline.postgres.limits import free_connections


@dataclass(frozen=True, slots=True)
class PoolLimit:
    """A database's pool. `wanted` follows from the configuration; `current` is in force, None when nothing limits it;
    `is_set` tells whether somebody set it for this pool, rather than for all."""

    database: DatabaseSettings
    pool: str
    connections_per_run: int
    wanted: int
    current: int | None
    is_set: bool

    @property
    def agrees(self) -> bool:
        return self.is_set and self.current == self.wanted


def pool_limits(config: LoadedConfig, instance: dg.DagsterInstance) -> list[PoolLimit]:
    """Every database's pool, in the file's order."""
    set_limits = {limit.name: limit.limit for limit in instance.event_log_storage.get_pool_limits()}
    default = instance.get_concurrency_config().pool_config.default_pool_limit
    return [_limit(database, set_limits, default) for database in config.databases]


def set_pool_limits(config: LoadedConfig, instance: dg.DagsterInstance) -> list[PoolLimit]:
    """Set every pool to what the configuration says; the limits as they are then. Safe to repeat."""
    for limit in pool_limits(config, instance):
        if not limit.agrees:
            instance.event_log_storage.set_concurrency_slots(limit.pool, limit.wanted)
    return pool_limits(config, instance)


def databases_at_once(config: LoadedConfig) -> int:
    """How many databases the configuration allows at a time."""
    defaults = config.config.defaults
    return min(defaults.max_parallel_databases if defaults.parallel_databases else 1, len(config.databases))


def pool_findings(config: LoadedConfig, instance: dg.DagsterInstance | None) -> Iterator[Finding]:
    """How the configuration maps onto Dagster's limits, where the two disagree, and where the server would run out of
    connections. None of it endangers a row, so nothing of it fails."""
    yield _at_once(config, instance)
    if instance is None:
        yield Finding("pools", Level.ok, "there is no Dagster instance yet; `archiver pools --set` sets its limits")
        return
    limits = pool_limits(config, instance)
    for limit in limits:
        yield _pool(limit)
    yield from _servers(limits)


def _limit(database: DatabaseSettings, set_limits: dict[str, int], default: int | None) -> PoolLimit:
    pool = pool_of(database.id)
    of_a_run = max(connections_of_run(table) for table in database.tables)
    wanted = max(1, database.connection_pool_size // of_a_run)
    return PoolLimit(database, pool, of_a_run, wanted, set_limits.get(pool, default), pool in set_limits)


def _at_once(config: LoadedConfig, instance: dg.DagsterInstance | None) -> Finding:
    wanted = databases_at_once(config)
    text = f"{wanted} database{'s' if wanted > 1 else ''} at once by `archiver run`"
    queue = instance.get_concurrency_config().run_queue_config if instance else None
    runs = queue.max_concurrent_runs if queue else None
    if runs is None or len(config.databases) == 1:
        return Finding("parallel_databases", Level.ok, text)
    if 0 <= runs <= wanted:
        return Finding("parallel_databases", Level.ok, f"{text}, {runs} runs at once by Dagster")
    told = f"{text}, but Dagster's queue runs {runs if runs >= 0 else 'any number of'} at once"
    hint = f"in dagster.yaml: concurrency: runs: max_concurrent_runs: {wanted}"
    return Finding("parallel_databases", Level.warning, told, hint)


def _pool(limit: PoolLimit) -> Finding:
    subject = f"pool {limit.pool}"
    size = limit.database.connection_pool_size
    text = f"{limit.wanted} at once: connection_pool_size {size}, {limit.connections_per_run} connections a run"
    if limit.agrees:
        return Finding(subject, Level.ok, text)
    has = f"limit {limit.current}" if limit.current is not None else "no limit"
    origin = "" if limit.is_set or limit.current is None else ", the default of all pools"
    return Finding(subject, Level.warning, f"{text}, but Dagster has {has}{origin}", "archiver pools --set")


def _servers(limits: list[PoolLimit]) -> Iterator[Finding]:
    """A server that several databases are on must have room for the runs of all of them."""
    by_server: dict[tuple[str, int], list[PoolLimit]] = {}
    for limit in limits:
        source = limit.database.primary
        by_server.setdefault((source.host, source.port), []).append(limit)
    for (host, port), own in by_server.items():
        subject = f"server {host}:{port}"
        # Without a limit the queue decides; a run at a time is what is known.
        most = sum((limit.current or 1) * limit.connections_per_run for limit in own)
        try:
            with connect(own[0].database.primary) as connection:
                room = free_connections(connection)
        except ArchiverError:
            continue  # The database's own line has said so.
        if most > room:
            hint = "raise max_connections, or lower connection_pool_size and run `archiver pools --set`"
            yield Finding(subject, Level.warning, f"runs may take {most} connections; there are {room}", hint)
        else:
            yield Finding(subject, Level.ok, f"runs take up to {most} connections of {room}")
