"""What was restored is remembered: in the store, in the database, in both; by many at once, and nothing is lost."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver_pipeline.codec.documents import decode_watermark, encode_watermark
from archiver_pipeline.config.effective import WatermarkSettings
from archiver_pipeline.config.enums import WatermarkStorage
from archiver_pipeline.domain.layout import StoredObject, group_batches, watermark_key
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.watermark import RememberedBatch, RestoredBatch, empty_watermark, merge_restored
from archiver_pipeline.engine import watermark as engine
from archiver_pipeline.engine.watermark import Watermark
from archiver_pipeline.errors import ManifestError, StoreError
from archiver_pipeline.postgres.connection import connect
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.storage.weak_store import Weakness, weak_store

SOURCE = TableName("appdb", "public", "audit_logs")
TARGET = TableName("appdb", "public", "audit_copy")
KEY = "archives/appdb/audit_logs/.restore_watermark.json"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
# Joined by dots, or compared without care, these would be one another.
AWKWARD = [
    TableName("a", "b.c", "d"),
    TableName("a.b", "c", "d"),
    TableName("a", "b", "c.d"),
    TableName("a", 'b"; --', "d"),
    TableName("a", "bé", "%s"),
    TableName("a", "BÉ", "%S"),
    TableName("a", "public", "/"),
]
each_storage = pytest.mark.parametrize("storage", list(WatermarkStorage))
stores_a_copy = pytest.mark.parametrize("storage", [WatermarkStorage.S3, WatermarkStorage.BOTH])


def batch(number):
    return RestoredBatch(f"{number:020x}", f"archives/appdb/audit_logs/{number}.jsonl.gz", number)


def ids(*numbers):
    return frozenset(batch(number).batch_id for number in numbers)


def restore(watermark, connection, *numbers):
    """What a restore does around the rows of each batch."""
    for number in numbers:
        with connection.transaction():
            watermark.remember_in_transaction(connection, batch(number))
        watermark.remember(batch(number))


@pytest.fixture
def connection(archiving):
    with connect(archiving.source()) as opened:
        yield opened


@pytest.fixture
def make(archiving):
    """Watermarks, each with a store of its own, as in different processes."""

    def made(storage, *, source=SOURCE, target=TARGET, enabled=True, endpoint=None, run_id="run"):
        settings = archiving.store_settings()
        store = S3Store(replace(settings, endpoint=endpoint or settings.endpoint))
        return Watermark(store, WatermarkSettings(enabled, storage, 'Restore "marks"'), source, target, run_id)

    return made


@each_storage
def test_the_next_restore_sees_what_the_first_restored(make, connection, storage):
    first = make(storage)
    first.open(connection)
    assert first.remembered(connection) == frozenset()
    restore(first, connection, 1, 2)
    first.flush(force=True)
    second = make(storage)
    second.open(connection)
    assert second.remembered(connection) == ids(1, 2)
    restore(second, connection, 2, 3)
    second.flush(force=True)
    assert make(storage).remembered(connection) == ids(1, 2, 3)


@each_storage
def test_it_lies_where_it_was_configured_and_nowhere_else(make, connection, bucket, database, storage):
    watermark = make(storage)
    watermark.open(connection)
    restore(watermark, connection, 1)
    watermark.flush(force=True)
    assert bucket.keys() == ([] if storage is WatermarkStorage.DATABASE else [KEY])
    tables = database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert tables == ([] if storage is WatermarkStorage.S3 else [('Restore "marks"',)])


@each_storage
def test_off_it_remembers_nothing_and_writes_nothing(make, connection, bucket, database, storage):
    watermark = make(storage, enabled=False)
    watermark.open(connection)
    restore(watermark, connection, 1)
    watermark.flush(force=True)
    assert watermark.remembered(connection) == frozenset()
    assert bucket.keys() == []
    assert database.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


@each_storage
def test_a_look_without_opening_writes_nothing(make, connection, bucket, database, storage):
    assert make(storage).remembered(connection) == frozenset()
    assert bucket.keys() == []
    assert database.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


@each_storage
def test_a_batch_whose_transaction_fails_is_not_remembered(make, connection, storage):
    watermark = make(storage)
    watermark.open(connection)
    with pytest.raises(ZeroDivisionError), connection.transaction():
        watermark.remember_in_transaction(connection, batch(1))
        raise ZeroDivisionError
    restore(watermark, connection, 2)
    watermark.flush(force=True)
    assert make(storage).remembered(connection) == ids(2)


@each_storage
def test_targets_and_sources_do_not_mix(make, connection, storage):
    for number, name in enumerate(AWKWARD):
        for watermark, one in ((make(storage, target=name), number), (make(storage, source=name), 100 + number)):
            watermark.open(connection)
            restore(watermark, connection, one)
            watermark.flush(force=True)
    for number, name in enumerate(AWKWARD):
        if storage is WatermarkStorage.S3 or name.database == "a":
            assert make(storage, target=name).remembered(connection) >= ids(number)
        assert make(storage, source=name).remembered(connection) == ids(100 + number)
    if storage is WatermarkStorage.S3:
        assert [len(make(storage, target=name).remembered(connection)) for name in AWKWARD] == [1] * len(AWKWARD)


@pytest.mark.parametrize("storage", [WatermarkStorage.DATABASE, WatermarkStorage.BOTH])
def test_the_database_knows_at_once_what_it_committed(make, connection, storage):
    """The restore was killed before it wrote to the store."""
    watermark = make(storage)
    watermark.open(connection)
    restore(watermark, connection, 1)
    assert make(storage).remembered(connection) == ids(1)


def test_with_both_the_database_decides(make, connection, database, bucket):
    """The database was restored from a backup: rows and notes are gone, the store's copy is not."""
    watermark = make(WatermarkStorage.BOTH)
    watermark.open(connection)
    restore(watermark, connection, 1, 2)
    watermark.flush(force=True)
    database.execute('DELETE FROM "Restore ""marks""" WHERE batch_id = %s', [batch(1).batch_id])
    assert make(WatermarkStorage.BOTH).remembered(connection) == ids(2)
    assert set(json.loads(bucket.read(KEY))["targets"][0]["restored"]) == ids(1, 2)


