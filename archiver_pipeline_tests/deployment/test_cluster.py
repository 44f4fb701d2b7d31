"""Runs that die in a cluster: Dagster on PostgreSQL, code server, webserver and daemon, two databases, S3."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import dagster as dg
import pytest

from archiver_pipeline_tests.cli.workplace import wait_until
from archiver_pipeline_tests.deployment.cluster import SERVICES, fill

pytestmark = pytest.mark.xdist_group("cluster")
SUCCESS, FAILURE, CANCELED = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED


def test_every_service_answers_its_health_check(cluster):
    wait_until(lambda: "SensorDaemon" in cluster.log("daemon"), what="the daemon's threads have begun")
    wait_until(lambda: "/health" in cluster.log("monitor"), what="the monitor serves")
    with ThreadPoolExecutor() as pool:
        checks = dict(zip(SERVICES, pool.map(cluster.health, SERVICES), strict=True))
    assert {service: done.returncode for service, done in checks.items()} == dict.fromkeys(SERVICES, 0), checks
    assert b"dagster_webserver_version" in cluster.get("/server_info")


def test_two_runs_at_once_are_killed_and_their_retries_finish(cluster):
    """One dies amid its upload, one between a delete and its receipt; what was on their disks is gone with them."""
    fill(cluster.databases, cluster.bucket)
    ledgers = {name: cluster.ledger(name) for name in cluster.databases}
    uploads = cluster.store.hold(r"/one/.*\.jsonl\.gz", let_pass=2)
    receipts = cluster.store.hold(r"/two/.*\.receipt\.json", let_pass=2)
    uploading, deleting = cluster.launch("one"), cluster.launch("two")
    wait_until(lambda: uploads.held == 2 and receipts.held == 2, what="both runs are in the middle", seconds=60)
    assert {cluster.status(run) for run in (uploading, deleting)} == {dg.DagsterRunStatus.STARTED}

    with cluster.daemon_looking_away():
        for run, hold in ((uploading, uploads), (deleting, receipts)):
            cluster.kill_worker(run)
            cluster.store.drop(hold)
        cluster.lose_disks()
        for run in (uploading, deleting):
            wait_until(lambda run=run: cluster.is_to_be_retried(run), what="the code server tells that it died")
    for ledger in ledgers.values():
        assert ledger.old_rows_in_table()

    retries = {run: cluster.retry_of(run) for run in (uploading, deleting)}
    assert [cluster.wait_for_end(run) for run in retries.values()] == [SUCCESS, SUCCESS]
    assert {cluster.status(run) for run in retries} == {FAILURE}
    assert cluster.steps(retries[uploading]) == {"upload", "verify", "delete", "report"}
    assert cluster.steps(retries[deleting]) == {"delete", "report"}
    for ledger in ledgers.values():
        ledger.account_all_archived()


def test_a_run_is_terminated_in_the_ui_and_another_goes_down_with_its_code_server(cluster):
    """The terminated one is in the middle of its deletes and is not retried; the other is found, and its place free."""
    fill(cluster.databases, cluster.bucket)
    ledgers = {name: cluster.ledger(name) for name in cluster.databases}
    uploads = cluster.store.hold(r"/one/.*\.jsonl\.gz", let_pass=2)
    with lock_on_the_oldest_row(cluster.databases["two"]):
        uploading, deleting = cluster.launch("one", dagster__max_retries="0"), cluster.launch("two")
        wait_until(lambda: waits_for_a_row(cluster.databases["two"]), what="a delete waits", seconds=60)
        wait_until(lambda: uploads.held == 2, what="the other run uploads", seconds=60)
        cluster.terminate(deleting)
        assert cluster.wait_for_end(deleting) is CANCELED
        assert not sessions(cluster.databases["two"])
    left = ledgers["two"].old_rows_in_table()
    assert 0 < left < len(ledgers["two"].archived_rows()) + left
    assert not cluster.retries_of(deleting)

    cluster.kill("code-server")
    cluster.store.drop(uploads)
    cluster.start("code-server")
    assert cluster.wait_for_end(uploading) is FAILURE
    for ledger in ledgers.values():
        ledger.account()
    assert ledgers["one"].archived_rows() == []


@contextmanager
def lock_on_the_oldest_row(database):
    """An application holds a row until the end of the block."""
    with database.connect(autocommit=False) as application:
        application.execute("SELECT FROM audit_logs WHERE id < 100000 ORDER BY created_at LIMIT 1 FOR UPDATE")
        yield
        application.rollback()


def waits_for_a_row(database):
    """Whether one delete waits and the others of its run are done."""
    [(count,)] = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    return count == 1


def sessions(database):
    """How many connections of the archiver the database has."""
    [(count,)] = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'archiver_pipeline'"
        " AND datname = current_database()"
    )
    return count
