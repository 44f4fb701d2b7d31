"""Whether the store keeps a table's objects as the configuration demands: encrypted, and locked. Read back, not
believed: what was asked for in a write proves nothing."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from archiver_pipeline.config.effective import StoreSettings, TableSettings
from archiver_pipeline.config.enums import Encryption
from archiver_pipeline.domain.manifest import Receipt
from archiver_pipeline.domain.safekeeping import (
    KMS_ALGORITHMS,
    SSE_S3_ALGORITHM,
    ObjectRetention,
    StoredEncryption,
    is_same_key,
)
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import StoreError, VerificationError
from archiver_pipeline.postgres.eligible import source_clock
from archiver_pipeline.storage.s3 import S3Store

_PROBE = b"archiver_pipeline probe\n"
_NOTHING_DELETED = "its rows were not deleted"
_ALGORITHMS = {Encryption.SSE_S3: (SSE_S3_ALGORITHM,), Encryption.SSE_KMS: KMS_ALGORITHMS}
_LEEWAY = timedelta(days=1)
"""Between the lock, the delete and the receipt's time lies a run that may have been interrupted; a lock that is shorter
by more than that was made for fewer days."""


def encryption_defect(settings: StoreSettings, found: StoredEncryption) -> str:
    """What the store's answer lacks of the configured encryption; empty when nothing. With `none` and `bucket-default`
    any encryption will do, with a `kms_key_id` only one with this key."""
    if not found.algorithm:
        return "the store does not say that it is encrypted"
    if found.algorithm not in _ALGORITHMS.get(settings.encryption, (found.algorithm,)):
        return f"encrypted by {found.algorithm} instead of {settings.encryption}"
    needs_key = settings.encryption in (Encryption.SSE_KMS, Encryption.BUCKET_DEFAULT) and settings.kms_key_id
    if needs_key and not is_same_key(needs_key, found.kms_key):
        return f"encrypted with the key {found.kms_key or 'of no name'}, which is not s3.kms_key_id"
    return ""


def require_encrypted(session: ArchiveSession, key: str) -> None:
    """Raises VerificationError unless the store says of the object what the configuration demands; asks nothing for
    tables that need not be encrypted."""
    if not session.settings.must_encrypt:
        return
    if defect := encryption_defect(session.store_settings, session.store.encryption_of(key)):
        raise VerificationError(
            f"{key}: {defect}", hint=f"{_NOTHING_DELETED}; `archiver check` tries what the store encrypts"
        )


def require_encrypting_store(session: ArchiveSession) -> None:
    """Raises VerificationError unless the store says that it encrypted a probe as the table demands: no row is to reach
    a store that does not. Tried once in a session, by three requests; asks nothing for other tables."""
    if not session.settings.must_encrypt or session.store_encrypts:
        return
    with probe_object(session.store, "encryption") as key:
        found = session.store.encryption_of(key)
    if defect := encryption_defect(session.store_settings, found):
        raise VerificationError(f"a probe: {defect}", hint="nothing was uploaded and no row was deleted")
    session.store_encrypts = True


@contextmanager
def probe_object(store: S3Store, name: str) -> Iterator[str]:
    """The key of a small document below `_probe/`, there while the block lasts."""
    key = "/".join(filter(None, [store.settings.prefix, "_probe", secrets.token_hex(8), f"{name}.txt"]))
    store.put_document(key, _PROBE)
    try:
        yield key
    finally:
        store.delete_probe(key)


def wanted_retention(session: ArchiveSession, last_row_time: str) -> ObjectRetention | None:
    """The lock that an object made now of these rows must have, by the clock of the database; None without one, and
    for rows so old that their archive may expire at once."""
    if session.store_settings.object_lock is None or session.settings.lock_days is None:
        return None
    with session.telling_time, session.connections.take() as connection:
        now = source_clock(connection).astimezone(UTC)
    wanted = _retention_from(session.store_settings, session.settings, last_row_time, now)
    return wanted if wanted is not None and wanted.until > now else None


def _retention_from(
    store: StoreSettings, settings: TableSettings, last_row_time: str, made_at: datetime
) -> ObjectRetention | None:
    if store.object_lock is None or settings.lock_days is None:
        return None
    begin = _time_of_row(last_row_time, otherwise=made_at) if settings.lock_from_last_row else made_at
    until = (begin + timedelta(days=settings.lock_days)).replace(microsecond=0)
    return ObjectRetention(store.object_lock.value.upper(), until)


def _time_of_row(text: str, *, otherwise: datetime) -> datetime:
    """A time as PostgreSQL writes it. What Python can't tell, like a year before Christ, counts as now: locks that
    are too long lose nothing."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return otherwise
    return min(found.replace(tzinfo=found.tzinfo or UTC), otherwise)


def lock_object(session: ArchiveSession, key: str, wanted: ObjectRetention | None) -> None:
    """Lock an object, unless it is locked as well already, and read the lock back. Safe to repeat.

    Raises VerificationError when the store does not say afterwards that it is locked so.
    """
    if wanted is None:
        return
    try:
        found = session.store.retention_of(key)
        if found is None or not found.covers(wanted):
            session.store.retain(key, wanted)
    except StoreError as error:
        hint = f"{_NOTHING_DELETED}; was the bucket made with Object Lock? `archiver check` tells"
        raise VerificationError(f"{error.message}: the object can't be locked", hint=hint) from error
    require_locked(session, key, wanted)


def require_locked(session: ArchiveSession, key: str, wanted: ObjectRetention | None) -> None:
    """Raises VerificationError unless the store says that the object is locked as strongly and as long."""
    if wanted is None:
        return
    found = session.store.retention_of(key)
    if found is None or not found.covers(wanted):
        raise VerificationError(
            f"{key}: {'not locked' if found is None else f'locked as {found}'} instead of {wanted}",
            hint=f"{_NOTHING_DELETED}; `archiver check` tells whether the bucket has Object Lock",
        )


def secure_batch(session: ArchiveSession, data_key: str, manifest_key: str, last_row_time: str) -> None:
    """Bring both objects of a batch that somebody else may have written to what the configuration demands now.

    Raises VerificationError when they can't be: encryption is not added to an object that is there.
    """
    wanted = wanted_retention(session, last_row_time)
    for key in (data_key, manifest_key):
        require_encrypted(session, key)
        lock_object(session, key, wanted)


def retention_defect(
    store: StoreSettings, settings: TableSettings, found: ObjectRetention | None, receipt: Receipt, now: datetime
) -> str:
    """What the lock of an archive lacks; empty when nothing, or when its time is over."""
    settled_at = datetime.fromisoformat(receipt.settled_at)
    wanted = _retention_from(store, settings, receipt.last_row_time, settled_at)
    if wanted is None or wanted.until <= now:
        return ""
    if found is None:
        return f"not locked, instead of {wanted}"
    is_enough = found.covers(replace(wanted, until=wanted.until - _LEEWAY))
    return "" if is_enough else f"locked as {found}, instead of {wanted}"
