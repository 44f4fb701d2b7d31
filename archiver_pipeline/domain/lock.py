"""The table lock as everybody above the adapters sees it, whatever keeps it."""

import math
from dataclasses import dataclass
from typing import Protocol

from archiver_pipeline.domain.layout import table_prefix
from archiver_pipeline.domain.table import TableName


class TableLock(Protocol):
    """A held lock on one table.

    What is lost stays lost: once `require_held` has found the lock gone, this object never says again that it is held.
    """

    @property
    def token(self) -> str:
        """Names this very holding. The same process gets another one for its next, and so does everybody else."""
        ...

    def require_held(self) -> None:
        """Ask whoever keeps the lock, now. Safe from any thread.

        Raises LockLostError when it is gone, NetworkError when nobody can tell: then nothing may be deleted either.
        """
        ...

    def release(self) -> None:
        """Give the lock back. Safe to repeat, and after a loss: another holder's lock is left alone."""
        ...


@dataclass(frozen=True, slots=True)
class LockName:
    """What is locked outside of PostgreSQL: a table's place in a store. Two clusters that archive to one place, which
    PostgreSQL's own lock can't see, are kept apart as well."""

    table: TableName
    bucket: str
    prefix: str

    @property
    def key(self) -> str:
        """The same in every process and version; no other table's. Letters, digits, `-`, `_`, `.`, `~`, `%` and `/`."""
        return f"{self.bucket}/{table_prefix(self.prefix, self.table)}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock. Times are UTC, ISO 8601; `owner` is random, another for every holding."""

    owner: str
    host: str
    pid: int
    started_at: str
    since: str
    run_id: str

    def __str__(self) -> str:
        place = f"process {self.pid} on {self.host}, started {self.started_at}"
        return f"run {self.run_id} ({place}, holds it since {self.since})"


def held_by(holder: Holder | None, *, ends_in_seconds: float | None = None) -> tuple[str, str]:
    """Who works on a table, and what to do about it. `ends_in_seconds` is when the lock ends unless it is renewed;
    None is a lock that ends with its process."""
    who = str(holder) if holder else "a run that has not left its name"
    if ends_in_seconds is None:
        return who, "wait for that run, or stop it, then run again"
    seconds = max(1, math.ceil(ends_in_seconds))
    return who, f"wait for that run, or stop it; if it was killed, its lock ends in {seconds} s; then run again"