@stores_a_copy
def test_the_store_s_copy_in_full(make, connection, bucket, storage):
    before = datetime.now(UTC)
    for run_id, number in (("first", 1), ("second", 2), ("third", 1)):
        watermark = make(storage, run_id=run_id)
        watermark.open(connection)
        restore(watermark, connection, number)
        watermark.flush(force=True)
    document = json.loads(bucket.read(KEY))
    times = [entry.pop("restored_at") for entry in document["targets"][0]["restored"].values()]
    assert document == {
        "format_version": 1,
        "database": "appdb",
        "schema": "public",
        "table": "audit_logs",
        "targets": [
            {
                "database": "appdb",
                "schema": "public",
                "table": "audit_copy",
                "restored": {
                    batch(1).batch_id: {"data_key": batch(1).data_key, "rows": 1, "run_id": "third"},
                    batch(2).batch_id: {"data_key": batch(2).data_key, "rows": 2, "run_id": "second"},
                },
            }
        ],
    }
    assert all(before - timedelta(seconds=1) < datetime.fromisoformat(time) for time in times)
    assert all(time.endswith("+00:00") for time in times)


def test_it_is_written_now_and_then_and_at_once_when_asked(make, connection, bucket, monkeypatch):
    watermark = make(WatermarkStorage.S3)
    watermark.open(connection)
    restore(watermark, connection, 1)
    watermark.flush()
    assert bucket.keys() == []
    monkeypatch.setattr(engine, "_FLUSH_SECONDS", 0)
    watermark.flush()
    assert bucket.keys() == [KEY]
    bucket.client.delete_object(Bucket=bucket.bucket, Key=KEY)
    watermark.flush()
    assert bucket.keys() == []
    watermark.flush(force=True)
    assert bucket.keys() == [KEY]


