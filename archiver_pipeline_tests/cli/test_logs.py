"""The log of a command: one JSON document per line on the stream that is documented, and what a line says."""

import json
import os
import pty
import re
import subprocess
import sys
from datetime import datetime

import pytest

from archiver_pipeline_tests.cli.workplace import archiver_script
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS


def lines(text):
    """Every line of a stream as the JSON object that it must be."""
    return [json.loads(line) for line in text.splitlines()]


def of(event, found):
    return [line for line in found if line["event"] == event]


@pytest.fixture
def logged(workplace):
    """The workplace of a container, whose image asks for JSON."""
    workplace.environment["ARCHIVER_LOG_FORMAT"] = "json"
    return workplace


def test_a_run_writes_nothing_but_json_lines_to_stdout(logged):
    found = logged.run("run", "--log-level", "debug")
    assert (found.code, found.stderr) == (0, "")
    log = lines(found.stdout)
    for line in log:
        assert list(line)[:3] == ["ts", "level", "event"]
        assert datetime.fromisoformat(line["ts"]).utcoffset().total_seconds() == 0
    steps = [line["step"] for line in of("step_finished", log)]
    assert steps == ["plan", "extract", "compress", "upload", "verify", "delete", "report"]
    assert {(line["database"], line["schema"], line["table"]) for line in log if "step" in line} == {
        ("appdb", "public", "audit_logs")
    }
    assert len({line["run_id"] for line in log if "step" in line}) == 1
    assert not re.search(r'"actor|line.break', found.stdout)
    settled = of("batch_settled", log)
    assert {line["outcome"] for line in settled} == {"deleted"}
    assert {line["key"] for line in settled} == set(logged.keys_like(".jsonl.gz"))
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", line["window"]) and line["batch_id"] for line in settled)
    assert sum(line["rows"] for line in settled) == OLD_ROWS
    [report] = of("archive_reported", log)
    assert (report["rows"], report["left_behind_rows"]) == (OLD_ROWS, 0)
    assert sum(line["rows"] for line in of("batch_finished", log) if line["step"] == "upload") == OLD_ROWS
    assert (log[-1]["event"], log[-1]["command"], log[-1]["exit_code"]) == ("command_finished", "run", 0)


def test_info_tells_no_single_batch_of_a_step_and_no_row(logged):
    logged.database.execute("UPDATE audit_logs SET actor = 'Hildegard', id = id + 987650000 WHERE id < 100000")
    log = lines(logged.run("run", "--direct").stdout)
    assert not of("batch_finished", log)
    assert {line["level"] for line in log} == {"info"}
    assert not re.search("Hildegard|98765", json.dumps(log))


def test_beside_a_json_document_the_log_goes_to_stderr(logged):
    found = logged.run("run", "--direct", "--json")
    assert [report["rows"] for report in found.json["reports"]] == [OLD_ROWS]
    assert of("archive_reported", lines(found.stderr))


def test_beside_a_dry_run_stdout_has_the_plan(logged):
    found = logged.run("run", "--dry-run")
    assert "Dry run: nothing was changed" in found.stdout
    assert [line["event"] for line in lines(found.stderr)] == ["command_finished"]


def test_without_being_asked_for_there_is_no_log(workplace):
    found = workplace.run("run", "--direct")
    assert (found.code, found.stderr) == (0, "")
    assert "left behind" in found.stdout
    assert "step_finished" not in found.stdout


def test_auto_is_json_where_nobody_watches(workplace):
    assert of("archive_reported", lines(workplace.run("run", "--direct", "--log-format", "auto").stdout))


def test_nothing_to_do_is_a_line_of_its_own(logged):
    logged.database.execute("TRUNCATE audit_logs")
    log = lines(logged.run("run", "--direct").stdout)
    assert [line["event"] for line in log] == ["nothing_to_do", "command_finished"]


def test_an_error_tells_class_code_words_and_what_to_do(logged):
    with logged.hold_lock():
        found = logged.run("run", "--direct")
    assert (found.code, found.stderr) == (4, "")
    log = lines(found.stdout)
    [error] = of("failed", log)
    assert (error["level"], error["error"], error["exit_code"]) == ("error", "LockHeldError", 4)
    assert error["table"] == "audit_logs"
    assert "another archiver" in error["message"]
    assert log[-1]["exit_code"] == 4


