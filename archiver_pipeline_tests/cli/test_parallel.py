"""`archiver run` over several databases at once: exact accounting, whatever ends it and whichever of them fails."""

import signal
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psutil
import pytest

from archiver_pipeline.cli.parallel import WORKER_MODULE, databases_at_once
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.cli.test_run import statuses_of_runs
from archiver_pipeline_tests.cli.workplace import APPLICATION, Workplace, wait_until
from archiver_pipeline_tests.ledger import Ledger
from archiver_pipeline_tests.plugins.archiving import RETENTION_DAYS, create_audit_table
from archiver_pipeline_tests.plugins.servers import Database

OTHER_ID = "otherdb"
LOCK_NEWEST = "SELECT FROM audit_logs WHERE id < 100000 ORDER BY created_at DESC LIMIT 1 FOR UPDATE"


@dataclass
class TwoDatabases:
    """A workplace with a table `audit_logs` in each of two databases, and a ledger for each."""

    workplace: Workplace
    other: Database
    ledgers: tuple[Ledger, Ledger]

    def account(self):
        for ledger in self.ledgers:
            ledger.account()

    def account_all_archived(self):
        for ledger in self.ledgers:
            ledger.account_all_archived()

    def sessions(self):
        """Connections of ours in each of both."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"
        return [one.execute(query, [APPLICATION])[0][0] for one in (self.workplace.database, self.other)]

    @contextmanager
    def met_midway(self, *face):
        """A run, met when each database has a receipt and waits for a row that an application holds."""
        self.workplace.write(lock_timeout_ms=60_000, workers=1)
        with ExitStack() as applications:
            for database in (self.workplace.database, self.other):
                application = applications.enter_context(database.connect(autocommit=False))
                application.execute(LOCK_NEWEST)
                applications.callback(application.rollback)
            process = self.workplace.start("run", *face)
            wait_until(
                lambda: all(ledger.receipted() for ledger in self.ledgers), what="a receipt in each", seconds=120
            )
            wait_until(lambda: all(self.sessions()), what="both at work", seconds=60)
            yield process

    def complete(self, *face):
        self.workplace.write(lock_timeout_ms=100, workers=2)
        finished = self.workplace.run("run", "--json", *face)
        assert finished.code == 0, finished.stderr
        self.account_all_archived()
        return finished


@pytest.fixture
def two(workplace, other_database):
    create_audit_table(other_database)
    first = workplace.document["databases"][0]
    workplace.document["databases"].append(first | {"id": OTHER_ID, "name": other_database.name})
    workplace.write(parallel_databases=True, max_parallel_databases=2)
    other = Ledger(other_database, workplace.bucket, OTHER_ID, "public", "audit_logs", "created_at", RETENTION_DAYS)
    return TwoDatabases(workplace, other_database, (workplace.ledger(), other))


@pytest.mark.parametrize(("stop", "face"), [(signal.SIGINT, []), (signal.SIGKILL, ["--direct"])])
def test_both_are_worked_on_at_once_and_one_signal_stops_both(two, stop, face):
    """SIGKILL as well: workers hear that their parent is gone."""
    with two.met_midway(*face) as process:
        process.send_signal(stop)
        stopped = two.workplace.end(process, within_seconds=60)
    assert stopped.code == (130 if stop is signal.SIGINT else -signal.SIGKILL)
    assert ("interrupted; nothing is lost" in stopped.error) == (stop is signal.SIGINT)
    wait_until(lambda: two.sessions() == [0, 0], what="no connection is left", seconds=60)
    two.account()
    assert all(ledger.old_rows_in_table() for ledger in two.ledgers)
    reports = two.complete(*face).json["reports"]
    assert {report["table"]["database"] for report in reports} == {"appdb", OTHER_ID}


def test_one_database_that_fails_does_not_stop_the_other(two):
    two.workplace.document["databases"][0]["port"] = free_port()
    two.workplace.write()
    found = two.workplace.run("run", "--json")
    assert found.code == 1
    assert [report["table"]["database"] for report in found.json["reports"]] == [OTHER_ID]
    [error] = found.json["errors"]
    assert (error["table"], error["error"]) == ("appdb.public.audit_logs", "NetworkError")
    two.account()
    two.ledgers[1].account_all_archived()
    assert statuses_of_runs(two.workplace) == ["SUCCESS"]


def test_a_worker_that_is_killed_fails_its_tables_and_no_other(two):
    with two.met_midway("--direct", "--json") as process:
        workers = [child for child in psutil.Process(process.pid).children() if WORKER_MODULE in child.cmdline()]
        assert len(workers) == 2
        workers[0].kill()
    finished = two.workplace.end(process)
    assert finished.code == 1, finished.stderr
    [error] = finished.json["errors"]
    assert "was killed by signal 9" in error["message"]
    two.account()
    assert sorted(bool(ledger.old_rows_in_table()) for ledger in two.ledgers) == [False, True]
    wait_until(lambda: two.sessions() == [0, 0], what="the server has noticed", seconds=60)


@pytest.mark.parametrize(
    ("defaults", "selected", "expected"),
    [
        ({}, None, 2),
        ({"max_parallel_databases": 1}, None, 1),
        ({"parallel_databases": False}, None, 1),
        ({"max_parallel_databases": 9}, "appdb", 1),
    ],
)
def test_the_configuration_says_how_many_at_once(two, defaults, selected, expected):
    two.workplace.write(**defaults)
    loaded = two.workplace.loaded()
    assert databases_at_once(loaded, loaded.select_tables(selected, None)) == expected
