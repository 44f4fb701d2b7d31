"""Native partitions that are dropped as a whole: only with exactly the rows that were proved, or not at all."""

from contextlib import ExitStack

import psycopg
import pytest

from archiver_pipeline.config.effective import HoldSettings
from archiver_pipeline.config.enums import HoldSource, PartitionStrategy, WindowSize
from archiver_pipeline.config.models import ConfiguredHold
from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.delete import delete_batches
from archiver_pipeline.engine.detached import DetachedError
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.postgres import partitions
from archiver_pipeline_tests.engine.faults import POINTS, InterruptedRunError, Point, interrupt, place
from archiver_pipeline_tests.engine.running import archive_when_free, killed, planned, run_plan, verified

DROP = PartitionStrategy.DROP
_SESSION = "archiver_pipeline.postgres.partitions:PartitionSession"
_DAY = "date_trunc('day', now())"
OLD_LEAVES = ("events_old", "events_split_eu", "events_split_us")
EVENTS = f"""
CREATE TABLE events (id bigint, region text NOT NULL, created_at timestamptz NOT NULL, note text,
    PRIMARY KEY (id, region, created_at)) PARTITION BY RANGE (created_at);
CREATE INDEX ON events (created_at);
DO $$
DECLARE day timestamptz := {_DAY};
BEGIN
    EXECUTE format('CREATE TABLE events_old PARTITION OF events FOR VALUES FROM (MINVALUE) TO (%L)',
        day - interval '44 days');
    EXECUTE format('CREATE TABLE events_split PARTITION OF events FOR VALUES FROM (%L) TO (%L)'
        ' PARTITION BY LIST (region)', day - interval '44 days', day - interval '42 days');
    CREATE TABLE events_split_eu PARTITION OF events_split FOR VALUES IN ('eu');
    CREATE TABLE events_split_us PARTITION OF events_split FOR VALUES IN ('us');
    EXECUTE format('CREATE TABLE events_now PARTITION OF events FOR VALUES FROM (%L) TO (%L)',
        day - interval '42 days', day + interval '10 days');
END $$;
INSERT INTO events SELECT n, CASE n % 3 WHEN 0 THEN 'us' ELSE 'eu' END,
    {_DAY} - interval '46 days' + n * interval '2 hours', 'note ' || n
    FROM generate_series(0, 71) AS n;
INSERT INTO events SELECT 1000 + n, 'eu', now() - n * interval '1 hour', 'young' FROM generate_series(1, 5) AS n;
"""
LATE = f"INSERT INTO public.events VALUES (5000, 'eu', {_DAY} - interval '45 days', 'late')"
CHANGE = "UPDATE public.events SET note = 'changed' WHERE id = 3"


@pytest.fixture
def events(archiving):
    """A table with a closed leaf, a closed range split by region, and a leaf that young rows come into."""
    archiving.database.execute(EVENTS)
    return archiving.ledger("events")


def archive(archiving, **overrides):
    return archiving.archive(table="events", partitions=DROP, **overrides)


def tables(archiving, like="events%"):
    return {
        name
        for (name,) in archiving.database.execute(
            "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND relname LIKE %s", [like]
        )
    }


def kept_reasons(report):
    return {str(end.leaf).removeprefix("public."): end.reason for end in report.leaves if not end.dropped}


def dropped(report):
    return {end.leaf.table for end in report.leaves if end.dropped}


@pytest.mark.matrix
@pytest.mark.parametrize("data_format", ["jsonl.gz", "parquet"])
def test_closed_leaves_are_dropped_and_others_lose_rows(archiving, events, data_format):
    report = archive(archiving, format=data_format)
    assert dropped(report) == set(OLD_LEAVES)
    assert kept_reasons(report) == {"events_now": "rows that are not old enough may still come into it"}
    assert tables(archiving) == {"events", "events_split", "events_now"}
    assert all(end.dropped_bytes > 8192 for end in report.leaves if end.dropped)
    assert report.table_bytes_before - report.table_bytes_after >= report.dropped_bytes
    assert report.rows == 72
    assert {found.receipt["outcome"] for found in events.receipted()} == {"deleted"}
    events.account_all_archived()


