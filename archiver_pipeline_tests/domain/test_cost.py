"""Costs against examples worked out by hand from the price table, and against laws that hold for every load."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver_pipeline.config.enums import StorageClass
from archiver_pipeline.domain.cost import (
    CostLine,
    Load,
    Terms,
    batches_of,
    break_even_months,
    estimate,
    month_dollars,
    read_dollars,
    write_dollars,
)
from archiver_pipeline.domain.layout import COLD_CLASSES
from archiver_pipeline.domain.prices import AWS, BYTES_PER_GIB, BYTES_PER_KIB
from archiver_pipeline.domain.restore import RetrievalTier

# 100 GiB stored as 1,000 objects; manifests and receipts are 1,000 × 2,200 bytes = 0.0020489 GiB.
HUNDRED_GIB = Load(rows=1e6, rows_bytes=200 * BYTES_PER_GIB, batches=1000, compression_ratio=0.5, key_bytes=0)
DOCUMENTS = 2_200_000 / 2**30
# 1,000 objects of 1 KiB.
TINY = Load(rows=1e4, rows_bytes=1000 * BYTES_PER_KIB, batches=1000, compression_ratio=1, key_bytes=0)
CLASSES = tuple(AWS.classes)
LINES = st.builds(CostLine, st.floats(0, 100), st.floats(0, 100), st.sampled_from([0.0, 1.0, 3.0, 6.0]))


def test_every_class_that_can_be_configured_has_a_price():
    assert set(AWS.classes) == set(StorageClass)
    assert set(AWS.retrieval) == COLD_CLASSES


@pytest.mark.parametrize(
    ("load", "storage_class", "dollars"),
    [
        (HUNDRED_GIB, "STANDARD", 100 * 0.023 + DOCUMENTS * 0.023),
        (HUNDRED_GIB, "STANDARD_IA", 100 * 0.0125 + DOCUMENTS * 0.023),
        # A fee of 0.0025 for the thousand objects.
        (HUNDRED_GIB, "INTELLIGENT_TIERING", 100 * 0.023 + 0.0025 + DOCUMENTS * 0.023),
        # 32,000 KiB more at its own price, 8,000 KiB more at STANDARD's.
        (HUNDRED_GIB, "DEEP_ARCHIVE", (100 + 32_000 / 2**20) * 0.00099 + (8_000 / 2**20 + DOCUMENTS) * 0.023),
        (TINY, "STANDARD", 1000 / 2**20 * 0.023 + DOCUMENTS * 0.023),
        # Each object is billed as 128 KiB.
        (TINY, "STANDARD_IA", 128_000 / 2**20 * 0.0125 + DOCUMENTS * 0.023),
        (TINY, "GLACIER_IR", 128_000 / 2**20 * 0.004 + DOCUMENTS * 0.023),
        # Too small to be watched: no fee.
        (TINY, "INTELLIGENT_TIERING", 1000 / 2**20 * 0.023 + DOCUMENTS * 0.023),
        (TINY, "GLACIER", 33_000 / 2**20 * 0.0036 + (8_000 / 2**20 + DOCUMENTS) * 0.023),
    ],
)
def test_a_month_of_storage(load, storage_class, dollars):
    assert month_dollars(load, storage_class) == pytest.approx(dollars, rel=1e-9)


@pytest.mark.parametrize(
    ("storage_class", "dollars"),
    [
        # Per thousand: data, two documents in STANDARD, a read of the data, one of the manifest; and 100 GiB read back
        # where that costs.
        ("STANDARD", 0.005 + 0.010 + 0.0004 + 0.0004),
        ("STANDARD_IA", 0.010 + 0.010 + 0.001 + 0.0004 + 100 * 0.01),
        ("GLACIER_IR", 0.020 + 0.010 + 0.010 + 0.0004 + 100 * 0.03),
        # Put and read as STANDARD, then copied.
        ("GLACIER", 0.005 + 0.010 + 0.0004 + 0.0004 + 0.030),
        ("DEEP_ARCHIVE", 0.005 + 0.010 + 0.0004 + 0.0004 + 0.050),
    ],
)
def test_writing(storage_class, dollars):
    assert write_dollars(HUNDRED_GIB, storage_class) == pytest.approx(dollars, rel=1e-9)


@pytest.mark.parametrize(
    ("storage_class", "tier", "dollars"),
    [
        ("STANDARD", RetrievalTier.Standard, 0.1 * 0.0004),
        ("STANDARD_IA", RetrievalTier.Standard, 0.1 * (0.001 + 100 * 0.01)),
        # 100 objects, 10 GiB: retrieval, its requests, 7 of 30 days of copies in STANDARD, and reading those.
        ("GLACIER", RetrievalTier.Standard, 10 * 0.01 + 0.1 * 0.05 + 10 * 0.023 * 7 / 30 + 0.1 * 0.0004),
        ("DEEP_ARCHIVE", RetrievalTier.Bulk, 10 * 0.0025 + 0.1 * 0.025 + 10 * 0.023 * 7 / 30 + 0.1 * 0.0004),
    ],
)
def test_reading_a_tenth_back(storage_class, tier, dollars):
    terms = Terms(restore_share=0.1, tier=tier)
    assert read_dollars(HUNDRED_GIB, storage_class, terms) == pytest.approx(dollars, rel=1e-9)


def test_reading_nothing_back_costs_nothing_even_with_a_tier_that_the_class_lacks():
    assert read_dollars(HUNDRED_GIB, "DEEP_ARCHIVE", Terms(tier=RetrievalTier.Expedited)) == 0


def test_deleting_before_the_least_days_costs_the_rest_of_them():
    (deep,) = estimate(HUNDRED_GIB, ("DEEP_ARCHIVE",), Terms(months=2)).classes
    assert deep.early == pytest.approx(4 * deep.month)
    assert deep.total == pytest.approx(deep.write + 6 * deep.month)
    (later,) = estimate(HUNDRED_GIB, ("DEEP_ARCHIVE",), Terms(months=6)).classes
    assert (later.early, later.total) == (0, pytest.approx(deep.total))


def test_growth_is_stored_for_the_months_that_are_left():
    growth = replace(HUNDRED_GIB, rows_bytes=HUNDRED_GIB.rows_bytes / 10, batches=100)
    report = estimate(HUNDRED_GIB, ("STANDARD",), Terms(months=4), growth=growth)
    # Archived at the end of months 1, 2 and 3: there for 3 + 2 + 1 months.
    expected = 3 * write_dollars(growth, "STANDARD") + 6 * month_dollars(growth, "STANDARD")
    assert report.classes[0].growth == pytest.approx(expected)
    assert report.disk_total == pytest.approx(report.disk_month * (4 + 6 / 10))


def test_break_even_with_the_disk():
    # 200 GiB on disk are 23.00 a month; STANDARD is 0.0154 once and 2.3000471 a month.
    (standard,) = estimate(HUNDRED_GIB, ("STANDARD",), Terms()).classes
    assert standard.pays_after_disk == pytest.approx(0.0158 / (23.00 - 2.3000471), rel=1e-6)


@pytest.mark.parametrize(
    ("kept", "moved", "months"),
    [
        (CostLine(0, 10), CostLine(5, 5), 1),
        (CostLine(0, 10), CostLine(0, 10), 0),
        (CostLine(0, 10), CostLine(1, 10), None),
        (CostLine(0, 10), CostLine(0, 11), None),
        # 6 months of 2 are due at once: 12 at 10 a month are reached after 1.2 months.
        (CostLine(0, 10), CostLine(0, 2, 6), 1.2),
        # The least months are over before it pays: 30 + 2 m = 10 m.
        (CostLine(0, 10), CostLine(30, 2, 3), 3.75),
        # Cheaper from the start because the other has least months too.
        (CostLine(0, 10, 6), CostLine(0, 5, 6), 0),
    ],
)
def test_break_even(kept, moved, months):
    assert break_even_months(kept, moved) == (None if months is None else pytest.approx(months))


@given(LINES, LINES)
def test_after_the_break_even_it_never_costs_more_and_before_it_does(kept, moved):
    months = break_even_months(kept, moved)
    later = 10_000.0 if months is None else months
    if months is None:
        assert moved.after(later) > kept.after(later) or moved.month > kept.month
        return
    for after in (later, later + 0.5, later + 3, later + 100):
        assert moved.after(after) <= kept.after(after) + 1e-6
    if months > 1e-6:
        assert moved.after(months * 0.999) >= kept.after(months * 0.999) - 1e-6


@given(st.integers(1, 10**9), st.integers(1, 100_000), st.integers(1, 4000))
def test_batches_never_span_windows_and_hold_all_rows(rows, batch_size, windows):
    batches = batches_of(rows, batch_size, windows)
    assert batches * batch_size >= rows
    assert batches >= min(windows, rows)
    assert batches <= rows // batch_size + windows + 1


def test_nothing_costs_nothing():
    report = estimate(Load(0, 0, 0), CLASSES, Terms(restore_share=1))
    assert {found.total for found in report.classes} == {0}


def test_adding_loads_keeps_what_is_stored():
    both = HUNDRED_GIB + TINY
    assert both.stored_bytes == pytest.approx(HUNDRED_GIB.stored_bytes + TINY.stored_bytes)
    assert both.documents_bytes == pytest.approx(HUNDRED_GIB.documents_bytes + TINY.documents_bytes)
