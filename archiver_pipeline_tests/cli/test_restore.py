"""`archiver restore`: what it brings back, what it prints, what a dry run leaves alone, and how it ends."""

import json
import os
import pty
import re
import signal
import subprocess
import threading
from collections import Counter
from dataclasses import replace

import pytest

from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline.sandbox.sample_data import drop_database
from archiver_pipeline_tests.cli.faulty_store import damaging_store
from archiver_pipeline_tests.cli.preloaded import FIRST_RETRY_VARIABLE
from archiver_pipeline_tests.cli.test_exit_codes import use_role
from archiver_pipeline_tests.cli.test_interruption import INTERRUPTED
from archiver_pipeline_tests.cli.test_run import files, state, statuses_of_runs
from archiver_pipeline_tests.cli.workplace import PASSWORD_VARIABLE, archiver_script, wait_until
from archiver_pipeline_tests.engine.running import put
from archiver_pipeline_tests.engine.test_store_damage import flipped
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, create_audit_table

ALL_GOOD, PARTIAL, FAILED, CONFIG, LOCKED, PERMISSION, NETWORK = 0, 1, 2, 3, 4, 5, 7
ALL = ("restore", "--restore-all")
OBJECTS = 6
faces = pytest.mark.parametrize("face", [[], ["--direct"]], ids=["recorded", "direct"])


@pytest.fixture
def archived(workplace):
    """The table's old rows are in the store; what was in it before is kept beside the workplace."""
    workplace.before = rows(workplace)
    assert workplace.run("run", "--direct").code == 0
    assert len(workplace.keys_like(".jsonl.gz")) == OBJECTS
    return workplace


@pytest.fixture
def other(database, postgres_server):
    """A second database with the table, empty."""
    name = f"{database.name}_other"
    postgres_server.create_database(name)
    second = replace(database, name=name, conninfo=postgres_server.dsn(name))
    create_audit_table(second)
    second.execute("TRUNCATE audit_logs")
    yield second
    drop_database(postgres_server.dsn(), name)


def rows(workplace, table="audit_logs", *, where="true", database=None):
    query = f"SELECT t::text FROM {table} t WHERE {where}"
    return Counter(text for (text,) in (database or workplace.database).execute(query))


def make_copy(workplace, name="copy"):
    workplace.database.execute(f"CREATE TABLE {name} (LIKE audit_logs INCLUDING ALL)")


@faces
def test_everything_comes_back_once(archived, face):
    found = archived.run(*ALL, *face)
    assert (found.code, found.stderr) == (ALL_GOOD, "")
    assert rows(archived) == archived.before
    assert f"{OLD_ROWS} rows restored into appdb.public.audit_logs in " in found.stdout
    assert re.search(rf"│ {OBJECTS} archives +│ +│ +{OLD_ROWS} │ +{OLD_ROWS} │", found.stdout), found.stdout
    assert "not archived again before" in found.stdout
    again = archived.run(*ALL, *face)
    assert (again.code, again.stderr) == (ALL_GOOD, "")
    assert "nothing new to restore" in again.stdout
    assert f"{OBJECTS} archives restored before and left out; --ignore-watermark" in again.stdout
    assert rows(archived) == archived.before
    if not face:
        assert statuses_of_runs(archived) == ["SUCCESS", "SUCCESS"]


def test_direct_leaves_dagster_alone(archived):
    before = files(archived.dagster_home)
    assert archived.run(*ALL, "--direct").code == ALL_GOOD
    assert files(archived.dagster_home) == before


def test_verbose_shows_the_log_of_every_step_without_an_error(archived):
    found = archived.run(*ALL, "--verbose")
    assert found.code == ALL_GOOD
    assert f"{OBJECTS} archives with {OLD_ROWS} rows to restore" in found.error
    assert "ERROR" not in found.stderr


def test_without_a_key_or_all_it_lists_the_keys_and_says_how_to_go_on(archived):
    before = state(archived)
    for words in ([], ["--table", "audit_logs"], ["--table", "audit_logs", "--schema", "public"]):
        found = archived.run("restore", *words)
        assert found.code == ALL_GOOD
        assert [line.split()[-1] for line in found.stdout.splitlines()[1:]] == archived.keys_like(".jsonl.gz")
        assert "Nothing was restored: choose an archive with --s3-key KEY" in found.error
    assert state(archived) == before


