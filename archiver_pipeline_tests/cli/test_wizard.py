"""`archiver wizard` on real servers: with flags, and typed at a real terminal."""

import signal
import stat

import pexpect
import pytest

from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.cli.wizardry import (
    HOSTILE_TABLES,
    SECRET_VARIABLE,
    answer,
    create_hostile_tables,
    open_wizardry,
)
from archiver_pipeline_tests.cli.workplace import PASSWORD_VARIABLE


@pytest.fixture
def wizardry(workplace):
    yield from open_wizardry(workplace)


def test_flags_alone_write_a_file_that_check_passes(wizardry):
    found = wizardry.place.run("wizard", "--non-interactive", *wizardry.flags())
    assert found.code == 0, found.stderr
    checked = wizardry.check()
    assert (checked.code, checked.stderr) == (0, "")
    assert {(table["schema"], table["name"]) for table in wizardry.tables} == {
        ("tracking", "events"),
        ("public", "audit_logs"),
    }
    assert "archiver run --config shop.yaml --dry-run" in found.stdout
    dry = wizardry.place.run("run", "--config", "shop.yaml", "--dry-run", "--table", "audit_logs")
    assert "Dry run: nothing was changed" in dry.stdout
    assert "not recommended: foreign keys of public.orders refer to its rows" in found.stdout
    for refused in (
        "public.keyless_log: no primary key",
        "public.timeless: no column of type date, timestamp or timestamptz",
        "public.fleeting_log: unlogged",
        "public.log_view: a view",
        "public.foreign_log: a foreign table",
        "deleting its rows would change other tables: public.child",
    ):
        assert refused in found.stdout, found.stdout
    assert "tracking.events_old" not in found.stdout


@pytest.mark.matrix
def test_json_tells_everything_and_the_eligible_part_orders(wizardry):
    found = wizardry.run("--json")
    assert found.code == 0, found.stderr
    offered = found.json["offered"]
    assert offered[0]["table"] == "tracking.events"
    sizes = [one["measure"]["eligible_share"] * one["measure"]["disk_bytes"] for one in offered]
    assert sizes == sorted(sizes, reverse=True)
    events = offered[0]
    assert events["suggestion"]["timestamp_column"] == "happened_on"
    assert events["measure"]["rows"] == pytest.approx(2000, rel=0.05)
    assert events["measure"]["eligible_rows"] == pytest.approx(1940, rel=0.05)
    told = [finding["message"] for finding in found.json["check"] if finding["level"] != "ok"]
    assert [message for message in told if "versioning" not in message] == []
    assert found.json["next"][0] == "archiver check --config shop.yaml"


def test_hostile_names_come_out_as_they_are(wizardry):
    create_hostile_tables(wizardry.place)
    names = [word for name in HOSTILE_TABLES for word in ("--table", name)]
    found = wizardry.run(*names)
    assert found.code == 0, found.stderr
    assert [table["name"].replace("$${", "${") for table in wizardry.tables] == list(HOSTILE_TABLES)
    assert [table["timestamp_column"] for table in wizardry.tables] == [
        f'the "time": {number}' for number in range(len(HOSTILE_TABLES))
    ]
    checked = wizardry.check()
    assert (checked.code, checked.stderr.replace("warning", "")) == (0, ""), checked.stdout


def test_a_name_that_no_key_can_hold_is_said_and_harms_no_other(wizardry):
    wizardry.place.database.execute('CREATE TABLE "a/b log" (id int PRIMARY KEY, created_at timestamptz)')
    found = wizardry.run()
    assert found.code == 0, found.stderr
    assert "public.a/b log: " in found.stdout
    assert "must not hold '/'" in found.stdout


def test_secrets_are_written_only_when_asked_for_and_then_privately(wizardry):
    password, secret = wizardry.place.secrets
    assert wizardry.run("--table", "audit_logs").code == 0
    text = wizardry.output.read_text()
    assert password not in text
    assert secret not in text
    assert f"password_env: {PASSWORD_VARIABLE}" in text
    assert not stat.S_IMODE(wizardry.output.stat().st_mode) & 0o111
    found = wizardry.run("--table", "audit_logs", "--plain-secrets", "--force")
    assert found.code == 0
    assert "keep it private" in found.stderr
    assert wizardry.written["databases"][0]["password"] == password
    assert wizardry.written["s3"]["secret_access_key"] == secret
    assert stat.S_IMODE(wizardry.output.stat().st_mode) == 0o600
    wizardry.output.unlink()


def test_a_password_given_by_flag_is_used_and_the_line_to_type_is_shown(wizardry):
    password, _ = wizardry.place.secrets
    del wizardry.place.environment[PASSWORD_VARIABLE]
    found = wizardry.run("--db-password", password, db_password_env=None)
    assert found.code == 0, found.stderr
    variable = wizardry.written["databases"][0]["password_env"]
    assert variable == f"{wizardry.place.database.name.upper()}_DB_PASSWORD"
    assert f"export {variable}='…'" in found.stdout
    assert "S3" not in found.stdout.partition("Set them first")[2].partition("Next")[0]


