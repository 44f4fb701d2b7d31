"""The look over all tables of a database: what it finds, what it costs, and that no table waits for ever."""

from dataclasses import replace
from itertools import count, pairwise

import psycopg
import pytest

from archiver_pipeline.config.effective import DatabaseSettings
from archiver_pipeline.engine import due
from archiver_pipeline.engine.due import DueCursor, DueLimits, look_for_due
from archiver_pipeline.engine.inventory import DateRange, due_windows
from archiver_pipeline.errors import ManifestError, NetworkError, PreflightError, SourceError
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.engine.running import put
from archiver_pipeline_tests.engine.test_protection import NAME, key_of, protect
from archiver_pipeline_tests.plugins.archiving import DATABASE_ID, create_audit_table

ALL = DueLimits(windows=1000, per_table=1000, turns=0, look_seconds=60, sweep_seconds=60)
MANY_TABLES = """
DO $$ BEGIN FOR n IN 1..{tables} LOOP
    EXECUTE format('CREATE TABLE t%s AS SELECT date_trunc(''day'', now()) - interval ''%s days'' AS created_at',
        n, 100 + n);
    EXECUTE format('CREATE INDEX ON t%s (created_at)', n);
END LOOP; END $$"""


def look(archiving, *tables, limits=ALL, cursor=None, **how):
    """A look at tables of these names."""
    settings = tuple(archiving.settings(table=name) for name in tables)
    database = DatabaseSettings(DATABASE_ID, archiving.source(), None, 6, settings)
    return look_for_due(database, archiving.store_settings(), settings, limits, cursor or DueCursor(), **how)


def many_tables(archiving, tables):
    """Tables t1, t2 ... with one row each, the highest number the oldest; their names."""
    archiving.database.execute(MANY_TABLES.format(tables=tables))
    return [f"t{number}" for number in range(1, tables + 1)]


def found(looked):
    return [(settings.table, window.key) for settings, window in looked.windows]


def test_it_finds_what_an_archive_takes(archiving, audit):
    session = archiving.session()
    windows = due_windows(session, inspect_table(session.connection, session.settings), DateRange())
    looked = look(archiving, "audit_logs")
    assert [window for _, window in looked.windows] == list(windows) != []
    assert (looked.problems, looked.looked_at, looked.cursor) == ((), 1, DueCursor(turn="public.audit_logs"))


def test_the_oldest_of_all_tables_are_first_and_each_limit_holds(archiving, audit):
    names = many_tables(archiving, 5)
    everything = found(look(archiving, "audit_logs", *names))
    assert [key for _, key in everything] == sorted(key for _, key in everything)
    assert {table for table, _ in everything[:5]} == set(names)
    few = look(archiving, "audit_logs", *names, limits=replace(ALL, windows=3))
    assert found(few) == everything[:3]
    one_each = look(archiving, "audit_logs", *names, limits=replace(ALL, per_table=1))
    assert [table for table, _ in found(one_each)] == [*reversed(names), "audit_logs"]


def test_windows_that_stay_due_keep_no_table_from_its_turn(archiving):
    """Nothing is archived between the looks: the oldest windows are found by each of them."""
    names = many_tables(archiving, 12)
    limits = replace(ALL, windows=4, per_table=1, turns=2)
    cursor, seen = DueCursor(), []
    for _ in range(5):
        looked = look(archiving, *names, limits=limits, cursor=cursor)
        tables = {table for table, _ in found(looked)}
        assert len(looked.windows) == 4
        assert {"t12", "t11"} <= tables
        seen.append(tables - {"t12", "t11"})
        cursor = looked.cursor
    assert set().union(*seen) == set(names[:10])
    assert all(not (one & other) for one, other in pairwise(seen))


def test_a_look_that_runs_out_of_time_is_gone_on_with(archiving):
    names = many_tables(archiving, 10)
    limits = replace(ALL, windows=4, per_table=1, turns=2, look_seconds=2)
    cursor, seen = DueCursor(), set()
    for _ in range(10):
        looked = look(archiving, *names, limits=limits, cursor=cursor, clock=count().__next__)
        assert 1 <= looked.looked_at < len(names)
        seen |= {table for table, _ in found(looked)}
        cursor = looked.cursor
    assert seen == set(names)


