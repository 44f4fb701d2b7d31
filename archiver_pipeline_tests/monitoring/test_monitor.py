"""`archiver monitor` as a process of its own, on real servers: what it serves before, during and after trouble."""

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from archiver_pipeline.cli.monitor import monitor
from archiver_pipeline.domain.restore import RestoreRequest
from archiver_pipeline.errors import ConfigError
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.launch import run_restore_in_process
from archiver_pipeline.postgres.catalog import table_name
from archiver_pipeline.sandbox.postgres_server import PostgresServer
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline.sandbox.s3_server import S3Server
from archiver_pipeline_tests.cli.workplace import (
    PASSWORD_VARIABLE,
    SECRET_VARIABLE,
    Workplace,
    Workshop,
    open_workplace,
)
from archiver_pipeline_tests.matrix.postgres_versions import postgres_bin_dir
from archiver_pipeline_tests.monitoring.exported import EXPORTED
from archiver_pipeline_tests.monitoring.scraping import QUICK_SECONDS, again, start_monitor
from archiver_pipeline_tests.orchestration.table_job import table_job
from archiver_pipeline_tests.orchestration.test_crash import die_in_the_delete_step
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS
from archiver_pipeline_tests.plugins.servers import Bucket, Database

ABSENT_WHEN_ALL_IS_ARCHIVED = {"archiver_oldest_eligible_timestamp_seconds"}
ABSENT_WITHOUT_ALERTS = {"archiver_alerts_sent_total", "archiver_alert_failures_total"}
TABLE = {"database": "appdb", "schema": "public", "table": "audit_logs"}


def test_what_is_counted_is_what_the_store_and_dagster_say(workplace, instance, monkeypatch):
    """A run that died, its re-execution, a restore, and a monitor that is killed and started again."""
    ledger = workplace.ledger()
    die_in_the_delete_step(workplace, receipts=2)
    [dead] = instance.get_runs()
    instance.report_run_failed(dead)
    workplace.write(lock_timeout_ms=100, sleep_between_batches=0)
    monitored = start_monitor(workplace, check_interval_seconds=1, table_interval_seconds=1)

    monitored.wait_for(lambda: is_complete(monitored), what="all is read")
    assert monitored.value("archiver_records_archived_total", **TABLE) == archived_rows(ledger)
    assert monitored.value("archiver_pending_batches", **TABLE) >= 1
    assert runs(monitored) == {"success": 0, "failure": 1, "canceled": 0}
    assert monitored.value("archiver_errors_total", **TABLE, error="RunDied") == 1
    assert monitored.value("archiver_duration_seconds_count", **TABLE, phase="delete") is None
    document = monitored.wait_for_status(200)
    assert document["tables"][0]["state"] == "due"
    assert document["tables"][0]["last_failure"]["error"] == "RunDied"

    execute_again(workplace, instance, dead, monkeypatch)
    ledger.account_all_archived()
    monitored.wait_for(lambda: runs(monitored)["success"] == 1, what="the re-execution is counted")
    monitored.wait_for(lambda: not monitored.value("archiver_pending_batches", **TABLE), what="all is settled")
    assert runs(monitored) == {"success": 1, "failure": 1, "canceled": 0}
    require_figures_of(monitored, ledger)

    restore_all(workplace, instance)
    monitored.wait_for(
        lambda: monitored.value("archiver_records_restored_total", **TABLE) == OLD_ROWS, what="the restore is counted"
    )
    assert monitored.value("archiver_restore_runs_total", database="appdb", status="success") == 1

    require_all_is_documented(monitored)
    before = monitored.counters()
    monitored.process.send_signal(signal.SIGKILL)
    monitored.process.communicate()
    monitored = again(monitored)
    monitored.wait_for(lambda: is_complete(monitored), what="all is read again")
    assert monitored.counters() == before
    assert {family.name for family in monitored.openmetrics()} >= {"archiver_records_archived", "archiver_up"}
    assert served_addresses(monitored) == {"127.0.0.1"}
    require_quick_end(monitored)


