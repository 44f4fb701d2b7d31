"""Kept batches as files below `local_fallback_dir`, under the same names as in the store.

    {key}             the data object
    {stem}.kept.json  what it is, written last: without it the batch is not kept
    {stem}.stale.json why it will never be uploaded, if so

Each file appears whole or not at all: it is written under a name of its own, synced, and renamed. Nothing here removes
a file but `remove_kept`, after a receipt for the very same bytes is in the store.
"""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from archiver_pipeline.codec.documents import decode_document, decode_kept, encode_kept, encode_mark
from archiver_pipeline.codec.hashing import Sha256Counter, read_blocks
from archiver_pipeline.config.effective import StoreSettings
from archiver_pipeline.domain.fallback import (
    KEPT_SUFFIX,
    STALE_SUFFIX,
    KeptBatch,
    KeptState,
    StaleMark,
)
from archiver_pipeline.domain.layout import DataFormat, batch_stem_of, stem_of, table_prefix
from archiver_pipeline.domain.manifest import FORMAT_VERSION, KeptDocument, Manifest
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.errors import ManifestError, PermissionDeniedError, ResourcesError, VerificationError

_PRIVATE_FOLDER = 0o700
_PRIVATE_FILE = 0o600
_PART = ".part-"
_DATA_SUFFIXES = tuple(f".{data_format.value}" for data_format in DataFormat)


def write_kept(root: Path, document: KeptDocument, staged: Path) -> KeptBatch:
    """Keep a staged data object with its description. Safe to repeat, and to interrupt at any instant.

    Raises ResourcesError or PermissionDeniedError when the folder does not take it, VerificationError when the staged
    file is not the one that was encoded.
    """
    manifest = document.manifest
    target = root / manifest.data_key
    with _folder_errors(root):
        _make_private(root, target.parent)
        sha256_hex = _write(target, read_blocks(staged))
        if sha256_hex != manifest.object_sha256:
            target.unlink()
            raise VerificationError(f"{staged}: the staged object changed on disk")
        _write(_beside(target, KEPT_SUFFIX), [encode_kept(document)])
    return _described(target, document)


def read_kept(path: Path) -> KeptDocument:
    """The description beside a kept data object. Raises ManifestError when it is not whole."""
    description = _beside(path, KEPT_SUFFIX)
    with _folder_errors(path.parent):
        return decode_kept(description.read_bytes(), key=str(description))


def is_whole(kept: KeptBatch, manifest: Manifest) -> bool:
    """Whether the data object has the very bytes that its manifest names."""
    read = Sha256Counter()
    with _folder_errors(kept.path.parent):
        for block in read_blocks(kept.path):
            read.update(block)
    return read.hexdigest() == manifest.object_sha256


def mark_stale(kept: KeptBatch, reason: str) -> KeptBatch:
    """Say beside a kept batch that it will never be uploaded. Raises ResourcesError."""
    now = datetime.now(UTC)
    with _folder_errors(kept.path.parent):
        _write(_beside(kept.path, STALE_SUFFIX), [encode_mark(StaleMark(FORMAT_VERSION, now.isoformat(), reason))])
    return _in_state(kept, KeptState.stale, reason)


def remove_kept(kept: KeptBatch) -> None:
    """Remove the files of a batch whose very bytes have a receipt in the store. The description goes last: as long as
    it is there, the next run finds that receipt again."""
    with _folder_errors(kept.path.parent):
        kept.path.unlink(missing_ok=True)
        _beside(kept.path, KEPT_SUFFIX).unlink(missing_ok=True)


def list_kept(settings: StoreSettings, name: TableName) -> list[KeptBatch]:
    """What is kept of a table, in the order of keys. Only looks. Raises ResourcesError when a folder can't be read."""
    root = settings.local_fallback_dir
    if root is None:
        return []
    with _folder_errors(root):
        files = {path.relative_to(root).as_posix(): path for path in _files(root / table_prefix(settings.prefix, name))}
        return [_found(root, key, set(files)) for key in sorted(_data_keys(files))]


def list_strangers(settings: StoreSettings) -> list[tuple[Path, datetime]]:
    """Files in the folder that by their names are no part of any table's kept batch, with when they were written."""
    root = settings.local_fallback_dir
    if root is None or not root.is_dir():
        return []
    with _folder_errors(root):
        found = [Path(folder, name) for folder, _, names in os.walk(root, onerror=_raise) for name in names]
        strange = [path for path in sorted(found) if not _is_of_a_batch(path.relative_to(root).as_posix())]
        return [(path, datetime.fromtimestamp(path.lstat().st_mtime, UTC)) for path in strange]


def _is_of_a_batch(name: str) -> bool:
    whole = name.partition(_PART)[0]
    for suffix in (KEPT_SUFFIX, STALE_SUFFIX):
        whole = f"{whole.removesuffix(suffix)}{_DATA_SUFFIXES[0]}" if whole.endswith(suffix) else whole
    return _stem(whole) != whole and "/year=" in whole


