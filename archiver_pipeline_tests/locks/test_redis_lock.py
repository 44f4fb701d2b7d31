"""What only a lock in Redis does: it ends by the clock, is renewed, is counted, and may be forgotten."""

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from pydantic import SecretStr

from archiver_pipeline.config.enums import LockType
from archiver_pipeline.errors import (
    ArchiverError,
    ConfigError,
    LockError,
    LockHeldError,
    LockLostError,
    NetworkError,
    PermissionDeniedError,
    ResourcesError,
)
from archiver_pipeline.locks import redis_lock
from archiver_pipeline.locks.redis_lock import acquire_redis_lock, try_redis_lock
from archiver_pipeline_tests.locks.keepers import NAME, RUN_ID, lock_key, make_keeper
from archiver_pipeline_tests.sandbox.waiting import wait_until

TTL_SECONDS = 1.5


@pytest.fixture
def keeper(archiving, redis_server, tmp_path):
    keeper = make_keeper(LockType.REDIS, archiving, redis_server, tmp_path)
    return replace(keeper, settings=replace(keeper.settings, ttl_seconds=TTL_SECONDS))


def test_it_is_renewed_for_as_long_as_it_is_held(keeper, redis_server):
    with keeper.holding() as lock, redis_server.client() as client:
        least_left = min(client.pttl(lock_key()) for _ in sampled(seconds=1.6 * TTL_SECONDS))
        assert least_left > 0
        lock.require_held()


def test_a_killed_holder_is_named_with_the_seconds_that_its_lock_has_left(keeper, start):
    slow = replace(keeper, settings=replace(keeper.settings, ttl_seconds=30))
    other = start(slow)
    assert other.ask("acquire").startswith("ok ")
    other.kill()
    with pytest.raises(LockHeldError, match=r"if it was killed, its lock ends in (30|29|28|27|26|25) s"):
        keeper.acquire()


def test_a_holder_that_was_stopped_for_longer_than_it_lasts_has_lost_it(keeper, start, redis_server):
    other = start(keeper)
    assert other.ask("acquire").startswith("ok ")
    other.send(signal.SIGSTOP)
    with redis_server.client() as client:
        wait_until(lambda: not client.exists(lock_key()), "the lock ends")
    with keeper.holding() as mine:
        other.send(signal.SIGCONT)
        assert other.ask("require").startswith("LockLostError")
        assert other.ask("release").startswith("ok ")
        mine.require_held()
    assert other.ask("require").startswith("LockLostError")


def test_a_lock_that_ended_is_not_taken_again_behind_the_holder_s_back(keeper, redis_server):
    """Nobody else had it meanwhile; still, nobody can know that."""
    with keeper.holding() as lock, redis_server.client() as client:
        client.delete(lock_key())
        time.sleep(TTL_SECONDS / 2)
        assert not client.exists(lock_key())
        with pytest.raises(LockLostError):
            lock.require_held()


def test_later_holdings_have_higher_numbers(keeper):
    fences = []
    for _ in range(3):
        with keeper.holding() as lock:
            fences.append(lock.fence)
    assert fences == sorted(set(fences))
    assert lock.token.startswith(f"redis {fences[-1]} ")


def test_a_server_that_goes_away_is_no_lock_and_one_that_comes_back_empty_is_none_either(keeper, redis_server):
    lock = replace(keeper, settings=replace(keeper.settings, ttl_seconds=30)).acquire()
    redis_server.kill()
    with pytest.raises(NetworkError, match="nobody can tell") as away:
        lock.require_held()
    assert away.value.transient
    redis_server.start()
    with pytest.raises(LockLostError):
        lock.require_held()
    lock.release()


def test_a_server_that_hangs_is_not_waited_for_longer_than_the_lock_lasts(keeper, redis_server):
    lock = replace(keeper, settings=replace(keeper.settings, ttl_seconds=3)).acquire()
    with stopped(redis_server.pid):
        began = time.monotonic()
        with pytest.raises(NetworkError):
            lock.require_held()
        assert time.monotonic() - began < 3
    lock.require_held()
    lock.release()


