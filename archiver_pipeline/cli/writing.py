"""Writes a file whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from archiver_pipeline.errors import ConfigError, PermissionDeniedError, ResourcesError

_PRIVATE_MODE = 0o600
_ALL_MODE = 0o666


def write_whole(path: Path, text: str, *, is_private: bool, replace: bool) -> None:
    """Write the file, readable by its owner alone when it is private.

    Raises ConfigError when it is there already, unless it is to be replaced, PermissionDeniedError or ResourcesError
    when it cannot be written. Then nothing is left of it.
    """
    try:
        with _written_beside(path, text, _PRIVATE_MODE if is_private else _ALL_MODE & ~_umask()) as staged:
            if replace:
                staged.replace(path)
            else:
                # Unlike a rename, a link refuses a name that somebody took since it was looked at.
                os.link(staged, path)
    except FileExistsError:
        raise ConfigError(f"{path} is there already", hint="name another file with --output, or give --force") from None
    except PermissionError as error:
        raise PermissionDeniedError(f"{path}: {error.strerror}", hint="name another file with --output") from None
    except OSError as error:
        raise ResourcesError(f"{path}: {error.strerror}", hint="name another file with --output") from None


@contextlib.contextmanager
def _written_beside(path: Path, text: str, mode: int) -> Iterator[Path]:
    """The text in a file of the same folder, on disk, that goes away."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    staged = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield staged
    finally:
        staged.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
