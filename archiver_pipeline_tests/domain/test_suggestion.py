"""Suggestions: the column that says when a row was made, windows and batches of a sensible size, and doubts."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from archiver_pipeline.domain.measure import TableMeasure
from archiver_pipeline.domain.suggestion import FoundTable, TimeColumn, best_time_column, suggest
from archiver_pipeline.domain.table import TableName, TimestampType
from archiver_pipeline.domain.windows import WindowUnit

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
PLAIN = TimeColumn("created_at", TimestampType.timestamptz, is_indexed=True, is_not_null=True, has_clock_default=True)
AUDIT = FoundTable("public", "audit_log", "", (PLAIN,), (), inserted=1_000_000, updated=0)
MEASURE = TableMeasure(
    name=TableName("shop", "public", "audit_log"),
    rows=365_000,
    row_bytes=500,
    disk_bytes=300_000_000,
    oldest=NOW - timedelta(days=365),
    newest=NOW,
    cutoff=NOW - timedelta(days=90),
    eligible_rows=275_000,
    month_rows=30_000,
    key_bytes=9,
    is_analyzed=True,
)


def column(name, **changed):
    return replace(PLAIN, name=name, has_clock_default=False, is_indexed=False, is_not_null=False, **changed)


def test_the_eligible_part_is_a_share_of_the_disk():
    assert MEASURE.eligible_share == pytest.approx(275 / 365)
    assert MEASURE.eligible_bytes == pytest.approx(300e6 * 275 / 365)
    assert MEASURE.eligible_days == pytest.approx(275)
    assert replace(MEASURE, rows=0, oldest=None).eligible_bytes == 0


@pytest.mark.parametrize(
    ("columns", "best"),
    [
        ([column("updated_at"), column("created_at")], "created_at"),
        ([column("deleted_at"), column("ts")], "ts"),
        ([column("a"), column("b")], "a"),
        ([column("expires_on"), column("birth_date"), column("logged")], "logged"),
        ([column("a"), replace(column("b"), is_indexed=True)], "b"),
        ([column("a"), replace(column("b"), has_clock_default=True)], "b"),
        # An index on the wrong column does not make it the right one.
        ([replace(column("updated_at"), is_indexed=True, is_not_null=True), column("created_at")], "created_at"),
    ],
)
def test_the_best_column(columns, best):
    assert best_time_column(tuple(columns)).name == best


@pytest.mark.parametrize(
    ("rows_a_day", "kind", "window"),
    [
        (10, TimestampType.timestamptz, WindowUnit.month),
        (5_000, TimestampType.timestamptz, WindowUnit.week),
        (50_000, TimestampType.timestamptz, WindowUnit.day),
        (5_000_000, TimestampType.timestamptz, WindowUnit.hour),
        (5_000_000, TimestampType.date, WindowUnit.day),
    ],
)
def test_the_window_fits_the_rate(rows_a_day, kind, window):
    measure = replace(MEASURE, rows=rows_a_day * 365, month_rows=rows_a_day * 30)
    found = suggest(AUDIT, replace(PLAIN, type=kind), measure)
    assert found.window is window
    assert f"{rows_a_day:,} rows a day" in found.window_reason


@pytest.mark.parametrize(
    ("row_bytes", "rows_a_day", "batch"),
    [
        (500, 1_000, 10_000),
        (500, 1_000_000, 50_000),
        (3_355, 1_000, 10_000),
        (3_356, 1_000, 5_000),
        (20_000, 1_000, 1_000),
        (10_000_000, 1_000, 100),
        (0, 0, 10_000),
    ],
)
def test_a_batch_stays_small_in_memory(row_bytes, rows_a_day, batch):
    measure = replace(MEASURE, row_bytes=row_bytes, rows=rows_a_day * 365, month_rows=rows_a_day * 30)
    found = suggest(AUDIT, PLAIN, measure)
    assert found.batch_size == batch
    assert found.batch_reason


def test_the_first_window_is_the_month_of_the_oldest_row_and_never_young():
    assert suggest(AUDIT, PLAIN, MEASURE).first_window == date(2025, 6, 1)
    young = replace(MEASURE, oldest=NOW)
    assert suggest(AUDIT, PLAIN, young).first_window == date(2026, 3, 1)
    unknown = replace(MEASURE, oldest=None, newest=None)
    assert suggest(AUDIT, PLAIN, unknown).first_window == date(2026, 3, 1)


@pytest.mark.parametrize(
    ("found", "time", "doubt"),
    [
        (replace(AUDIT, referred_by=("orders",)), PLAIN, "foreign keys of orders"),
        (replace(AUDIT, updated=20_000), PLAIN, "rows are changed"),
        (AUDIT, column("updated_at"), "does not look like"),
        (replace(AUDIT, table="invoices", inserted=3), PLAIN, "neither its name nor"),
    ],
)
def test_what_speaks_against_a_table_is_said(found, time, doubt):
    suggestion = suggest(found, time, MEASURE)
    assert not suggestion.is_recommended
    assert any(doubt in one for one in suggestion.doubts)


@pytest.mark.parametrize(
    "found", [AUDIT, replace(AUDIT, inserted=0), replace(AUDIT, table="invoices"), replace(AUDIT, updated=10_000)]
)
def test_rows_that_are_only_added_are_recommended(found):
    assert suggest(found, PLAIN, MEASURE).is_recommended