def test_with_nothing_restored_nothing_is_written(make, connection, bucket):
    watermark = make(WatermarkStorage.S3)
    watermark.open(connection)
    watermark.flush(force=True)
    assert bucket.keys() == []


def test_what_could_not_be_written_is_written_later(make, connection, bucket, monkeypatch):
    monkeypatch.setattr(engine, "_FLUSH_SECONDS", 0)
    bucket.client.put_object(Bucket=bucket.bucket, Key=KEY, Body=b"damaged")
    watermark = make(WatermarkStorage.S3)
    restore(watermark, connection, 1)
    with pytest.raises(ManifestError):
        watermark.flush()
    bucket.client.delete_object(Bucket=bucket.bucket, Key=KEY)
    watermark.flush()
    assert make(WatermarkStorage.S3).remembered(connection) == ids(1)


def test_who_can_never_write_says_so(make, connection, bucket, monkeypatch):
    monkeypatch.setattr(engine, "_LONGEST_PAUSE_SECONDS", 0)
    monkeypatch.setattr(engine, "_TRIES", 5)
    watermark = make(WatermarkStorage.S3)
    restore(watermark, connection, 1)
    read = S3Store.read_versioned

    def read_and_be_overtaken(store, key):
        found = read(store, key)
        other = merge_restored(empty_watermark(SOURCE), TARGET, {"x": remembered_at(datetime.now(UTC))})
        bucket.client.put_object(Bucket=bucket.bucket, Key=key, Body=encode_watermark(other))
        return found

    monkeypatch.setattr(S3Store, "read_versioned", read_and_be_overtaken)
    with pytest.raises(StoreError, match="could not be written in 5 tries"):
        watermark.flush(force=True)


@pytest.mark.parametrize("storage", list(WatermarkStorage))
def test_many_restores_at_once_lose_nothing(archiving, make, connection, storage):
    """8 restores into 8 targets at once, each writing 20 times."""
    targets = [TableName("appdb", "public", f"copy_{number}") for number in range(8)]
    barrier = Barrier(8)

    def restore_into(target):
        with connect(archiving.source()) as own:
            watermark = make(storage, target=target)
            barrier.wait()
            watermark.open(own)
            for number in range(20):
                restore(watermark, own, number)
                watermark.flush(force=True)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(restore_into, targets))
    for target in targets:
        assert make(storage, target=target).remembered(connection) == ids(*range(20))
        if storage is WatermarkStorage.BOTH:
            assert make(WatermarkStorage.S3, target=target).remembered(connection) == ids(*range(20))


def test_many_threads_of_one_restore_lose_nothing(archiving, make, connection, monkeypatch):
    monkeypatch.setattr(engine, "_FLUSH_SECONDS", 0)
    watermark = make(WatermarkStorage.S3)

    def work(worker):
        with connect(archiving.source()) as own:
            for number in range(20):
                restore(watermark, own, worker * 20 + number)
                watermark.flush()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    watermark.flush(force=True)
    assert make(WatermarkStorage.S3).remembered(connection) == ids(*range(160))


@pytest.mark.parametrize("weakness", list(Weakness))
def test_a_weak_store_loses_nothing_either(archiving, make, connection, bucket, weakness):
    targets = [TableName("appdb", "public", f"copy_{number}") for number in range(4)]
    barrier = Barrier(4)
    with weak_store(bucket, weakness) as weak:

        def restore_into(target):
            with connect(archiving.source()) as own:
                watermark = make(WatermarkStorage.S3, target=target, endpoint=weak.endpoint)
                barrier.wait()
                for number in range(3):
                    restore(watermark, own, number)
                    watermark.flush(force=True)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(restore_into, targets))
    for target in targets:
        assert make(WatermarkStorage.S3, target=target).remembered(connection) == ids(0, 1, 2)


def test_what_another_overwrote_is_written_again(make, connection, bucket):
    watermark = make(WatermarkStorage.S3)
    restore(watermark, connection, 1)
    watermark.flush(force=True)
    bucket.client.put_object(Bucket=bucket.bucket, Key=KEY, Body=encode_watermark(empty_watermark(SOURCE)))
    restore(watermark, connection, 2)
    watermark.flush(force=True)
    assert make(WatermarkStorage.S3).remembered(connection) == ids(1, 2)