def test_an_error_of_the_configuration_is_a_line_with_all_problems(logged):
    logged.document["s3"]["bukket"] = "x"
    logged.write(batch_size=0)
    found = logged.run("run")
    assert (found.code, found.stderr) == (3, "")
    [error] = lines(found.stdout)
    assert error["error"] == "ConfigError"
    assert len(error["problems"]) == 2


def test_a_wrong_word_is_an_error_of_the_command_line(workplace):
    workplace.environment["ARCHIVER_LOG_LEVEL"] = "loud"
    found = workplace.run("check")
    assert found.code == 3
    assert "'loud'" in found.error


def test_a_changed_row_is_a_warning_with_its_reason(logged):
    """A row that the database refuses to delete: its batch is superseded, and the log says why."""
    logged.database.execute("CREATE TABLE referring (id bigint REFERENCES audit_logs)")
    logged.database.execute("INSERT INTO referring VALUES (1)")
    found = logged.run("run", "--direct")
    assert found.code == 1
    [void] = [line for line in of("batch_settled", lines(found.stdout)) if line["outcome"] == "superseded"]
    assert void["level"] == "warning"
    assert "foreign key" in void["reason"]


def test_restore_and_validate_tell_theirs(logged):
    assert logged.run("run", "--direct").code == 0
    objects = len(logged.keys_like(".jsonl.gz"))
    found = logged.run("validate", "--direct")
    [report] = of("validation_reported", lines(found.stdout))
    assert (report["is_clean"], report["rows"], report["read_objects"]) == (True, OLD_ROWS, objects)
    found = logged.run("restore", "--table", "audit_logs", "--restore-all")
    [report] = of("restore_reported", lines(found.stdout))
    assert (report["rows"], report["objects"], report["objects_failed"]) == (OLD_ROWS, objects, 0)


def test_progress_has_rows_percent_rate_and_time_left(logged):
    logged.document["monitoring"] = {"progress_update_interval": 0.001}
    logged.write()
    told = [line for line in of("progress", lines(logged.run("run", "--direct").stdout)) if line["step"] == "upload"]
    assert told[-1]["rows"] == told[-1]["total_rows"] == OLD_ROWS
    assert told[-1]["percent"] == 100
    assert told[-1]["rows_per_second"] > 0
    assert told[-1]["eta_seconds"] == 0
    logged.document["monitoring"] = {"progress_update_interval": 0.001, "progress_enabled": False}
    logged.database.execute("INSERT INTO audit_logs VALUES (1, now() - interval '45 days', 'a')")
    logged.write()
    assert not of("progress", lines(logged.run("run", "--direct").stdout))


def test_on_a_terminal_auto_is_text_on_stderr_beside_the_results(workplace):
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [archiver_script(), "run", "--direct", "--log-format", "auto"],
        cwd=workplace.folder,
        env=workplace.environment,
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(terminal)
    _, stderr = process.communicate(timeout=60)
    shown = os.read(master, 100_000).decode()
    os.close(master)
    assert process.returncode == 0
    assert "left behind" in shown
    assert "archive_reported" not in shown
    assert "archive_reported" in stderr
    assert not stderr.lstrip().startswith("{")


def test_a_run_that_dagster_executes_logs_to_stdout_and_its_compute_log_once(workplace):
    workplace.environment["ARCHIVER_CONFIG"] = str(workplace.config_path)
    [(day,)] = workplace.database.execute("SELECT to_char(min(created_at), 'YYYY-MM-DD') FROM audit_logs")
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "archiver_pipeline.definitions"]
    asset = ["--select", "appdb/public/audit_logs", "--partition", day]
    found = workplace.end(workplace.start_program([*command, *asset]))
    assert found.code == 0, found.stderr
    [compute_log] = workplace.dagster_home.rglob("*.out")
    log = lines(compute_log.read_text())
    assert lines(found.stdout) == log
    assert [line["outcome"] for line in of("batch_settled", log)] == ["deleted"]
    [report] = of("archive_reported", log)
    assert report["run_id"] == compute_log.parts[-3]
    assert '"event"' not in found.stderr
