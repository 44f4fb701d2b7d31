"""Secrets in files, as Docker, Kubernetes, systemd and people keep them."""

import os
import stat
from pathlib import Path

from archiver_pipeline.errors import ConfigError, PermissionDeniedError
from archiver_pipeline.secret_sources.reference import SecretReference

_MOST_BYTES = 64 * 1024
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_file(reference: SecretReference) -> str:
    """The file's text without the newline at its end.

    Raises ConfigError when it is missing, too large or no text, PermissionDeniedError when it can't be read or when
    others can read a file that this user could have protected.
    """
    path = Path(reference.place)
    try:
        with path.open("rb") as file:
            _refuse_unprotected(reference, file.fileno())
            content = file.read(_MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"secret {reference}: there is no such file", hint="make it, or correct the path") from None
    except PermissionError:
        raise PermissionDeniedError(
            f"secret {reference}: this user may not read it", hint="let the user that archives own it, with mode 0600"
        ) from None
    except OSError as error:
        raise ConfigError(f"secret {reference} can't be read: {error.strerror}") from None
    return _text(reference, content)


def _refuse_unprotected(reference: SecretReference, descriptor: int) -> None:
    """As libpq does for .pgpass: refused where `chmod 600` would help. Files of another owner and files on a read-only
    mount are how a platform hands secrets out, 0644 by default; whoever can read those is not ours to decide."""
    found = os.fstat(descriptor)
    is_given = found.st_uid != os.geteuid() or os.fstatvfs(descriptor).f_flag & os.ST_RDONLY or _is_projected(reference)
    if found.st_mode & _OTHERS and not is_given:
        raise PermissionDeniedError(
            f"secret {reference}: others may read it (mode {stat.S_IMODE(found.st_mode):04o})",
            hint=f"chmod 600 {reference.place}",
        )


def _is_projected(reference: SecretReference) -> bool:
    """Whether Kubernetes has put it there: a volume's files are links through `..data`, and its own root owns them."""
    path = Path(reference.place)
    return path.is_symlink() and path.readlink().parts[:1] == ("..data",)


def _text(reference: SecretReference, content: bytes) -> str:
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"secret {reference}: the file is larger than {_MOST_BYTES // 1024} KiB")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"secret {reference}: the file is not UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r")
