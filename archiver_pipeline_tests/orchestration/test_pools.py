"""How parallelism in the configuration becomes Dagster's limits, and that a run keeps within what is counted for it."""

import threading
import time

import pytest

from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.preflight import Level
from archiver_pipeline.engine.progress import SilentProgress
from archiver_pipeline.engine.session import connections_of_run
from archiver_pipeline.orchestration.pools import pool_findings, pool_limits, set_pool_limits

POOL = "archiver_appdb"


def warnings(workplace, instance):
    found = pool_findings(workplace.loaded(), instance)
    return {finding.subject: finding for finding in found if finding.level is not Level.ok}


@pytest.mark.parametrize(("size", "workers", "wanted"), [(10, 4, 1), (14, 4, 2), (40, 2, 8), (3, 4, 1), (1, 1, 1)])
def test_a_pool_allows_as_many_runs_as_there_are_connections_for(workplace, instance, size, workers, wanted):
    workplace.write(connection_pool_size=size, workers=workers)
    [limit] = pool_limits(workplace.loaded(), instance)
    assert (limit.pool, limit.wanted, limit.current, limit.is_set) == (POOL, wanted, None, False)
    [limit] = set_pool_limits(workplace.loaded(), instance)
    assert limit.agrees
    assert [(pool.name, pool.limit) for pool in instance.event_log_storage.get_pool_limits()] == [(POOL, wanted)]


def test_limits_that_differ_are_said_until_they_are_set(workplace, instance):
    workplace.write(connection_pool_size=14, workers=4)
    finding = warnings(workplace, instance)[f"pool {POOL}"]
    assert finding.message == "2 at once: connection_pool_size 14, 7 connections a run, but Dagster has no limit"
    assert finding.hint == "archiver pools --set"
    set_pool_limits(workplace.loaded(), instance)
    assert f"pool {POOL}" not in warnings(workplace, instance)
    workplace.write(connection_pool_size=21)
    assert "but Dagster has limit 2" in warnings(workplace, instance)[f"pool {POOL}"].message


def test_more_connections_than_the_server_takes_are_said(workplace, instance):
    workplace.write(connection_pool_size=1000, workers=4)
    database = workplace.document["databases"][0]
    server = f"server {database['host']}:{database['port']}"
    assert server not in warnings(workplace, instance)
    set_pool_limits(workplace.loaded(), instance)
    assert "runs may take 994 connections; there are " in warnings(workplace, instance)[server].message


@pytest.mark.parametrize(("runs", "warns"), [(10, True), (2, False)])
def test_a_queue_that_runs_more_databases_at_once_is_said(workplace, instance, monkeypatch, runs, warns):
    second = workplace.document["databases"][0] | {"id": "second"}
    workplace.document["databases"].append(second)
    workplace.write(parallel_databases=True, max_parallel_databases=2)
    monkeypatch.setitem(instance._settings, "concurrency", {"runs": {"max_concurrent_runs": runs}})
    found = warnings(workplace, instance)
    assert ("parallel_databases" in found) is warns
    if warns:
        assert found["parallel_databases"].message.startswith("2 databases at once by `archiver run`, but")
        assert found["parallel_databases"].hint.endswith("max_concurrent_runs: 2")


class CountsSessions(SilentProgress):
    """Counts our connections to the database at each finished batch."""

    def __init__(self, database):
        self.most = 0
        self._database = database
        self._one_at_a_time = threading.Lock()

    def batch_finished(self, table, step, batch):
        # The server shows a connection for a moment after it was closed.
        time.sleep(0.1)
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'archiver test' AND datname = %s"
        with self._one_at_a_time:
            self.most = max(self.most, self._database.execute(query, [self._database.name])[0][0])


def test_a_run_takes_no_more_connections_than_are_counted_for_it(archiving, audit):
    session = archiving.session(workers=3, connection_pool_size=6)
    session.progress = listener = CountsSessions(archiving.database)
    archive_windows(session, archiving.windows(session))
    audit.account_all_archived()
    assert 2 < listener.most <= connections_of_run(session.settings) == 6