def test_the_listing_as_json_is_one_document(archived):
    found = archived.run("restore", "--json")
    assert (found.code, found.stderr) == (ALL_GOOD, "")
    [listed] = found.json
    text = json.dumps(listed)
    assert all(key in text for key in archived.keys_like(".jsonl.gz"))


def test_one_archive_by_the_key_of_any_of_its_objects(archived):
    objects = archived.keys_like(".jsonl.gz")
    here = len(archived.before) - OLD_ROWS
    for number, ending in enumerate([".jsonl.gz", ".manifest.json", ".receipt.json"]):
        key = archived.keys_like(ending)[number]
        written = f"s3://{archived.bucket.bucket}/{key}" if number else key
        found = archived.run("restore", "--s3-key", written, "--json", "--direct")
        assert (found.code, found.stderr) == (ALL_GOOD, "")
        [report] = found.json["reports"]
        assert [item["data_key"] for item in report["objects"]] == [objects[number]]
        assert report["restored_rows"] == report["objects"][0]["rows"] > 0
        here += report["restored_rows"]
        assert len(rows(archived)) == here


def test_json_of_a_restore_is_one_document(archived):
    found = archived.run(*ALL, "--json")
    assert (found.code, found.stderr) == (ALL_GOOD, "")
    [report] = found.json["reports"]
    assert found.json["errors"] == []
    assert report["source"] == report["target"] == {"database": "appdb", "schema": "public", "table": "audit_logs"}
    assert (report["restored_rows"], report["skipped_rows"], report["failed_rows"]) == (OLD_ROWS, 0, 0)
    assert sum(item["restored_rows"] for item in report["objects"]) == OLD_ROWS
    again = archived.run(*ALL, "--json").json["reports"][0]
    assert (again["objects"], again["remembered"], again["restored_rows"]) == ([], OBJECTS, 0)


@faces
def test_dates_take_rows_not_windows(archived, face):
    days = sorted({key.rsplit("_", 2)[1] for key in archived.keys_like(".jsonl.gz")})
    found = archived.run(*ALL, "--start-date", days[1], "--end-date", days[2], *face)
    assert found.code == ALL_GOOD
    came_back = archived.database.execute(
        "SELECT DISTINCT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') FROM audit_logs WHERE id < 100000"
    )
    assert sorted(day for (day,) in came_back) == days[1:3]


def test_days_without_archives_are_not_called_restored_before(archived):
    found = archived.run(*ALL, "--direct", "--start-date", "2001-01-01", "--end-date", "2001-01-02")
    assert found.code == ALL_GOOD
    assert "nothing to restore: no archive has rows in these days" in found.stdout


@faces
def test_where_takes_only_rows_of_which_it_is_true(archived, face):
    found = archived.run(*ALL, "--where", "id <= 5 OR actor = 'actor \"6\"'", "--json", *face)
    assert found.code == ALL_GOOD
    came_back = [id for (id,) in archived.database.execute("SELECT id FROM audit_logs WHERE id < 100000 ORDER BY 1")]
    assert came_back == [n for n in range(1, OLD_ROWS + 1) if n <= 5 or n % 7 == 6]
    [report] = found.json["reports"]
    assert (report["restored_rows"], report["filtered_rows"]) == (len(came_back), OLD_ROWS - len(came_back))
    rest = archived.run(*ALL, "--json", *face).json["reports"][0]
    assert rest["restored_rows"] == OLD_ROWS - len(came_back)
    assert rows(archived) == archived.before


NO_PREDICATES = [
    ("id = 1; DROP TABLE audit_logs", "';' is not understood"),
    ("id = 1 OR pg_sleep(100) IS NULL", "not a predicate"),
    ("id = (SELECT 1)", "not a predicate"),
    ("nocolumn = 7", 'column "nocolumn", which the table does not have'),
    ("id = 'one'", "id"),
    ("", "not a predicate"),
]


def archives(workplace):
    """As `state`, without the audit trail, which tells of each refusal."""
    rows, tags, relations, files = state(workplace)
    return rows, [tag for tag in tags if "/_audit/" not in tag[0]], relations, files


def test_a_predicate_that_is_none_restores_nothing(archived):
    before = archives(archived)
    for where, told in NO_PREDICATES:
        found = archived.run(*ALL, "--direct", "--where", where)
        assert (found.code, found.stdout) == (CONFIG, ""), where
        assert told in found.error
    assert archives(archived) == before


