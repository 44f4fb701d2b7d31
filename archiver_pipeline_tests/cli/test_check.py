"""`archiver check`: what it finds, and that it leaves nothing behind."""

import dagster as dg
import pytest

from archiver_pipeline.orchestration.pools import set_pool_limits
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.cli.test_exit_codes import use_role
from archiver_pipeline_tests.cli.test_run import state
from archiver_pipeline_tests.cli.workplace import PASSWORD_VARIABLE, SECRET_VARIABLE


@pytest.fixture
def pools_are_set(workplace):
    """Dagster's limits are those of the configuration, as `archiver pools --set` makes them."""
    with dg.DagsterInstance.from_config(str(workplace.dagster_home)) as instance:
        set_pool_limits(workplace.loaded(), instance)


def test_all_is_well(workplace, pools_are_set):
    before = state(workplace)[:3]
    found = workplace.run("check")
    assert (found.code, found.stderr) == (0, "")
    [doubt] = [line for line in found.stdout.splitlines() if not line.startswith("ok ")]
    assert "versioning: off" in doubt
    for told in (
        "config archiver.yaml: valid, 1 tables",
        "bucket can be listed",
        "create-only writes",
        "refuses bytes that do not match their SHA-256",
        "database appdb: PostgreSQL",
        "clock skew",
        "table appdb.public.audit_logs: key (id)",
        "parallel_databases: 1 database at once by `archiver run`",
        "pool archiver_appdb: 2 at once: connection_pool_size 10, 5 connections a run",
        "runs take up to 10 connections of",
    ):
        assert told in found.stdout
    assert state(workplace)[:3] == before
    assert workplace.keys_like("") == []


def test_json_holds_the_same_findings(workplace, pools_are_set):
    found = workplace.run("check", "--json")
    assert found.code == 0
    assert [finding["level"] for finding in found.json if finding["level"] != "ok"] == ["warning"]
    assert {finding["subject"].split()[0] for finding in found.json} == {
        "config",
        "alerts",
        "store",
        "database",
        "table",
        "parallel_databases",
        "pool",
        "server",
    }


def test_each_bad_table_is_named_with_what_to_do(workplace):
    workplace.database.execute("CREATE TABLE no_key (id int, created_at timestamptz)")
    workplace.database.execute("CREATE TABLE no_time (id int PRIMARY KEY)")
    for name in ("gone", "no_key", "no_time"):
        workplace.add_table(name)
    workplace.write()
    found = workplace.run("check", "--json")
    assert found.code == 3
    failed = {finding["subject"]: finding for finding in found.json if finding["level"] == "failed"}
    assert set(failed) == {f"table appdb.public.{name}" for name in ("gone", "no_key", "no_time")}
    assert all(finding["hint"] for finding in failed.values())
    assert "created_at" in failed["table appdb.public.no_time"]["message"]


@pytest.mark.parametrize(
    ("break_it", "code", "subject"),
    [
        (lambda w: w.environment.update({PASSWORD_VARIABLE: "wrong"}), 5, "database appdb"),
        (lambda w: w.environment.update({SECRET_VARIABLE: "wrong"}), 5, "store"),
        (lambda w: use_role(w, "SELECT"), 5, "table appdb.public.audit_logs"),
        (lambda w: w.document["s3"].update(bucket="no-such-bucket"), 3, "store no-such-bucket"),
        (lambda w: w.document["databases"][0].update(port=free_port()), 7, "database appdb"),
        (lambda w: w.document["defaults"].update(max_staged_bytes="4096TiB"), 6, "table appdb.public.audit_logs"),
        (lambda w: w.document.update(legal_holds={"enabled": True}), 3, "legal_holds"),
    ],
)
def test_each_failure_is_named_with_what_to_do(workplace, break_it, code, subject):
    break_it(workplace)
    workplace.write()
    found = workplace.run("check")
    assert found.code == code, found.stdout
    failed = [line for line in found.stdout.splitlines() if line.startswith("FAILED")]
    assert any(subject in line and " — " in line for line in failed), found.stdout


def test_each_signal_of_the_throttle_is_read_once(workplace, pools_are_set):
    """One that can't be read is a failure: a run would wait for it, and then stop."""
    workplace.write(throttle={"query_ms": 60000, "probe": "SELECT 3", "probe_limit": 2})
    found = workplace.run("check")
    assert found.code == 0
    assert "throttle: query_ms is" in found.stdout
    assert "throttle: probe is 3, its limit 2" in found.stdout
    workplace.write(throttle={"probe": "SELECT busy FROM nowhere.load"}, allowed_hours="00:00-24:00")
    found = workplace.run("check")
    assert found.code == 3
    assert "throttle: probe can't be read" in found.stdout
    assert "within allowed_hours (00:00-24:00 UTC)" in found.stdout
