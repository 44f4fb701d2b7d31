"""Archives in cold classes: what can be read now, what is started, when to come back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.domain.layout import group_batches
from archiver_pipeline.domain.manifest import FORMAT_VERSION, Receipt
from archiver_pipeline.domain.restore import Archive, RetrievalTier
from archiver_pipeline.domain.retrieval import Readiness, retrieval_dollars
from archiver_pipeline.engine.retrieval import (
    preview_retrieval,
    readable_again,
    readiness_of,
    retrieval_states,
    retrieve_cold,
)
from archiver_pipeline.errors import NetworkError, PreflightError
from archiver_pipeline.storage.s3 import ObjectMissingError, S3Store
from archiver_pipeline_tests.storage.cold_store import cold_store

DAYS = 3
PREFIX = "archives/appdb/audit_logs/year="


@pytest.fixture
def cold():
    with cold_store() as opened:
        yield opened


@pytest.fixture
def store(cold):
    return S3Store(cold.settings)


@pytest.fixture
def now():
    """moto counts the days of a copy from its own clock."""
    return datetime.now(UTC)


def key_of(number):
    return f"{PREFIX}2024/month=01/day={number + 1:02}/audit_logs_2024-01-{number + 1:02}_{number:016x}.jsonl.gz"


def archives_of(store):
    """The archives as the listing shows them, each with a receipt."""
    return tuple(Archive(stored, receipt_of(stored)) for stored in group_batches(store.list_objects(PREFIX)))


def receipt_of(stored):
    return Receipt(
        format_version=FORMAT_VERSION,
        batch_id=stored.batch_id,
        data_key=stored.data_key,
        manifest_sha256="",
        object_sha256="",
        rows=1,
        rows_bytes=1,
        object_bytes=stored.object_bytes,
        first_row_time="",
        last_row_time="",
        outcome=Outcome.deleted,
        settled_by="",
        run_id="",
        settled_at="",
    )


def archived(cold, store, *storage_classes):
    """One archive of each class, in the order of their keys; the n-th weighs 1,000 x n bytes."""
    for number, storage_class in enumerate(storage_classes):
        cold.put(key_of(number), b"x" * 1000 * (number + 1), storage_class)
    return archives_of(store)


def keys(archives):
    return [archive.data_key for archive in archives]


def retrieve(store, archives, now, tier=RetrievalTier.Standard, how=retrieve_cold):
    return how(store, archives, tier=tier, days=DAYS, now=now)


def test_a_mix_of_classes(cold, store, now):
    archives = archived(cold, store, "GLACIER", "STANDARD", "DEEP_ARCHIVE", "GLACIER_IR", "GLACIER")
    retrieval = retrieve(store, archives, now)
    assert retrieval.readable == (archives[1], archives[3])
    assert retrieval.waiting == (archives[0], archives[2], archives[4])
    assert retrieval.started == 3
    assert retrieval.ready_at == now + timedelta(hours=12)
    flexible = retrieval_dollars([1000, 5000], "GLACIER", RetrievalTier.Standard, DAYS)
    deep = retrieval_dollars([3000], "DEEP_ARCHIVE", RetrievalTier.Standard, DAYS)
    assert retrieval.dollars == pytest.approx(flexible + deep)


def test_it_goes_on_when_the_copies_are_there(cold, store, now):
    archives = archived(cold, store, "GLACIER", "STANDARD", "DEEP_ARCHIVE")
    retrieve(store, archives, now)
    cold.finish_retrievals()
    retrieval = retrieve(store, archives, now)
    assert retrieval.readable == archives
    assert (retrieval.waiting, retrieval.started, retrieval.ready_at, retrieval.dollars) == ((), 0, None, 0)


def test_a_second_call_starts_nothing_twice(cold, store, now):
    archives = archived(cold, store, "GLACIER", "GLACIER")
    first, later = retrieve(store, archives, now), now + timedelta(hours=1)
    again = retrieve(store, archives, later)
    assert (first.started, again.started) == (2, 0)
    assert again.waiting == archives
    assert again.dollars == 0
    assert again.ready_at == later + timedelta(hours=5)


def test_only_what_is_new_is_started(cold, store, now):
    retrieve(store, archived(cold, store, "GLACIER"), now)
    cold.put(key_of(1), b"x" * 2000, "GLACIER")
    retrieval = retrieve(store, archives_of(store), now)
    assert (len(retrieval.waiting), retrieval.started) == (2, 1)
    assert retrieval.dollars == pytest.approx(retrieval_dollars([2000], "GLACIER", RetrievalTier.Standard, DAYS))


def test_an_expired_copy_is_retrieved_anew(cold, store, now):
    archives = archived(cold, store, "GLACIER", "GLACIER")
    retrieve(store, archives, now)
    cold.finish_retrievals()
    cold.expire(archives[0].data_key, now - timedelta(seconds=1))
    retrieval = retrieve(store, archives, now)
    assert retrieval.waiting == archives[:1]
    assert retrieval.started == 1
    assert retrieve(store, archives, now).readable == archives


def test_a_preview_says_the_same_and_starts_nothing(cold, store, now):
    archives = archived(cold, store, "DEEP_ARCHIVE", "STANDARD", "GLACIER")
    preview = retrieve(store, archives, now, how=preview_retrieval)
    assert [cold.restore_header(key) for key in keys(archives)] == [None] * 3
    assert retrieve(store, archives, now) == preview
    assert preview.started == 2


@pytest.mark.parametrize("how", [retrieve_cold, preview_retrieval])
def test_a_tier_that_one_class_lacks_starts_none(cold, store, now, how):
    archives = archived(cold, store, "GLACIER", "DEEP_ARCHIVE")
    with pytest.raises(PreflightError, match=r"DEEP_ARCHIVE.*Expedited") as refused:
        retrieve(store, archives, now, RetrievalTier.Expedited, how)
    assert refused.value.hint == "its tiers are Standard and Bulk"
    assert [cold.restore_header(key) for key in keys(archives)] == [None, None]


def test_a_tier_that_nothing_new_needs_is_no_mistake(cold, store, now):
    retrieve(store, archived(cold, store, "DEEP_ARCHIVE"), now)
    retrieval = retrieve(store, archives_of(store), now, RetrievalTier.Expedited)
    assert retrieval.started == 0
    assert retrieval.ready_at == now + timedelta(hours=12)


def test_only_cold_archives_are_asked_for(cold, store, now):
    archives = archived(cold, store, "STANDARD", "GLACIER")
    cold.client.delete_object(Bucket=cold.settings.bucket, Key=archives[0].data_key)
    assert retrieve(store, archives, now).readable == archives[:1]
    cold.client.delete_object(Bucket=cold.settings.bucket, Key=archives[1].data_key)
    with pytest.raises(ObjectMissingError, match=archives[1].data_key):
        retrieve(store, archives, now)


def test_an_archive_that_left_its_cold_class_is_readable(cold, store, now):
    archives = archived(cold, store, "GLACIER")
    cold.put(archives[0].data_key, b"x", "STANDARD")
    assert retrieve(store, archives, now).readable == archives


def test_nothing_to_retrieve(store, now):
    retrieval = retrieve(store, (), now)
    assert (retrieval.readable, retrieval.waiting, retrieval.started, retrieval.ready_at) == ((), (), 0, None)


def test_after_an_error_the_next_call_starts_the_rest(cold, store, now, monkeypatch):
    archives = archived(cold, store, "GLACIER", "GLACIER", "GLACIER")
    begin = store.start_retrieval

    def failing_once(key, **terms):
        if key == archives[1].data_key:
            raise NetworkError("away")
        return begin(key, **terms)

    with monkeypatch.context() as patch:
        patch.setattr(store, "start_retrieval", failing_once)
        with pytest.raises(NetworkError):
            retrieve(store, archives, now)
    retrieval = retrieve(store, archives, now)
    assert retrieval.waiting == archives
    assert 1 <= retrieval.started < 3
    assert all(cold.restore_header(key) for key in keys(archives))


def test_one_that_another_run_started_in_between_is_not_counted(cold, store, now, monkeypatch):
    archives = archived(cold, store, "GLACIER")
    monkeypatch.setattr(store, "start_retrieval", lambda *args, **terms: False)
    retrieval = retrieve(store, archives, now)
    assert (retrieval.waiting, retrieval.started, retrieval.dollars) == (archives, 0, 0)


def test_a_waiting_restore_goes_on_when_all_are_readable(cold, store, now):
    archives = archived(cold, store, "GLACIER", "STANDARD", "DEEP_ARCHIVE")
    assert readiness_of(store, keys(archives), now=now) is Readiness.cold
    retrieve(store, archives[:2], now)
    cold.finish_retrievals()
    assert readable_again(store, keys(archives[:2]), now=now)
    assert not readable_again(store, keys(archives), now=now)


def test_a_waiting_restore_waits_while_anything_is_on_its_way(cold, store, now):
    archives = archived(cold, store, "GLACIER", "GLACIER", "STANDARD")
    retrieve(store, archives[1:], now)
    assert readiness_of(store, keys(archives), now=now) is Readiness.retrieving
    assert not readable_again(store, keys(archives), now=now)


def test_waiting_for_an_expired_copy_is_in_vain(cold, store, now):
    archives = archived(cold, store, "GLACIER", "GLACIER")
    retrieve(store, archives, now)
    cold.finish_retrievals()
    cold.expire(archives[0].data_key, now)
    assert readiness_of(store, keys(archives), now=now) is Readiness.cold
    assert not readable_again(store, keys(archives), now=now)


def test_a_waiting_restore_of_a_missing_object_is_told(store, now):
    with pytest.raises(ObjectMissingError):
        readable_again(store, [key_of(0)], now=now)


def test_states_by_key(cold, store, now):
    archives = archived(cold, store, "GLACIER", "DEEP_ARCHIVE", "STANDARD")
    retrieve(store, archives[1:], now)
    states = retrieval_states(store, keys(archives), now=now)
    assert [states[key].readiness for key in keys(archives)] == [
        Readiness.cold,
        Readiness.retrieving,
        Readiness.readable,
    ]


def test_where_the_class_is_only_a_name_everything_is_readable(archiving, now):
    """The server of the other tests keeps the name of a class, serves its objects at once and has no retrieval."""
    store = S3Store(archiving.store_settings())
    for number in range(2):
        archiving.bucket.client.put_object(
            Bucket=archiving.bucket.bucket, Key=key_of(number), Body=b"x", StorageClass="GLACIER"
        )
    archives = archives_of(store)
    assert all(archive.stored.is_cold for archive in archives)
    retrieval = retrieve(store, archives, now)
    assert retrieval.readable == archives
    assert (retrieval.started, retrieval.dollars) == (0, 0)


def test_an_expired_copy_that_is_still_there_says_nothing_of_the_others(cold, store, now):
    archives = archived(cold, store, "GLACIER", "GLACIER")
    retrieve(store, archives[:1], now)
    cold.finish_retrievals()
    cold.expire(archives[0].data_key, now - timedelta(seconds=1))
    assert retrieve(store, archives, now, how=preview_retrieval).waiting == archives


def test_an_archive_is_asked_for_by_the_key_of_its_receipt(cold, store, now):
    archives = archived(cold, store, "GLACIER")
    moved = replace(archives[0], receipt=replace(archives[0].receipt, data_key=key_of(9)))
    with pytest.raises(ObjectMissingError, match=key_of(9)):
        retrieve(store, (moved,), now)
