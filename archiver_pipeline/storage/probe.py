"""Finds out what a store supports by trying it on objects of its own."""

from dataclasses import dataclass

from archiver_pipeline.errors import StoreError
from archiver_pipeline.storage.s3 import ObjectExistsError, S3Store

_CONTENT = b"archiver_pipeline probe\n"
_WRONG_SHA256 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@dataclass(frozen=True, slots=True)
class StoreCapabilities:
    """What the store enforces by itself. Neither is needed for safety; both find trouble earlier."""

    creates_conditionally: bool
    checks_sha256: bool


def probe_store(store: S3Store, prefix: str) -> StoreCapabilities:
    """Write, read, list and remove small objects below `prefix`, which must hold `_probe`.

    Raises when writing, reading or listing does not work. Safe to repeat.
    """
    key, damaged = f"{prefix}/probe.txt", f"{prefix}/damaged.txt"
    store.put_document(key, _CONTENT)
    try:
        _require_readable(store, key)
        return StoreCapabilities(_refuses_second_write(store, key), _refuses_wrong_sha256(store, damaged))
    finally:
        for written in [key, damaged]:
            store.delete_probe(written)


def _require_readable(store: S3Store, key: str) -> None:
    if store.read_document(key) != _CONTENT:
        raise StoreError(f"{key} was read back with other bytes than were written")
    if key not in {found.key for found in store.list_objects(key)}:
        raise StoreError(f"{key} was written but is missing from the listing")


def _refuses_second_write(store: S3Store, key: str) -> bool:
    try:
        store.put_document(key, _CONTENT)
    except ObjectExistsError:
        return store.creates_conditionally
    return False


def _refuses_wrong_sha256(store: S3Store, key: str) -> bool:
    try:
        store.put_unchecked(key, _CONTENT, ChecksumSHA256=_WRONG_SHA256)
    except StoreError:
        return True
    return False