def test_what_fails_is_told_and_no_file_is_left(wizardry):
    port = str(free_port())
    for changed, environment, code, told in (
        ({}, {PASSWORD_VARIABLE: "wrong"}, 5, "password authentication failed"),
        ({"db_password_env": "NOT_SET"}, {}, 3, "environment variable NOT_SET is not set"),
        ({"db_name": None}, {}, 3, "give --db-name"),
        ({"db_name": "nowhere"}, {}, 2, 'database "nowhere" does not exist'),
        ({"db_port": port}, {}, 7, "check host, port"),
        ({"s3_bucket": "no-such-bucket"}, {}, 3, "there is no bucket 'no-such-bucket'"),
        ({"s3_bucket": "s3://x"}, {}, 3, "must be the bare name of a bucket"),
        ({"s3_bucket": None}, {}, 3, "give --s3-bucket"),
        ({}, {SECRET_VARIABLE: "wrong"}, 5, "check the store's credentials"),
        ({"table": "audit_log"}, {}, 3, "there is no table 'audit_log'"),
        ({"table": "timeless"}, {}, 3, "cannot be archived: no column of type date"),
        ({"output": "nowhere/x.yaml"}, {}, 3, "there is no folder nowhere"),
    ):
        before = dict(wizardry.place.environment)
        wizardry.place.environment |= environment
        found = wizardry.run(**changed)
        wizardry.place.environment = before
        assert (found.code, found.stdout) == (code, ""), found.stdout
        assert told in found.error
        assert wizardry.leftovers() == []


def test_a_file_that_is_there_is_kept_unless_forced(wizardry):
    wizardry.output.write_text("mine")
    found = wizardry.run()
    assert found.code == 3
    assert "shop.yaml is there already" in found.error
    assert wizardry.output.read_text() == "mine"
    assert wizardry.run("--force").code == 0
    assert wizardry.check().code == 0


def test_without_a_terminal_it_says_what_to_do(wizardry):
    found = wizardry.place.run("wizard")
    assert found.code == 3
    assert "give --non-interactive" in found.error


def test_a_person_mistypes_corrects_and_gets_a_file_that_check_passes(wizardry):
    """One sitting: unreachable host, wrong password, missing bucket, a choice out of bounds."""
    database, bucket = wizardry.place.database, wizardry.place.bucket
    password, secret = wizardry.place.secrets
    terminal = wizardry.sit_down("--output", "shop.yaml")
    answer(
        terminal,
        ("Host", database.host),
        ("Port", "many"),
        ("a number from 1 to 65535 is needed", ""),
    )
    terminal.expect_exact("  Name")
    terminal.sendline(database.name)
    answer(terminal, ("User", database.user), ("Password", "x"))
    terminal.expect_exact("check host, port and that the server is running")
    answer(terminal, ("Host", ""), ("Port", str(database.port)), ("Name", ""), ("User", ""), ("Password", "wrong"))
    terminal.expect_exact("password authentication failed")
    answer(terminal, ("Host", ""), ("Port", ""), ("Name", ""), ("User", ""), ("Password", password))
    terminal.expect_exact("ok: connected to")
    answer(terminal, ("Bucket", "no-such-bucket"), ("Endpoint", bucket.endpoint), ("Region", ""), ("Prefix", ""))
    answer(terminal, ("Access key", bucket.access_key_id), ("Secret key", secret))
    terminal.expect_exact("there is no bucket 'no-such-bucket'")
    answer(terminal, ("Bucket", bucket.bucket), ("Endpoint", ""), ("Region", ""), ("Prefix", ""))
    answer(terminal, ("Access key", ""), ("Secret key", secret))
    terminal.expect_exact("can be listed, written and read")
    answer(terminal, ("Days that rows stay", "30"))
    terminal.expect_exact("tracking.events")
    answer(terminal, ("Tables to archive", "99"), ("write numbers from 1 to", "1-2"))
    terminal.expect_exact("Written: shop.yaml")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0, terminal.before
    assert "none failed" in terminal.before
    assert f"export {database.name.upper()}_DB_PASSWORD='…'" in terminal.before
    assert "export ARCHIVER_S3_SECRET_KEY='…'" in terminal.before
    wizardry.place.require_no_secret("the file", wizardry.output.read_bytes())
    assert [table["name"] for table in wizardry.tables] == ["events", "audit_logs"]
    wizardry.place.environment |= {
        f"{database.name.upper()}_DB_PASSWORD": password,
        "ARCHIVER_S3_ACCESS_KEY": bucket.access_key_id,
        "ARCHIVER_S3_SECRET_KEY": secret,
    }
    assert wizardry.check().code == 0


def test_variables_that_are_set_are_not_asked_for(wizardry):
    wizardry.place.environment |= {"ARCHIVER_S3_ACCESS_KEY": "x", "ARCHIVER_S3_SECRET_KEY": "y"}
    terminal = wizardry.sit_down(*wizardry.flags())
    answer(terminal, ("Host", ""), ("Port", ""), ("Name", ""), ("User", ""))
    terminal.expect_exact("ok: connected to")
    answer(terminal, ("Bucket", ""), ("Endpoint", ""), ("Region", ""), ("Prefix", ""))
    terminal.expect_exact("can be listed, written and read")
    answer(terminal, ("Days that rows stay", ""), ("Tables to archive", "all"))
    terminal.expect_exact("Written: shop.yaml")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert len(wizardry.tables) == 4


@pytest.mark.parametrize("question", ["Host", "Tables to archive"])
def test_an_interrupt_leaves_no_file(wizardry, question):
    terminal = wizardry.sit_down(*wizardry.flags())
    if question != "Host":
        answer(terminal, ("Host", ""), ("Port", ""), ("Name", ""), ("User", ""))
        answer(terminal, ("Bucket", ""), ("Endpoint", ""), ("Region", ""), ("Prefix", ""))
        answer(terminal, ("Days that rows stay", ""))
    terminal.expect_exact(question)
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert (terminal.exitstatus, terminal.signalstatus) == (128 + signal.SIGINT, None)
    assert "Traceback" not in terminal.before
    assert wizardry.leftovers() == []