def execute_again(workplace, instance, run, monkeypatch):
    """Re-execute a run from the step that had not finished."""
    monkeypatch.setenv("ARCHIVER_CONFIG", str(workplace.config_path))
    for variable in (PASSWORD_VARIABLE, SECRET_VARIABLE):
        monkeypatch.setenv(variable, workplace.environment[variable])
    options = dg.ReexecutionOptions.from_failure(run.run_id, instance)
    with dg.execute_job(dg.reconstructable(table_job), instance, reexecution_options=options, tags=run.tags) as result:
        assert result.success, [event.message for event in result.all_events if event.is_failure]


def restore_all(workplace, instance):
    config = workplace.loaded()
    [database] = config.databases
    name = table_name(config.tables[0])
    request = RestoreRequest(name, name)
    assert run_restore_in_process(build_definitions(config), instance, database, request, log_level="CRITICAL")


def is_complete(monitored):
    """Whether everything is read. Until then no counter is there: a part would be taken for the whole."""
    metrics = monitored.metrics()
    names = {name for name, _ in metrics}
    done = {
        kind: any(value for (name, _), value in metrics.items() if name == f"archiver_{kind}_complete")
        for kind in ("archives", "runs")
    }
    assert done["archives"] or "archiver_records_archived_total" not in names
    assert done["runs"] or "archiver_runs_total" not in names
    return all(done.values()) and "archiver_records_restored_total" in names


def archived_rows(ledger):
    return sum(found.manifest["rows"] for found in ledger.receipted())


def runs(monitored):
    return {
        status: monitored.value("archiver_runs_total", **TABLE, status=status)
        for status in ("success", "failure", "canceled")
    }


def require_figures_of(monitored, ledger):
    """As soon as everything was looked at again: each look has its own time."""

    def agrees():
        try:
            require_figures_now(monitored, ledger)
        except AssertionError:
            return False
        return True

    monitored.wait_for(agrees, what="every figure is that of the objects")


def require_figures_now(monitored, ledger):
    """What is served equals what the objects themselves say."""
    receipted = ledger.receipted()
    metrics = {
        "records_archived_total": archived_rows(ledger),
        "rows_bytes_total": sum(found.manifest["rows_bytes"] for found in receipted),
        "bytes_uploaded_total": sum(len(found.data) for found in receipted),
    }
    assert metrics == {name: monitored.value(f"archiver_{name}", **TABLE) for name in metrics}
    outcomes = [
        monitored.value("archiver_batches_total", **TABLE, outcome=outcome) for outcome in ("deleted", "absent")
    ]
    assert sum(outcomes) == len(receipted)
    assert monitored.value("archiver_records_eligible", **TABLE) == 0
    assert monitored.value("archiver_oldest_eligible_timestamp_seconds", **TABLE) is None
    for phase in ("plan", "extract", "compress", "upload", "verify", "delete", "report"):
        assert monitored.value("archiver_duration_seconds_count", **TABLE, phase=phase) == 1


def require_all_is_documented(monitored):
    """What is served is what the page, the rules and the dashboard are held against."""
    labels = {name: {label for label, _ in labels} for name, labels in monitored.metrics()}
    absent = ABSENT_WHEN_ALL_IS_ARCHIVED | ABSENT_WITHOUT_ALERTS
    assert labels == {name: set(EXPORTED[name]) for name in EXPORTED if name not in absent}


def served_addresses(monitored):
    listening = [one for one in psutil.Process(monitored.process.pid).net_connections("tcp") if one.status == "LISTEN"]
    assert {one.laddr.port for one in listening} == {monitored.health_port, monitored.metrics_port}
    return {one.laddr.ip for one in listening}


def require_quick_end(monitored):
    began = time.monotonic()
    monitored.process.send_signal(signal.SIGTERM)
    finished = monitored.workplace.end(monitored.process, within_seconds=120)
    assert time.monotonic() - began < QUICK_SECONDS
    assert finished.code == 0
    assert finished.stderr.splitlines()[0] == f"serving http://127.0.0.1:{monitored.health_port}/health"


