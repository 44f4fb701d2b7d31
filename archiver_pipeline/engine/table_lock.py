"""The table lock of the configured kind."""

from archiver_pipeline.config.effective import LockSettings, SourceSettings
from archiver_pipeline.config.enums import LockType
from archiver_pipeline.domain.lock import LockName, TableLock
from archiver_pipeline.locks.file_lock import acquire_file_lock
from archiver_pipeline.postgres.advisory_lock import AdvisoryTableLock, acquire_table_lock


def acquire_lock(lock: LockSettings, source: SourceSettings, name: LockName, run_id: str) -> AdvisoryTableLock:
    """Take the table lock without waiting: first that of the configured kind, then always PostgreSQL's own.

    A lock that ends by the clock, or that lies where PostgreSQL can't see it, says nothing certain about a run that was
    stopped and goes on. PostgreSQL's lock does, as long as the run's connection lives: so the proof rests on that one,
    and the other can only keep more runs apart, never fewer.

    Raises LockHeldError that names the holder; NetworkError, PermissionDeniedError, ResourcesError or LockError when
    the lock can't be asked for.
    """
    outer = _acquire_outer(lock, name, run_id)
    try:
        return acquire_table_lock(source, name.table, outer=outer)
    except BaseException:
        if outer is not None:
            outer.release()
        raise


def _acquire_outer(lock: LockSettings, name: LockName, run_id: str) -> TableLock | None:
    if lock.lock_type == LockType.REDIS:
        # Its driver is large, and most runs have no use for it.
        from archiver_pipeline.locks.redis_lock import acquire_redis_lock  # noqa: PLC0415

        return acquire_redis_lock(lock.redis_url, name, run_id, ttl_seconds=lock.ttl_seconds)
    if lock.lock_type == LockType.FILE:
        return acquire_file_lock(lock.directory, name, run_id)
    return None