def test_each_batch_is_of_one_leaf_and_its_manifest_says_which(archiving, events):
    report = archive(archiving, window=WindowSize.WEEK)
    leaves = {}
    for found in events.receipted():
        leaf = found.manifest["leaf"]
        leaves.setdefault(leaf["table"], []).append(found.manifest["rows"])
        if leaf["table"].startswith("events_split"):
            assert leaf["parent_table"] == "events_split"
            assert leaf["bound"] in ("FOR VALUES IN ('eu')", "FOR VALUES IN ('us')")
    assert len(leaves["events_old"]) > 1
    assert dropped(report) == set(OLD_LEAVES)
    events.account()


@pytest.mark.matrix
def test_without_the_setting_rows_are_deleted_and_manifests_name_no_leaf(archiving, events):
    report = archiving.archive(table="events")
    assert report.leaves == ()
    assert set(OLD_LEAVES) < tables(archiving)
    assert all("leaf" not in found.manifest for found in events.receipted())
    events.account_all_archived()


@pytest.mark.matrix
@pytest.mark.parametrize("change", [LATE, CHANGE, "DELETE FROM public.events WHERE id = 3"])
def test_a_change_before_the_drop_leaves_the_leaf_alone(archiving, events, change):
    session = archiving.session(table="events", partitions=DROP)
    verification = verified(archiving, session)
    events.execute(change)
    deletion = delete_batches(session, verification)
    session.close()
    [kept] = [end for end in deletion.leaves if end.leaf.table == "events_old"]
    assert not kept.dropped
    assert {end.leaf.table for end in deletion.leaves if end.dropped} == set(OLD_LEAVES) - {"events_old"}
    events.account()
    archive(archiving)
    events.account_all_archived()


@pytest.mark.parametrize("change", [LATE, CHANGE])
def test_a_change_after_the_first_look_is_seen_under_the_lock(archiving, events, monkeypatch, change):
    """The look before any lock found nothing; the one that counts comes when nobody can write any more."""
    point = Point("archiver_pipeline.postgres.partitions:PartitionSession", "_keep_still", before=True)
    with monkeypatch.context() as patch:
        place(point, lambda: events.execute(change), patch.setattr)
        report = archive(archiving)
    assert "events_old" not in dropped(report)
    assert "rows" in kept_reasons(report)["events_old"]
    events.account()
    archive(archiving)
    events.account_all_archived()


def test_nobody_writes_to_a_leaf_once_it_is_counted(archiving, events, monkeypatch):
    """Else a row that commits between the look and the drop would go with the leaf."""

    def write_late():
        refused = pytest.raises(psycopg.errors.LockNotAvailable)
        with archiving.database.connect(options="-c lock_timeout=50ms") as writer, refused:
            writer.execute(LATE)

    place(Point(_SESSION, "_require_exactly"), write_late, monkeypatch.setattr)
    assert dropped(archive(archiving)) == set(OLD_LEAVES)
    events.account_all_archived()


@pytest.mark.matrix
def test_a_reader_of_the_table_is_not_waited_for(archiving, events, monkeypatch):
    """A plain DETACH locks the parent: behind a long reader it gives up, and the rows are deleted instead."""
    monkeypatch.setattr(partitions, "DROP_WAITS_SECONDS", (0.01,))
    with archiving.database.connect(autocommit=False) as reader:
        reader.execute("SELECT count(*) FROM events")
        report = archive(archiving)
        assert kept_reasons(report)["events_old"] == "an application holds a lock on it or on its parent"
        assert not dropped(report)
        assert report.rows == 72
    events.account_all_archived()


def test_a_lock_that_is_free_at_the_second_try(archiving, events, monkeypatch):
    monkeypatch.setattr(partitions, "DROP_WAITS_SECONDS", (0.01, 0.01))
    with ExitStack() as reading:
        reader = reading.enter_context(archiving.database.connect(autocommit=False))
        reader.execute("SELECT count(*) FROM events")
        point = Point("archiver_pipeline.postgres.partitions:PartitionSession", "_refuse_new_holds", nth=2)
        place(point, reader.rollback, monkeypatch.setattr)
        report = archive(archiving)
    assert dropped(report) == set(OLD_LEAVES)
    events.account_all_archived()


