"""`archiver hold`, and what the other commands say of held rows."""

from dataclasses import replace

import pytest

from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.holds import with_holds
from archiver_pipeline.engine.mirror import mirror_holds
from archiver_pipeline.errors import StoreError
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, YOUNG_ROWS
from archiver_pipeline_tests.plugins.holding import FROM_TABLE


@pytest.fixture
def holds(workplace, holding):
    """The workplace reads holds from the table."""
    workplace.document["legal_holds"] = {"enabled": True}
    workplace.write()
    return holding


def test_a_run_with_held_rows_is_no_failure_and_says_so(workplace, holds):
    ledger = workplace.ledger()
    holds.place("id IN (1, 2, 48)")
    found = workplace.run("run")
    assert (found.code, found.stderr) == (0, "")
    assert "appdb.public.audit_logs: 3 old rows stay: legal hold on some rows: case 7" in found.stdout
    ledger.account()
    # What is left is held, so nothing is due any more, and that is told too.
    again = workplace.run("run", "--json")
    assert (again.code, again.json["reports"]) == (0, [])
    [held] = again.json["held"]
    assert (held["rows"], held["is_capped"]) == (3, False)
    assert "case 7" in held["why"]


def test_holds_are_listed_with_the_rows_they_cover(workplace, holds):
    holds.place("id IN (1, 2, 48)")
    holds.place("no_such_column = 1", reason="case [8]")
    holds.place(table_name="audit_log")
    found = workplace.run("hold", "list", "--json")
    assert found.code == 0
    [listed] = found.json["tables"]
    assert [(hold["rows"], hold["scope"]) for hold in listed["holds"]] == [
        (3, "some rows"),
        (OLD_ROWS + YOUNG_ROWS, "the whole table, because its row predicate can't be used"),
    ]
    assert "no_such_column" in listed["holds"][1]["defect"]
    assert len(found.json["unmatched"]) == 1
    shown = workplace.run("hold", "list")
    assert "case [8]" in shown.stdout
    assert "no configured table has these names: *.public.audit_log" in shown.stderr


def test_one_table_and_one_row_are_checked(workplace, holds):
    assert workplace.run("hold", "check", "--table", "audit_logs").code == 0
    holds.place("id = 7")
    assert workplace.run("hold", "check", "--table", "audit_logs").code == 1
    held = workplace.run("hold", "check", "--table", "audit_logs", "--key", "7")
    assert (held.code, "case 7" in held.stdout) == (1, True)
    free = workplace.run("hold", "check", "--table", "audit_logs", "--key", "8", "--json")
    assert (free.code, free.json["held"]) == (0, False)
    missing = workplace.run("hold", "check", "--table", "audit_logs", "--key", "4711")
    assert (missing.code, "no row of" in missing.error) == (3, True)


def test_check_tells_how_the_table_of_holds_is_made(workplace):
    workplace.document["legal_holds"] = {"enabled": True}
    workplace.write()
    found = workplace.run("check")
    assert found.code == 3
    assert 'CREATE TABLE "public"."legal_holds"' in found.stdout
    ledger = workplace.ledger()
    assert workplace.run("run").code == 3
    ledger.account()
    assert len(ledger.table_rows()) == OLD_ROWS + YOUNG_ROWS


def test_a_hold_on_a_table_is_mirrored_to_its_archives(archiving, holding, audit, s3_server):
    s3_server.create_bucket("locked-for-holds", object_lock=True)
    store = replace(archiving.store_settings(), bucket="locked-for-holds")
    settings = replace(FROM_TABLE, mirror_to_object_lock=True)
    session = archiving.session(holds=settings, store=store)
    archive_windows(session, archiving.windows(session))
    shape = inspect_table(session.connection, session.settings)
    holding.place("id = 1")
    assert mirror_holds(session, with_holds(session, shape)) == 0
    holding.place()
    objects = mirror_holds(session, with_holds(session, shape))
    client = s3_server.client()
    keys = [item["Key"] for item in client.list_objects_v2(Bucket="locked-for-holds")["Contents"]]
    data = [key for key in keys if key.endswith(".jsonl.gz")]
    assert objects == len(data) > 0
    for key in data:
        answer = client.get_object_legal_hold(Bucket="locked-for-holds", Key=key)
        assert answer["LegalHold"]["Status"] == "ON"


def test_a_bucket_without_object_lock_is_told(archiving, holding, audit):
    session = archiving.session(holds=replace(FROM_TABLE, mirror_to_object_lock=True))
    archive_windows(session, archiving.windows(session))
    holding.place()
    shape = with_holds(session, inspect_table(session.connection, session.settings))
    with pytest.raises(StoreError):
        mirror_holds(session, shape)
