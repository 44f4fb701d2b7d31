"""Damaged archives, restores that die and those that meet others: every object whole or not at all, none twice."""

import json
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest

from archiver_pipeline.config.enums import WatermarkStorage
from archiver_pipeline.domain.restore import ConflictStrategy, RestoreOutcome
from archiver_pipeline.engine.restore import restore_archives
from archiver_pipeline.engine.watermark import Watermark
from archiver_pipeline.errors import ArchiverError, LockHeldError, LockLostError, NetworkError
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.engine.faults import InterruptedRunError, Point, interrupt, place
from archiver_pipeline_tests.engine.killed_restore import POINTS, go_by_way_of_a_stage, killed
from archiver_pipeline_tests.engine.restore_cases import account_report, archived, failed, value
from archiver_pipeline_tests.engine.running import put
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, YOUNG_ROWS

LOCK_RELEASE_SECONDS = 20
each_storage = pytest.mark.parametrize("storage", list(WatermarkStorage))


def drop(bucket, key):
    bucket.client.delete_object(Bucket=bucket.bucket, Key=key)


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def changed_manifest(bucket, found, **fields):
    put(bucket, f"{found.stem}.manifest.json", json.dumps(found.manifest | fields).encode())


DAMAGES = {
    "a bit flipped": lambda bucket, one, other: put(bucket, one.data_key, flipped(one.data)),
    "truncated": lambda bucket, one, other: put(bucket, one.data_key, one.data[:-9]),
    "cut to nothing": lambda bucket, one, other: put(bucket, one.data_key, b""),
    "bytes appended": lambda bucket, one, other: put(bucket, one.data_key, one.data + b"\0"),
    "another object": lambda bucket, one, other: put(bucket, one.data_key, other.data),
    "no object": lambda bucket, one, other: drop(bucket, one.data_key),
    "no manifest": lambda bucket, one, other: drop(bucket, f"{one.stem}.manifest.json"),
    "garbage as manifest": lambda bucket, one, other: put(bucket, f"{one.stem}.manifest.json", b"\0{"),
    "a manifest of other rows": lambda bucket, one, other: changed_manifest(bucket, one, rows=one.manifest["rows"] - 1),
    "a manifest in other words": lambda bucket, one, other: changed_manifest(bucket, one),
    "another's manifest": lambda bucket, one, other: put(
        bucket, f"{one.stem}.manifest.json", bucket.read(f"{other.stem}.manifest.json")
    ),
    "object and manifest of another": lambda bucket, one, other: (
        put(bucket, one.data_key, other.data),
        put(bucket, f"{one.stem}.manifest.json", bucket.read(f"{other.stem}.manifest.json")),
    ),
}