def test_a_writer_in_the_leaf_is_not_waited_for(archiving, events):
    with archiving.database.connect(autocommit=False) as writer:
        writer.execute(LATE.replace("5000", "5001"))
        report = archive(archiving)
        assert "events_old" not in dropped(report)
        writer.rollback()
    events.account()


OBSTACLES = {
    "foreign key": (
        "CREATE TABLE refers (id bigint, region text, created_at timestamptz,"
        " FOREIGN KEY (id, region, created_at) REFERENCES events_old)",
        "events_old",
        "refers to it",
    ),
    "view": ("CREATE VIEW seen AS SELECT * FROM events_old", "events_old", "depend"),
    "trigger": (
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';"
        "CREATE TRIGGER telling AFTER DELETE ON events_old FOR EACH ROW EXECUTE FUNCTION tell()",
        "events_old",
        "wants to see each deleted row",
    ),
    "publication": ("CREATE PUBLICATION told FOR TABLE events_old", "events_old", "would not send a drop"),
    "sequence": ("CREATE SEQUENCE numbers OWNED BY events_old.id", "events_old", "belongs to it"),
    "event trigger": (
        "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF current_setting('application_name') = 'archiver test' THEN RAISE EXCEPTION 'no drops here';"
        " END IF; END $$; CREATE EVENT TRIGGER forbidding ON sql_drop EXECUTE FUNCTION forbid()",
        "events_old",
        "no drops here",
    ),
}


@pytest.mark.matrix
@pytest.mark.parametrize("name", OBSTACLES)
def test_what_depends_on_a_leaf_keeps_it(archiving, events, name):
    statement, leaf, reason = OBSTACLES[name]
    archiving.database.execute(statement)
    report = archive(archiving)
    assert reason in kept_reasons(report)[leaf]
    assert leaf in tables(archiving)
    events.account_all_archived()


def test_a_default_partition_stays_and_takes_what_comes_late(archiving, events):
    archiving.database.execute("CREATE TABLE events_rest PARTITION OF events DEFAULT")
    assert dropped(archive(archiving)) == set(OLD_LEAVES)
    events.execute(LATE)
    assert archiving.database.execute("SELECT tableoid::regclass::text FROM events WHERE id = 5000") == [
        ("events_rest",)
    ]
    report = archive(archiving)
    assert kept_reasons(report) == {"events_rest": "it is a DEFAULT partition"}
    events.account_all_archived()


def test_a_hold_on_a_row_keeps_its_leaf(archiving, events):
    hold = ConfiguredHold.model_validate({"table": "events", "where": "id = 3", "reason": "case 7"})
    report = archive(archiving, holds=HoldSettings(sources=frozenset({HoldSource.CONFIG}), configured=(hold,)))
    assert "events_old" not in dropped(report)
    assert archiving.database.execute("SELECT count(*) FROM events_old") == [(1,)]
    assert dropped(report) == set(OLD_LEAVES) - {"events_old"}
    events.account()


def test_a_hold_that_comes_amid_the_run_keeps_its_leaf(archiving, events):
    archiving.database.execute(
        "CREATE TABLE legal_holds (table_name text, schema_name text, reason text, requestor text, where_clause text,"
        " start_date timestamptz DEFAULT now(), expiration_date timestamptz)"
    )
    holds = HoldSettings(sources=frozenset({HoldSource.DATABASE}))
    session = archiving.session(table="events", partitions=DROP, holds=holds)
    verification = verified(archiving, session)
    archiving.database.execute("INSERT INTO legal_holds VALUES ('events', 'public', 'case 8', 'counsel', 'id = 3')")
    deletion = delete_batches(session, verification)
    session.close()
    [kept] = [end for end in deletion.leaves if end.leaf.table == "events_old"]
    assert "case 8" in kept.reason
    assert archiving.database.execute("SELECT id FROM events_old") == [(3,)]
    events.account()