@pytest.fixture
def own_servers(postgres_major, tmp_path_factory) -> Iterator[tuple[PostgresServer, S3Server]]:
    """Servers that a test may stop, and start again with the same data at the same address."""
    folder = tmp_path_factory.mktemp("servers")
    programs = postgres_bin_dir(postgres_major)
    postgres = PostgresServer(folder / "postgres", bin_dir=programs, port=free_port(), durable=False)
    s3 = S3Server(folder / "s3", port=free_port())
    postgres.start()
    s3.start()
    yield postgres, s3
    postgres.stop(immediate=True)
    s3.stop(immediate=True)


@pytest.fixture
def own_workplace(own_servers, tmp_path: Path, workshop: Workshop) -> Iterator[Workplace]:
    """A workplace on servers that a test may stop."""
    postgres, s3 = own_servers
    postgres.create_database("audit")
    database = Database("audit", postgres.host, postgres.port, postgres.user, postgres.password, postgres.dsn("audit"))
    bucket = Bucket(s3.endpoint, "audit", "archives", s3.region, s3.access_key_id, s3.secret_access_key, s3.client())
    opened = open_workplace(tmp_path, database, bucket, workshop)
    yield next(opened)
    postgres.start()
    s3.start()
    next(opened, None)


def test_servers_that_stop_and_come_back(own_workplace, own_servers):
    postgres, s3 = own_servers
    own_workplace.database.execute("DELETE FROM audit_logs WHERE id < 100000")
    monitored = start_monitor(own_workplace)
    assert monitored.wait_for_status(200)["reasons"] == []

    postgres.stop(immediate=True)
    monitored.wait_for_reason("database appdb: ")
    assert monitored.value("archiver_up", kind="database", name="appdb") == 0
    monitored.wait_for(lambda: monitored.value("archiver_table_bytes", **TABLE) is None, what="no stale figure is told")
    assert monitored.value("archiver_up", kind="store", name="audit") == 1
    postgres.start()
    monitored.wait_for_status(200)

    s3.stop(immediate=True)
    monitored.wait_for_reason("store audit: ")
    monitored.wait_for(lambda: monitored.value("archiver_archives_complete", **TABLE) == 0, what="it is told")
    assert monitored.value("archiver_records_archived_total", **TABLE) == 0
    s3.start()
    monitored.wait_for_status(200)


def test_a_database_that_hangs_keeps_nobody_waiting(workplace):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        hanging = workplace.document["databases"][0] | {"id": "hanging", "host": host, "port": port}
        workplace.document["databases"].append(hanging)
        monitored = start_monitor(workplace)
        document = monitored.wait_for_reason("database hanging: no answer for ")
        assert document["databases"]["appdb"]["status"] == "up"
        assert monitored.value("archiver_up", kind="database", name="hanging") == 0
        monitored.wait_for(
            lambda: monitored.value("archiver_records_eligible", **TABLE) == OLD_ROWS, what="others are looked at"
        )
        require_quick_end(monitored)


def test_an_address_that_is_taken_is_said_at_once(workplace):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        workplace.document["monitoring"] = {"health_check_enabled": True, "health_check_port": port}
        workplace.write()
        ended = workplace.run("monitor", within_seconds=120)
    assert ended.code == 3
    assert f"127.0.0.1:{port} cannot be served at: Address already in use" in ended.error
    assert "monitoring.health_check_port" in ended.error


def test_a_monitor_with_nothing_to_serve_says_what_to_set(workplace, monkeypatch):
    for variable in (PASSWORD_VARIABLE, SECRET_VARIABLE):
        monkeypatch.setenv(variable, workplace.environment[variable])
    with pytest.raises(ConfigError, match=r"set monitoring\.health_check_enabled or monitoring\.metrics_enabled"):
        monitor(workplace.config_path)
