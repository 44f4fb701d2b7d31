"""`archiver demo`: it works on an empty machine, twice, and leaves nothing running."""

import re
import signal
import urllib.request

import psutil
import pytest

from archiver_pipeline_tests.cli.workplace import wait_until

STEPS = ("plan", "extract", "compress", "upload", "verify", "delete", "report")


@pytest.fixture
def folder(workplace):
    """Of the workplace only the folder is used: the demo brings servers of its own."""
    return workplace.folder / "demo"


def test_the_demo_shows_its_work_and_can_be_repeated(workplace, folder):
    for _ in range(2):
        found = workplace.run("demo", "--rows", "5000", "--folder", str(folder))
        assert found.code == 0, found.stderr
        for told in ("shop.public.audit_log", "given back", "times smaller", "seconds per step", ".jsonl.gz", *STEPS):
            assert told in found.stdout
        wait_until(lambda: processes_of(folder) == [], what="nothing is left running", seconds=10)


def test_a_folder_of_somebody_else_is_left_alone(workplace, folder):
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    found = workplace.run("demo", "--rows", "1000", "--folder", str(folder))
    assert found.code == 6
    assert "not a demo's folder" in found.error
    assert [path.read_text() for path in folder.iterdir()] == ["years of work"]


def test_the_ui_answers_and_stops_with_all_its_servers(workplace, folder):
    process = workplace.start("demo", "--rows", "2000", "--folder", str(folder), "--ui")
    shown = ""
    while "http://127.0.0.1:" not in shown or "Ctrl-C" not in shown:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        shown += line
    url = re.findall(r"Dagster UI: (http://127\.0\.0\.1:\d+)", shown)[0]
    with urllib.request.urlopen(url) as answer:
        assert answer.status == 200
    process.send_signal(signal.SIGTERM)
    workplace.end(process, within_seconds=30)
    wait_until(lambda: processes_of(folder) == [], what="nothing is left running", seconds=10)


def processes_of(folder):
    """Command lines of processes that mention the folder or work in it."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "status"]):
        place = [process.info["cwd"] or "", *(process.info["cmdline"] or [])]
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(folder) in word for word in place):
            found.append(" ".join(place))
    return found