def test_a_leaf_larger_than_a_run_goes_with_its_last_rows(archiving, events):
    first = archive(archiving, limit_rows=10)
    assert kept_reasons(first)["events_old"] == "it holds other rows besides those of this run"
    report = archive(archiving)
    assert "events_old" in dropped(report)
    events.account_all_archived()


def test_an_empty_leaf_is_left_alone(archiving, events):
    """Somebody may have made it to restore into."""
    archive(archiving)
    day = "to_char(date_trunc('day', now()) - interval '50 days', 'YYYY-MM-DD')"
    archiving.database.execute(
        f"DO $$ BEGIN EXECUTE format('CREATE TABLE events_made PARTITION OF events FOR VALUES FROM (%L) TO (%L)',"
        f" '2020-01-01', {day}); END $$"
    )
    archive(archiving)
    assert "events_made" in tables(archiving)


@pytest.fixture
def guest(archiving, events):
    """A role that may read and delete, and owns nothing."""
    name = f"{archiving.database.name}_guest"
    archiving.database.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{archiving.database.password}'")
    archiving.database.execute(f"GRANT SELECT, DELETE ON ALL TABLES IN SCHEMA public TO {name}")
    archiving.database.execute(f"GRANT EXECUTE ON FUNCTION pg_control_system() TO {name}")
    yield name
    archiving.database.execute(f"DROP OWNED BY {name}")
    archiving.database.execute(f"DROP ROLE {name}")


def test_a_user_who_does_not_own_the_table_deletes_rows_and_is_told(archiving, events, guest):
    session = archiving.session(table="events", partitions=DROP, user=guest)
    report = archive_windows(session, archiving.windows(session))
    session.close()
    assert not dropped(report)
    assert any("does not own public.events" in warning for warning in report.warnings)
    events.account_all_archived()


def test_a_table_without_partitions_says_so(archiving, audit):
    report = archiving.archive(partitions=DROP)
    assert any("is not natively partitioned" in warning for warning in report.warnings)
    audit.account_all_archived()


LEAF_POINTS = {
    "before the first manifest of a leaf": Point("archiver_pipeline.engine.intent", "write_manifest", before=True),
    "amid the manifests of a leaf": Point("archiver_pipeline.engine.intent", "write_manifest", nth=2),
    "before the leaf is locked": Point(_SESSION, "_keep_still", before=True),
    "after the leaf is proved": Point(_SESSION, "_require_exactly"),
    "after the drop, before COMMIT": Point(_SESSION, "_detach_and_drop"),
    "after COMMIT": Point(_SESSION, "drop_leaf"),
    "amid the receipts of a leaf": Point("archiver_pipeline.engine.leaves", "receipt_deleted", nth=2, before=True),
}


@pytest.mark.parametrize("point", LEAF_POINTS)
def test_an_error_amid_a_drop_loses_and_doubles_nothing(archiving, events, monkeypatch, point):
    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError):
        place(LEAF_POINTS[point], interrupt, patch.setattr)
        archive(archiving)
    report = archive_when_free(archiving, table="events", partitions=DROP)
    events.account_all_archived()
    if point in ("after COMMIT", "amid the receipts of a leaf"):
        assert {batch.outcome for batch in report.settled_before} == {Outcome.absent}


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("after the drop, before COMMIT", marks=pytest.mark.matrix),
        pytest.param("after COMMIT", marks=pytest.mark.matrix),
        "amid the manifests of a leaf",
        "amid the receipts of a leaf",
    ],
)
def test_a_kill_amid_a_drop_loses_and_doubles_nothing(archiving, events, tmp_path, point, monkeypatch):
    monkeypatch.setitem(POINTS, point, LEAF_POINTS[point])
    killed(archiving, LEAF_POINTS[point], tmp_path / "plan", table="events", partitions=DROP)
    archive_when_free(archiving, table="events", partitions=DROP)
    events.account_all_archived()


def test_a_backend_that_is_ended_amid_a_drop(archiving, events, monkeypatch):
    """The server rolls back: the leaf is there, with all its rows."""

    def end_backends():
        archiving.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )

    with monkeypatch.context() as patch, pytest.raises(ArchiverError):
        place(LEAF_POINTS["after the drop, before COMMIT"], end_backends, patch.setattr)
        archive(archiving)
    assert "events_old" in tables(archiving)
    archive_when_free(archiving, table="events", partitions=DROP)
    events.account_all_archived()


