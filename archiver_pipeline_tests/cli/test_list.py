"""`archiver list`: every state a batch can be in, every filter, every form."""

import json
import sqlite3
from datetime import UTC, date, datetime, timedelta

import pytest

from archiver_pipeline.domain.layout import COLD_CLASSES, StoredObject, group_batches
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.inventory import DateRange, find_archives
from archiver_pipeline.engine.protection import build_protection, record_protection
from archiver_pipeline.errors import ManifestError
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.cli.test_interruption import delete_in_wait, lock_on_a_row
from archiver_pipeline_tests.cli.workplace import cache_of, wait_until
from archiver_pipeline_tests.engine.running import put
from archiver_pipeline_tests.plugins.archiving import DATABASE_ID, OLD_ROWS, create_audit_table


def test_no_archives_is_said_of_each_table(workplace):
    create_audit_table(workplace.database, "others")
    workplace.add_table("others")
    workplace.write()
    assert workplace.run("run", "--table", "others").code == 0
    found = workplace.run("list")
    assert found.code == 0
    assert "appdb.public.audit_logs: no archives found" in found.stdout.splitlines()
    assert "appdb.public.others: no archives found" not in found.stdout
    none, some = workplace.run("list", "--json").json
    assert (none["table"], none["batches"], none["totals"]["objects"]) == ("audit_logs", [], 0)
    assert (some["table"], some["totals"]["rows"]) == ("others", OLD_ROWS)


def test_archives_that_are_proved(workplace):
    ledger = workplace.ledger()
    assert workplace.run("run").code == 0
    [listed] = workplace.run("list", "--json").json
    batches, totals = listed["batches"], listed["totals"]
    assert {batch["state"] for batch in batches} == {"receipted"}
    assert [batch["data_key"] for batch in batches] == workplace.keys_like(".jsonl.gz")
    stored = ledger.receipted()
    assert [batch["rows"] for batch in batches] == [found.manifest["rows"] for found in stored]
    assert totals == {
        "objects": len(stored),
        "rows": OLD_ROWS,
        "rows_bytes": sum(found.manifest["rows_bytes"] for found in stored),
        "object_bytes": sum(len(found.data) for found in stored),
        "compression_ratio": pytest.approx(totals["rows_bytes"] / totals["object_bytes"], abs=0.001),
        "first_row_time": min(found.manifest["first_row_time"] for found in stored),
        "last_row_time": max(found.manifest["last_row_time"] for found in stored),
    }
    text = workplace.run("list").stdout
    for window in {batch["window"] for batch in batches}:
        assert any(window in line and "receipted" in line for line in text.splitlines())
    [total] = [line for line in text.splitlines() if line.strip().startswith("all ")]
    assert f"{len(stored)} receipted" in text
    for figure in (f" {OLD_ROWS} ", totals["first_row_time"][:19]):
        assert figure in total


def test_a_batch_that_was_interrupted_amid_its_delete(workplace):
    with lock_on_a_row(workplace), delete_in_wait(workplace) as process:
        process.kill()
        process.wait()
    wait_until(lambda: workplace.sessions() == 0, what="the server has noticed")
    states = states_of(workplace)
    assert states.count("pending") == 1
    assert set(states) == {"pending", "orphaned"}
    [listed] = workplace.run("list", "--state", "pending", "--json").json
    assert [batch["state"] for batch in listed["batches"]] == ["pending"]
    assert listed["totals"]["rows"] is None


def test_a_batch_whose_row_was_locked_is_superseded(workplace):
    with lock_on_a_row(workplace):
        assert workplace.run("run").code == 1
    states = states_of(workplace)
    assert states.count("superseded") == 1
    assert set(states) == {"superseded", "receipted"}


def test_receipts_are_read_once_and_again_when_they_changed(workplace):
    assert workplace.run("run").code == 0
    rows = listed_rows(workplace)
    keys = workplace.keys_like(".receipt.json")
    [path] = (cache_of(workplace.folder) / "archiver_pipeline").glob("*.sqlite")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM documents").fetchone() == (len(keys),)
        # A wrong figure under the right ETag shows that the second list asked for none of the receipts.
        changed = """CAST(replace(CAST(data AS TEXT), '"rows": ', '"rows": 1') AS BLOB)"""
        connection.execute(f"UPDATE documents SET data = {changed}")
    assert listed_rows(workplace) > rows
    workplace.bucket.client.put_object(Bucket=workplace.bucket.bucket, Key=keys[0], Body=b"{}")
    found = workplace.run("list", "--json")
    assert found.code == ManifestError.exit_code
    assert keys[0] in found.stderr


