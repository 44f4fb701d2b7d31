"""The table lock as a locked file. The system frees it when its process ends, however it ends.

The file stays: whoever removed it would let a second holder lock a new file of the same name. Its text names the
holder and is for people; what counts is the lock (`flock`) on it.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from archiver_pipeline.domain.layout import key_part
from archiver_pipeline.domain.lock import Holder, LockName, held_by
from archiver_pipeline.errors import ArchiverError, LockError, LockHeldError, LockLostError, PermissionDeniedError
from archiver_pipeline.locks.holder import decode_holder, encode_holder, this_process

_FOLDER_MODE = 0o700
_FILE_MODE = 0o660
_NAME_CHARACTERS = 100
_NAME_HEX_DIGITS = 12
_HOLDER_BYTES = 4096
_TRIES = 10
_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "gluster", "lustre", "gpfs", "fuse.", "ocfs", "gfs")


class FileTableLock:
    """A held file lock."""

    def __init__(self, path: Path, descriptor: int, holder: Holder, name: LockName) -> None:
        self._path = path
        self._descriptor: int | None = descriptor
        self._name = name
        self._is_lost = False
        self.token = f"file {holder.owner}"

    def require_held(self) -> None:
        """Raises LockLostError when the file at the path is not the one that is locked any more."""
        self._is_lost = self._is_lost or self._descriptor is None or not _is_file_at(self._path, self._descriptor)
        if self._is_lost:
            raise LockLostError(
                f"{self._name.table}: the lock file {self._path} was removed or replaced; nothing more is deleted",
                hint="leave the files of lock.directory alone while a run is under way, then run again",
            )

    def release(self) -> None:
        """Safe to repeat. The file stays, empty."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            os.close(descriptor)


def acquire_file_lock(directory: Path | None, name: LockName, run_id: str) -> FileTableLock:
    """Take the lock of this name without waiting; folder and file are made when missing.

    Raises LockHeldError that names the holder, PermissionDeniedError, or LockError when the folder can't lock.
    """
    path = lock_path(directory, name)
    for _ in range(_TRIES):
        with _file_errors(path):
            descriptor = _open(path)
            if not _is_locked_by_us(descriptor):
                holder = decode_holder(os.pread(descriptor, _HOLDER_BYTES, 0))
                os.close(descriptor)
                who, hint = held_by(holder)
                raise LockHeldError(f"{name.table} is being worked on by {who}", hint=hint)
            if _is_file_at(path, descriptor):
                holder = this_process(run_id)
                _write(descriptor, encode_holder(holder))
                return FileTableLock(path, descriptor, holder, name)
            # Somebody removed it between our opening and locking it.
            os.close(descriptor)
    raise LockError(f"{path} is removed again and again", hint="who cleans this folder? set lock.directory to another")


def lock_path(directory: Path | None, name: LockName) -> Path:
    """The lock file of a name: readable, no longer than a file name may be, and no other name's."""
    digest = hashlib.sha256(name.key.encode()).hexdigest()[:_NAME_HEX_DIGITS]
    return lock_folder(directory) / f"{key_part(name.key)[:_NAME_CHARACTERS]}-{digest}.lock"


def lock_folder(directory: Path | None) -> Path:
    return directory or Path(tempfile.gettempdir()) / f"archiver-{os.getuid()}" / "locks"


@dataclass(frozen=True, slots=True)
class LockFolder:
    """What a try of the folder found out. `is_shared` tells whether other machines may see the same files."""

    path: Path
    file_system: str
    is_shared: bool


def try_file_lock(directory: Path | None, name: LockName) -> LockFolder:
    """Take a lock of this name, which no run has, and leave nothing behind. Raises as `acquire_file_lock`."""
    lock = acquire_file_lock(directory, name, "check")
    try:
        lock.require_held()
        file_system = _file_system(lock_folder(directory))
    finally:
        lock_path(directory, name).unlink(missing_ok=True)
        lock.release()
    shared = file_system.startswith(_NETWORK_FILE_SYSTEMS)
    return LockFolder(lock_folder(directory), file_system, shared)


def _file_system(folder: Path) -> str:
    """The type of the file system that a folder is on, as the system calls it."""
    real = folder.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if real.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown"


def _open(path: Path) -> int:
    path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)


def _is_locked_by_us(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        os.close(descriptor)
        raise
    return True


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _write(descriptor: int, text: bytes) -> None:
    """Whole before it is cut to length, so that a reader in between finds a name with a rest, never half a name."""
    os.pwrite(descriptor, text.ljust(_HOLDER_BYTES), 0)
    os.ftruncate(descriptor, len(text))


@contextlib.contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _translated(error, path) from None


def _translated(error: OSError, path: Path) -> ArchiverError:
    text = f"{path}: {error.strerror}"
    if isinstance(error, PermissionError):
        return PermissionDeniedError(text, hint="the user that archives must be able to write in lock.directory")
    if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP):
        return LockError(
            text, hint="this file system has no locks: set lock.directory to another, or use lock_type: redis"
        )
    return LockError(text, hint="correct lock.directory")
