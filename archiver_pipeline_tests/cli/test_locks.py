"""Locks in Redis and in files through the command: who is refused, what check says, and that no password is told."""

import os
import signal
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from archiver_pipeline.config.enums import LockType
from archiver_pipeline.domain.lock import LockName
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.preflight import preflight
from archiver_pipeline.engine.table_lock import acquire_lock
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.cli.workplace import wait_until
from archiver_pipeline_tests.plugins.archiving import DATABASE_ID

URL_VARIABLE = "TEST_REDIS_URL"
LOCKED = 4


@pytest.fixture
def configure(workplace, redis_server):
    """Writes a configuration with a kind of lock."""

    def configure(kind, **lock):
        lock = {"redis_url_env": URL_VARIABLE, "ttl_seconds": 30, "directory": "locks"} | lock
        workplace.document["lock"] = lock
        workplace.environment[URL_VARIABLE] = redis_server.url.get_secret_value()
        workplace.more_secrets.append(redis_server.password)
        workplace.write(lock_type=str(kind))

    return configure


@contextmanager
def held(workplace):
    """The table's lock, of the configured kind, held by this process."""
    loaded = workplace.loaded()
    [table] = loaded.tables
    database = loaded.database(DATABASE_ID)
    name = LockName(TableName(DATABASE_ID, "public", "audit_logs"), loaded.store.bucket, loaded.store.prefix)
    lock = acquire_lock(database.lock_of(table), database.primary, name, "run-of-the-test")
    try:
        yield
    finally:
        lock.release()


@pytest.mark.parametrize(("kind", "face"), [(LockType.REDIS, []), (LockType.FILE, ["--direct"])])
def test_a_lock_that_is_held_ends_with_4_and_names_its_holder(workplace, configure, kind, face):
    ledger = workplace.ledger()
    configure(kind)
    with held(workplace):
        found = workplace.run("run", *face, within_seconds=60)
    assert found.code == LOCKED
    for told in (
        "appdb.public.audit_logs is being worked on by run run-of-the-test",
        f"process {os.getpid()} on ",
        "holds it since 2",
        *(["if it was killed, its lock ends in"] if kind is LockType.REDIS else []),
    ):
        assert told in found.error
    assert workplace.bucket.archive_keys() == []
    ledger.account()


def test_two_runs_at_once(workplace, configure, redis_server):
    ledger = workplace.ledger()
    configure(LockType.REDIS)
    both = [workplace.start("run", "--direct") for _ in range(2)]
    codes = sorted(workplace.end(process).code for process in both)
    assert codes in ([0, 0], [0, LOCKED])
    ledger.account_all_archived()
    with redis_server.client() as client:
        # What is left is the count of holdings; a lock is not.
        assert [key.rpartition(":")[2] for key in client.keys("*")] == ["fence"]


def test_redis_is_killed_amid_a_run(workplace, configure, redis_server):
    ledger = workplace.ledger()
    configure(LockType.REDIS)
    workplace.write(sleep_between_batches=0.5, workers=1)
    process = workplace.start("run", "--direct")
    wait_until(lambda: workplace.keys_like("receipt.json"), what="the first receipt")
    os.kill(redis_server.pid, signal.SIGKILL)
    stopped = workplace.end(process, within_seconds=60)
    assert stopped.code == 7
    assert f"Redis at 127.0.0.1:{redis_server.port}/0 does not answer" in stopped.error
    assert workplace.keys_like(".jsonl.gz") != workplace.keys_like("receipt.json")
    ledger.account()


def test_check_tries_redis_and_says_what_it_may_forget(workplace, configure, redis_server):
    configure(LockType.REDIS)
    with held(workplace):
        found = workplace.run("check")
    assert found.code == 0, found.stdout
    for told in (
        f"lock redis: Redis at 127.0.0.1:{redis_server.port}/0, version ",
        "that of a killed run ends after 30 s",
        "warning lock redis: forgets locks when it restarts (appendonly no)",
        "database appdb: table locks can be taken",
    ):
        assert told in found.stdout
    with redis_server.client() as client:
        assert [key.rpartition(":")[2] for key in client.keys("*")] == ["fence"]


def test_check_tries_the_folder_and_says_how_far_it_reaches(workplace, configure):
    configure(LockType.FILE)
    can, reaches = lock_findings(workplace)
    assert (can.subject, can.level, can.message) == ("lock file", "ok", "locks can be taken")
    assert reaches.level == "warning"
    assert "keeps only runs on this machine apart" in reaches.message
    assert list((workplace.folder / "locks").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "code"), [("redis://127.0.0.1:{closed}/0", 7), ("redis://:wrong-{password}@127.0.0.1:{port}/0", 5)]
)
def test_check_fails_with_what_to_do_when_redis_can_not_be_used(workplace, configure, redis_server, url, code):
    configure(LockType.REDIS)
    workplace.environment[URL_VARIABLE] = url.format(
        closed=free_port(), port=redis_server.port, password=redis_server.password
    )
    [failed] = lock_findings(workplace)
    assert (failed.subject, failed.level, failed.exit_code) == ("lock redis", "failed", code)
    assert failed.message.startswith("Redis at 127.0.0.1:")
    assert "lock.redis_url" in failed.hint
    assert redis_server.password not in str(failed)


def lock_findings(workplace):
    loaded = workplace.loaded()
    found = preflight(loaded, loaded.tables, datetime.now(UTC))
    return [finding for finding in found if finding.subject.startswith("lock ")]