def _data_keys(files: Iterable[str]) -> set[str]:
    """The keys of all data objects that any of the files belongs to. A file that belongs to none stands for itself."""
    names = list(files)
    return {_data_key_of(name, names) for name in names}


def _data_key_of(name: str, names: list[str]) -> str:
    whole = name.partition(_PART)[0]
    for suffix in (KEPT_SUFFIX, STALE_SUFFIX):
        if whole.endswith(suffix):
            stem = whole.removesuffix(suffix)
            return next((f"{stem}{end}" for end in _DATA_SUFFIXES if f"{stem}{end}" in names), stem + _DATA_SUFFIXES[0])
    return whole


def _found(root: Path, key: str, names: set[str]) -> KeptBatch:
    """One kept batch by its files: a stale mark outranks everything, then comes what is missing."""
    path, stem = root / key, _stem(key)
    related = [root / name for name in names if name == key or name.startswith(f"{stem}.")]
    bare = _bare(path, key, related)
    if f"{stem}{STALE_SUFFIX}" in names:
        return _in_state(_known(bare, f"{stem}{KEPT_SUFFIX}" in names), KeptState.stale, _stale_reason(path))
    if f"{stem}{KEPT_SUFFIX}" not in names:
        return _in_state(bare, KeptState.unfinished, "half-written, so it is not used; its rows were not deleted")
    return _known(bare, is_described=True)


def _known(bare: KeptBatch, is_described: bool) -> KeptBatch:
    if not is_described:
        return bare
    try:
        kept = _described(bare.path, read_kept(bare.path))
    except ManifestError as error:
        return _in_state(bare, KeptState.damaged, error.message)
    if kept.key != bare.key:
        return _in_state(bare, KeptState.damaged, "its description is of another batch")
    if not bare.path.exists():
        return _in_state(kept, KeptState.damaged, "its data object is missing")
    return kept


def _described(path: Path, document: KeptDocument) -> KeptBatch:
    manifest = document.manifest
    return KeptBatch(
        path=path,
        key=manifest.data_key,
        state=KeptState.waiting,
        reason=document.reason,
        since=datetime.fromisoformat(document.kept_at),
        size_bytes=manifest.object_bytes,
        window_key=manifest.window,
        batch_id=manifest.batch_id,
        rows=manifest.rows,
    )


def _bare(path: Path, key: str, related: list[Path]) -> KeptBatch:
    """What file names and sizes alone tell."""
    stats = [file.lstat() for file in related]
    since = datetime.fromtimestamp(max((stat.st_mtime for stat in stats), default=0), UTC)
    return KeptBatch(path, key, KeptState.unfinished, "", since, sum(stat.st_size for stat in stats))


def _in_state(kept: KeptBatch, state: KeptState, reason: str) -> KeptBatch:
    return KeptBatch(
        kept.path, kept.key, state, reason, kept.since, kept.size_bytes, kept.window_key, kept.batch_id, kept.rows
    )


def _stale_reason(path: Path) -> str:
    mark = _beside(path, STALE_SUFFIX)
    try:
        return decode_document(StaleMark, mark.read_bytes(), key=str(mark)).reason
    except ManifestError as error:
        return error.message


def _stem(key: str) -> str:
    """What the names of a kept batch's files have in common; the whole name for a file that is none of ours."""
    try:
        return batch_stem_of(key)
    except ValueError:
        return key


def _beside(data_path: Path, suffix: str) -> Path:
    return Path(stem_of(str(data_path)) + suffix)


def _files(folder: Path) -> Iterator[Path]:
    """Every file of the windows below a table's folder. Another schema's table of this name may lie beside them."""
    if not folder.is_dir():
        return
    for year in sorted(folder.glob("year=*")):
        for parent, _, names in os.walk(year, onerror=_raise):
            yield from (Path(parent, name) for name in names)


def _raise(error: OSError) -> None:
    raise error


def _make_private(root: Path, folder: Path) -> None:
    """Make the folder and what is missing above it, for this user alone."""
    for level in [*reversed(folder.relative_to(root).parents), folder.relative_to(root)]:
        (root / level).mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)


def _write(target: Path, blocks: Iterable[bytes]) -> str:
    """Write a file at once or not at all; returns the SHA-256 of what was written. What failed is removed again."""
    draft = target.with_name(f"{target.name}{_PART}{secrets.token_hex(4)}")
    written = Sha256Counter()
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE), "wb") as file:
            for block in blocks:
                file.write(block)
                written.update(block)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    _sync_folder(target.parent)
    return written.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Let the new name survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise PermissionDeniedError(
            f"the local fallback folder {folder} failed: {error.strerror or error}",
            hint="give it to the user that archives, with mode 0700",
        ) from error
    except OSError as error:
        raise ResourcesError(
            f"the local fallback folder {folder} failed: {error.strerror or error}",
            hint="free space there, or set s3.local_fallback_dir to a larger disk that this user may write to",
        ) from error