def test_a_leaf_made_anew_under_the_old_name(archiving, events, monkeypatch):
    """Its rows are others: the batches of the one that was dropped are settled, and the new rows archived."""
    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError):
        place(LEAF_POINTS["after COMMIT"], interrupt, patch.setattr)
        archive(archiving)
    archiving.database.execute(
        "DO $$ BEGIN EXECUTE format('CREATE TABLE events_old PARTITION OF events FOR VALUES FROM (MINVALUE) TO (%L)',"
        " date_trunc('day', now()) - interval '44 days'); END $$"
    )
    events.execute(LATE)
    archive_when_free(archiving, table="events", partitions=DROP)
    events.account_all_archived()


DETACH = "ALTER TABLE events DETACH PARTITION events_old"
ATTACH = (
    "DO $$ BEGIN EXECUTE format('ALTER TABLE events ATTACH PARTITION events_old FOR VALUES FROM (MINVALUE) TO (%L)',"
    " date_trunc('day', now()) - interval '44 days'); END $$"
)


@pytest.mark.matrix
@pytest.mark.parametrize("then", ["attach", "drop"])
def test_a_leaf_that_somebody_detached_while_its_batches_were_open(archiving, events, monkeypatch, then):
    """Neither in the table nor gone: nothing is decided before a person has."""
    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError):
        place(LEAF_POINTS["before the leaf is locked"], interrupt, patch.setattr)
        archive(archiving)
    archiving.database.execute(DETACH)
    with pytest.raises(DetachedError, match=r"which was detached from public\.events"):
        archive_when_free(archiving, table="events", partitions=DROP)
    assert not [found for found in events.receipted() if found.manifest["leaf"]["table"] == "events_old"]
    archiving.database.execute(ATTACH if then == "attach" else "DROP TABLE events_old")
    archive(archiving)
    events.account_all_archived()


def test_a_leaf_whose_detach_was_interrupted_is_not_taken_for_gone(archiving, events, monkeypatch):
    """DETACH CONCURRENTLY has two transactions; after the first, queries of the table see the partition no more."""
    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError):
        place(LEAF_POINTS["before the leaf is locked"], interrupt, patch.setattr)
        archive(archiving)
    with archiving.database.connect(autocommit=False) as reader, archiving.database.connect() as detaching:
        reader.execute("SELECT count(*) FROM events")
        detaching.execute("SET lock_timeout = '300ms'")
        with pytest.raises(psycopg.Error):
            detaching.execute(DETACH + " CONCURRENTLY")
    with pytest.raises(DetachedError):
        archive_when_free(archiving, table="events", partitions=DROP)
    archiving.database.execute(DETACH + " FINALIZE")
    archiving.database.execute(ATTACH)
    archive(archiving)
    events.account_all_archived()


def test_a_leaf_detached_between_plan_and_extract_is_not_archived(archiving, events):
    session = archiving.session(table="events", partitions=DROP)
    plan = planned(archiving, session)
    archiving.database.execute(DETACH)
    deletion = run_plan(session, plan)
    session.close()
    assert "events_old" not in {end.leaf.table for end in deletion.leaves if end.dropped}
    archiving.database.execute(ATTACH)
    events.account()
    archive(archiving)
    events.account_all_archived()


def test_a_restore_of_rows_whose_partition_is_gone_says_how_to_make_it_anew(archiving, events, restoring):
    archive(archiving)
    report = restoring.restore(restoring.name("events"))
    reasons = {item.reason for item in report.objects if item.failed_rows}
    statements = {reason.partition("anew: ")[2].partition(", or restore")[0] for reason in reasons}
    assert any(
        'CREATE TABLE "public"."events_split_eu" PARTITION OF "public"."events_split"' in one for one in statements
    )
    for statement in statements:
        archiving.database.execute(statement)
    assert restoring.restore(restoring.name("events"), ignore_watermark=True).failed_rows == 0
    assert sorted(events.table_rows()) == sorted(events.expected.elements())
