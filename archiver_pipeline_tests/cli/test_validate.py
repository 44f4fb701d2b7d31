"""`archiver validate`: what it prints, what it ends with, and that it never calls unseen archives valid."""

import json
import re
from datetime import date, timedelta

import pytest

from archiver_pipeline.cli.main import app
from archiver_pipeline.cli.progress import RunListener
from archiver_pipeline.cli.validate import exit_code
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.errors import ConfigError, NetworkError, PreflightError
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.cli.faulty_store import damaging_store
from archiver_pipeline_tests.cli.preloaded import FIRST_RETRY_VARIABLE
from archiver_pipeline_tests.cli.test_interruption import delete_in_wait, lock_on_a_row
from archiver_pipeline_tests.cli.workplace import wait_until
from archiver_pipeline_tests.engine.running import put
from archiver_pipeline_tests.engine.test_store_damage import drop, flipped
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, create_audit_table

VALID, FINDINGS, CONFIG, LOCKED, PERMISSION, NETWORK = 0, 1, 3, 4, 5, 7
faces = pytest.mark.parametrize("face", [[], ["--direct"]], ids=["recorded", "direct"])


@pytest.fixture
def archived(workplace):
    assert workplace.run("run", "--direct").code == 0
    return workplace


@faces
def test_archives_that_are_valid(archived, face):
    found = archived.run("validate", *face)
    assert (found.code, found.stderr) == (VALID, "")
    assert "appdb.public.audit_logs: valid" in found.stdout
    assert f"{OLD_ROWS} rows archived" in found.stdout
    assert "(100.0%)" in found.stdout
    assert f"looked for in the table: {OLD_ROWS} rows" in found.stdout


@faces
def test_json_is_one_document(archived, face):
    shown = archived.run("validate", "--json", *face)
    [report] = shown.json["reports"]
    assert shown.json["errors"] == []
    assert (report["is_clean"], report["is_empty"], report["rows"], report["read_share"]) == (True, False, OLD_ROWS, 1)
    assert report["batches"]["receipted"] == len(archived.keys_like(".receipt.json"))


@faces
def test_a_damaged_object_is_named_with_the_next_step(archived, face):
    key = archived.keys_like(".jsonl.gz")[1]
    put(archived.bucket, key, flipped(archived.bucket.read(key)))
    found = archived.run("validate", *face)
    assert found.code == FINDINGS
    assert "NOT VALID: 1 findings" in found.stdout
    lines = [line.strip() for line in found.stdout.splitlines()]
    assert f"{key}: its bytes are not those of the manifest" in lines
    assert any(line.startswith("next: bring the object back") for line in lines)
    [finding] = archived.run("validate", "--json", *face).json["reports"][0]["findings"]
    assert (finding["kind"], finding["subject"], finding["severity"]) == ("damaged", key, "finding")


@faces
def test_no_archives_is_said_loudly(workplace, face):
    found = workplace.run("validate", *face)
    assert found.code == FINDINGS
    assert "NO ARCHIVES FOUND" in found.stdout
    allowed = workplace.run("validate", "--allow-empty", *face)
    assert allowed.code == VALID
    assert "NO ARCHIVES FOUND" in allowed.stdout


def test_one_empty_table_among_others_is_not_passed_over(archived):
    create_audit_table(archived.database, "audit")
    archived.add_table("audit")
    archived.write()
    assert archived.run("validate", "--direct").code == FINDINGS
    assert archived.run("validate", "--direct", "--table", "audit_logs").code == VALID
    assert archived.run("validate", "--direct", "--table", "audit", "--allow-empty").code == VALID


@faces
@pytest.mark.parametrize("server", ["database", "store"])
def test_a_server_that_is_down_is_not_valid(archived, server, face):
    port = free_port()
    if server == "database":
        archived.document["databases"][0]["port"] = port
    else:
        archived.document["s3"]["endpoint"] = f"http://127.0.0.1:{port}"
    archived.write()
    archived.environment[FIRST_RETRY_VARIABLE] = "0.2"
    found = archived.run("validate", *face)
    assert found.code == NETWORK
    assert f"127.0.0.1:{port}" in found.error
    assert "valid" not in found.stdout.lower()
    if server == "database":
        assert archived.run("validate", "--offline", *face).code == VALID


def test_a_bucket_that_is_not_there_is_not_empty(archived):
    archived.document["s3"]["bucket"] = "no-such-bucket"
    archived.write()
    assert archived.run("validate", "--allow-empty").code == CONFIG


def test_a_proxy_that_damages_what_is_read_is_found(archived):
    with damaging_store(archived.bucket.endpoint) as endpoint:
        archived.document["s3"]["endpoint"] = endpoint
        archived.write()
        found = archived.run("validate", "--json")
    assert found.code == FINDINGS
    [report] = found.json["reports"]
    assert {finding["kind"] for finding in report["findings"]} == {"damaged"}
    assert len(report["findings"]) == len(archived.keys_like(".jsonl.gz"))
    assert report["read_objects"] == 0


