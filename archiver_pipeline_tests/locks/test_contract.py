"""What every kind of lock promises, held against each of them alone."""

import os
import re
import socket
import time
from dataclasses import replace

import pytest

from archiver_pipeline.config.enums import LockType
from archiver_pipeline.errors import ArchiverError, LockHeldError, LockLostError, NetworkError
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.locks.holding import ROUNDS
from archiver_pipeline_tests.locks.keepers import NAME, OTHER_NAME, lose

A_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d"


def test_it_is_taken_asked_for_and_given_back(keeper):
    with keeper.holding() as lock:
        lock.require_held()
        lock.require_held()
    with keeper.holding() as lock:
        lock.require_held()


def test_a_second_holder_is_refused_and_told_who_and_since_when(keeper):
    with keeper.holding() as lock:
        with pytest.raises(LockHeldError) as refused:
            keeper.acquire()
        lock.require_held()
    told = str(refused.value)
    assert refused.value.exit_code == 4
    assert "appdb.public.audit_logs is being worked on by" in told
    assert re.search(rf"since {A_TIME}", told)
    names = [f"backend {lock.backend_pid}"] if keeper.kind is LockType.POSTGRESQL else [str(os.getpid()), "run-1234"]
    for name in [*names, *([] if keeper.kind is LockType.POSTGRESQL else [socket.gethostname()])]:
        assert name in told
    assert refused.value.hint


def test_another_process_is_refused_and_named(keeper, start):
    other = start(keeper)
    assert other.ask("acquire").startswith("ok ")
    with pytest.raises(LockHeldError) as refused:
        keeper.acquire()
    if keeper.kind is not LockType.POSTGRESQL:
        assert f"process {other.pid} on" in str(refused.value)
    assert other.ask("release").startswith("ok ")
    keeper.acquire().release()


def test_another_table_is_not_in_the_way(keeper):
    with keeper.holding(NAME) as one, keeper.holding(OTHER_NAME) as other:
        one.require_held()
        other.require_held()
        assert one.token != other.token


def test_every_holding_has_another_token(keeper):
    tokens = set()
    for _ in range(3):
        with keeper.holding() as lock:
            tokens.add(lock.token)
    assert len(tokens) == 3


def test_giving_back_is_safe_to_repeat_and_harms_nobody(keeper):
    first = keeper.acquire()
    first.release()
    with keeper.holding() as second:
        first.release()
        second.require_held()
        with pytest.raises(LockHeldError):
            keeper.acquire()
    with pytest.raises(LockLostError):
        first.require_held()


def test_what_is_lost_stays_lost_and_the_next_holder_keeps_it(keeper, archiving, redis_server):
    first = keeper.acquire()
    lose(keeper, first, archiving, redis_server)
    with pytest.raises(LockLostError) as lost:
        first.require_held()
    assert "appdb.public.audit_logs" in str(lost.value)
    with keeper.holding() as second:
        with pytest.raises(LockLostError):
            first.require_held()
        first.release()
        second.require_held()
    with pytest.raises(LockLostError):
        first.require_held()


def test_a_lock_that_is_lost_and_taken_by_another_is_not_taken_back(keeper, archiving, redis_server, start):
    first = keeper.acquire()
    lose(keeper, first, archiving, redis_server)
    other = start(keeper)
    assert other.ask("acquire").startswith("ok ")
    with pytest.raises(LockLostError):
        first.require_held()
    first.release()
    assert other.ask("require").startswith("ok ")
    with pytest.raises(LockHeldError):
        keeper.acquire()


def test_a_holder_that_is_killed_frees_it(keeper, start):
    keeper = replace(keeper, settings=replace(keeper.settings, ttl_seconds=1.0))
    other = start(keeper)
    assert other.ask("acquire").startswith("ok ")
    other.kill()
    killed_at = time.monotonic()
    acquire_within(keeper, seconds=5).release()
    waited_seconds = time.monotonic() - killed_at
    assert waited_seconds < (4 if keeper.kind is LockType.REDIS else 0.9)


def test_of_many_that_contend_one_has_it_at_a_time(keeper, start):
    processes = [start(keeper) for _ in range(3)]
    for process in processes:
        process.tell("contend")
    assert {process.answer() for process in processes} == {f"{ROUNDS} 0"}


def test_a_keeper_that_can_not_be_asked_is_an_error(keeper, tmp_path):
    nowhere = tmp_path / "a file"
    nowhere.write_text("")
    with pytest.raises(ArchiverError) as failed:
        keeper.unreachable(nowhere, free_port()).acquire()
    assert not isinstance(failed.value, LockHeldError | LockLostError)
    if keeper.kind is not LockType.FILE:
        assert isinstance(failed.value, NetworkError)
    assert failed.value.hint


def acquire_within(keeper, *, seconds):
    """As soon as it is free."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return keeper.acquire()
        except LockHeldError:
            assert time.monotonic() < deadline, "a dead holder's lock is still held"
            time.sleep(0.02)
