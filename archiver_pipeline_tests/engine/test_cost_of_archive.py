"""What the cost formulas assume of an archive, held against an archive that is made."""

from collections import Counter

import pytest

from archiver_pipeline.domain.cost import Load
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.costing import measure_configured
from archiver_pipeline.engine.inventory import DateRange
from archiver_pipeline.engine.preview import preview_archive
from archiver_pipeline_tests.cli.workplace import wait_until
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, create_audit_table

DAY_ROWS = 200
DAYS = 100
FILL_BY_DAY = """
INSERT INTO audit_logs SELECT n, now() - n * interval '1 day' / {rows}, 'actor ' || n % 7,
    jsonb_build_object('n', n, 'note', repeat('x', 100)), ARRAY['a', 'b,c'], n / 7.0
FROM generate_series(1, {rows} * {days}) AS n"""


def test_a_batch_is_three_writes_and_two_reads_and_its_documents_weigh_what_is_assumed(archiving, audit):
    session = archiving.session(batch_size=20)
    requests: Counter[str] = Counter()
    session.store._client.meta.events.register("before-call.s3", lambda model, **_: requests.update([model.name]))
    windows = archiving.windows(session)
    before = requests.copy()
    report = archive_windows(session, windows)
    made = requests - before
    batches = sum(window.batches for window in report.windows)
    assert batches > 1
    # The audit trail takes the plan, the report, at most one link a batch, and once what finds out about conditions.
    trail = len(archiving.bucket.keys(f"{archiving.bucket.prefix}/_audit/"))
    assert trail <= batches + 2
    assert (made["PutObject"] - trail - 1, made["GetObject"]) == (3 * batches, 2 * batches)
    # What the formulas leave out: listings, of which a large run makes no more than a small one per window.
    assert set(made) == {"PutObject", "GetObject", "ListObjectsV2"}
    assert made["ListObjectsV2"] <= 4 + 3 * len(windows)
    keys = archiving.bucket.archive_keys()
    documents = sum(len(archiving.bucket.read(key)) for key in keys if key.endswith(".json"))
    load = Load(rows=report.rows, rows_bytes=report.rows_bytes, batches=batches, key_bytes=3)
    assert load.documents_bytes == pytest.approx(documents, rel=0.15)


@pytest.fixture
def by_day(archiving, database):
    """`DAYS` days of `DAY_ROWS` rows up to now, with an index on their time, analyzed."""
    create_audit_table(database, old=0)
    database.execute("TRUNCATE audit_logs")
    database.execute(FILL_BY_DAY.format(rows=DAY_ROWS, days=DAYS))
    database.execute("ANALYZE audit_logs")
    return archiving


def counters(database):
    """Rows and index entries that were read of the table so far."""
    query = (
        "SELECT seq_tup_read, (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes i WHERE i.relid = t.relid)::int"
        " FROM pg_stat_user_tables t WHERE relname = 'audit_logs'"
    )
    return dict(zip(("seq_tup_read", "idx_tup_read"), database.execute(query)[0], strict=True))


@pytest.mark.matrix
def test_a_table_is_measured_closely_without_reading_it(by_day, database):
    session = by_day.session()
    before = counters(database)
    found = measure_configured(session.database, session.settings, compression_ratio=0.3)
    # The server tells what a connection did a moment after its end.
    wait_until(lambda: counters(database)["idx_tup_read"] > before["idx_tup_read"], what="statistics")
    assert counters(database)["seq_tup_read"] - before["seq_tup_read"] < 2_000
    measure = found.measure
    assert measure.rows == pytest.approx(DAY_ROWS * DAYS, rel=0.05)
    assert measure.eligible_rows == pytest.approx(DAY_ROWS * (DAYS - 30), rel=0.05)
    assert measure.month_rows == pytest.approx(DAY_ROWS * 30, rel=0.05)
    (row_bytes,) = database.execute("SELECT avg(octet_length(row_to_json(t)::text)) FROM audit_logs AS t")[0]
    assert measure.row_bytes == pytest.approx(float(row_bytes), rel=0.05)
    (key_bytes,) = database.execute("SELECT avg(length(id::text)) + 1 FROM audit_logs")[0]
    assert measure.key_bytes == pytest.approx(float(key_bytes), rel=0.05)
    (disk,) = database.execute("SELECT pg_total_relation_size('audit_logs')")[0]
    assert measure.disk_bytes == disk
    assert measure.eligible_days == pytest.approx(DAYS - 30, abs=0.1)
    assert (measure.is_analyzed, measure.notes) == (True, ())
    assert found.backlog.batches == pytest.approx(DAY_ROWS * (DAYS - 30) / by_day.settings().batch_size, rel=0.05)


def test_an_empty_table_and_one_without_index_or_statistics_are_told_as_such(archiving, database):
    create_audit_table(database, old=0)
    database.execute("TRUNCATE audit_logs")
    database.execute("DROP INDEX audit_logs_created_at_idx")
    session = archiving.session()
    measure = measure_configured(session.database, session.settings, compression_ratio=0.3).measure
    assert (measure.rows, measure.eligible_rows, measure.month_rows, measure.oldest) == (0, 0, 0, None)
    assert len(measure.notes) == 2
    assert "ANALYZE" in measure.notes[0]
    assert "no index" in measure.notes[1]


def test_without_an_index_the_statistics_tell_age_and_share(by_day, database):
    database.execute("DROP INDEX audit_logs_created_at_idx")
    session = by_day.session()
    measure = measure_configured(session.database, session.settings, compression_ratio=0.3).measure
    assert measure.eligible_share == pytest.approx(0.7, abs=0.05)
    assert measure.eligible_days == pytest.approx(70, abs=3)


def test_the_dry_run_prices_with_the_same_formulas(archiving, audit):
    session = archiving.session()
    preview = preview_archive(session, DateRange())
    assert preview.rows == OLD_ROWS
    assert preview.load == Load(rows=OLD_ROWS, rows_bytes=preview.rows_bytes, batches=preview.batches)
    assert 0 < preview.month_dollars < preview.write_dollars
