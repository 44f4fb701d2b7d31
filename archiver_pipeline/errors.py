"""Every error this package raises on purpose, drawn as a tree; the number is the exit code of the command.

ArchiverError                 2   anything of ours; catch this at the faces
├── ConfigError               3   the configuration file is wrong; carries every problem at once
├── PreflightError            3   the environment is not ready: versions, privileges, missing columns
├── LockHeldError             4   another run works on the same table
├── LockLostError             2   the lock went away during the run: stop before anything else is deleted
├── LockError                 2   what keeps the lock (Redis, a folder) can't do it
├── PermissionDeniedError     5   database or store refused these credentials
├── ResourcesError            6   disk, memory or connection slots ran out
├── NetworkError              7   transient: a retry is sensible
├── SourceError               2   PostgreSQL said no
├── StoreError                2   the object store said no
├── AlertError                7   a channel did not take an alert; never raised by a run
├── HoldsError                2   legal holds can't be read or understood: nothing is deleted
├── VerificationError         2   what was read back is not what was written: never retried
└── ManifestError             2   unreadable manifest or receipt, or one of an unknown version
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class ArchiverError(Exception):
    """Base of all errors here. `exit_code` is what a command ends with; `transient` allows a retry."""

    exit_code: ClassVar[int] = 2
    transient: ClassVar[bool] = False
    is_recorded: bool = False
    """Whether the audit trail tells of it, or cannot: then nobody has to try."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} — {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call the class with `args` alone and lose the hint on the way between processes.
        return (_rebuilt, (type(self), self.args, self.__dict__.copy()))


def _rebuilt(kind: type[ArchiverError], args: tuple[object, ...], state: dict[str, object]) -> ArchiverError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


@dataclass(frozen=True)
class ConfigProblem:
    """One thing wrong in a configuration file. `path` is like `databases[0].tables[2].retention_days`;
    `line` counts from 1 and is None where the file has no such place."""

    path: str
    message: str
    hint: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        path = f"{self.path}: " if self.path else ""
        hint = f" — {self.hint}" if self.hint else ""
        return f"{place}{path}{self.message}{hint}"


class ConfigError(ArchiverError):
    """The configuration is missing, unreadable or wrong. `problems` holds all of it, in the file's order."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str | None = None, problems: Iterable[ConfigProblem] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n  ".join([super().__str__(), *map(str, self.problems)])


class PreflightError(ArchiverError):
    """The environment is not ready to run: server version, privileges, columns, bucket."""

    exit_code = 3


class LockHeldError(ArchiverError):
    """Another run holds the lock of this table."""

    exit_code = 4


class LockLostError(ArchiverError):
    """The lock disappeared during the run; nothing more may be deleted."""


class LockError(ArchiverError):
    """Redis or the folder of lock files can't keep a lock as it is asked to."""


class PermissionDeniedError(ArchiverError):
    """The database or the store refused these credentials or this operation."""

    exit_code = 5


class ResourcesError(ArchiverError):
    """Disk, memory or connection slots ran out."""

    exit_code = 6


class NetworkError(ArchiverError):
    """A connection failed or timed out; trying again is sensible."""

    exit_code = 7
    transient = True


class SourceError(ArchiverError):
    """PostgreSQL refused or failed a statement."""


class StoreError(ArchiverError):
    """The object store refused or failed a request."""


class AlertError(ArchiverError):
    """A channel did not take an alert. The text holds no URL, no token and nothing a server said that might."""

    exit_code = 7


class HoldsError(ArchiverError):
    """Legal holds can't be read or understood, so nothing may be deleted."""


class VerificationError(ArchiverError):
    """What was read back is not what was written. Never retried: nothing of the batch is deleted."""


class ManifestError(ArchiverError):
    """A manifest or receipt that can't be read, or whose format version is unknown."""
