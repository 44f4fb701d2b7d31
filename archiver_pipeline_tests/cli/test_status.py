"""`archiver status`: one line per table, and an exit code that cron can act on."""

from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.cli.test_run import files
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS


def test_before_and_after_a_run(workplace):
    found = workplace.run("status")
    assert (found.code, found.stderr) == (1, "")
    [line] = [line for line in found.stdout.splitlines() if "audit_logs" in line and "never ran" in line]
    assert f" {OLD_ROWS} " in line
    assert "no run is recorded" in found.stdout
    assert workplace.run("run").code == 0
    found = workplace.run("status", "--json")
    assert (found.code, found.stderr) == (0, "")
    [one] = found.json
    assert (one["table"], one["verdict"], one["reason"]) == ("appdb.public.audit_logs", "ok", "nothing to do")
    assert (one["backlog_rows"], one["oldest_eligible_row"], one["days_until_drained"]) == (0, None, 0)
    assert one["drained_rows_per_day"] == OLD_ROWS


def test_a_database_that_is_down_is_unknown_and_leaves_no_dagster_instance(workplace):
    del workplace.environment["DAGSTER_HOME"]
    workplace.document["databases"][0]["port"] = free_port()
    workplace.write()
    before = files(workplace.folder)
    found = workplace.run("status", "--json")
    assert found.code == 7
    assert [one["verdict"] for one in found.json] == ["unknown"]
    assert files(workplace.folder) == before
