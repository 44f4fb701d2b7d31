"""Preflight: everything an archive needs, one line each, and what to do about each failure. Reads only, except for
probe objects below `_probe/` of the prefix and locks of a like name, which are removed again."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

from archiver_pipeline.config.effective import DatabaseSettings, LockSettings, StoreSettings, TableSettings
from archiver_pipeline.config.enums import LockType
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.config.references import referenced_secrets
from archiver_pipeline.domain.fallback import KeptState
from archiver_pipeline.domain.holds import shown
from archiver_pipeline.domain.layout import key_part
from archiver_pipeline.domain.lock import LockName
from archiver_pipeline.domain.table import TableName, TableShape
from archiver_pipeline.engine.archived import list_stored
from archiver_pipeline.engine.bucket_check import bucket_findings, encryption_findings, lock_findings
from archiver_pipeline.engine.drift import require_known_columns
from archiver_pipeline.engine.finding import Finding, Level
from archiver_pipeline.engine.holds import with_holds
from archiver_pipeline.engine.kept_files import list_kept
from archiver_pipeline.engine.leaves import leaf_findings
from archiver_pipeline.engine.reclaim import require_reclaim
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ArchiverError, PermissionDeniedError, ResourcesError
from archiver_pipeline.locks.file_lock import try_file_lock
from archiver_pipeline.postgres.advisory_lock import acquire_table_lock
from archiver_pipeline.postgres.catalog import inspect_table, server_version, system_identifier
from archiver_pipeline.postgres.connection import Transport, connect, transport_of
from archiver_pipeline.postgres.eligible import source_clock
from archiver_pipeline.postgres.reclaim import LEFTOVER_HINT, find_leftovers
from archiver_pipeline.secret_sources.secret import ReferencedSecret
from archiver_pipeline.storage.probe import StoreCapabilities, probe_store
from archiver_pipeline.storage.s3 import S3Store

__all__ = ["Finding", "Level", "preflight", "probe_configured_store"]
_TOLERATED_SKEW_SECONDS = 60
_FORGOTTEN = "no row is at risk: a run whose lock is gone stops before its next delete"


def preflight(config: LoadedConfig, tables: tuple[TableSettings, ...], now: datetime) -> Iterator[Finding]:
    """Check store, databases and tables. `now` is this machine's clock, aware; only its skew is looked at."""
    yield from _secret_findings(config)
    yield from _store_findings(config, tables)
    yield from _fallback_folder(config, "local fallback")
    yield from _lock_findings(config, tables)
    for database in config.databases:
        own = [table for table in tables if table.database == database.id]
        if own:
            yield from _database_findings(database, now)
            for table in own:
                yield from _table_findings(config, database, table)


def _secret_findings(config: LoadedConfig) -> Iterator[Finding]:
    """Each secret that is kept elsewhere is read once, so that a failure names its key and not only who needed it."""
    for path, secret in referenced_secrets(config.config, config.path.parent):
        yield from _attempt(f"secret {path}", partial(_readable, f"secret {path}", secret))


def _readable(subject: str, secret: ReferencedSecret) -> list[Finding]:
    secret.get_secret_value()
    return [Finding(subject, Level.ok, f"read from {secret.reference}")]


def _store_findings(config: LoadedConfig, tables: tuple[TableSettings, ...]) -> Iterator[Finding]:
    subject = f"store {config.store.bucket}"
    yield from _attempt(subject, lambda: list(_probe(config, subject)))
    store = S3Store(config.store)
    yield from _attempt(subject, lambda: list(encryption_findings(store, tables, subject)))
    yield from _attempt(subject, lambda: list(lock_findings(store, tables, subject)))
    yield from _attempt(subject, lambda: list(bucket_findings(store, subject)))