@pytest.mark.parametrize("data_format", ["jsonl.gz", "parquet"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_archive_is_left_out_whole_and_told(archiving, audit, bucket, restoring, damage, data_format):
    before = archived(archiving, audit, format=data_format)
    one, other = audit.receipted()[1:3]
    kept = {key: bucket.read(key) for key in bucket.keys(one.stem)}
    lost = Counter(audit.rows_of(one))
    DAMAGES[damage](bucket, one, other)
    report = account_report(restoring.restore())
    [left_out] = failed(report)
    assert left_out.data_key == one.data_key
    assert one.stem in left_out.reason
    assert Counter(audit.table_rows()) == before - lost
    for key, data in kept.items():
        put(bucket, key, data)
    assert account_report(restoring.restore()).restored_rows == left_out.rows
    assert Counter(audit.table_rows()) == before


def test_every_archive_damaged(archiving, audit, bucket, restoring):
    archived(archiving, audit)
    for found in audit.receipted():
        put(bucket, found.data_key, flipped(found.data))
    report = account_report(restoring.restore())
    assert report.count(RestoreOutcome.failed) == len(report.objects)
    assert report.failed_rows == OLD_ROWS
    assert len(audit.table_rows()) == YOUNG_ROWS


def test_a_store_that_is_down(archiving, audit, restoring):
    archived(archiving, audit)
    with pytest.raises(NetworkError):
        restoring.restore(store=replace(archiving.store_settings(), endpoint="http://127.0.0.1:9"))
    assert len(audit.table_rows()) == YOUNG_ROWS


def test_a_store_that_goes_down_amid_the_restore(archiving, audit, restoring, monkeypatch):
    before = archived(archiving, audit)
    plain, reads = S3Store.read_blocks, []

    def read_blocks(store, key):
        reads.extend([key] if key.endswith(".jsonl.gz") else [])
        if len(reads) > 2:
            raise NetworkError("the store is gone")
        return plain(store, key)

    with monkeypatch.context() as patch, pytest.raises(NetworkError):
        patch.setattr(S3Store, "read_blocks", read_blocks)
        restoring.restore(workers=1)
    there = Counter(audit.table_rows())
    assert there <= before
    report = account_report(restoring.restore())
    assert report.remembered == 2
    assert report.restored_rows == (before - there).total()
    assert Counter(audit.table_rows()) == before


def when_free(restoring, **how):
    """Restore as soon as the server has noticed that the process before is dead."""
    deadline = time.monotonic() + LOCK_RELEASE_SECONDS
    while True:
        try:
            return account_report(restoring.restore(**how))
        except LockHeldError:
            assert time.monotonic() < deadline, "the lock of a dead restore is still held"
            time.sleep(0.1)


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_loses_and_doubles_nothing(archiving, audit, restoring, database, point):
    """The next restore makes the table whole, and what the database remembers is exactly what was committed."""
    if point == "before the sequences":
        database.execute("CREATE SEQUENCE ids OWNED BY audit_logs.id")
    before = archived(archiving, audit)
    objects = {found.data_key: Counter(audit.rows_of(found)) for found in audit.receipted()}
    killed(restoring.session(watermark=WatermarkStorage.DATABASE), point)
    there = Counter(audit.table_rows())
    whole = {key for key, rows in objects.items() if rows <= there}
    assert there == before - sum((rows for key, rows in objects.items() if key not in whole), Counter())
    tables = database.execute("SELECT to_regclass('public.restore_watermarks') IS NOT NULL")
    remembered = value(database, "SELECT count(*) FROM restore_watermarks") if tables == [(True,)] else 0
    assert remembered == len(whole)
    report = when_free(restoring, watermark=WatermarkStorage.DATABASE)
    assert report.remembered == len(whole)
    assert Counter(audit.table_rows()) == before


@pytest.mark.parametrize("conflict", [ConflictStrategy.skip, ConflictStrategy.upsert, ConflictStrategy.fail])
def test_after_a_kill_without_any_memory_nothing_is_doubled(archiving, audit, restoring, conflict):
    before = archived(archiving, audit)
    killed(restoring.session(watermark=None, conflict=conflict), "after an object is committed")
    when_free(restoring, watermark=None, conflict=conflict)
    assert Counter(audit.table_rows()) == before


def test_while_it_runs_the_store_learns_what_was_restored(archiving, audit, restoring, monkeypatch):
    """So a kill after hours does not mean that every archive is taken again."""
    archived(archiving, audit)
    monkeypatch.setattr("archiver_pipeline.engine.watermark._FLUSH_SECONDS", 0)
    written = []
    plain = Watermark.flush
    monkeypatch.setattr(
        Watermark, "flush", lambda watermark, force=False: (plain(watermark, force=force), written.append(force))
    )
    report = restoring.restore(workers=1)
    assert written.count(False) == len(report.objects)


@each_storage
def test_the_same_session_goes_on_after_an_error(archiving, audit, restoring, monkeypatch, storage):
    before = archived(archiving, audit)
    session = restoring.session(watermark=storage, workers=1, conflict=ConflictStrategy.fail)
    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError):
        place(Point("archiver_pipeline.engine.restore", "copy_rows", nth=3), interrupt, patch.setattr)
        restore_archives(session)
    account_report(restore_archives(session))
    assert Counter(audit.table_rows()) == before


TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND state = 'idle in transaction'"
)


@pytest.mark.parametrize("function", ["copy_rows", "_stage", "merge_rows"])
def test_a_worker_whose_connection_is_cut(archiving, audit, restoring, monkeypatch, function):
    before = archived(archiving, audit)
    with monkeypatch.context() as patch, pytest.raises(NetworkError):
        if function != "copy_rows":
            go_by_way_of_a_stage(patch.setattr)
        point = Point("archiver_pipeline.engine.restore", function, nth=2)
        place(point, lambda: archiving.database.execute(TERMINATE), patch.setattr)
        restoring.restore()
    assert Counter(audit.table_rows()) <= before
    account_report(restoring.restore())
    assert Counter(audit.table_rows()) == before


