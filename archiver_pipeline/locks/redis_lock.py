"""The table lock as a key in Redis that ends by itself unless it is renewed.

The key's value names the holder and holds a random owner; only who presents that very value renews or removes it. A
second key counts the holdings up for ever: its number, the fencing token, tells a later holding from an earlier one.
Both share a hash tag, so that they lie on one node of a cluster.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis
from pydantic import SecretStr
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from archiver_pipeline.domain.lock import Holder, LockName, held_by
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
from archiver_pipeline.locks.holder import decode_holder, encode_holder, this_process
from archiver_pipeline.secret_sources.secret import with_current_secret

# Taken, the fencing number: {1, number}. Held by another: {0, its value, milliseconds left}. A driver that sends the
# script once more, because the answer was lost, finds its own value and takes that for taken.
_ACQUIRE = """
if not redis.call('set', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
    local held = redis.call('get', KEYS[1])
    if held ~= ARGV[1] then
        return {0, held, redis.call('pttl', KEYS[1])}
    end
end
return {1, redis.call('incr', KEYS[2])}
"""
_EXTEND = """
if redis.call('get', KEYS[1]) == ARGV[1] then
    return redis.call('pexpire', KEYS[1], ARGV[2])
end
return 0
"""
_RELEASE = """
if redis.call('get', KEYS[1]) == ARGV[1] then
    return redis.call('del', KEYS[1])
end
return 0
"""
_LONGEST_ANSWER_SECONDS = 5.0
_ANSWERS_PER_TTL = 6
_RENEWALS_PER_TTL = 3
_RETRIES = 2
_FIRST_RETRY_SECONDS = 0.05
_LONGEST_RETRY_SECONDS = 0.5


class RedisTableLock:
    """A held Redis lock, renewed by a thread of its own until it is released or lost."""

    def __init__(self, server: "_Server", name: LockName, holder: Holder, ttl_seconds: float, fence: int) -> None:
        self._server = server
        self._name = name
        self._value = encode_holder(holder)
        self._ttl_seconds = ttl_seconds
        self._is_lost = False
        self._released = threading.Event()
        self.fence = fence
        """Counts the holdings of this table; a later one has a higher number, as long as Redis keeps its memory."""
        self.token = f"redis {fence} {holder.owner}"
        self._renewing = threading.Thread(target=self._keep_renewing, name=f"lock of {name.table}", daemon=True)
        self._renewing.start()

    def require_held(self) -> None:
        """Renew the lock. Raises LockLostError when it had ended, NetworkError when Redis does not answer.

        The server is asked every time: a process that was stopped for long knows nothing of the time that has passed.
        """
        if self._is_lost or self._released.is_set() or not self._extend():
            self._is_lost = True
            raise LockLostError(
                f"{self._name.table}: the Redis lock has ended, or is another's; nothing more is deleted",
                hint="was this process stopped for long, or did Redis forget its keys? run again",
            )

    def release(self) -> None:
        """Safe to repeat. A lock that can't be given back now ends by itself."""
        if self._released.is_set():
            return
        self._released.set()
        self._renewing.join()
        with contextlib.suppress(ArchiverError):
            self._server.run(_RELEASE, [_lock_key(self._name)], [self._value])
        self._server.close()

    def _extend(self) -> bool:
        milliseconds = _milliseconds(self._ttl_seconds)
        return bool(self._server.run(_EXTEND, [_lock_key(self._name)], [self._value, milliseconds]))

    def _keep_renewing(self) -> None:
        """An answer that does not come is asked for again; whoever needs the lock meanwhile asks for itself."""
        while not self._released.wait(self._ttl_seconds / _RENEWALS_PER_TTL) and not self._is_lost:
            with contextlib.suppress(ArchiverError):
                self._is_lost = self._is_lost or not self._extend()


def acquire_redis_lock(url: SecretStr, name: LockName, run_id: str, *, ttl_seconds: float) -> RedisTableLock:
    """Take the lock of this name without waiting. It ends `ttl_seconds` after its last renewal.

    Raises LockHeldError that names the holder, and NetworkError, PermissionDeniedError, ResourcesError or LockError
    when Redis does not do what is asked: then nobody may believe to hold the lock.
    """
    return with_current_secret(url, lambda: _acquire(url, name, this_process(run_id), ttl_seconds))


def _acquire(url: SecretStr, name: LockName, holder: Holder, ttl_seconds: float) -> RedisTableLock:
    server = _Server(url, ttl_seconds)
    try:
        taken, found, *left = server.run(
            _ACQUIRE,
            [_lock_key(name), _fence_key(name)],
            [encode_holder(holder), _milliseconds(ttl_seconds)],
        )
        if not taken:
            who, hint = held_by(decode_holder(found), ends_in_seconds=left[0] / 1000)
            raise LockHeldError(f"{name.table} is being worked on by {who}", hint=hint)
    except BaseException:
        server.close()
        raise
    return RedisTableLock(server, name, holder, ttl_seconds, found)


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """What a try of Redis found out. `place` has no password; `eviction` is None when no key is ever evicted."""

    place: str
    version: str
    eviction: str | None
    survives_restart: bool
    replicas: int


def try_redis_lock(url: SecretStr, name: LockName, *, ttl_seconds: float) -> RedisFacts:
    """Take a lock of this name, which no run has, renew it, leave nothing behind. Raises as `acquire_redis_lock`."""
    lock = acquire_redis_lock(url, name, "check", ttl_seconds=ttl_seconds)
    server = _Server(url, ttl_seconds)
    try:
        lock.require_held()
        facts = server.facts()
        server.remove(_fence_key(name))
        return facts
    finally:
        lock.release()
        server.close()


def _lock_key(name: LockName) -> str:
    return f"archiver_pipeline:{{{name.key}}}:lock"


def _fence_key(name: LockName) -> str:
    return f"archiver_pipeline:{{{name.key}}}:fence"


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


class _Server:
    """The connections of one lock, and the one place that translates the driver's errors."""

    def __init__(self, url: SecretStr, ttl_seconds: float) -> None:
        answer_seconds = min(_LONGEST_ANSWER_SECONDS, ttl_seconds / _ANSWERS_PER_TTL)
        backoff = ExponentialBackoff(cap=_LONGEST_RETRY_SECONDS, base=_FIRST_RETRY_SECONDS)
        try:
            self._client = redis.Redis.from_url(
                url.get_secret_value(),
                socket_timeout=answer_seconds,
                socket_connect_timeout=answer_seconds,
                retry=Retry(backoff, _RETRIES),
                client_name="archiver_pipeline",
            )
            self.place = _place(self._client.connection_pool.connection_kwargs)
        except (ValueError, TypeError):
            # The driver's words quote the address, and that may hold a password.
            raise ConfigError("lock.redis_url is not an address that the Redis driver takes") from None

    def run(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        with self._errors():
            return self._client.eval(script, len(keys), *keys, *arguments)

    def remove(self, key: str) -> None:
        with self._errors():
            self._client.delete(key)

    def facts(self) -> RedisFacts:
        """As the server tells of itself; what it does not tell counts as harmless."""
        with self._errors():
            info: Any = self._client.info()
        policy = info.get("maxmemory_policy", "noeviction")
        return RedisFacts(
            place=self.place,
            version=str(info.get("valkey_version") or info.get("redis_version", "unknown")),
            eviction=policy if info.get("maxmemory") and policy != "noeviction" else None,
            survives_restart=bool(info.get("aof_enabled", True)),
            replicas=int(info.get("connected_slaves", 0)),
        )

    def close(self) -> None:
        with contextlib.suppress(redis.RedisError):
            self._client.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, TypeError) as error:
            raise _translated(error, self.place) from None


def _place(options: dict[str, Any]) -> str:
    """Where Redis is, for people; never its password."""
    if path := options.get("path"):
        return f"Redis at {path}"
    return f"Redis at {options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db') or 0}"


def _translated(error: Exception, place: str) -> ArchiverError:
    """The driver's words are kept only where they can't hold an address with a password."""
    if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
        return PermissionDeniedError(f"{place}: {error}", hint="check user and password of lock.redis_url")
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return ResourcesError(f"{place} is out of memory", hint="raise its maxmemory")
    if isinstance(error, redis.exceptions.ReadOnlyError):
        return LockError(f"{place} is a read-only replica", hint="set lock.redis_url to the primary")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return NetworkError(
            f"{place} does not answer, so nobody can tell who holds the table lock",
            hint="check that it runs, and lock.redis_url",
        )
    if isinstance(error, redis.ResponseError):
        return LockError(f"{place}: {error}", hint="scripts (EVAL) with GET, SET, DEL, INCR, PEXPIRE, PTTL are needed")
    return ConfigError("lock.redis_url has an option that the Redis driver does not take")
