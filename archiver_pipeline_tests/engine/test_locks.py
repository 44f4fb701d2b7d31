"""Whole archives and restores under each kind of lock, and what is left when the lock goes away amid one."""

import pickle
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import psutil
import pytest

from archiver_pipeline.config.effective import LockSettings
from archiver_pipeline.config.enums import LockType
from archiver_pipeline.engine import reconcile
from archiver_pipeline.engine.delete import delete_batches
from archiver_pipeline.engine.restore import restore_archives
from archiver_pipeline.errors import LockHeldError, LockLostError, NetworkError
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline_tests.engine.faults import POINTS, Point, place
from archiver_pipeline_tests.engine.killed_run import Orders
from archiver_pipeline_tests.engine.running import archive_when_free, killed, planned, verified
from archiver_pipeline_tests.sandbox.waiting import wait_until

OUTER = [LockType.REDIS, LockType.FILE]
OURS = "FROM pg_stat_activity WHERE application_name = 'archiver test' AND datname = current_database()"
AMID_THE_DELETE = Point("archiver_pipeline.postgres.delete", "source_clock", nth=2)


@pytest.fixture
def lock_of(redis_server, tmp_path):
    """The settings of a kind of lock."""

    def settings(kind, ttl_seconds=60.0):
        return LockSettings(kind, redis_server.url, ttl_seconds, tmp_path / "locks")

    return settings


@pytest.fixture
def forget(redis_server, tmp_path):
    """Makes Redis, or the folder, forget every lock, as a failover, an eviction or a person does."""

    def forget():
        with redis_server.client() as client:
            client.flushall()
        for path in (tmp_path / "locks").glob("*.lock"):
            path.unlink()

    return forget


@pytest.mark.parametrize("kind", list(LockType))
def test_an_archive_and_its_restore(archiving, audit, restoring, lock_of, kind):
    before = Counter(audit.table_rows())
    session = archiving.session(lock=lock_of(kind))
    plan = planned(archiving, session)
    assert (str(kind) in plan.lock_token) == (kind is not LockType.POSTGRESQL)
    with pytest.raises(LockHeldError) as refused:
        archiving.archive(lock=lock_of(kind))
    assert refused.value.exit_code == 4
    assert ("test-run" if kind is not LockType.POSTGRESQL else "archiver test") in str(refused.value)
    session.close()
    archiving.archive(lock=lock_of(kind))
    audit.account_all_archived()
    other = archiving.session(lock=lock_of(kind))
    other.lock.require_held()
    with pytest.raises(LockHeldError):
        restoring.restore(lock=lock_of(kind))
    other.close()
    restore = restoring.session(lock=lock_of(kind))
    restore.lock.require_held()
    with pytest.raises(LockHeldError):
        archiving.session(lock=lock_of(kind)).lock.require_held()
    restore_archives(restore)
    restore.close()
    assert Counter(audit.table_rows()) == before
    archiving.session(lock=lock_of(kind)).lock.require_held()


def test_a_resumed_run_has_another_token(archiving, audit, lock_of):
    tokens = set()
    for _ in range(2):
        for kind in LockType:
            session = archiving.session(lock=lock_of(kind))
            tokens.add(session.lock.token)
            session.close()
    assert len(tokens) == 2 * len(LockType)


@pytest.mark.parametrize(("first", "second"), [(LockType.POSTGRESQL, LockType.REDIS), (LockType.REDIS, LockType.FILE)])
def test_runs_that_are_configured_apart_keep_off_each_other(archiving, audit, lock_of, first, second):
    """PostgreSQL's lock is taken whatever is configured; who is refused by it has given the other one back."""
    holder = archiving.session(lock=lock_of(first))
    holder.lock.require_held()
    for _ in range(2):
        with pytest.raises(LockHeldError, match=f"backend {holder.lock.backend_pid}"):
            archiving.session(lock=lock_of(second)).lock.require_held()
    holder.close()
    archiving.archive(lock=lock_of(second))
    audit.account_all_archived()


@pytest.mark.parametrize("kind", OUTER)
@pytest.mark.parametrize(
    ("point", "receipts"),
    [("after a receipt", 2), ("after a manifest", 1), ("after a delete committed", 1), ("in a delete transaction", 0)],
)
def test_a_lock_that_is_forgotten_amid_a_run_stops_it_before_the_next_commit(
    archiving, audit, lock_of, forget, monkeypatch, kind, point, receipts
):
    at = AMID_THE_DELETE if point == "in a delete transaction" else POINTS[point]
    session = archiving.session(workers=1, lock=lock_of(kind))
    verification = verified(archiving, session)
    rows = len(audit.table_rows())
    with monkeypatch.context() as patch, pytest.raises(LockLostError):
        place(replace(at, nth=1) if point == "in a delete transaction" else at, forget, patch.setattr)
        delete_batches(session, verification)
    session.close()
    assert len(audit.receipted()) == receipts
    if point == "in a delete transaction":
        assert len(audit.table_rows()) == rows
    if point != "after a delete committed":
        # There a batch is in between until the next run settles it.
        audit.account()
    archiving.archive(lock=lock_of(kind))
    audit.account_all_archived()