def remembered_at(moment, run_id="run"):
    return RememberedBatch("archives/x.jsonl.gz", 1, moment, run_id)


DOCUMENT = merge_restored(empty_watermark(SOURCE), TARGET, {"one": remembered_at(NOW)})


def altered(change):
    """The document as plain values, changed."""
    values = json.loads(encode_watermark(DOCUMENT))
    change(values, values["targets"][0], values["targets"][0]["restored"]["one"])
    return json.dumps(values).encode()


DAMAGED = {
    "future version": altered(lambda document, target, one: document.update(format_version=2)),
    "another table's": altered(lambda document, target, one: document.update(table="audit")),
    "unknown field": altered(lambda document, target, one: document.update(cursor="2024")),
    "unknown field of a target": altered(lambda document, target, one: target.update(cursor="2024")),
    "unknown field of a batch": altered(lambda document, target, one: one.update(cursor="2024")),
    "missing field": altered(lambda document, target, one: one.pop("run_id")),
    "text for a number": altered(lambda document, target, one: one.update(rows="1")),
    "no time": altered(lambda document, target, one: one.update(restored_at="yesterday")),
    "no time zone": altered(lambda document, target, one: one.update(restored_at="2026-01-01T12:00:00")),
    "a target twice": altered(lambda document, target, one: document["targets"].append(target)),
    "cut": encode_watermark(DOCUMENT)[:-20],
    "empty": b"",
    "another kind": b"[]",
}


@stores_a_copy
@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_watermark_stops_the_restore_and_stays_as_it_is(make, connection, bucket, storage, data):
    bucket.client.put_object(Bucket=bucket.bucket, Key=KEY, Body=data)
    watermark = make(storage)
    with pytest.raises(ManifestError, match=r"\.restore_watermark\.json") as refused:
        watermark.open(connection)
    assert ("newer" if data == DAMAGED["future version"] else "remove it") in refused.value.hint
    restored_by_another_process = make(WatermarkStorage.S3)
    restore(restored_by_another_process, connection, 1)
    with pytest.raises(ManifestError):
        restored_by_another_process.flush(force=True)
    assert bucket.read(KEY) == data


def test_a_document_round_trips():
    assert decode_watermark(encode_watermark(DOCUMENT), key="k") == DOCUMENT


TIMES = st.integers(0, 3).map(lambda hours: NOW + timedelta(hours=hours))
RESTORED = st.dictionaries(
    st.sampled_from("abcd"), st.builds(remembered_at, TIMES, st.sampled_from(["run 1", "run 2"])), max_size=4
)


@given(st.lists(st.tuples(st.sampled_from(AWKWARD), RESTORED), max_size=6), st.randoms())
def test_merging_is_the_same_in_every_order(restores, chance):
    merged = empty_watermark(SOURCE)
    for target, restored in restores:
        merged = merge_restored(merged, target, restored)
    shuffled = list(restores)
    chance.shuffle(shuffled)
    again = merged
    other = empty_watermark(SOURCE)
    for target, restored in shuffled:
        other = merge_restored(other, target, restored)
        again = merge_restored(again, target, restored)
    assert merged == other == again
    assert decode_watermark(encode_watermark(merged), key="k") == merged
    for target, restored in restores:
        assert set(restored) <= set(merged.restored_into(target))


@given(st.sampled_from(["", "archives", "a/b"]), st.sampled_from([SOURCE, *AWKWARD]))
def test_the_key_is_the_table_s_own_and_no_batch_s(prefix, name):
    key = watermark_key(prefix, name)
    assert key.endswith("/.restore_watermark.json")
    assert [watermark_key(prefix, other) == key for other in [SOURCE, *AWKWARD]].count(True) == 1
    assert watermark_key("archives", SOURCE) == KEY
    assert group_batches([StoredObject(key, 1, NOW)]) == []
