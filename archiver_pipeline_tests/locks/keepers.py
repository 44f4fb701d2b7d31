"""The three kinds of lock, each alone and behind one face, in this process or in another one."""

import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archiver_pipeline.config.effective import LockSettings, SourceSettings
from archiver_pipeline.config.enums import LockType
from archiver_pipeline.domain.lock import LockName, TableLock
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.locks.file_lock import acquire_file_lock, lock_path
from archiver_pipeline.locks.redis_lock import acquire_redis_lock
from archiver_pipeline.postgres.advisory_lock import acquire_table_lock

if TYPE_CHECKING:
    # A process that only holds a lock is to start quickly.
    from archiver_pipeline_tests.plugins.archiving import Archiving
    from archiver_pipeline_tests.plugins.redis import RedisServer

NAME = LockName(TableName("appdb", "public", "audit_logs"), "bucket", "archives")
OTHER_NAME = LockName(TableName("appdb", "public", "others"), "bucket", "archives")
RUN_ID = "run-1234"


@dataclass(frozen=True)
class Keeper:
    """What keeps locks of one kind. Can be pickled, so another process can ask the same keeper."""

    settings: LockSettings
    source: SourceSettings

    @property
    def kind(self) -> LockType:
        return self.settings.lock_type

    def acquire(self, name: LockName = NAME) -> TableLock:
        if self.kind is LockType.REDIS:
            return acquire_redis_lock(self.settings.redis_url, name, RUN_ID, ttl_seconds=self.settings.ttl_seconds)
        if self.kind is LockType.FILE:
            return acquire_file_lock(self.settings.directory, name, RUN_ID)
        return acquire_table_lock(self.source, name.table)

    @contextmanager
    def holding(self, name: LockName = NAME) -> Iterator[TableLock]:
        lock = self.acquire(name)
        try:
            yield lock
        finally:
            lock.release()

    def unreachable(self, nowhere: Path, port: int) -> "Keeper":
        """The same kind where nobody keeps anything: a port without a server, a folder that is a file."""
        settings = replace(
            self.settings, redis_url=type(self.settings.redis_url)(f"redis://127.0.0.1:{port}/0"), directory=nowhere
        )
        return Keeper(settings, replace(self.source, port=port))


def make_keeper(kind: LockType, archiving: "Archiving", redis_server: "RedisServer", folder: Path) -> Keeper:
    return Keeper(LockSettings(kind, redis_server.url, directory=folder / "locks"), archiving.source())


def lose(keeper: Keeper, lock: Any, archiving: "Archiving", redis_server: "RedisServer") -> None:
    """Take the lock away behind its holder's back, as a restart, a failover or a person does."""
    if keeper.kind is LockType.REDIS:
        with redis_server.client() as client:
            client.delete(lock_key())
    elif keeper.kind is LockType.FILE:
        lock_path(keeper.settings.directory, NAME).unlink()
    else:
        archiving.database.execute(f"SELECT pg_terminate_backend({lock.backend_pid}, 5000)")


def lock_key(name: LockName = NAME) -> str:
    return f"archiver_pipeline:{{{name.key}}}:lock"


class Process:
    """Another process that does what it is told; see `holding.py`."""

    def __init__(self, keeper: Keeper, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "archiver_pipeline_tests.locks.holding", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid
        pickle.dump(keeper, self._stdin)
        self._stdin.flush()

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    def tell(self, order: str) -> None:
        self._stdin.write(f"{order}\n".encode())
        self._stdin.flush()

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().rstrip("\n")

    def ask(self, order: str) -> str:
        self.tell(order)
        return self.answer()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Safe to repeat."""
        self._process.kill()
        self._process.communicate()


StartProcess = Callable[[Keeper], Process]
