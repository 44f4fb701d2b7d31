"""Reclaim: measure what is free in a table's files, and write the table anew when that is worth it and safe.

Never while a batch of the table waits to be settled: pg_repack and pg_squeeze give every row another xmin, and the
batch would not find its rows again. So this is the last thing that a run does under its table lock.
"""

from time import perf_counter

from archiver_pipeline.config.enums import ReclaimStrategy
from archiver_pipeline.domain.disk import (
    Advice,
    DiskReport,
    LeafSpace,
    Reclaim,
    TableSpace,
    disk_report,
    guessed_seconds,
)
from archiver_pipeline.domain.layout import BatchState
from archiver_pipeline.domain.table import TableName, TableShape
from archiver_pipeline.engine.archived import list_stored
from archiver_pipeline.engine.inventory import DateRange, eligible_windows
from archiver_pipeline.engine.kept_files import list_kept
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import (
    NetworkError,
    PermissionDeniedError,
    PreflightError,
    ResourcesError,
    SourceError,
)
from archiver_pipeline.postgres.connection import connect, source_errors
from archiver_pipeline.postgres.eligible import table_reference
from archiver_pipeline.postgres.maintenance import table_bytes
from archiver_pipeline.postgres.reclaim import (
    REPACK,
    SQUEEZE,
    extension_version,
    find_repack,
    may_rewrite,
    require_extension,
    require_repack,
    rewrite_full,
    rewrite_repack,
    rewrite_squeeze,
)
from archiver_pipeline.postgres.space import measure_space

_ONLY_SWAP = "can be read and written meanwhile, but for a moment at the beginning and the end"
_LOCKED = "locks the table against reading and writing"
FAILURES = (NetworkError, PermissionDeniedError, PreflightError, ResourcesError, SourceError)


def require_reclaim(session: ArchiveSession) -> list[str]:
    """What the configured reclaim will use, for people; nothing when none is configured.

    Raises PreflightError or PermissionDeniedError, with what to install or grant, when it can't be done.
    """
    strategy, connection = ReclaimStrategy(session.settings.reclaim), session.connection
    if strategy is ReclaimStrategy.NONE:
        return []
    if not may_rewrite(connection, session.name):
        hint = (
            f"ALTER TABLE {session.name.schema}.{session.name.table} OWNER TO {session.primary.user}, or reclaim: none"
        )
        raise PermissionDeniedError(f"reclaim: {strategy.value} is for the owner of {session.name} only", hint=hint)
    if strategy is ReclaimStrategy.REPACK:
        program = find_repack(connection, session.settings.pg_repack_path)
        require_repack(connection, session.primary, program)
        return [f"reclaim: {program.path}, version {program.version} like the extension"]
    if strategy is ReclaimStrategy.SQUEEZE:
        require_extension(connection, session.primary, SQUEEZE)
    return [f"reclaim: {strategy.value}"]


def give_back(session: ArchiveSession, shape: TableShape, *, closed: str = "") -> DiskReport:
    """Measure the table's files after its VACUUM; write it anew where that is configured, worth it and not `closed`
    for a reason in words."""
    space = measure_space(session.primary, session.name)
    reclaim = reclaim_table(session, shape, space, closed=closed)
    done = reclaim is not None and bool(reclaim.leaves) and not reclaim.failed
    return disk_report(space, None if done else advise(session, space), reclaim)


def advise(session: ArchiveSession, space: TableSpace) -> Advice | None:
    """What would give disk back, by the means that the database has; None while that is not worth it."""
    settings = session.settings
    leaves = space.bloated(settings.reclaim_min_free_ratio, settings.reclaim_min_bytes)
    if not leaves:
        return None
    with source_errors(session.primary), connect(session.primary) as connection:
        has = [name for name in (REPACK, SQUEEZE) if extension_version(connection, name)]
    left_bytes = sum(leaf.size_bytes - leaf.free_bytes for leaf in leaves)
    return Advice(
        command=_command(has, leaves),
        frees_bytes=sum(leaf.free_bytes for leaf in leaves),
        needs_bytes=max(leaf.size_bytes - leaf.free_bytes for leaf in leaves),
        seconds=guessed_seconds(left_bytes),
        lock=_ONLY_SWAP if has else _LOCKED,
    )


def _command(extensions: list[str], leaves: tuple[LeafSpace, ...]) -> str:
    if REPACK in extensions:
        return "reclaim: repack"
    if SQUEEZE in extensions:
        return "reclaim: squeeze"
    first = table_reference(leaves[0].name).as_string()
    more = f" and of {len(leaves) - 1} more partitions" if len(leaves) > 1 else ""
    return f"VACUUM (FULL, ANALYZE) {first}{more} (with the extension pg_repack it would take no long lock)"


def reclaim_table(session: ArchiveSession, shape: TableShape, space: TableSpace, *, closed: str = "") -> Reclaim | None:
    """Write the leaves anew that are worth it; None when that is not configured. Safe to repeat.

    A failure is told in the answer and fails nothing: every row is where it belongs. Raises LockLostError.
    """
    strategy = ReclaimStrategy(session.settings.reclaim)
    if strategy is ReclaimStrategy.NONE:
        return None
    leaves = space.bloated(session.settings.reclaim_min_free_ratio, session.settings.reclaim_min_bytes)
    if reason := closed or _reason_to_wait(session, shape, space, leaves):
        return Reclaim(strategy.value, skipped=reason)
    before, started = table_bytes(session.connection, session.name), perf_counter()
    done, failed = [], ""
    for leaf in leaves:
        session.lock.require_held()
        session.progress.reclaim_told(session.name, f"{strategy.value} of {leaf.name.table} begins")
        try:
            _rewrite(session, strategy, leaf.name)
        except FAILURES as error:
            failed = str(error)
            break
        done.append(leaf.name.table)
    seconds = perf_counter() - started
    returned = max(0, before - table_bytes(session.connection, session.name))
    return Reclaim(strategy.value, returned, seconds, tuple(done), failed=failed)


def _reason_to_wait(
    session: ArchiveSession, shape: TableShape, space: TableSpace, leaves: tuple[LeafSpace, ...]
) -> str:
    """Why the table is not written anew now; empty when it is. The cheapest look first."""
    if not leaves:
        return f"{space.free_bytes:,} of {space.size_bytes:,} bytes are free ({space.free_ratio:.0%})"
    if next(eligible_windows(session, shape, DateRange()), None) is not None:
        return "there is more to archive first"
    if list_kept(session.store_settings, session.name):
        return "batches on the local disk wait for their upload"
    session.lock.require_held()
    pending = sum(batch.state is BatchState.pending for batch in list_stored(session.store, session.name))
    return f"{pending} batches are not settled: a row written anew is another version" if pending else ""


def _rewrite(session: ArchiveSession, strategy: ReclaimStrategy, name: TableName) -> None:
    if strategy is ReclaimStrategy.FULL:
        rewrite_full(session.primary, name)
    elif strategy is ReclaimStrategy.SQUEEZE:
        rewrite_squeeze(session.primary, name)
    else:
        rewrite_repack(
            session.primary,
            name,
            find_repack(session.connection, session.settings.pg_repack_path),
            wait_seconds=session.settings.reclaim_wait_seconds,
            tell=lambda line: session.progress.reclaim_told(session.name, line),
        )