def test_a_missing_receipt_is_found_behind_any_number_of_whole_ones(archiving, audit):
    """Its rows are gone, so only the listing tells; and each look has time for one batch of it."""
    archiving.archive()
    last = [found for found in audit.receipted() if found.manifest][-1]
    archiving.bucket.client.delete_object(Bucket=archiving.bucket.bucket, Key=f"{last.stem}.receipt.json")
    assert found(look(archiving, "audit_logs", limits=replace(ALL, turns=1))) == [
        ("audit_logs", last.manifest["window"])
    ]
    cursor, looks = DueCursor(), 0
    while True:
        limits = replace(ALL, turns=1, sweep_seconds=0)
        looked = look(archiving, "audit_logs", limits=limits, cursor=cursor, clock=count(step=0.6).__next__)
        looks += 1
        if looked.windows:
            break
        assert looked.cursor.sweep_after > cursor.sweep_after, "the sweep does not go on"
        cursor = looked.cursor
    assert found(looked) == [("audit_logs", last.manifest["window"])]
    assert looks > 2


def test_the_sweep_goes_on_at_the_next_table_when_enough_is_pending(archiving):
    names = ["first", "second", "third"]
    for name in names:
        create_audit_table(archiving.database, name, old=5)
        ledger = archiving.ledger(name)
        archiving.archive(table=name)
        for stored in ledger.receipted():
            archiving.bucket.client.delete_object(Bucket=archiving.bucket.bucket, Key=f"{stored.stem}.receipt.json")
    limits = replace(ALL, windows=4, turns=2)
    looked = look(archiving, *names, limits=limits)
    assert [table for table, _ in found(looked)] == names[:2]
    assert looked.cursor.sweep == "public.third"
    assert "third" in [table for table, _ in found(look(archiving, *names, limits=limits, cursor=looked.cursor))]


def test_protected_windows_are_not_found(archiving, audit):
    [first, second, *rest] = archiving.windows(archiving.session())
    protect(archiving, (first.start, first.end, False))
    assert [window for _, window in look(archiving, "audit_logs").windows] == [second, *rest]
    protect(archiving)
    assert look(archiving, "audit_logs").windows == ()


def test_a_table_that_cannot_be_looked_at_is_said_and_the_others_are(archiving, audit):
    create_audit_table(archiving.database, "others")
    create_audit_table(archiving.database, "locked")
    archiving.database.execute("CREATE TABLE timeless (id int PRIMARY KEY)")
    put(archiving.bucket, key_of(archiving, protect(archiving), NAME), b"{")
    with archiving.database.connect(autocommit=False) as application:
        application.execute("LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
        looked = look(archiving, "gone", "timeless", "locked", "audit_logs", "others")
        application.rollback()
    problems = {name: type(error) for name, error in looked.problems}
    assert problems.pop("public.locked").__mro__[1] is SourceError
    assert problems == {
        "public.gone": PreflightError,
        "public.timeless": PreflightError,
        "public.audit_logs": ManifestError,
    }
    assert {table for table, _ in found(looked)} == {"others"}


def test_a_slow_look_is_given_up_with_what_would_help(archiving, audit, monkeypatch):
    monkeypatch.setattr(due, "_STATEMENT_TIMEOUT", "300ms")
    monkeypatch.setattr(due, "_LOCK_TIMEOUT", "10s")
    with archiving.database.connect(autocommit=False) as application:
        application.execute("LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE")
        [(_, error)] = look(archiving, "audit_logs").problems
    assert "an index that begins with the timestamp column" in str(error)


def test_a_server_that_does_not_answer_is_an_error(archiving, audit):
    database = DatabaseSettings(DATABASE_ID, archiving.source(port=free_port()), None, 6, (archiving.settings(),))
    with pytest.raises(NetworkError):
        look_for_due(database, archiving.store_settings(), database.tables, ALL, DueCursor())
    away = replace(archiving.store_settings(), bucket="no-such-bucket")
    database = replace(database, primary=archiving.source())
    with pytest.raises(PreflightError):
        look_for_due(database, away, database.tables, ALL, DueCursor())


def test_a_thousand_tables_take_one_connection(archiving, monkeypatch):
    names = many_tables(archiving, 1000)
    opened = []
    connect = psycopg.connect
    monkeypatch.setattr(psycopg, "connect", lambda *given, **how: opened.append(given) or connect(*given, **how))
    looked = look(archiving, *names, limits=DueLimits(16, 4, 8, look_seconds=60, sweep_seconds=0))
    assert len(opened) == 1
    assert looked.looked_at == 1000
    assert {f"t{number}" for number in range(993, 1001)} < {table for table, _ in found(looked)}
    assert len(looked.windows) == 16
