"""Protections in the store: recorded by a restore, respected by every plan.

A restore holds the table's lock, the one that an archive holds from its plan on, and records its protection before its
first row commits. So an archive sees either no restored row or the protection as well.
"""

import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from archiver_pipeline.codec.documents import decode_protection, encode_mark
from archiver_pipeline.domain.layout import (
    PROTECTION_SUFFIX,
    is_protection_key,
    protection_key,
    protections_prefix,
)
from archiver_pipeline.domain.manifest import FORMAT_VERSION
from archiver_pipeline.domain.protection import Protection, merged_ranges, protections_in_force
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ManifestError
from archiver_pipeline.postgres.eligible import source_clock
from archiver_pipeline.storage.s3 import ObjectExistsError, S3Store

RESTORED = "restored"
_ID_BYTES = 16
_READERS = 4


def build_protection(
    name: TableName,
    windows: Iterable[tuple[datetime, datetime, bool]],
    *,
    run_id: str,
    created_at: datetime,
    ends_at: datetime,
    reason: str = RESTORED,
) -> Protection:
    """Protect the windows of a table, given as (start, end, open_start) in UTC, until `ends_at` (exclusive).

    `created_at` is the source's time. Raises ValueError without a window: that would protect nothing.
    """
    ranges = merged_ranges(windows)
    if not ranges:
        raise ValueError("a protection needs a window")
    return Protection(
        format_version=FORMAT_VERSION,
        protection_id=secrets.token_hex(_ID_BYTES),
        database=name.database,
        schema=name.schema,
        table=name.table,
        run_id=run_id,
        created_at=created_at.astimezone(UTC).isoformat(),
        ends_at=ends_at.astimezone(UTC).isoformat(),
        reason=reason,
        ranges=ranges,
    )


def record_protection(store: S3Store, protection: Protection) -> None:
    """Write a protection. Under the table's lock, before the first row it is for commits. Safe to repeat.

    Raises ObjectExistsError when another one has its id.
    """
    key = protection_key(store.settings.prefix, _name_of(protection), protection.protection_id)
    data = encode_mark(protection)
    try:
        store.put_document(key, data)
    except ObjectExistsError:
        # A write whose answer was lost is sent again, and then finds itself.
        if store.read_document(key) != data:
            raise


def read_protections(store: S3Store, name: TableName) -> list[Protection]:
    """Every protection of a table, ended ones too, in the order of their keys. One listing when there is none.

    Raises ManifestError, StoreError or NetworkError when any cannot be read: it may be the one that matters.
    """
    listed = store.list_objects(protections_prefix(store.settings.prefix, name))
    keys = [found.key for found in listed if is_protection_key(store.settings.prefix, name, found.key)]
    with ThreadPoolExecutor(_READERS) as threads:
        return list(threads.map(lambda key: _read(store, name, key), keys))


def session_protections(session: ArchiveSession) -> list[Protection]:
    """The protections of the session's table that are in force now, by the primary's clock."""
    protections = read_protections(session.store, session.name)
    return protections_in_force(protections, source_clock(session.connection)) if protections else []


def _read(store: S3Store, name: TableName, key: str) -> Protection:
    protection = decode_protection(store.read_document(key), key=key)
    if _name_of(protection) != name or not key.endswith(f"/{protection.protection_id}{PROTECTION_SUFFIX}"):
        raise ManifestError(f"{key} is a protection of another table or id", hint="was it copied here?")
    return protection


def _name_of(protection: Protection) -> TableName:
    return TableName(protection.database, protection.schema, protection.table)