def _probe(config: LoadedConfig, subject: str) -> Iterator[Finding]:
    found = probe_configured_store(config.store)
    yield Finding(subject, Level.ok, f"reachable at {config.store.endpoint or 'AWS'}, bucket can be listed")
    yield Finding(subject, Level.ok, "objects can be written, read back and listed")
    yield _capability(subject, "create-only writes", found.creates_conditionally, "keys are unique anyway")
    yield _capability(
        subject, "refuses bytes that do not match their SHA-256", found.checks_sha256, "read-back proves them"
    )


def probe_configured_store(settings: StoreSettings) -> StoreCapabilities:
    """List the bucket and try out what its store supports, below `_probe/` of the prefix. Raises what does not work."""
    store = S3Store(settings)
    store.require_bucket()
    return probe_store(store, "/".join(filter(None, [settings.prefix, "_probe", secrets.token_hex(8)])))


def _capability(subject: str, what: str, has: bool, otherwise: str) -> Finding:
    if has:
        return Finding(subject, Level.ok, what)
    return Finding(subject, Level.warning, f"does not support: {what}", f"no rows are at risk: {otherwise}")


def _lock_findings(config: LoadedConfig, tables: tuple[TableSettings, ...]) -> Iterator[Finding]:
    """Locks outside PostgreSQL, once for each kind that a table asks for."""
    kinds = {table.lock_type: config.database(table.database).lock_of(table) for table in tables}
    for kind, try_lock in ((LockType.REDIS, _redis_lock), (LockType.FILE, _file_lock)):
        if kind in kinds:
            subject = f"lock {kind}"
            yield from _attempt(subject, partial(try_lock, kinds[kind], _lock_probe(config), subject))


def _lock_probe(config: LoadedConfig) -> LockName:
    """The name of no table's lock, another one for every check."""
    return LockName(TableName("_probe", "_probe", secrets.token_hex(8)), config.store.bucket, config.store.prefix)


def _redis_lock(settings: LockSettings, probe: LockName, subject: str) -> list[Finding]:
    from archiver_pipeline.locks.redis_lock import try_redis_lock  # noqa: PLC0415 - its driver is large

    facts = try_redis_lock(settings.redis_url, probe, ttl_seconds=settings.ttl_seconds)
    ends = f"that of a killed run ends after {settings.ttl_seconds:g} s"
    found = [Finding(subject, Level.ok, f"{facts.place}, version {facts.version}: locks can be taken; {ends}")]
    if facts.eviction:
        message = f"may drop locks when its memory is full (maxmemory-policy {facts.eviction})"
        found.append(Finding(subject, Level.warning, message, f"set maxmemory-policy noeviction; {_FORGOTTEN}"))
    if not facts.survives_restart:
        message = "forgets locks when it restarts (appendonly no)"
        found.append(Finding(subject, Level.warning, message, f"set appendonly yes; {_FORGOTTEN}"))
    if facts.replicas:
        found.append(Finding(subject, Level.warning, "may forget locks when it fails over to a replica", _FORGOTTEN))
    return found


def _file_lock(settings: LockSettings, probe: LockName, subject: str) -> list[Finding]:
    folder = try_file_lock(settings.directory, probe)
    message = f"{folder.path} ({folder.file_system}): keeps only runs on this machine apart"
    if folder.is_shared:
        message += ", unless all machines mount it with locking between them"
    hint = "runs elsewhere on the same database are refused by PostgreSQL's own lock, which every run takes as well"
    return [Finding(subject, Level.ok, "locks can be taken"), Finding(subject, Level.warning, message, hint)]


def _database_findings(database: DatabaseSettings, now: datetime) -> Iterator[Finding]:
    subject = f"database {database.id}"
    yield from _attempt(subject, lambda: list(_primary(database, subject, now)))
    if database.replica is not None:
        yield from _attempt(f"{subject} replica", lambda: list(_replica(database, f"{subject} replica")))