def test_a_quote_in_a_predicate_is_only_a_quote(archived):
    found = archived.run(*ALL, "--direct", "--where", "actor = 'x'' OR ''1''=''1'")
    assert found.code == ALL_GOOD
    assert "0 rows restored" in found.stdout


def changed_rows(archived):
    """All rows in a copy, one row of the first object changed; gives the text of that row and of the archived one."""
    make_copy(archived)
    assert archived.run(*ALL, "--to-table", "copy", "--direct").code == ALL_GOOD
    old = rows(archived, "copy", where="id = 7")
    archived.database.execute("UPDATE copy SET actor = 'changed' WHERE id = 7")
    archived.database.execute("DELETE FROM copy WHERE id = 8")
    return old, rows(archived, "copy", where="id = 7")


def test_conflict_strategies(archived):
    archived_row, changed_row = changed_rows(archived)
    expected = {
        "fail": (FAILED, [0, 0, 0, OLD_ROWS], changed_row, OLD_ROWS - 1),
        "skip": (ALL_GOOD, [1, 0, OLD_ROWS - 1, 0], changed_row, OLD_ROWS),
        "overwrite": (ALL_GOOD, [OLD_ROWS, OLD_ROWS, 0, 0], archived_row, OLD_ROWS),
        "upsert": (ALL_GOOD, [OLD_ROWS, OLD_ROWS, 0, 0], archived_row, OLD_ROWS),
    }
    for strategy, (code, counts, row, total) in expected.items():
        command = [*ALL, "--to-table", "copy", "--ignore-watermark", "--conflict-strategy", strategy]
        archived.database.execute("UPDATE copy SET actor = 'changed' WHERE id = 7")
        found = archived.run(*command, "--json", "--direct")
        [report] = found.json["reports"]
        assert [report[f"{kind}_rows"] for kind in ("restored", "replaced", "skipped", "failed")] == counts, strategy
        assert found.code == code
        assert rows(archived, "copy", where="id = 7") == row
        assert rows(archived, "copy").total() == total


def test_a_dry_run_shows_what_would_be_and_changes_nothing(archived):
    archived.document["restore_watermark"] = {"enabled": True, "storage_type": "both"}
    archived.write()
    before = state(archived)
    with archived.hold_lock():
        found = archived.run(*ALL, "--dry-run")
    assert (found.code, found.stderr) == (ALL_GOOD, "")
    assert state(archived) == before
    for key in archived.keys_like(".jsonl.gz"):
        assert key.rpartition("/")[2] in found.stdout
    assert re.search(rf"│ {OBJECTS} archives +│ +{OLD_ROWS} │", found.stdout), found.stdout
    assert "nothing was changed, nothing was written" in found.stdout


def test_a_dry_run_as_json_tells_what_the_restore_then_does(archived):
    before = state(archived)
    found = archived.run(*ALL, "--dry-run", "--json")
    assert (found.code, found.stderr) == (ALL_GOOD, "")
    assert state(archived) == before
    told = found.json
    [report] = archived.run(*ALL, "--json").json["reports"]
    assert told["rows"] == report["restored_rows"] == OLD_ROWS
    assert sorted(item["data_key"] for item in told["archives"]) == [item["data_key"] for item in report["objects"]]
    assert (told["drift"], told["problems"], told["waiting"], told["restored_before"]) == ([], [], [], 0)
    assert archived.run(*ALL, "--dry-run", "--json").json["restored_before"] == OBJECTS


def test_changed_columns_are_shown_once_and_refused(archived):
    make_copy(archived)
    archived.database.execute("ALTER TABLE copy DROP COLUMN amount, ADD COLUMN extra int")
    dry = archived.run(*ALL, "--to-table", "copy", "--dry-run")
    assert "- amount numeric; + extra integer" in dry.error
    assert dry.error.count("warning:") == 1
    assert f"{OBJECTS} archives would be refused" in dry.stdout
    found = archived.run(*ALL, "--to-table", "copy")
    assert found.code == FAILED
    assert f"error: {OBJECTS} archives, the first of them {archived.keys_like('.jsonl.gz')[0]}: archived" in found.error
    assert found.error.count("+ extra integer") == 1
    assert "--schema-strategy lenient" in found.error
    assert not rows(archived, "copy")
    lenient = archived.run(*ALL, "--to-table", "copy", "--schema-strategy", "lenient")
    assert lenient.code == ALL_GOOD
    assert "mapped by name: - amount numeric; + extra integer" in lenient.error
    assert rows(archived, "copy").total() == OLD_ROWS