def test_nothing_is_cut_on_a_narrow_terminal(workplace):
    assert workplace.run("run").code == 0
    workplace.environment["COLUMNS"] = "80"
    for command in ("list", "status"):
        found = workplace.run(command)
        assert found.code == 0
        assert "…" not in found.stdout
        assert max(map(len, found.stdout.splitlines())) <= 80
    assert f" {OLD_ROWS} " in workplace.run("list").stdout


def listed_rows(workplace) -> int:
    [found] = workplace.run("list", "--json").json
    return found["totals"]["rows"]


def test_a_store_that_cannot_be_listed_is_not_an_empty_one(workplace):
    workplace.document["s3"]["bucket"] = "no-such-bucket"
    workplace.write()
    found = workplace.run("list")
    assert (found.code, found.stdout) == (3, "")


def test_a_receipt_that_cannot_be_read_is_named(workplace):
    assert workplace.run("run").code == 0
    broken = workplace.keys_like("receipt.json")[1]
    put(workplace.bucket, broken, b'{"format_version": 9}')
    for form in ([], ["--json"]):
        found = workplace.run("list", *form)
        assert (found.code, found.stdout) == (2, "")
        assert broken in found.error
    assert workplace.run("list", "--quick").code == 0


def test_the_receipt_of_another_batch_is_named(workplace):
    assert workplace.run("run").code == 0
    one, other, *_ = workplace.keys_like("receipt.json")
    put(workplace.bucket, other, workplace.bucket.read(one))
    found = workplace.run("list")
    assert (found.code, found.stdout) == (2, "")
    assert other in found.error


def test_a_receipted_batch_without_its_object_is_pointed_at(workplace):
    assert workplace.run("run").code == 0
    lost = workplace.keys_like(".jsonl.gz")[0]
    workplace.bucket.client.delete_object(Bucket=workplace.bucket.bucket, Key=lost)
    [listed] = workplace.run("list", "--json").json
    assert [batch["data_key"] for batch in listed["batches"]].count(None) == 1
    assert "object missing" in workplace.run("list").stdout
    assert lost.removesuffix("jsonl.gz") + "*" in workplace.run("list", "--objects").stdout


def test_quick_reads_no_document(workplace):
    """Receipts nobody can read do not matter to it: it never looks."""
    assert workplace.run("run").code == 0
    [whole] = workplace.run("list", "--json").json
    for key in [*workplace.keys_like("receipt.json"), *workplace.keys_like("manifest.json")]:
        put(workplace.bucket, key, b"?")
    [quick] = workplace.run("list", "--quick", "--json").json
    assert [batch["data_key"] for batch in quick["batches"]] == [batch["data_key"] for batch in whole["batches"]]
    assert {batch["rows"] for batch in quick["batches"]} == {None}
    assert quick["totals"]["object_bytes"] == whole["totals"]["object_bytes"]
    text = workplace.run("list", "--quick").stdout
    assert f"{len(quick['batches'])} receipted" in text
    assert workplace.run("list").code == 2


def test_objects_are_lines_that_end_with_their_key(workplace):
    assert workplace.run("run").code == 0
    workplace.environment["COLUMNS"] = "20"
    first, *lines = workplace.run("list", "--objects").stdout.splitlines()
    assert first.startswith("appdb.public.audit_logs: ")
    assert [line.split()[-1] for line in lines] == workplace.keys_like(".jsonl.gz")
    assert sum(int(line.split()[1]) for line in lines) == OLD_ROWS
    assert {line.split()[0] for line in lines} == {"receipted"}


def test_days_are_inclusive_at_both_ends(workplace):
    assert workplace.run("run").code == 0
    [whole] = workplace.run("list", "--json").json
    days = sorted({batch["window"] for batch in whole["batches"]})
    assert len(days) >= 4
    for start, end, expected in (
        (days[-1], None, days[-1:]),
        (None, days[0], days[:1]),
        (None, "2019-01-01", []),
        ("2099-01-01", None, []),
    ):
        assert windows_listed(workplace, start, end) == expected
    [listed] = workplace.run("list", "--json", "--start-date", days[1], "--end-date", days[2]).json
    assert sorted({batch["window"] for batch in listed["batches"]}) == days[1:3]
    wrong = workplace.run("list", "--start-date", days[1], "--end-date", days[0])
    assert wrong.code == 3


@pytest.mark.parametrize("unit", ["month", "week"])
def test_a_window_is_listed_for_every_day_it_holds(workplace, unit):
    workplace.database.execute("UPDATE audit_logs SET created_at = created_at - interval '60 days' WHERE id < 100000")
    workplace.write(window=unit)
    assert workplace.run("run").code == 0
    first = windows_listed(workplace)[0]
    start = datetime.fromisoformat(first).date()
    for days, expected in ((0, True), (6, True), (-1, False), (31, False)):
        day = (start + timedelta(days=days)).isoformat()
        assert (first in windows_listed(workplace, day, day)) is expected, day