def test_a_lock_that_is_lost_ends_the_restore(archiving, audit, restoring, monkeypatch):
    before = archived(archiving, audit)
    session = restoring.session()

    def cut():
        archiving.database.execute(f"SELECT pg_terminate_backend({session.lock.backend_pid})")

    with monkeypatch.context() as patch, pytest.raises(LockLostError):
        place(Point("archiver_pipeline.engine.restore", "copy_rows", nth=2), cut, patch.setattr)
        restore_archives(session)
    session.close()
    assert Counter(audit.table_rows()) <= before
    account_report(restoring.restore())
    assert Counter(audit.table_rows()) == before


def test_two_restores_at_once(archiving, audit, restoring):
    before = archived(archiving, audit)
    first = restoring.session()
    first.lock.require_held()
    with pytest.raises(LockHeldError):
        restoring.restore()
    assert len(audit.table_rows()) == YOUNG_ROWS
    account_report(restore_archives(first))
    first.close()
    assert Counter(audit.table_rows()) == before
    assert restoring.restore().objects == ()


def test_an_archive_during_a_restore_and_the_other_way_round(archiving, audit, restoring):
    archived(archiving, audit)
    restore = restoring.session()
    restore.lock.require_held()
    archive = archiving.session()
    with pytest.raises(LockHeldError):
        archive.lock.require_held()
    archive.close()
    restore.close()
    other = archiving.session()
    other.lock.require_held()
    with pytest.raises(LockHeldError):
        restoring.restore()
    other.close()
    account_report(restoring.restore())


INSERT = (
    "INSERT INTO audit_logs SELECT {n}, now() - interval '50 days', 'application', NULL, '{{}}', NULL"
    " ON CONFLICT DO NOTHING"
)


@pytest.mark.parametrize("conflict", [ConflictStrategy.skip, ConflictStrategy.overwrite, ConflictStrategy.fail])
def test_an_application_inserts_the_same_keys_meanwhile(archiving, audit, restoring, conflict):
    archived(archiving, audit)
    ended = threading.Event()

    def insert():
        with archiving.database.connect() as connection:
            for n in range(OLD_ROWS, 0, -1):
                connection.execute(INSERT.format(n=n).encode())
        ended.set()

    application = threading.Thread(target=insert)
    application.start()
    report = account_report(restoring.restore(conflict=conflict))
    application.join()
    assert ended.is_set()
    counts = "SELECT count(*), count(DISTINCT id) FROM audit_logs WHERE id < 100000"
    assert archiving.database.execute(counts) == [(OLD_ROWS, OLD_ROWS)]
    mine = value(archiving.database, "SELECT count(*) FROM audit_logs WHERE actor = 'application'")
    if conflict is ConflictStrategy.overwrite:
        # What the application inserted before an object was merged is replaced, later its insert does nothing.
        assert (mine, report.restored_rows) == (0, OLD_ROWS)
    else:
        assert mine == OLD_ROWS - report.restored_rows


def test_a_row_that_an_application_holds_leaves_out_its_object(archiving, audit, restoring):
    before = archived(archiving, audit)
    with archiving.database.connect(autocommit=False) as connection:
        connection.execute(INSERT.format(n=5).encode())
        report = account_report(restoring.restore())
        connection.rollback()
    [left_out] = failed(report)
    assert "lock" in left_out.reason
    assert account_report(restoring.restore()).restored_rows == left_out.rows
    assert Counter(audit.table_rows()) == before


def test_an_unreadable_watermark_stops_before_the_first_row(archiving, audit, bucket, restoring):
    archived(archiving, audit)
    put(bucket, f"{audit.prefix}.restore_watermark.json", b"{")
    with pytest.raises(ArchiverError, match="watermark"):
        restoring.restore()
    assert len(audit.table_rows()) == YOUNG_ROWS
    assert [key for key in bucket.keys("") if ".protections" in key] == []


def test_many_restores_and_archives_in_turn_lose_and_double_nothing(archiving, audit, restoring):
    before = archived(archiving, audit)
    for storage in (WatermarkStorage.S3, WatermarkStorage.BOTH):
        account_report(restoring.restore(watermark=storage, protect_days=0))
        assert Counter(audit.table_rows()) == before
        archiving.archive()
        assert len(audit.table_rows()) == YOUNG_ROWS
    account_report(restoring.restore(ignore_watermark=True))
    assert Counter(audit.table_rows()) == before
