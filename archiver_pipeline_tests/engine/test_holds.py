"""Legal holds: from every source, on tables and rows, at every moment, and when they can't be read."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from archiver_pipeline.config.effective import HoldSettings
from archiver_pipeline.config.enums import HoldSource
from archiver_pipeline.config.models import ConfiguredHold
from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.backlog import measure_backlog
from archiver_pipeline.engine.due import DueCursor, DueLimits, look_for_due
from archiver_pipeline.engine.holds import block_of_expiry
from archiver_pipeline.engine.inventory import DateRange, find_held_rows, windows_with_rows
from archiver_pipeline.engine.preview import preview_archive
from archiver_pipeline.errors import NetworkError, PermissionDeniedError, PreflightError
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline.postgres.holds import lock_statement
from archiver_pipeline_tests.engine.faults import POINTS, place
from archiver_pipeline_tests.engine.running import pending
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS
from archiver_pipeline_tests.plugins.holding import FROM_TABLE, HOLD_TABLE

LIMITS = DueLimits(windows=10, per_table=10, turns=2, look_seconds=20, sweep_seconds=10)
HELD = "id % 5 = 0"
"""SQL that PostgreSQL understands; the predicate language says the same by a list."""
HELD_IDS = [n for n in range(1, OLD_ROWS + 1) if n % 5 == 0]
WHERE = f"id IN ({', '.join(map(str, HELD_IDS))})"


def of_file(*holds, **settings):
    configured = tuple(ConfiguredHold.model_validate({"table": "audit_logs"} | hold) for hold in holds)
    return HoldSettings(sources=frozenset({HoldSource.CONFIG}), configured=configured, **settings)


def old_ids(audit):
    return [n for (n,) in audit._database.execute("SELECT id FROM audit_logs WHERE id < 100000 ORDER BY id")]


def every_window(session):
    """Also those that nothing is due of, as a person may launch them in the UI."""
    return list(windows_with_rows(session, inspect_table(session.connection, session.settings), DateRange()))


@pytest.fixture
def held(archiving, holding, audit):
    """Archive everything with the hold table, and account."""

    def archive(holds=FROM_TABLE, **overrides):
        session = archiving.session(holds=holds, **overrides)
        report = archive_windows(session, every_window(session))
        session.close()
        audit.account()
        return report

    return archive


@pytest.mark.matrix
def test_held_rows_stay_and_are_counted(held, holding, audit):
    holding.place(WHERE)
    report = held()
    assert old_ids(audit) == HELD_IDS
    assert (report.rows, report.held_rows, report.left_behind_rows) == (OLD_ROWS - len(HELD_IDS), len(HELD_IDS), 0)
    assert "legal hold on some rows: case 7, requested by legal (table public.legal_holds" in report.stopped_reason
    assert sum(window.superseded_batches for window in report.windows) == 0
    holding.lift_all()
    assert held().rows == len(HELD_IDS)
    audit.account_all_archived()


def test_a_table_under_hold_is_planned_as_nothing(held, holding, audit):
    holding.place()
    report = held()
    assert (report.rows, report.held_rows, audit.objects()) == (0, OLD_ROWS, [])
    assert report.left_behind_rows == 0
    assert "legal hold on the whole table: case 7" in report.stopped_reason


def test_nothing_else_is_due_of_a_table_under_hold(archiving, holding, audit):
    """Else sensors would launch the same windows for ever."""
    session = archiving.session(holds=FROM_TABLE)
    newest = max(every_window(session), key=lambda window: window.start)
    holding.place(f"created_at < '{newest.start.isoformat()}'")
    assert archiving.windows(session) == [newest]
    assert measure_backlog(session, most_rows=1000).oldest_row >= newest.start
    look = look_for_due(session.database, session.store_settings, [session.settings], LIMITS, DueCursor())
    assert [window for _, window in look.windows] == [newest]
    held = find_held_rows(session, most_rows=1000)
    assert held.rows + measure_backlog(session, most_rows=1000).eligible_rows == OLD_ROWS
    assert find_held_rows(session, most_rows=3).is_capped
    holding.place()
    assert archiving.windows(session) == []
    assert measure_backlog(session, most_rows=1000).eligible_rows == 0
    assert look_for_due(session.database, session.store_settings, [session.settings], LIMITS, DueCursor()).windows == ()


def test_a_dry_run_shows_what_is_held(archiving, holding, audit):
    holding.place(WHERE)
    preview = preview_archive(archiving.session(holds=FROM_TABLE), DateRange())
    assert preview.rows == OLD_ROWS - len(HELD_IDS)
    assert sum(window.rows for window in preview.held) == len(HELD_IDS)
    assert all("case 7" in window.reason for window in preview.held)


@pytest.mark.parametrize("flag", ["a table's own", "a table's own, holds enabled", "in the file"])
def test_holds_of_the_configuration(held, audit, flag):
    if flag == "in the file":
        report = held(of_file({"reason": "tax audit"}))
    else:
        settings = HoldSettings() if flag == "a table's own" else FROM_TABLE
        report = held(settings, legal_hold=True, legal_hold_reason="tax audit")
    assert (report.rows, report.held_rows) == (0, OLD_ROWS)
    assert "tax audit" in report.held_reason


@pytest.mark.parametrize(
    ("hold", "is_held"),
    [
        ({}, True),
        ({"database": "appdb"}, True),
        ({"database": "other"}, False),
        ({"schema": "sales"}, False),
        ({"table": "audit"}, False),
        ({"expires_on": "yesterday"}, False),
        ({"expires_on": "today"}, True),
        ({"starts_on": "today"}, True),
        ({"starts_on": "tomorrow"}, False),
    ],
)
def test_which_holds_of_the_file_are_in_force(held, hold, is_held):
    days = {"yesterday": -1, "today": 0, "tomorrow": 1}
    today = datetime.now(UTC).date()
    report = held(
        of_file({name: today + timedelta(days[text]) if text in days else text for name, text in hold.items()})
    )
    assert report.rows == (0 if is_held else OLD_ROWS)


@pytest.mark.parametrize(
    ("columns", "is_held"),
    [
        ({}, True),
        ({"schema_name": "*"}, True),
        ({"table_name": "*"}, True),
        ({"database_name": "appdb"}, True),
        ({"database_name": "*"}, True),
        ({"database_name": "other"}, False),
        ({"schema_name": "sales"}, False),
        ({"table_name": "audit_log"}, False),
        ({"table_name": "Audit_Logs"}, False),
        ({"table_name": "audit_logs "}, False),
        ({"table_name": "%"}, False),
        ({"start_date": "-infinity"}, True),
        ({"start_date": "9999-01-01"}, False),
        ({"start_date": "0044-03-15 BC", "expiration_date": "infinity"}, True),
        ({"expiration_date": "2000-01-01"}, False),
        ({"expiration_date": "-infinity"}, False),
        ({"where_clause": " "}, True),
        ({"reason": ""}, True),
    ],
)
def test_which_holds_of_the_table_are_in_force(held, holding, columns, is_held):
    holding.place(**columns)
    assert held().rows == (0 if is_held else OLD_ROWS)


def test_holds_of_names_that_are_null_hold_everything(held, holding, database):
    database.execute("ALTER TABLE legal_holds ALTER table_name DROP NOT NULL, ALTER schema_name DROP NOT NULL")
    holding.place(table_name=None, schema_name=None, start_date="-infinity")
    assert held().rows == 0


def test_an_end_that_has_passed_can_be_ignored(held, holding):
    holding.place(expiration_date="2000-01-01")
    assert held(replace(FROM_TABLE, check_expiration=False)).rows == 0


def test_a_hold_that_ends_on_a_day_ends_with_it(held, holding, database):
    database.execute("ALTER TABLE legal_holds ALTER expiration_date TYPE date, ALTER start_date TYPE timestamp")
    holding.place(start_date="2000-01-01", expiration_date=datetime.now(UTC).date().isoformat())
    assert held().rows == 0


def test_holds_are_united(held, holding, audit, archiving):
    holding.place("id = 5")
    both = of_file({"where": "id BETWEEN 1 AND 3", "reason": "case 8"})
    both = replace(both, sources=frozenset({HoldSource.CONFIG, HoldSource.DATABASE}))
    report = held(both)
    assert old_ids(audit) == [1, 2, 3, 5]
    assert "case 7" in report.held_reason
    assert "case 8" in report.held_reason


def test_rows_for_which_a_predicate_is_unknown_are_not_held(held, holding, audit):
    audit.execute("UPDATE public.audit_logs SET amount = NULL WHERE id < 10")
    holding.place("amount < 100000")
    assert held().rows == 9
    assert min(old_ids(audit)) == 10


@pytest.mark.parametrize(
    "predicate",
    [
        "no_such_column = 1",
        "id = 'seven'",
        "id = ",
        "id = 1; DELETE FROM audit_logs",
        "true) OR (true",
        "pg_sleep(10) IS NULL",
        "id = 1 -- comment",
        "(SELECT true)",
        "tags > 5",
        "'",
        "(" * 40 + "id = 1" + ")" * 40,
        "id IN (" + ", ".join(map(str, range(2000))) + ")",
        "actor = '" + "x" * 20_000 + "'",
    ],
)
def test_a_predicate_that_cannot_be_used_holds_the_whole_table(held, holding, audit, predicate):
    holding.place(predicate)
    report = held()
    assert (report.rows, report.held_rows) == (0, OLD_ROWS)
    assert "the whole table, because its row predicate can't be used: case 7" in report.held_reason


def test_hostile_words_in_a_predicate_are_only_words(held, holding, audit):
    holding.place("""actor IN ('x''); DROP TABLE legal_holds; --', '%s', '\\') AND actor LIKE '\\%%s' OR id = 1""")
    held()
    assert old_ids(audit) == [1]


def test_hostile_words_in_a_reason_are_shown_on_one_line(held, holding):
    holding.place(reason="case\n\x1b[31m 7 " + "x" * 1000)
    report = held()
    assert report.held_reason.isprintable()
    assert len(report.held_reason) < 500


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("DROP TABLE legal_holds", PreflightError, "CREATE TABLE"),
        ("ALTER TABLE legal_holds DROP expiration_date", PreflightError, "column expiration_date is missing"),
        ("ALTER TABLE legal_holds ALTER where_clause TYPE bytea USING NULL", PreflightError, "has type bytea"),
        ("ALTER TABLE legal_holds RENAME TO h; CREATE VIEW legal_holds AS TABLE h", PreflightError, "is no table"),
        ("REVOKE ALL ON legal_holds FROM archiver_{db}", PermissionDeniedError, "GRANT SELECT"),
        ("REVOKE UPDATE ON legal_holds FROM archiver_{db}", PermissionDeniedError, "may not lock"),
        (
            "ALTER TABLE legal_holds ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON legal_holds USING (false)",
            PermissionDeniedError,
            "row-level security",
        ),
    ],
)
def test_nothing_is_deleted_when_the_table_of_holds_is_not_as_it_should_be(
    archiving, holding, audit, reader, statement, kind, words
):
    archiving.database.execute(statement.replace("{db}", archiving.database.name))
    session = archiving.session(holds=FROM_TABLE, user=reader)
    windows = every_window(session)
    with pytest.raises(kind) as caught:
        archive_windows(session, windows)
        session.hold_sources.require(session.connection)
    assert words in str(caught.value)
    audit.account()
    assert (len(old_ids(audit)), audit.receipted()) == (OLD_ROWS, [])


@pytest.fixture
def reader(database, holding, audit):
    """A user who may archive, read holds and lock their table."""
    user = f"archiver_{database.name}"
    database.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{database.password}'")
    database.execute(
        f"GRANT SELECT, DELETE, UPDATE ON audit_logs TO {user}; GRANT SELECT, UPDATE ON legal_holds TO {user}"
    )
    yield user
    database.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")


@pytest.mark.matrix
def test_a_user_who_may_only_read_holds_locks_them_by_a_function(archiving, holding, audit, reader):
    archiving.database.execute("REVOKE UPDATE ON legal_holds FROM " + reader)
    archiving.database.execute(f"{lock_statement(HOLD_TABLE)} GRANT EXECUTE ON FUNCTION lock_legal_holds() TO {reader}")
    holding.place(WHERE)
    session = archiving.session(holds=FROM_TABLE, user=reader)
    session.hold_sources.require(session.connection)
    archive_windows(session, every_window(session))
    audit.account()
    assert old_ids(audit) == HELD_IDS


def test_a_function_that_does_not_lock_is_found_out(archiving, holding, audit, reader):
    archiving.database.execute("REVOKE UPDATE ON legal_holds FROM " + reader)
    archiving.database.execute("CREATE FUNCTION lock_legal_holds() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    session = archiving.session(holds=FROM_TABLE, user=reader)
    with pytest.raises(PreflightError, match="does not lock"):
        archive_windows(session, every_window(session))
    audit.account()
    assert len(old_ids(audit)) == OLD_ROWS


def test_a_transaction_that_writes_holds_without_an_end_stops_the_run(archiving, holding, audit):
    with archiving.database.connect(autocommit=False) as writing:
        writing.execute("INSERT INTO legal_holds (table_name, reason, requestor) VALUES ('other', 'r', 'q')")
        with pytest.raises(NetworkError, match="without a commit, so nothing is deleted"):
            archiving.archive(holds=FROM_TABLE, workers=1)
        writing.rollback()
    audit.account()
    assert len(old_ids(audit)) == OLD_ROWS
    archiving.archive(holds=FROM_TABLE)
    audit.account_all_archived()


@pytest.mark.parametrize(
    "point",
    [
        "plan",
        "amid extract",
        "upload",
        "verify",
        "before a manifest",
        "after a manifest",
        "after a delete committed",
        "after a receipt",
    ],
)
@pytest.mark.parametrize("where", [WHERE, None])
def test_a_hold_placed_during_the_run_wins(archiving, holding, audit, monkeypatch, point, where):
    kept = []

    def hold():
        holding.place(where)
        kept.extend(n for n in old_ids(audit) if where is None or n in HELD_IDS)

    place(POINTS[point], hold, monkeypatch.setattr)
    report = archiving.archive(holds=FROM_TABLE, workers=1)
    audit.account()
    assert kept
    assert old_ids(audit) == kept
    assert (report.left_behind_rows, report.held_rows) == (0, len(kept))
    assert "case 7" in report.stopped_reason


def test_a_superseded_batch_says_which_hold(archiving, holding, audit, monkeypatch):
    place(POINTS["after a manifest"], lambda: holding.place("id = 20"), monkeypatch.setattr)
    archiving.archive(holds=FROM_TABLE, workers=1)
    [void] = [found for found in audit.objects() if found.superseded]
    assert void.superseded["reason"].startswith("legal hold on some rows: case 7, requested by legal")
    assert old_ids(audit) == [20]
    audit.account()


@pytest.mark.parametrize("where", ["id IN (1, 20, 48)", None])
@pytest.mark.parametrize("point", ["after a manifest", "in a delete transaction"])
@pytest.mark.matrix
def test_a_batch_of_an_earlier_crash_is_not_deleted_under_a_new_hold(archiving, holding, audit, point, where):
    left = pending(archiving, audit, point)
    holding.place(where)
    held_before = old_ids(audit)
    session = archiving.session(holds=FROM_TABLE)
    archive_windows(session, every_window(session))
    session.close()
    audit.account()
    expected = held_before if where is None else [n for n in held_before if n in (1, 20, 48)]
    assert old_ids(audit) == expected
    [settled] = [found for found in audit.objects() if found.stem == left.stem]
    if where is None:
        assert "legal hold on the whole table" in settled.superseded["reason"]


def test_a_crash_after_the_delete_is_receipted_under_a_new_hold(archiving, holding, audit):
    """The rows are gone: the object is their only copy, and the receipt is true."""
    left = pending(archiving, audit, "after a delete committed")
    holding.place()
    session = archiving.session(holds=FROM_TABLE)
    archive_windows(session, archiving.windows(archiving.session()))
    session.close()
    [settled] = [found for found in audit.objects() if found.stem == left.stem]
    assert settled.receipt["outcome"] == Outcome.absent
    audit.account()


def test_a_hold_blocks_the_expiry_of_archives(archiving, holding, audit):
    session = archiving.session(holds=FROM_TABLE)
    assert block_of_expiry(session) == ""
    holding.place("id = 7")
    assert "case 7" in block_of_expiry(session)
    archiving.database.execute("DROP TABLE legal_holds")
    with pytest.raises(PreflightError):
        block_of_expiry(session)


def test_a_restore_is_no_concern_of_holds(archiving, holding, audit, restoring):
    archiving.archive(holds=FROM_TABLE)
    holding.place()
    restoring.restore()
    assert len(old_ids(audit)) == OLD_ROWS