def test_a_request_that_is_sent_twice_takes_the_lock_once(keeper, monkeypatch):
    """The driver sends it again when the answer was lost on the way."""
    plain = redis_lock._Server.run

    def twice(server, script, keys, arguments):
        if script == redis_lock._ACQUIRE:
            plain(server, script, keys, arguments)
        return plain(server, script, keys, arguments)

    monkeypatch.setattr(redis_lock._Server, "run", twice)
    with keeper.holding() as lock:
        lock.require_held()
        with pytest.raises(LockHeldError):
            keeper.acquire()


def test_somebody_else_s_key_is_respected(keeper, redis_server):
    with redis_server.client() as client:
        client.set(lock_key(), "mine!")
        with pytest.raises(LockHeldError, match="not left its name"):
            keeper.acquire()
        assert client.get(lock_key()) == "mine!"


@pytest.mark.parametrize(
    ("command", "error", "told"),
    [
        (["replicaof", "127.0.0.1", "1"], LockError, "read-only replica"),
        (["config", "set", "maxmemory", "1"], ResourcesError, "out of memory"),
    ],
)
def test_a_server_that_can_not_write(keeper, redis_server, command, error, told):
    with redis_server.client() as client:
        client.execute_command(*command)
        try:
            with pytest.raises(error, match=told) as failed:
                keeper.acquire()
        finally:
            client.execute_command("replicaof", "no", "one")
            client.execute_command("config", "set", "maxmemory", "0")
    assert failed.value.hint


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda url, password: url.replace(password, "wrong-hunter2"), PermissionDeniedError),
        (lambda url, password: url.replace(f":{password}@", ""), PermissionDeniedError),
        (lambda url, password: f"{url}?frobnicate={password}", ConfigError),
        (lambda url, password: f"{url}?socket_timeout={password}", ConfigError),
        (lambda url, password: f"http://:{password}@localhost", ConfigError),
        (lambda url, password: url.replace("127.0.0.1:", "127.0.0.1:1"), ArchiverError),
    ],
)
def test_no_error_tells_the_password(redis_server, change, error):
    url = change(redis_server.url.get_secret_value(), redis_server.password)
    with pytest.raises(error) as refused:
        acquire_redis_lock(SecretStr(url), NAME, RUN_ID, ttl_seconds=5)
    shown = f"{refused.value} {refused.value!r} {refused.value.hint} {refused.value.__cause__!r}"
    assert redis_server.password not in shown
    assert "hunter2" not in shown
    assert refused.value.__suppress_context__


def test_a_user_without_the_right_to_run_scripts(keeper, redis_server):
    with redis_server.client() as client:
        client.execute_command("acl", "setuser", "narrow", "on", ">pw", "~*", "+@all", "-@scripting")
    url = SecretStr(f"redis://narrow:pw@127.0.0.1:{redis_server.port}/0")
    with pytest.raises(PermissionDeniedError):
        acquire_redis_lock(url, NAME, RUN_ID, ttl_seconds=5)


def test_a_try_tells_what_may_be_forgotten_and_leaves_nothing_behind(redis_server):
    with redis_server.client() as client:
        client.config_set("maxmemory", "50mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            facts = try_redis_lock(redis_server.url, NAME, ttl_seconds=5)
        finally:
            client.config_set("maxmemory", "0")
            client.config_set("maxmemory-policy", "noeviction")
        assert client.keys("*") == []
    assert (facts.eviction, facts.survives_restart, facts.replicas) == ("allkeys-lru", False, 0)
    assert facts.place == f"Redis at 127.0.0.1:{redis_server.port}/0"
    assert facts.version[0].isdigit()


@contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def sampled(*, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.02)