def test_the_first_window_is_listed_for_every_older_day(workplace):
    workplace.database.execute("UPDATE audit_logs SET created_at = '2001-01-01' WHERE id = 1")
    assert workplace.run("run").code == 0
    assert windows_listed(workplace, None, "2001-02-02") == ["2020-01-01"]


def windows_listed(workplace, start=None, end=None):
    """The windows that the listing takes for these days, as the command asks for them."""
    loaded = workplace.loaded()
    dates = DateRange(*(day and date.fromisoformat(day) for day in (start, end)))
    found = find_archives(S3Store(loaded.store), loaded.tables[0], dates, None, datetime.now(UTC))
    return sorted({batch.stored.window_key for batch in found})


def protect(workplace, window, *, days=7):
    loaded = workplace.loaded()
    now = datetime.now(UTC)
    start = datetime.fromisoformat(window).replace(tzinfo=UTC)
    protection = build_protection(
        TableName(DATABASE_ID, "public", "audit_logs"),
        [(start, start + timedelta(days=1), False)],
        run_id="restore",
        created_at=now,
        ends_at=now + timedelta(days=days),
    )
    record_protection(S3Store(loaded.store), protection)
    return protection


def test_protected_windows_say_until_when(workplace):
    assert workplace.run("run").code == 0
    [before] = workplace.run("list", "--json").json
    first, second, *_ = sorted({batch["window"] for batch in before["batches"]})
    protection = protect(workplace, second)
    protect(workplace, first, days=-1)
    [listed] = workplace.run("list", "--json").json
    shown = {batch["window"]: batch["protected_until"] for batch in listed["batches"]}
    assert {window: until for window, until in shown.items() if until} == {second: protection.ends_at}
    [line] = [line for line in workplace.run("list").stdout.splitlines() if "protected until" in line]
    assert second in line
    assert protection.ends_at[:16].replace("T", " ") in line


def test_a_run_leaves_protected_rows_and_is_no_failure(workplace):
    """Each face says why, the check stays green, and the dry run tells the same."""
    ledger = workplace.ledger()
    keys = [row[0] for row in workplace.database.execute(WINDOWS)]
    for key in keys:
        protect(workplace, key)
    [preview] = workplace.run("run", "--dry-run", "--json").json
    assert (preview["rows"], sum(held["rows"] for held in preview["protected"])) == (0, OLD_ROWS)
    dry = workplace.run("run", "--dry-run").stdout
    assert dry.count("protected until") == len(keys)
    found = workplace.run("run")
    assert found.code == 0
    assert found.stdout.startswith("Nothing to do: every table was asked")
    assert "appdb.public.audit_logs: protected until" in found.stdout
    ledger.account()
    assert ledger.archived_rows() == []


@pytest.mark.parametrize("face", [[], ["--direct"]])
def test_a_protected_window_between_others_is_told_and_is_no_failure(workplace, face):
    """A run takes a whole range of windows, the protected one in the middle as well."""
    ledger = workplace.ledger()
    protect(workplace, workplace.database.execute(WINDOWS)[1][0])
    found = workplace.run("run", *face)
    assert found.code == 0
    left = ledger.old_rows_in_table()
    assert 0 < left < OLD_ROWS
    if not face:
        assert f"0; {left} protected until" in " ".join(found.stdout.split())
    ledger.account()


def test_a_protection_that_cannot_be_read_stops_the_run_and_the_list(workplace):
    protection = protect(workplace, "2020-01-01")
    [key] = [key for key in workplace.keys_like(".json") if ".protections/" in key]
    put(workplace.bucket, key, json.dumps({"format_version": 1}).encode())
    for command in ("run", "list"):
        found = workplace.run(command)
        assert found.code == 2
        assert protection.protection_id in found.error


WINDOWS = (
    "SELECT DISTINCT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') FROM audit_logs WHERE id < 100000 ORDER BY 1"
)


@pytest.mark.parametrize("storage_class", sorted(COLD_CLASSES))
def test_cold_objects_are_marked(storage_class):
    """Only the class of the data object counts: documents are never cold."""
    now = datetime.now(UTC)
    stem = "p/db/t/year=2024/month=01/day=01/t_2024-01-01_0123456789abcdef0123"
    objects = [StoredObject(f"{stem}.jsonl.gz", 1, now, storage_class), StoredObject(f"{stem}.manifest.json", 1, now)]
    assert [batch.is_cold for batch in group_batches(objects)] == [True]
    assert [batch.is_cold for batch in group_batches(objects[1:])] == [False]


def states_of(workplace):
    """The state of every batch in JSON, all of which the text shows as well."""
    [listed] = workplace.run("list", "--json").json
    states = [batch["state"] for batch in listed["batches"]]
    text = workplace.run("list").stdout
    assert not [state for state in states if state not in text]
    return states
