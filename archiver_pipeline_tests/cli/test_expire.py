"""`archiver expire`, and that no configuration against the rules of retention gets as far as a connection."""

import json
import socket
import threading

import pexpect
import pytest

from archiver_pipeline_tests.cli.workplace import archiver_script
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS

REASON = "drained hourly into the warehouse"


def trail(workplace, kind):
    """Facts of the audit trail's entries of a kind, in order."""
    links = [json.loads(workplace.bucket.read(key)) for key in workplace.keys_like(".json") if "/_audit/" in key]
    entries = [entry for link in links for entry in link.get("entries", ())]
    return [entry["facts"] for entry in entries if entry["kind"] == kind]


def test_archives_are_shown_asked_for_and_removed(workplace):
    assert workplace.run("run", "--direct").code == 0
    data = workplace.keys_like(".jsonl.gz")
    kept = workplace.run("expire")
    assert (kept.code, "kept for ever" in kept.stdout) == (0, True)
    workplace.write(archive_retention_days=39)
    shown = workplace.run("expire")
    assert (shown.code, shown.stderr) == (0, "")
    assert f"{OLD_ROWS}" in shown.stdout
    assert "--apply does it" in shown.stdout
    [plan] = workplace.run("expire", "--json", "--before-date", "2020-01-01").json
    assert (plan["archives"], plan["younger"], plan["archive_retention_days"]) == ([], len(data), 39)
    refused = workplace.run("expire", "--apply")
    assert (refused.code, "give --yes" in refused.error) == (3, True)
    assert workplace.keys_like(".jsonl.gz") == data
    asked = pexpect.spawn(
        archiver_script(),
        ["expire", "--apply"],
        cwd=str(workplace.folder),
        env=workplace.environment,
        encoding="utf-8",
        timeout=60,
    )
    asked.expect(f"Remove {len(data)} archives with {OLD_ROWS} rows for good")
    asked.sendline("n")
    asked.expect(pexpect.EOF)
    assert workplace.keys_like(".jsonl.gz") == data
    assert trail(workplace, "expiry") == []
    gone = workplace.run("expire", "--apply", "--yes")
    assert (gone.code, gone.stderr) == (0, "")
    assert f"{len(data)} archives expired, {OLD_ROWS} rows" in gone.stdout
    assert workplace.keys_like(".jsonl.gz") == workplace.keys_like(".manifest.json") == []
    assert len(workplace.keys_like(".receipt.json")) == len(data)
    events = [facts["event"] for facts in trail(workplace, "expiry")]
    assert sorted(events) == ["intended"] * len(data) + ["plan"] + ["removed"] * len(data)
    listed = workplace.run("list", "--json").json[0]
    assert {batch["state"] for batch in listed["batches"]} == {"expired"}
    assert listed["totals"]["rows"] is None
    assert workplace.run("validate").code == 0
    restored = workplace.run("restore", "--table", "audit_logs", "--restore-all", "--direct")
    assert (restored.code, f"{len(data)} are expired" in restored.error) == (3, True)
    again = workplace.run("expire", "--apply", "--yes", "--json")
    assert (again.code, again.json[0]["archives"]) == (0, [])


def test_what_is_in_the_way_is_told_with_an_exit_code(workplace, holding):
    workplace.run("run", "--direct")
    data = workplace.keys_like(".jsonl.gz")
    workplace.document["legal_holds"] = {"enabled": True}
    workplace.write(archive_retention_days=39)
    holding.place("id = 1")
    found = workplace.run("expire", "--apply", "--yes")
    assert (found.code, "case 7" in found.stdout) == (1, True)
    with workplace.hold_lock():
        busy = workplace.run("expire", "--apply", "--yes")
    assert busy.code == 4
    workplace.database.execute("DROP TABLE legal_holds")
    unread = workplace.run("expire", "--apply", "--yes")
    assert (unread.code, "legal_holds" in unread.error) == (3, True)
    assert workplace.keys_like(".jsonl.gz") == data


class _Listening(threading.Thread):
    """Counts who connects, and hangs up."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.connections = 0

    def run(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()


@pytest.fixture
def listening():
    listener = _Listening()
    listener.start()
    yield listener
    listener.socket.close()


RULES = {
    "retention_policy": {"min_retention_days": 7, "max_retention_days": 60, "min_archive_retention_days": 100},
    "data_classifications": {"tax": {"min_retention_days": 30}},
}
VIOLATIONS = {
    "retention_days": [{"retention_days": 6}, {"retention_days": 61}, {"classification": "tax", "retention_days": 29}],
    "classification": [{"retention_days": 30, "classification": "tacks"}],
    "archive_retention_days": [
        {"retention_days": 30, "archive_retention_days": 30},
        {"retention_days": 30, "archive_retention_days": 99},
    ],
}


def test_violations_are_all_refused_before_any_connection(workplace, listening):
    """Were one looked at after a connection, the listener would have been asked."""
    tables = [(key, settings) for key, several in VIOLATIONS.items() for settings in several]
    workplace.document["s3"]["endpoint"] = f"http://127.0.0.1:{listening.port}"
    workplace.document["databases"][0] |= {"host": "127.0.0.1", "port": listening.port}
    workplace.document["compliance"] = RULES
    workplace.tables.clear()
    for number, (_, settings) in enumerate(tables):
        workplace.add_table(f"t{number}", **settings)
    workplace.write()
    for command in (["run"], ["expire", "--apply", "--yes"], ["check"]):
        found = workplace.run(*command)
        assert (found.code, listening.connections) == (3, 0)
        for number, (key, _) in enumerate(tables):
            assert f"databases[0].tables[{number}].{key}: " in found.error
    # The same listener is asked as soon as nothing is wrong.
    workplace.tables.clear()
    workplace.add_table("audit_logs")
    workplace.write()
    assert workplace.run("check").code != 0
    assert listening.connections > 0


def test_an_override_of_the_floor_is_told_everywhere(workplace):
    workplace.write(retention_days=6, retention_floor_override=REASON)
    words = f"retention_days 6 is below the floor of 7: {REASON}"
    checked = workplace.run("check", "--json")
    assert [one["message"] for one in checked.json if one["level"] == "warning" and "floor" in one["message"]] == [
        words
    ]
    ran = workplace.run("run", "--direct", "--json")
    assert ran.code == 0
    assert words in ran.error
    assert all(words in report["warnings"] for report in ran.json["reports"])
    told = trail(workplace, "override")
    assert {(facts["rule"], facts["retention_days"], facts["reason"]) for facts in told} == {
        ("retention_floor", 6, REASON)
    }
    assert len(told) == len(ran.json["reports"])