@faces
def test_one_damaged_archive_is_named_and_the_others_come_back(archived, face):
    key = archived.keys_like(".jsonl.gz")[1]
    whole = archived.bucket.read(key)
    put(archived.bucket, key, flipped(whole))
    found = archived.run(*ALL, *face)
    assert found.code == PARTIAL
    assert f"error: {key}: " in found.error
    assert "failed" in found.stdout
    assert 0 < len(archived.before) - len(rows(archived)) < OLD_ROWS
    put(archived.bucket, key, whole)
    again = archived.run(*ALL, *face)
    assert again.code == ALL_GOOD
    assert rows(archived) == archived.before


@faces
def test_every_archive_damaged_is_a_failure(archived, face):
    before = rows(archived)
    with damaging_store(archived.bucket.endpoint) as endpoint:
        archived.document["s3"]["endpoint"] = endpoint
        archived.write()
        found = archived.run(*ALL, "--json", *face)
    assert found.code == FAILED
    assert found.json["reports"][0]["failed_rows"] == OLD_ROWS
    assert rows(archived) == before


@faces
def test_a_table_that_is_worked_on_is_not_restored(archived, face):
    before = rows(archived)
    with archived.hold_lock():
        found = archived.run(*ALL, *face, within_seconds=60)
    assert found.code == LOCKED
    assert "appdb.public.audit_logs is being worked on by another archiver" in found.error
    assert rows(archived) == before


@faces
@pytest.mark.parametrize("server", ["database", "store"])
def test_a_server_that_is_down(archived, server, face):
    port = free_port()
    if server == "database":
        archived.document["databases"][0]["port"] = port
    else:
        archived.document["s3"]["endpoint"] = f"http://127.0.0.1:{port}"
    archived.write()
    archived.environment[FIRST_RETRY_VARIABLE] = "0.2"
    found = archived.run(*ALL, *face)
    assert found.code == NETWORK
    assert f"127.0.0.1:{port}" in found.error


def test_a_wrong_password_and_a_role_that_may_not_insert(archived):
    right = archived.environment[PASSWORD_VARIABLE]
    archived.environment[PASSWORD_VARIABLE] = "not-the-password"
    assert archived.run(*ALL).code == PERMISSION
    archived.environment[PASSWORD_VARIABLE] = right
    use_role(archived, "SELECT")
    found = archived.run(*ALL)
    assert found.code == PERMISSION
    assert "INSERT" in found.error


MISTAKES = [
    (["--restore-all", "--s3-key", "x"], "exclude each other"),
    (["--restore-all", "--table", "audit_log"], "did you mean audit_logs"),
    (["--restore-all", "--schema", "sales"], "appdb.public.audit_logs"),
    (["--restore-all", "--to-database", "appbd"], "did you mean appdb"),
    (["--restore-all", "--to-table", "nowhere"], "there is no such table"),
    (["--restore-all", "--to-table", "nokey"], "unique index"),
    (["--restore-all", "--conflict-strategy", "merge"], "--conflict-strategy"),
    (["--restore-all", "--start-date", "yesterday"], "--start-date"),
    (
        ["--restore-all", "--start-date", "2026-02-02", "--end-date", "2026-02-01"],
        "--end-date 2026-02-01 is before",
    ),
    (["--s3-key", "nonsense"], "not the key of a batch's object"),
    (["--schema", "sales"], "--table"),
    (["--restore-all", "--retrieval-days", "0"], "--retrieval-days"),
]


def test_mistakes_on_the_command_line(archived):
    archived.database.execute("CREATE TABLE nokey (LIKE audit_logs)")
    for arguments, told in MISTAKES:
        found = archived.run("restore", *arguments)
        assert (found.code, found.stdout) == (CONFIG, ""), arguments
        assert told in found.error


def test_keys_of_nothing(archived):
    key = archived.keys_like(".jsonl.gz")[0]
    for written, told in [
        (f"s3://other/{key}", "is in bucket 'other'"),
        (key.replace("archives/", "elsewhere/"), "below 'archives'"),
        (key.replace("appdb", "shop"), "no database 'shop' is configured"),
        (re.sub(r"[0-9a-f]{20}", "0" * 20, key), "there is no object"),
    ]:
        found = archived.run("restore", "--direct", "--s3-key", written)
        assert (found.code, found.stdout) == (CONFIG, "")
        assert told in found.error