def _primary(database: DatabaseSettings, subject: str, now: datetime) -> Iterator[Finding]:
    with connect(database.primary) as connection:
        transport = transport_of(connection)
        version = server_version(connection)
        skew_seconds = abs((source_clock(connection).astimezone(UTC) - now).total_seconds())
    place = f"{database.primary.host}:{database.primary.port}"
    yield Finding(subject, Level.ok, f"PostgreSQL {version // 10000}.{version % 10000} at {place}")
    yield _transport(subject, transport)
    if skew_seconds > _TOLERATED_SKEW_SECONDS:
        yield Finding(
            subject,
            Level.warning,
            f"its clock and this machine's differ by {skew_seconds:.0f} s",
            "only the database's clock decides what is eligible; correct whichever is wrong",
        )
    else:
        yield Finding(subject, Level.ok, f"clock skew {skew_seconds:.1f} s")
    lock = acquire_table_lock(database.primary, TableName(database.id, "_probe", secrets.token_hex(8)))
    try:
        lock.require_held()
    finally:
        lock.release()
    yield Finding(subject, Level.ok, "table locks can be taken")


def _transport(subject: str, found: Transport) -> Finding:
    if found.is_exposed:
        return Finding(subject, Level.warning, found.text, "set sslmode to verify-full; docs/storage-security.md")
    return Finding(subject, Level.ok, found.text)


def _replica(database: DatabaseSettings, subject: str) -> Iterator[Finding]:
    if database.replica is None:
        return
    with connect(database.replica) as replica, connect(database.primary) as primary:
        same = system_identifier(replica) == system_identifier(primary)
        transport = transport_of(replica)
    place = f"{database.replica.host}:{database.replica.port}"
    yield _transport(subject, transport)
    if same:
        yield Finding(subject, Level.ok, f"{place} is a physical replica")
    else:
        hint = "read_replica must be a streaming replica of this very cluster"
        yield Finding(subject, Level.failed, f"{place} is another cluster", hint, exit_code=3)


def _table_findings(config: LoadedConfig, database: DatabaseSettings, table: TableSettings) -> Iterator[Finding]:
    subject = f"table {database.id}.{table.qualified_name}"
    yield from _attempt(subject, lambda: list(_table(config, database, table, subject)))


def _table(config: LoadedConfig, database: DatabaseSettings, table: TableSettings, subject: str) -> Iterator[Finding]:
    session = ArchiveSession(table, database, config.store, run_id="check")
    try:
        shape = inspect_table(session.connection, table)
        key = ", ".join(part.name for part in shape.key)
        yield Finding(subject, Level.ok, f"key ({key}), {shape.timestamp_column} {shape.timestamp_type}, privileges")
        for warning in shape.warnings:
            yield Finding(subject, Level.warning, warning)
        if table.below_floor:
            hint = "every plan records it in the audit trail"
            yield Finding(subject, Level.warning, shown(str(table.below_floor)), hint)
        yield from leaf_findings(session, shape, subject)
        yield from _attempt(subject, lambda: list(_drift(session, shape, subject)))
        yield from _attempt(subject, lambda: list(_holds(session, shape, subject)))
        yield from _attempt(subject, lambda: list(_throttle(session, shape, subject)))
        yield from _attempt(subject, lambda: list(reclaim_findings(session, subject)))
        yield _staging(session, subject)
        yield from _kept(session, subject)
        yield Finding(
            subject,
            Level.ok,
            f"{session.workers} workers, connection_pool_size {table.connection_pool_size}, "
            f"keys below {key_part(database.id)}/",
        )
    finally:
        session.close()


def _holds(session: ArchiveSession, shape: TableShape, subject: str) -> Iterator[Finding]:
    """Every source of holds is asked, as a plan does it; nothing without one."""
    if not session.hold_sources.exist:
        return
    session.hold_sources.require(session.connection)
    found = with_holds(session, shape).holds
    for hold in found.holds:
        hint = f"its row predicate: {hold.defect}" if hold.defect else "`archiver hold list` shows what it covers"
        yield Finding(subject, Level.warning, str(hold), hint)
    if not found:
        yield Finding(subject, Level.ok, "every source of legal holds was asked: no hold")


