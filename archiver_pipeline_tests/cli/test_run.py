"""`archiver run`: what it does, what it prints, and what a dry run leaves alone."""

import sqlite3
from datetime import date, timedelta

import pytest

from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, YOUNG_ROWS, create_audit_table

STEPS = {"plan", "extract", "compress", "upload", "verify", "delete", "report"}


def test_the_whole_path_and_then_nothing_to_do(workplace):
    ledger = workplace.ledger()
    first = workplace.run("run")
    assert first.code == 0, first.stderr
    line = next(line for line in first.stdout.splitlines() if "appdb.public.audit_logs" in line)
    assert f" {OLD_ROWS} " in line
    assert first.stderr == ""
    ledger.account_all_archived()
    assert len(ledger.table_rows()) == YOUNG_ROWS

    before = state(workplace)
    again = workplace.run("run")
    assert (again.code, again.stderr) == (0, "")
    assert again.stdout.startswith("Nothing to do: every table was asked")
    assert state(workplace) == before


def test_json_is_one_document_with_the_report(workplace):
    found = workplace.run("run", "--json")
    assert (found.code, found.stderr) == (0, "")
    [report] = found.json["reports"]
    assert found.json["errors"] == []
    assert report["rows"] == OLD_ROWS
    assert report["table"] == {"database": "appdb", "schema": "public", "table": "audit_logs"}
    assert set(report["seconds"]) == STEPS
    assert all(seconds > 0 for seconds in report["seconds"].values())
    assert sum(window["rows"] for window in report["windows"]) == OLD_ROWS
    assert {key for window in report["windows"] for key in window["keys"]} == set(workplace.keys_like(".jsonl.gz"))


def test_json_with_nothing_to_do_is_an_empty_document(workplace):
    workplace.database.execute("TRUNCATE audit_logs")
    found = workplace.run("run", "--json")
    assert (found.code, found.json) == (0, {"reports": [], "errors": [], "held": [], "outside_hours": []})


def test_a_run_is_recorded_in_dagster(workplace):
    assert workplace.run("run").code == 0
    assert statuses_of_runs(workplace) == ["SUCCESS"]


def test_direct_leaves_dagster_alone(workplace):
    ledger = workplace.ledger()
    before = files(workplace.dagster_home)
    found = workplace.run("run", "--direct")
    assert (found.code, found.stderr) == (0, "")
    ledger.account_all_archived()
    assert files(workplace.dagster_home) == before


def test_verbose_shows_the_log_of_every_step(workplace):
    found = workplace.run("run", "--verbose")
    assert found.code == 0
    printed = found.stdout + found.stderr
    assert not [step for step in STEPS if f"{step} -" not in printed and f"{step}:" not in printed], printed


def test_a_dry_run_shows_the_plan_and_changes_nothing(workplace):
    before = state(workplace)
    found = workplace.run("run", "--dry-run")
    assert (found.code, found.stderr) == (0, "")
    assert state(workplace) == before
    windows = windows_in_table(workplace)
    shown = [line for line in found.stdout.splitlines() if any(key in line for key, _ in windows)]
    assert len(shown) >= len(windows)
    for key, rows in windows:
        assert any(key in line and f" {rows} " in line for line in shown), found.stdout
    assert "AWS S3 us-east-1 prices of" in found.stdout
    assert "a month" in found.stdout
    assert "nothing was changed, nothing was written" in found.stdout


def test_a_dry_run_as_json_tells_what_the_run_then_does(workplace):
    before = state(workplace)
    [preview] = workplace.run("run", "--dry-run", "--json").json
    assert state(workplace) == before
    [report] = workplace.run("run", "--json").json["reports"]
    assert preview["rows"] == report["rows"] == OLD_ROWS
    assert preview["batches"] == sum(window["batches"] for window in report["windows"])
    told = [(window["window_key"], window["rows"]) for window in preview["windows"]]
    assert told == [(window["window_key"], window["rows"]) for window in report["windows"]]


def test_a_dry_run_of_a_young_table_says_so(workplace):
    workplace.database.execute("DELETE FROM audit_logs WHERE id < 100000")
    found = workplace.run("run", "--dry-run")
    assert found.code == 0
    assert "nothing to do: no window is wholly older than" in found.stdout


def test_a_limit_is_rounded_up_to_whole_batches_and_is_no_failure(workplace):
    ledger = workplace.ledger()
    found = workplace.run("run", "--limit", "11", "--json")
    assert found.code == 0
    rows = sum(report["rows"] for report in found.json["reports"])
    assert 11 <= rows <= 30
    ledger.account()
    assert len(ledger.archived_rows()) == rows


@pytest.mark.parametrize("face", [[], ["--direct"]])
def test_dates_are_inclusive_at_both_ends(workplace, face):
    ledger = workplace.ledger()
    days = [key for key, _ in windows_in_table(workplace)]
    first, last = days[1], days[2]
    found = workplace.run("run", "--start-date", first, "--end-date", last, *face)
    assert found.code == 0, found.stderr
    assert [key for key, _ in windows_in_table(workplace)] == [key for key in days if key not in (first, last)]
    ledger.account()


def test_one_day_is_a_range(workplace):
    day = windows_in_table(workplace)[1][0]
    [preview] = workplace.run("run", "--dry-run", "--json", "--start-date", day, "--end-date", day).json
    assert [window["window_key"] for window in preview["windows"]] == [day]


def test_dates_that_reach_young_rows_take_none_of_them(workplace):
    ledger = workplace.ledger()
    found = workplace.run("run", "--end-date", (date.today() + timedelta(days=3)).isoformat())
    assert found.code == 0
    assert len(ledger.table_rows()) == YOUNG_ROWS


@pytest.mark.parametrize("spelling", ["audit_logs", "public.audit_logs"])
def test_one_table_by_either_name(workplace, spelling):
    workplace.database.execute("CREATE SCHEMA sales")
    create_audit_table(workplace.database, "sales.audit_logs")
    create_audit_table(workplace.database, "others")
    workplace.add_table("audit_logs", schema="sales")
    workplace.add_table("others")
    workplace.write()
    others = workplace.ledger("others").table_rows()
    sales = workplace.ledger("audit_logs", schema="sales")
    found = workplace.run("run", "--table", spelling, "--json")
    assert found.code == 0
    names = {(report["table"]["schema"], report["table"]["table"]) for report in found.json["reports"]}
    assert names == ({("public", "audit_logs")} | ({("sales", "audit_logs")} if spelling == "audit_logs" else set()))
    assert workplace.ledger("others").table_rows() == others
    sales.account()


def windows_in_table(workplace):
    """Day and rows of every eligible day, oldest first."""
    return workplace.database.execute(
        "SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), count(*)"
        " FROM audit_logs WHERE id < 100000 GROUP BY 1 ORDER BY 1"
    )


def state(workplace):
    """Everything a dry run could have changed: row versions, objects, files."""
    rows = workplace.database.execute("SELECT ctid::text, xmin::text, t::text FROM audit_logs t ORDER BY 3")
    objects = workplace.bucket.client.list_objects_v2(Bucket=workplace.bucket.bucket).get("Contents", [])
    tags = sorted((item["Key"], item["ETag"], str(item["LastModified"])) for item in objects)
    relations = workplace.database.execute("SELECT relname FROM pg_class ORDER BY 1")
    return rows, tags, relations, files(workplace.folder)


def files(folder):
    """Every path below the folder with its content."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def statuses_of_runs(workplace):
    with sqlite3.connect(workplace.dagster_home / "history" / "runs.db") as connection:
        return [status for (status,) in connection.execute("SELECT status FROM runs ORDER BY id")]