def test_a_table_without_archives(workplace):
    found = workplace.run(*ALL, "--direct")
    assert (found.code, found.stdout) == (CONFIG, "")
    assert "no archives found for appdb.public.audit_logs" in found.error


@faces
def test_a_key_of_one_database_into_another(archived, other, face):
    second = archived.document["databases"][0] | {"id": "other", "name": other.name}
    archived.document["databases"].append(second)
    archived.write()
    key = archived.keys_like(".jsonl.gz")[0]
    here = rows(archived)
    words = ["--database", "other", "--table", "audit_logs"]
    found = archived.run("restore", "--s3-key", key, *words, "--json", *face)
    assert found.code == ALL_GOOD, found.stderr
    [report] = found.json["reports"]
    assert (report["source"]["database"], report["target"]["database"]) == ("appdb", "other")
    assert rows(archived, database=other).total() == report["restored_rows"] > 0
    assert not rows(archived, database=other) - archived.before
    assert rows(archived) == here
    all_of_it = archived.run(*ALL, "--database", "appdb", "--to-database", "other", *face)
    assert all_of_it.code == ALL_GOOD
    assert rows(archived, database=other) + here == archived.before


@faces
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_restore_and_the_next_one(archived, stop, face):
    with archived.database.connect(autocommit=False) as application:
        application.execute("INSERT INTO audit_logs SELECT 30, now(), 'x'")
        process = archived.start(*ALL, *face)
        wait_until(lambda: waits(archived), what="one object waits for a row of an application")
        process.send_signal(stop)
        stopped = archived.end(process, within_seconds=30)
        application.rollback()
    assert stopped.code == (INTERRUPTED if stop is signal.SIGINT else -stop)
    wait_until(lambda: archived.sessions() == 0, what="no connection is left")
    assert not rows(archived) - archived.before
    assert rows(archived) != archived.before
    again = archived.run(*ALL, *face)
    assert again.code == ALL_GOOD, again.stderr
    assert ("was killed earlier" in again.error) == (stop is signal.SIGKILL and not face)
    assert rows(archived) == archived.before


def test_two_restores_at_once(archived):
    both = [archived.start(*ALL, "--direct") for _ in range(2)]
    codes = sorted(archived.end(process).code for process in both)
    assert codes in ([ALL_GOOD, ALL_GOOD], [ALL_GOOD, LOCKED])
    assert rows(archived) == archived.before


def test_progress_on_a_terminal_shows_rows_rate_and_time_left(archived):
    with archived.database.connect(autocommit=False) as application:
        application.execute("INSERT INTO audit_logs SELECT 30, now(), 'x'")
        screen, process = on_a_terminal(archived, *ALL, "--direct")
        wait_until(lambda: re.search(r"restore.* (8|16|24|32|40)/48 .*rows", screen.text), what="rows are counted")
        application.rollback()
    assert process.wait(60) == ALL_GOOD
    assert "appdb.public.audit_logs restore" in screen.text
    assert re.search(r"\d+/s", screen.text)
    assert re.search(r"\d:\d\d:\d\d", screen.text)


class Screen:
    """What a program has printed to a terminal so far, without control sequences."""

    def __init__(self, terminal):
        self._printed = b""
        self._terminal = terminal
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def text(self):
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._printed.decode(errors="replace"))

    def _read(self):
        try:
            while found := os.read(self._terminal, 4096):
                self._printed += found
        except OSError:  # The last program that had the terminal open has ended.
            os.close(self._terminal)


def on_a_terminal(workplace, *arguments):
    """The command with a terminal for its errors."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [archiver_script(), *arguments],
        cwd=workplace.folder,
        env=workplace.environment | {"TERM": "xterm", "COLUMNS": "160"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    workplace.running.append(process)
    os.close(theirs)
    return Screen(ours), process


def waits(workplace):
    [(count,)] = workplace.database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    return count


@pytest.mark.parametrize("columns", ["80", "160"])
def test_the_summary_is_readable_in_any_terminal(archived, columns):
    archived.environment["COLUMNS"] = columns
    found = archived.run(*ALL, "--direct")
    lines = found.stdout.splitlines()
    assert max(map(len, lines)) <= int(columns)
    # A name takes two lines at most, and kinds of rows that there are none of have no column.
    assert len(lines) <= 2 * OBJECTS + 8
    assert "replaced" not in found.stdout
    assert "restored" in found.stdout
