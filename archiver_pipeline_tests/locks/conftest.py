"""Keepers and other processes, per test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from archiver_pipeline.config.enums import LockType
from archiver_pipeline_tests.locks.keepers import Keeper, Process, StartProcess, make_keeper
from archiver_pipeline_tests.plugins.archiving import Archiving
from archiver_pipeline_tests.plugins.redis import RedisServer


@pytest.fixture(params=list(LockType), ids=str)
def keeper(request: pytest.FixtureRequest, archiving: Archiving, redis_server: RedisServer, tmp_path: Path) -> Keeper:
    """Each kind of lock, one after the other."""
    return make_keeper(request.param, archiving, redis_server, tmp_path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartProcess]:
    """Starts processes that hold locks; none outlives the test."""
    started: list[Process] = []

    def start_one(keeper: Keeper) -> Process:
        started.append(Process(keeper, tmp_path))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
