"""`archiver run` with a throttle and with allowed hours: what it says, and what it ends with."""

import json

import pytest

from archiver_pipeline_tests.cli.workplace import not_now

ways = pytest.mark.parametrize("way", [[], ["--direct"]], ids=["dagster", "direct"])


@ways
def test_outside_the_hours_rows_that_are_due_are_told(workplace, way):
    ledger = workplace.ledger()
    workplace.write(allowed_hours=not_now())
    found = workplace.run("run", *way)
    assert found.code == 1
    assert "appdb.public.audit_logs: rows are due, and it is outside allowed_hours (" in found.stdout
    assert "Nothing to do" not in found.stdout
    found = workplace.run("run", "--json", *way)
    [closed] = found.json["outside_hours"]
    assert closed["table"] == "appdb.public.audit_logs"
    assert ledger.objects() == []
    found = workplace.run("run", "--ignore-hours", "--json", *way)
    assert found.code == 0
    assert any("are ignored" in warning for report in found.json["reports"] for warning in report["warnings"])
    ledger.account_all_archived()
    [override] = workplace.run("audit", "export", "--kind", "override").json
    assert override["facts"]["rule"] == "allowed_hours"
    workplace.write(allowed_hours=not_now())
    found = workplace.run("run", *way)
    assert (found.code, "Nothing to do" in found.stdout) == (0, True)


@ways
def test_a_throttle_that_ends_a_run_is_told(workplace, way):
    ledger = workplace.ledger()
    workplace.write(throttle={"probe": "SELECT true", "max_pause_seconds": 0.2, "poll_seconds": 0.1})
    found = workplace.run("run", "--json", *way)
    assert found.code == 1
    [report] = found.json["reports"]
    assert report["stopped"] == "throttled, and waited 0.2 s in vain: probe says to wait"
    assert report["pauses"]["seconds"] >= 0.2
    assert "plan pauses: probe says to wait" in found.error
    ledger.account()


def test_the_log_tells_pauses(workplace):
    workplace.write(throttle={"probe": "SELECT true", "max_pause_seconds": 0.2, "poll_seconds": 0.1})
    found = workplace.run("run", "--direct", "--log-format", "json")
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert "archive_paused" in found.stdout, found
    [paused] = [line for line in lines if line["event"] == "archive_paused"]
    assert (paused["step"], paused["reason"]) == ("plan", "probe says to wait")
    [reported] = [line for line in lines if line["event"] == "archive_reported"]
    assert reported["paused_seconds"] >= 0.2