def test_a_sample_reads_a_share_and_checks_all_documents(archived):
    objects = len(archived.keys_like(".jsonl.gz"))
    [report] = archived.run("validate", "--sample", "34%", "--json", "--direct").json["reports"]
    assert report["readable_objects"] == objects
    assert report["read_objects"] < objects
    assert report["rows"] == OLD_ROWS
    drop(archived.bucket, archived.keys_like(".manifest.json")[0])
    assert archived.run("validate", "--sample", "0.1", "--direct").code == FINDINGS


@pytest.mark.parametrize(("prefix", "ending"), [("", ".manifest.json"), ("s3://", ".jsonl.gz")])
def test_one_archive_by_the_key_of_any_of_its_objects(archived, prefix, ending):
    key = archived.keys_like(ending)[2]
    written = f"s3://{archived.bucket.bucket}/{key}" if prefix else key
    [report] = archived.run("validate", "--s3-key", written, "--json", "--direct").json["reports"]
    assert (report["batches"]["receipted"], report["read_objects"]) == (1, 1)


def test_dates(archived):
    windows = sorted({key.rsplit("_", 2)[1] for key in archived.keys_like(".jsonl.gz")})
    first, last = windows[1], windows[2]
    [report] = archived.run("validate", "--start-date", first, "--end-date", last, "--json", "--direct").json["reports"]
    in_days = [key for key in archived.keys_like(".jsonl.gz") if key.rsplit("_", 2)[1] in (first, last)]
    assert report["batches"]["receipted"] == len(in_days)
    before = (date.fromisoformat(windows[0]) - timedelta(days=1)).isoformat()
    assert archived.run("validate", "--end-date", before, "--direct").code == FINDINGS


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--sample", "some"], "--sample some"),
        (["--sample", "0"], "percentage"),
        (["--sample", "101%"], "percentage"),
        (["--s3-key", "nonsense"], "nonsense"),
        (["--s3-key", "s3://other/key"], "'other'"),
        (
            ["--s3-key", "archives/appdb/audit/year=2026/month=01/day=01/audit_2026-01-01_" + "0" * 20 + ".parquet"],
            "audit",
        ),
        (["--schema", "sales"], "sales"),
        (["--table", "audit_log"], "audit_logs"),
        (["--start-date", "2026-02-02", "--end-date", "2026-02-01"], "--end-date"),
    ],
)
def test_mistakes_on_the_command_line(workplace, monkeypatch, arguments, told):
    monkeypatch.chdir(workplace.folder)
    for name, value in workplace.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=re.escape(told)):
        app(["validate", *arguments], standalone_mode=False)


def test_a_repair_without_the_database_is_refused(workplace):
    found = workplace.run("validate", "--offline", "--repair", "--direct")
    assert (found.code, found.stdout) == (CONFIG, "")
    assert "offline or repair" in found.error


@faces
def test_repair_finishes_what_was_interrupted(workplace, face):
    ledger = workplace.ledger()
    with lock_on_a_row(workplace), delete_in_wait(workplace) as process:
        process.kill()
        process.wait()
    wait_until(lambda: workplace.sessions() == 0, what="the server has noticed")
    young = workplace.run("validate", "--json", "--direct").json["reports"][0]
    assert (young["batches"]["pending"], young["findings"]) == (1, [])
    found = workplace.run("validate", "--repair", "--json", *face)
    [report] = found.json["reports"]
    assert report["batches"]["pending"] == 0
    assert len(report["repairs"]) == 1
    ledger.account()
    assert workplace.run("run").code == 0
    ledger.account_all_archived()


@faces
def test_repair_does_not_disturb_a_run(archived, face):
    with archived.hold_lock():
        assert archived.run("validate", "--direct").code == VALID
        found = archived.run("validate", "--repair", *face)
    assert found.code == LOCKED
    assert "being worked on" in found.error


def test_many_findings_are_cut_short_in_text_only(archived):
    key = archived.keys_like(".jsonl.gz")[0]
    folder = key.rsplit("/", 1)[0]
    for number in range(25):
        put(archived.bucket, f"{folder}/stray-{number:02}", b"x")
    text = archived.run("validate", "--direct").stdout
    assert "orphaned objects (25)" in text
    assert text.count("stray-") == 20
    assert "and 5 more" in text
    assert archived.run("validate", "--direct", "-v").stdout.count("stray-") == 25
    assert json.dumps(archived.run("validate", "--direct", "--json").json).count("stray-") == 25


def test_an_error_decides_the_code():
    listener, name = RunListener(), TableName("a", "b", "c")
    assert exit_code(listener, allow_empty=False) == VALID
    listener.errors.append((name, NetworkError("x")))
    assert exit_code(listener, allow_empty=False) == NETWORK
    listener.errors.append((name, PreflightError("x")))
    assert exit_code(listener, allow_empty=True) == 2
