"""Objects in cold classes, one by one: what the store says of them, how a retrieval starts, what it costs."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from archiver_pipeline.domain.layout import COLD_CLASSES
from archiver_pipeline.domain.prices import BYTES_PER_GIB, RETRIEVAL_TERMS
from archiver_pipeline.domain.restore import RetrievalTier
from archiver_pipeline.domain.retrieval import (
    Readiness,
    RetrievalState,
    expected_at,
    retrieval_dollars,
    retrieval_state_of,
)
from archiver_pipeline.errors import PreflightError, ResourcesError, StoreError
from archiver_pipeline.storage.s3 import ObjectColdError, ObjectMissingError, S3Store
from archiver_pipeline_tests.storage.cold_store import cold_store, store_answering

KEY = "archives/x.jsonl.gz"
CONTENT = b"rows\n"
NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
EXPIRY = datetime(2026, 1, 12, tzinfo=UTC)
ANSWERED = 'ongoing-request="false", expiry-date="Mon, 12 Jan 2026 00:00:00 GMT"'

cold_classes = pytest.mark.parametrize("storage_class", sorted(COLD_CLASSES))


@pytest.fixture
def cold():
    with cold_store() as opened:
        yield opened


def read(store):
    return b"".join(store.read_blocks(KEY))


def start(store, storage_class, tier=RetrievalTier.Standard, days=3):
    return store.start_retrieval(KEY, storage_class=storage_class, days=days, tier=tier)


@cold_classes
def test_a_cold_object_is_retrieved_and_then_read(cold, storage_class):
    cold.put(KEY, CONTENT, storage_class)
    store = S3Store(cold.settings)
    assert store.retrieval_state(KEY) == RetrievalState(storage_class, Readiness.cold)
    with pytest.raises(ObjectColdError):
        read(store)
    assert start(store, storage_class)
    assert store.retrieval_state(KEY) == RetrievalState(storage_class, Readiness.retrieving)
    with pytest.raises(ObjectColdError):
        read(store)
    cold.finish_retrievals()
    state = store.retrieval_state(KEY)
    assert state.readiness is Readiness.readable
    assert abs(state.readable_until - datetime.now(UTC) - timedelta(days=3)) < timedelta(minutes=1)
    assert read(store) == CONTENT


@cold_classes
def test_a_second_start_changes_nothing(cold, storage_class):
    cold.put(KEY, CONTENT, storage_class)
    store = S3Store(cold.settings)
    start(store, storage_class)
    start(store, storage_class)
    assert store.retrieval_state(KEY).readiness is Readiness.retrieving


@pytest.mark.parametrize("storage_class", ["STANDARD", "STANDARD_IA", "GLACIER_IR", "INTELLIGENT_TIERING"])
def test_other_classes_are_readable(cold, storage_class):
    cold.put(KEY, CONTENT, storage_class)
    store = S3Store(cold.settings)
    assert store.retrieval_state(KEY) == RetrievalState(storage_class, Readiness.readable)
    assert read(store) == CONTENT


def test_a_missing_object_has_no_state(cold):
    with pytest.raises(ObjectMissingError, match=KEY):
        S3Store(cold.settings).retrieval_state(KEY)


@pytest.mark.parametrize(
    ("storage_class", "tier", "hint"),
    [
        ("DEEP_ARCHIVE", RetrievalTier.Expedited, "its tiers are Standard and Bulk"),
        ("STANDARD_IA", RetrievalTier.Standard, "they are read without a retrieval"),
    ],
)
def test_a_tier_that_the_class_lacks_is_refused_before_anything_is_asked(cold, storage_class, tier, hint):
    cold.put(KEY, CONTENT, storage_class)
    with pytest.raises(PreflightError, match=tier.value) as refused:
        start(S3Store(cold.settings), storage_class, tier)
    assert refused.value.hint == hint
    assert cold.restore_header(KEY) is None


def test_no_days_are_refused(cold):
    cold.put(KEY, CONTENT, "GLACIER")
    with pytest.raises(PreflightError, match="0 days"):
        start(S3Store(cold.settings), "GLACIER", days=0)
    assert cold.restore_header(KEY) is None


def test_a_retrieval_under_way_is_success():
    with store_answering(409, "RestoreAlreadyInProgress") as settings:
        assert start(S3Store(settings), "GLACIER") is False


def test_without_expedited_capacity_another_tier_is_named(monkeypatch):
    monkeypatch.setattr("archiver_pipeline.storage.s3._ATTEMPTS", 1)
    with (
        store_answering(503, "GlacierExpeditedRetrievalNotAvailable") as settings,
        pytest.raises(ResourcesError) as refused,
    ):
        start(S3Store(settings), "GLACIER", RetrievalTier.Expedited)
    assert "Standard" in refused.value.hint


def test_a_refused_retrieval_is_an_error():
    with store_answering(400, "InvalidRequest") as settings, pytest.raises(StoreError, match=KEY):
        start(S3Store(settings), "GLACIER")


def test_an_expired_copy_is_cold():
    state = retrieval_state_of("GLACIER", ANSWERED)
    assert state == RetrievalState("GLACIER", Readiness.readable, EXPIRY)
    assert state.at(EXPIRY - timedelta(seconds=1)).readiness is Readiness.readable
    assert state.at(EXPIRY).readiness is Readiness.cold


def test_time_changes_no_other_state():
    for state in (RetrievalState("GLACIER", Readiness.retrieving), RetrievalState("STANDARD", Readiness.readable)):
        assert state.at(NOW) == state


@pytest.mark.parametrize(
    "header",
    [
        "",
        "true",
        'ongoing-request="false"',
        'ongoing-request="maybe"',
        ANSWERED + "x",
        ANSWERED.replace("Jan", "X"),
        ANSWERED.replace(" GMT", ""),
    ],
)
def test_what_is_not_understood_is_not_readable(header):
    with pytest.raises(ValueError, match=r".+"):
        retrieval_state_of("GLACIER", header)


def test_an_answer_that_is_not_understood_names_the_object(cold, monkeypatch):
    cold.put(KEY, CONTENT, "GLACIER")
    store = S3Store(cold.settings)
    start(store, "GLACIER")
    monkeypatch.setattr("moto.s3.models.FakeKey.expiry_date", "soon")
    cold.finish_retrievals()
    with pytest.raises(StoreError, match=f"{KEY}.*not understood"):
        store.retrieval_state(KEY)


def test_every_cold_class_has_terms():
    assert set(RETRIEVAL_TERMS) == COLD_CLASSES
    assert all(RetrievalTier.Standard in tiers for tiers in RETRIEVAL_TERMS.values())


@cold_classes
def test_slower_tiers_cost_less(storage_class):
    tiers = [RETRIEVAL_TERMS[storage_class][tier] for tier in RetrievalTier if tier in RETRIEVAL_TERMS[storage_class]]
    for fast, slow in pairwise(tiers):
        assert fast.most_hours < slow.most_hours
        assert fast.gib > slow.gib
        assert fast.thousand_requests > slow.thousand_requests


@pytest.mark.parametrize(
    ("storage_class", "tier", "hours"),
    [("GLACIER", RetrievalTier.Standard, 5), ("DEEP_ARCHIVE", RetrievalTier.Bulk, 48)],
)
def test_when_to_come_back(storage_class, tier, hours):
    assert expected_at(NOW, storage_class, tier) == NOW + timedelta(hours=hours)


@pytest.mark.parametrize(
    ("storage_class", "tier", "dollars"),
    [
        # 1,000 objects of 0.1 GiB: per GiB, per thousand requests, and 15 of 30 days of 100 GiB in STANDARD.
        ("GLACIER", RetrievalTier.Expedited, 3.00 + 10.00 + 1.15),
        ("GLACIER", RetrievalTier.Standard, 1.00 + 0.05 + 1.15),
        ("GLACIER", RetrievalTier.Bulk, 0.00 + 0.00 + 1.15),
        ("DEEP_ARCHIVE", RetrievalTier.Standard, 2.00 + 0.10 + 1.15),
        ("DEEP_ARCHIVE", RetrievalTier.Bulk, 0.25 + 0.025 + 1.15),
    ],
)
def test_what_it_costs(storage_class, tier, dollars):
    sizes = [BYTES_PER_GIB // 10] * 1000
    assert retrieval_dollars(sizes, storage_class, tier, 15) == pytest.approx(dollars, rel=1e-6)


def test_nothing_costs_nothing():
    assert retrieval_dollars([], "GLACIER", RetrievalTier.Expedited, 7) == 0