def test_a_redis_that_is_killed_amid_a_run_stops_it_before_its_next_delete(
    archiving, audit, lock_of, redis_server, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(NetworkError, match="nobody can tell"):
        place(POINTS["after a receipt"], redis_server.kill, patch.setattr)
        archiving.archive(workers=1, lock=lock_of(LockType.REDIS))
    assert len(audit.receipted()) == POINTS["after a receipt"].nth
    audit.account()
    with pytest.raises(NetworkError):
        archiving.archive(lock=lock_of(LockType.REDIS))
    redis_server.start()
    archiving.archive(lock=lock_of(LockType.REDIS))
    audit.account_all_archived()


def test_a_redis_that_is_away_for_a_moment_costs_a_retry_and_no_lock(archiving, audit, lock_of, redis_server):
    """The step that failed is done again in the same session, as Dagster does."""
    session = archiving.session(workers=1, lock=lock_of(LockType.REDIS, ttl_seconds=5))
    verification = verified(archiving, session)
    psutil.Process(redis_server.pid).suspend()
    with pytest.raises(NetworkError):
        session.lock.require_held()
    psutil.Process(redis_server.pid).resume()
    delete_batches(session, verification)
    audit.account_all_archived()


def test_a_lock_that_is_forgotten_amid_a_restore_takes_the_object_back(
    archiving, audit, restoring, lock_of, forget, monkeypatch
):
    before = Counter(audit.table_rows())
    archiving.archive(lock=lock_of(LockType.REDIS))
    young = len(audit.table_rows())
    session = restoring.session(workers=1, lock=lock_of(LockType.REDIS))
    with monkeypatch.context() as patch, pytest.raises(LockLostError):
        place(Point("archiver_pipeline.engine.restore", "copy_rows"), forget, patch.setattr)
        restore_archives(session)
    session.close()
    assert len(audit.table_rows()) == young
    restoring.restore(lock=lock_of(LockType.REDIS))
    assert Counter(audit.table_rows()) == before


@pytest.mark.parametrize("kind", OUTER)
@pytest.mark.parametrize("point", ["after a manifest", "after a delete committed"])
def test_a_killed_run_frees_its_lock(archiving, audit, tmp_path, lock_of, redis_server, kind, point):
    lock = lock_of(kind)
    killed(archiving, point, tmp_path / "plan", lock=lock)
    if kind is LockType.REDIS:
        with pytest.raises(LockHeldError, match=r"its lock ends in \d+ s"):
            archiving.archive(lock=lock)
        let_time_pass(redis_server)
    archive_when_free(archiving, lock=lock)
    audit.account_all_archived()


def let_time_pass(redis_server):
    """The Redis lock ends, as it does when its seconds are over; a busy machine must not end it earlier."""
    with redis_server.client() as client:
        [key] = client.keys("*:lock")
        client.pexpire(key, 1)
        wait_until(lambda: not client.exists(key), "the Redis lock ends")


class StoppedRun:
    """A run in another process that stops itself (SIGSTOP) at a point, for as long as the test likes."""

    def __init__(self, archiving, point, tmp_path, lock):
        session = archiving.session(workers=1, lock=lock)
        orders = Orders(
            session.settings, session.database, session.store_settings, point, tmp_path / "plan", by=signal.SIGSTOP
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "archiver_pipeline_tests.engine.killed_run"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._process.stdin.write(pickle.dumps(orders))
        self._process.stdin.close()
        self._process.stdin = None
        status = psutil.Process(self._process.pid)
        wait_until(lambda: status.status() == psutil.STATUS_STOPPED, "the run stops itself", within_seconds=60)

    def go_on(self):
        """Returns what it said in the end."""
        self._process.send_signal(signal.SIGCONT)
        _, said = self._process.communicate(timeout=60)
        return said.decode()

    def kill(self):
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def stopped_run(archiving, tmp_path):
    started = []

    def start(point, lock):
        started.append(StoppedRun(archiving, point, tmp_path, lock))
        return started[-1]

    yield start
    for run in started:
        run.kill()


@pytest.mark.parametrize(
    "point",
    ["after a manifest", "in a delete transaction", "after a delete committed"],
)
def test_a_run_that_is_stopped_for_longer_than_its_lock_lasts(
    archiving, audit, lock_of, redis_server, stopped_run, tmp_path, point
):
    """First its connections live, and PostgreSQL tells; then they are cut, as those of a machine that is gone."""
    lock = lock_of(LockType.REDIS)
    sleeper = stopped_run(point, lock)
    shutil.copytree(archiving.staging, tmp_path / "kept")
    let_time_pass(redis_server)
    with pytest.raises(LockHeldError, match=r"archiver test \(user .*backend \d+, since"):
        archiving.archive(lock=lock)
    archiving.database.execute(f"SELECT pg_terminate_backend(pid, 5000) {OURS}")
    archiving.archive(lock=lock)
    audit.account_all_archived()
    shutil.copytree(tmp_path / "kept", archiving.staging, dirs_exist_ok=True)
    said = sleeper.go_on()
    # Whichever it meets first: the connection of its delete that was cut, or the lock that is gone.
    assert "LockLostError" in said or "NetworkError" in said, said
    audit.account_all_archived()
    archiving.archive(lock=lock)
    audit.account_all_archived()


@pytest.mark.parametrize("point", ["before a manifest", "after a delete committed"])
def test_a_stopped_run_of_which_only_the_lock_was_cut(
    archiving, audit, lock_of, redis_server, stopped_run, tmp_path, point
):
    """Its other connections live and could still delete and write."""
    lock = lock_of(LockType.REDIS)
    sleeper = stopped_run(point, lock)
    shutil.copytree(archiving.staging, tmp_path / "kept")
    let_time_pass(redis_server)
    advisory = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'"
    archiving.database.execute(f"SELECT pg_terminate_backend(pid, 5000) {OURS} AND pid IN ({advisory})")
    archiving.archive(lock=lock)
    shutil.copytree(tmp_path / "kept", archiving.staging, dirs_exist_ok=True)
    said = sleeper.go_on()
    assert "LockLostError" in said, said
    archiving.archive(lock=lock)
    audit.account_all_archived()


def test_a_receipt_is_not_written_once_another_run_may_have_settled_the_batch(
    archiving, audit, tmp_path, lock_of, forget, monkeypatch
):
    """Three runs that each believe to have the lock: one wrote a manifest late, one deletes the same rows and is held
    up before its receipt, and the third finds both batches pending and no row in the table: it takes either for the
    archive. The second must then not add its own receipt."""
    late = archiving.session()
    late_verification = verified(archiving, late)
    archiving.database.execute(f"SELECT pg_terminate_backend({late.lock.backend_pid}, 5000)")
    shutil.copytree(archiving.staging, tmp_path / "kept")
    second = archiving.session(workers=1, lock=lock_of(LockType.REDIS))
    verification = verified(archiving, second)
    shutil.copytree(tmp_path / "kept", archiving.staging, dirs_exist_ok=True)
    with monkeypatch.context() as patch, pytest.raises(LockLostError):
        patch.setattr(type(late.lock), "require_held", lambda lock: None)
        delete_batches(late, late_verification)
    late_ids = {batch.encoded.batch_id for batch in late_verification.batches}
    assert [found for found in audit.objects() if found.manifest]
    plain = reconcile.list_stored

    def third_run():
        second_lock = second.lock
        archiving.database.execute(f"SELECT pg_terminate_backend({second_lock.backend_pid}, 5000)")
        forget()
        archiving.archive(lock=lock_of(LockType.REDIS))

    with monkeypatch.context() as patch, pytest.raises(LockLostError):
        # The late batches are settled first.
        patch.setattr(
            reconcile, "list_stored", lambda *of: sorted(plain(*of), key=lambda batch: batch.batch_id not in late_ids)
        )
        place(replace(POINTS["after a delete committed"], nth=1), third_run, patch.setattr)
        delete_batches(second, verification)
    second.close()
    audit.account_all_archived()


def test_the_server_soon_notices_a_client_whose_machine_is_gone(archiving, audit):
    """It would keep locks, and the horizon of VACUUM, for two hours otherwise."""
    session = archiving.session()
    shape = inspect_table(session.connection, session.settings)
    with session.delete_sessions(shape).take() as deleting:
        for connection in (session.lock._connection, deleting._connection):
            assert connection.execute("SHOW tcp_keepalives_idle").fetchone() == ("30",)


def test_the_file_and_the_key_are_there_while_a_run_has_them(archiving, audit, lock_of, redis_server):
    archiving.session(lock=lock_of(LockType.REDIS)).lock.require_held()
    archiving.session(lock=lock_of(LockType.FILE), table="others").lock.require_held()
    place_in_store = f"{archiving.bucket.bucket}/{archiving.bucket.prefix}/appdb"
    with redis_server.client() as client:
        [key] = client.keys("*:lock")
        assert key == f"archiver_pipeline:{{{place_in_store}/audit_logs}}:lock"
        assert "test-run" in client.get(key)
    [path] = lock_of(LockType.FILE).directory.glob("*.lock")
    assert path.name.startswith(f"{place_in_store}/others-".replace("/", "%2F"))
    assert "test-run" in path.read_text()