def _throttle(session: ArchiveSession, shape: TableShape, subject: str) -> Iterator[Finding]:
    """Every configured signal is read once: a run would wait for one that can't be, and then stop."""
    for reading in session.throttle.read_once(shape):
        if reading.problem:
            yield Finding(subject, Level.failed, f"throttle: {reading}", "a run would wait and then stop", exit_code=3)
        elif reading.is_over:
            yield Finding(subject, Level.warning, f"throttle: {reading}", "a run would wait now")
        else:
            yield Finding(subject, Level.ok, f"throttle: {reading}")
    if closed := session.throttle.closed(shape, ignore_hours=False):
        yield Finding(subject, Level.ok, f"now {closed}")
    elif session.settings.allowed_hours:
        yield Finding(subject, Level.ok, f"within allowed_hours ({session.settings.allowed_hours})")


def reclaim_findings(session: ArchiveSession, subject: str) -> Iterator[Finding]:
    """Whether the configured reclaim can be done, and what an earlier one left. Raises what keeps it from it."""
    for message in require_reclaim(session):
        yield Finding(subject, Level.ok, message)
    if found := find_leftovers(session.connection, session.name):
        yield Finding(subject, Level.warning, f"{', '.join(found)} is there", LEFTOVER_HINT)


def _staging(session: ArchiveSession, subject: str) -> Finding:
    """Only looks: the folder is made by the first run."""
    folder = session.staging_root
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    wanted = session.settings.max_staged_bytes
    if free_bytes < wanted:
        return Finding(
            subject,
            Level.failed,
            f"{folder} has {free_bytes >> 20} MiB free, max_staged_bytes is {wanted >> 20} MiB",
            "lower max_staged_bytes or set staging_dir to a larger disk",
            exit_code=ResourcesError.exit_code,
        )
    return Finding(subject, Level.ok, f"staging in {folder}, {free_bytes >> 20} MiB free")


def _drift(session: ArchiveSession, shape: TableShape, subject: str) -> Iterator[Finding]:
    """Raises PreflightError where a run would."""
    for warning in require_known_columns(session, shape, list_stored(session.store, shape.name)):
        yield Finding(subject, Level.warning, warning, "fail_on_schema_drift would stop a run here")


def _kept(session: ArchiveSession, subject: str) -> Iterator[Finding]:
    """What an outage left on the local disk, in one line per state; it only looks."""
    found = list_kept(session.store_settings, session.name)
    for state in KeptState:
        if own := [kept for kept in found if kept.state is state]:
            since = min(kept.since for kept in own)
            message = f"{len(own)} {state.value} batches on the local disk, the oldest since {since:%Y-%m-%d %H:%M} UTC"
            uploads = "`archiver upload-pending` uploads them"
            looks = "`archiver upload-pending --dry-run` shows why; remove their files by hand when you know"
            yield Finding(subject, Level.warning, message, uploads if state is KeptState.waiting else looks)


def _fallback_folder(config: LoadedConfig, subject: str) -> Iterator[Finding]:
    """Whether the folder could take a batch; it is made by the first that is kept."""
    folder = config.store.local_fallback_dir
    if folder is None:
        return
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    hint = "make it a folder of the user that archives, with mode 0700"
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield Finding(
            subject, Level.failed, f"{existing} can't be written to", hint, exit_code=PermissionDeniedError.exit_code
        )
    elif folder.exists() and folder.stat().st_mode & 0o077:
        yield Finding(subject, Level.warning, f"{folder} may hold rows, and others can read it", hint)
    else:
        free_bytes = shutil.disk_usage(existing).free
        yield Finding(subject, Level.ok, f"{folder}, {free_bytes >> 20} MiB free")


def _attempt(subject: str, check: Callable[[], list[Finding]]) -> Iterator[Finding]:
    """The findings of a check, or its error as one."""
    try:
        yield from check()
    except ArchiverError as error:
        yield Finding(subject, Level.failed, error.message, error.hint or "", exit_code=error.exit_code)
