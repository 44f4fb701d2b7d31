"""Real archives, damaged in every way that can be thought of: validate finds each, and changes nothing it may not."""

import hashlib
import json
import os
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from archiver_pipeline.domain.layout import batch_stem_of
from archiver_pipeline.domain.validation import (
    MOST_BUCKETS,
    FindingKind,
    ValidationRequest,
    buckets_of,
)
from archiver_pipeline.engine import examination, repair
from archiver_pipeline.engine.duplicates import ArchivedVersions, DuplicateSearch
from archiver_pipeline.engine.validate import validate_table
from archiver_pipeline.errors import ConfigError, LockHeldError, NetworkError, PreflightError, StoreError
from archiver_pipeline.postgres.advisory_lock import acquire_table_lock
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline.storage.s3 import ObjectColdError, S3Store
from archiver_pipeline_tests.engine.faults import POINTS, InterruptedRunError, interrupt, place
from archiver_pipeline_tests.engine.running import pending, put
from archiver_pipeline_tests.engine.test_store_damage import DAMAGES, PARQUET_DAMAGES, drop
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, create_audit_table

IN_TWO_DAYS = timedelta(days=2)
LATE = timedelta(days=10)


def asked(*, after=timedelta(0), **options):
    """A request as a face makes it, `after` some time."""
    now = datetime.now(UTC) + after
    return ValidationRequest(now=now, day=options.pop("day", now.date()), **options)


def validate(archiving, *, after=timedelta(0), overrides=None, **options):
    return validate_table(archiving.session(**(overrides or {})), asked(after=after, **options))


def kinds(findings):
    return {finding.kind.value for finding in findings}


def found(archiving, **options):
    """Kinds and subjects of all findings."""
    return {(finding.kind.value, finding.subject) for finding in validate(archiving, **options).findings}


def rewrite(bucket, key, change):
    put(bucket, key, json.dumps(change(json.loads(bucket.read(key)))).encode())


def contents(bucket):
    return {key: bucket.read(key) for key in bucket.archive_keys()}


@pytest.fixture
def archived(archiving, audit):
    """The batches of a table that is archived, in key order."""
    archiving.archive()
    stored = audit.receipted()
    assert len(stored) > 4
    return stored


@pytest.mark.parametrize("data_format", ["jsonl.gz", "parquet"])
@pytest.mark.matrix
def test_what_was_archived_is_valid_and_stays_as_it_is(archiving, audit, bucket, data_format):
    archiving.archive(format=data_format)
    before = contents(bucket)
    report = validate(archiving)
    assert (report.findings, report.notes, report.warnings, report.repairs) == ((), (), (), ())
    assert report.is_clean
    assert not report.is_empty
    assert report.rows == report.read_rows == report.audited_rows == OLD_ROWS
    assert report.batches["receipted"] == report.read_objects == report.readable_objects == len(audit.receipted())
    assert report.read_bytes == report.object_bytes == sum(len(stored.data) for stored in audit.receipted())
    assert report.read_share == 1
    assert contents(bucket) == before
    audit.account_all_archived()


def test_nothing_found_is_neither_valid_nor_a_finding(archiving, audit):
    report = validate(archiving)
    assert report.is_empty
    assert sum(report.batches.values()) == 0


@pytest.mark.parametrize(
    ("damage", "data_format"),
    [(damage, "jsonl.gz") for damage in DAMAGES] + [(damage, "parquet") for damage in PARQUET_DAMAGES],
)
def test_a_damaged_object_is_found(archiving, audit, bucket, damage, data_format):
    archiving.archive(format=data_format)
    hurt, other = audit.receipted()[1], audit.receipted()[2]
    DAMAGES[damage](bucket, hurt.data_key, other.data_key)
    expected = ("missing", hurt.stem) if damage == "deleted" else ("damaged", hurt.data_key)
    assert found(archiving) == {expected}


def test_objects_that_were_swapped_are_both_found(archiving, bucket, archived):
    first, second = archived[1], archived[2]
    put(bucket, first.data_key, second.data)
    put(bucket, second.data_key, first.data)
    assert found(archiving) == {("damaged", first.data_key), ("damaged", second.data_key)}


def test_a_wrong_size_is_found_without_reading(archiving, bucket, archived):
    """Every listing shows it, also on the days on which the object is not read."""
    put(bucket, archived[1].data_key, archived[1].data + b"\0")
    for day in range(MOST_BUCKETS):
        assert found(archiving, sample_percent=1, day=date(2026, 1, 1) + timedelta(days=day)) == {
            ("damaged", archived[1].data_key)
        }


@pytest.mark.parametrize("gone", ["manifest.json", "data"])
def test_a_missing_object_is_found(archiving, bucket, archived, gone):
    stem = archived[1].stem
    drop(bucket, archived[1].data_key if gone == "data" else f"{stem}.{gone}")
    report = validate(archiving)
    [finding] = report.findings
    assert finding.kind is FindingKind.missing
    assert finding.subject == (stem if gone == "data" else f"{stem}.{gone}")
    assert "missing object" in finding.message
    assert finding.next_step


def test_a_receipt_alone_says_that_two_objects_are_missing(archiving, bucket, archived):
    drop(bucket, archived[0].data_key)
    drop(bucket, f"{archived[0].stem}.manifest.json")
    assert found(archiving) == {("missing", archived[0].stem), ("missing", f"{archived[0].stem}.manifest.json")}


def test_a_missing_receipt_is_pending_and_then_a_finding(archiving, bucket, archived):
    drop(bucket, f"{archived[0].stem}.receipt.json")
    young = validate(archiving)
    assert (kinds(young.findings), kinds(young.notes)) == (set(), {"pending"})
    assert found(archiving, after=IN_TWO_DAYS) == {("pending", archived[0].data_key)}


def test_the_receipt_of_another_batch(archiving, bucket, archived):
    put(bucket, f"{archived[0].stem}.receipt.json", bucket.read(f"{archived[1].stem}.receipt.json"))
    findings = validate(archiving).findings
    assert kinds(findings) == {"contradictory"}
    assert {finding.subject for finding in findings} == {archived[0].data_key}
    assert any("batch_id" in finding.message for finding in findings)


def test_the_manifest_of_another_batch(archiving, bucket, archived):
    put(bucket, f"{archived[0].stem}.manifest.json", bucket.read(f"{archived[1].stem}.manifest.json"))
    assert found(archiving) == {("contradictory", archived[0].data_key)}


CHANGES = {
    "rows": lambda document: document["rows"] + 1,
    "rows_bytes": lambda document: document["rows_bytes"] + 1,
    "object_bytes": lambda document: document["object_bytes"] + 1,
    "object_sha256": lambda document: "0" * 64,
    "first_row_time": lambda document: "2020-01-01 00:00:00+00",
    "last_row_time": lambda document: "2020-01-01 00:00:00+00",
    "batch_id": lambda document: "0" * 20,
    "data_key": lambda document: "archives/appdb/other/x.jsonl.gz",
}
ONLY_IN_MANIFEST = {
    "rows_sha256": lambda document: "0" * 64,
    "database": lambda document: "other",
    "schema": lambda document: "other",
    "table": lambda document: "other",
    "window": lambda document: "2020-01-01",
    "window_start": lambda document: "2020-01-01T00:00:00+00:00",
    "window_end": lambda document: "9999-01-01T00:00:00+00:00",
    "keys": lambda document: [document["keys"][0][::-1]],
    "columns": lambda document: document["columns"][1:],
    "system_identifier": lambda document: "1",
}


@pytest.mark.parametrize(
    ("document", "name"),
    [(document, name) for document in ("manifest", "receipt") for name in CHANGES]
    + [("manifest", name) for name in ONLY_IN_MANIFEST]
    + [("receipt", "manifest_sha256")],
)
def test_a_changed_document_is_found(archiving, bucket, archived, document, name):
    """Alone its word is as good as the other's, so that they differ is what is told."""
    change = (CHANGES | ONLY_IN_MANIFEST).get(name, lambda _: "0" * 64)
    rewrite(bucket, f"{archived[1].stem}.{document}.json", lambda fields: fields | {name: change(fields)})
    assert found(archiving) == {("contradictory", archived[1].data_key)}


@pytest.mark.parametrize("name", ["rows", "rows_bytes", "object_bytes", "object_sha256", "rows_sha256", "keys"])
def test_documents_that_agree_on_a_lie_are_found_by_the_data(archiving, bucket, archived, name):
    change = (CHANGES | ONLY_IN_MANIFEST)[name]
    manifest_key, receipt_key = f"{archived[1].stem}.manifest.json", f"{archived[1].stem}.receipt.json"
    rewrite(bucket, manifest_key, lambda fields: fields | {name: change(fields)})
    told = {"manifest_sha256": hashlib.sha256(bucket.read(manifest_key)).hexdigest()}
    told |= {name: change(archived[1].manifest)} if name in archived[1].receipt else {}
    rewrite(bucket, receipt_key, lambda fields: fields | told)
    [finding] = validate(archiving).findings
    assert finding.kind in (FindingKind.damaged, FindingKind.contradictory)
    assert finding.subject == archived[1].data_key


@pytest.mark.parametrize("document", ["manifest", "receipt"])
@pytest.mark.parametrize("content", [b"", b"\x00garbage", b"[1]", b'{"format_version": 2}', b'{"format_version": 1}'])
def test_a_document_that_cannot_be_read_is_found(archiving, bucket, archived, document, content):
    key = f"{archived[1].stem}.{document}.json"
    put(bucket, key, content)
    assert found(archiving) == {("unreadable", key)}


def test_numbers_that_no_integer_holds_are_found(archiving, bucket, archived):
    key = f"{archived[1].stem}.manifest.json"
    rewrite(bucket, key, lambda fields: fields | {"xmin_runs": [[2**64 - 1, fields["rows"]]]})
    put(bucket, f"{archived[1].stem}.receipt.json", bucket.read(f"{archived[1].stem}.receipt.json"))
    rewrite(
        bucket,
        f"{archived[1].stem}.receipt.json",
        lambda fields: fields | {"manifest_sha256": hashlib.sha256(bucket.read(key)).hexdigest()},
    )
    assert found(archiving) == {("contradictory", archived[1].data_key)}


def test_a_batch_that_is_receipted_and_superseded(archiving, bucket, archived):
    receipt = json.loads(bucket.read(f"{archived[0].stem}.receipt.json"))
    mark = {name: receipt[name] for name in ("format_version", "batch_id", "data_key", "manifest_sha256")}
    mark |= {name: receipt[name] for name in ("settled_by", "run_id", "settled_at")} | {"reason": "none"}
    put(bucket, f"{archived[0].stem}.superseded.json", json.dumps(mark).encode())
    assert found(archiving) == {("contradictory", archived[0].data_key)}


def test_a_batch_that_was_copied_to_another_day(archiving, bucket, archived):
    copy = archived[0].stem.replace("/day=", "/day=0")
    for ending in ("jsonl.gz", "manifest.json", "receipt.json"):
        put(bucket, f"{copy}.{ending}", bucket.read(f"{archived[0].stem}.{ending}"))
    report = validate(archiving)
    assert kinds(report.findings) == {"contradictory", "duplicated"}
    assert {batch_stem_of(f.subject) if f.subject.endswith("gz") else f.subject for f in report.findings} == {
        copy,
        archived[0].stem,
    }


def test_an_upload_without_a_manifest_is_orphaned(archiving, audit):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedRunError):
        place(POINTS["upload"], interrupt, patch.setattr)
        archiving.archive()
    young = validate(archiving)
    assert (kinds(young.findings), kinds(young.notes)) == (set(), {"orphaned"})
    assert young.is_empty
    old = validate(archiving, after=IN_TWO_DAYS)
    assert {finding.subject for finding in old.findings} == {stored.data_key for stored in audit.objects()}
    assert all("orphaned" in finding.message for finding in old.findings)


def test_what_is_no_batch_among_the_archives_is_orphaned(archiving, bucket, archived):
    folder = archived[0].stem.rsplit("/", 1)[0]
    put(bucket, f"{folder}/dump.sql", b"x")
    put(bucket, f"{folder}/", b"")
    assert found(archiving, after=IN_TWO_DAYS) == {("orphaned", f"{folder}/dump.sql")}


def test_a_second_data_object_of_a_batch_is_found(archiving, bucket, archived):
    put(bucket, f"{archived[0].stem}.parquet", b"x")
    assert ("contradictory", f"{archived[0].stem}.parquet") in found(archiving)


def test_tables_whose_names_begin_alike_are_kept_apart(archiving, bucket):
    for table in ("audit", "audit_logs"):
        create_audit_table(archiving.database, table)
        archiving.archive(table=table)
    long = archiving.ledger("audit_logs")
    for stored in long.receipted():
        drop(bucket, f"{stored.stem}.manifest.json")
    short = validate(archiving, overrides={"table": "audit"})
    assert short.is_clean
    assert short.rows == OLD_ROWS
    assert not validate(archiving, overrides={"table": "audit_logs"}).is_clean


def test_a_row_that_is_in_the_table_and_archived(archiving, audit, bucket):
    """A receipt written by hand for a batch whose rows were never deleted: nothing worse can be found."""
    left = pending(archiving, audit)
    receipt = {
        "format_version": 1,
        "manifest_sha256": hashlib.sha256(bucket.read(f"{left.stem}.manifest.json")).hexdigest(),
        "outcome": "deleted",
        "settled_by": "test",
        "run_id": "test",
        "settled_at": datetime.now(UTC).isoformat(),
    }
    shared = ("batch_id", "data_key", "object_sha256", "rows", "rows_bytes", "object_bytes")
    receipt |= {name: left.manifest[name] for name in (*shared, "first_row_time", "last_row_time")}
    put(bucket, f"{left.stem}.receipt.json", json.dumps(receipt).encode())
    report = validate(archiving)
    assert [(finding.kind, finding.subject) for finding in report.findings] == [(FindingKind.in_table, left.data_key)]
    assert "10 of 10" in report.findings[0].message
    offline = validate(archiving, offline=True)
    assert offline.is_clean
    assert offline.audited_rows is None
    assert "offline" in offline.warnings[0]


def test_rows_that_came_back_as_other_versions_are_not_found(archiving, audit, archived):
    ids = archived[0].manifest["keys"][0]
    audit.execute(
        "INSERT INTO public.audit_logs SELECT id, now() - interval '45 days', 'restored', NULL, '{}', NULL"
        f" FROM unnest(ARRAY{ids}) AS id"
    )
    assert validate(archiving).is_clean


def test_archives_of_another_cluster_are_not_looked_for_in_this_one(archiving, bucket, archived):
    for stored in archived:
        key = f"{stored.stem}.manifest.json"
        rewrite(bucket, key, lambda fields: fields | {"system_identifier": "1"})
        told = hashlib.sha256(bucket.read(key)).hexdigest()
        rewrite(bucket, f"{stored.stem}.receipt.json", lambda fields, told=told: fields | {"manifest_sha256": told})
    report = validate(archiving)
    assert report.is_clean
    assert report.audited_rows == 0
    assert "another cluster" in report.warnings[0]


def test_row_versions_in_two_receipted_objects(archiving, bucket, archived):
    """A batch copied under another id, its documents made to fit."""
    source, copy_id = archived[0], "f" * len(archived[0].manifest["batch_id"])
    stem = source.stem.replace(source.manifest["batch_id"], copy_id)
    own = {"batch_id": copy_id, "data_key": f"{stem}.jsonl.gz"}
    put(bucket, own["data_key"], source.data)
    put(bucket, f"{stem}.manifest.json", json.dumps(source.manifest | own).encode())
    told = own | {"manifest_sha256": hashlib.sha256(bucket.read(f"{stem}.manifest.json")).hexdigest()}
    put(bucket, f"{stem}.receipt.json", json.dumps(source.receipt | told).encode())
    [finding] = validate(archiving).findings
    assert finding.kind is FindingKind.duplicated
    assert f"{source.manifest['rows']} of its row versions" in finding.message
    assert {finding.subject, finding.message.split()[-1]} == {source.data_key, own["data_key"]}


def versions(name, start, days, keys, cluster="1"):
    begin = datetime(2026, 1, start, tzinfo=UTC)
    table = pa.table({"_xmin": [7] * len(keys), "id": keys})
    return ArchivedVersions(name, cluster, begin, begin + timedelta(days=days), table)


def test_duplicates_are_searched_among_windows_that_overlap():
    search = DuplicateSearch()
    batches = [
        versions("month", 1, 31, [1, 2]),
        versions("day", 5, 1, [2, 3]),
        versions("elsewhere", 6, 1, [1, 2], cluster="2"),
        versions("within itself", 9, 1, [8, 8]),
    ]
    findings = [finding for batch in batches for finding in search.add(batch)] + list(search.finish())
    assert [(finding.subject, finding.message) for finding in findings] == [
        ("day", "1 of its row versions are also in month"),
        ("within itself", "1 of its row versions are in it more than once"),
    ]
    assert list(search.finish()) == []


def test_windows_that_are_over_are_let_go():
    search = DuplicateSearch()
    assert list(search.add(versions("first", 1, 1, [1]))) == []
    assert list(search.add(versions("second", 2, 1, [1]))) == []
    assert [batch.data_key for batch in search._group] == ["second"]


def test_columns_that_changed_are_noted(archiving, audit, database):
    archiving.archive()
    database.execute("ALTER TABLE audit_logs ADD COLUMN origin text, DROP COLUMN amount")
    report = validate(archiving)
    assert report.is_clean
    [note] = report.notes
    assert note.kind is FindingKind.drift
    assert "- amount numeric" in note.message
    assert "+ origin text" in note.message
    assert validate(archiving, offline=True).notes == ()


def test_columns_that_changed_between_archives_are_noted_offline(archiving, audit, database):
    archiving.archive(limit_rows=10)
    database.execute("ALTER TABLE audit_logs ADD COLUMN origin text")
    archiving.archive()
    [note] = validate(archiving, offline=True).notes
    assert (note.kind, "+ origin text" in note.message) == (FindingKind.drift, True)


def test_a_table_whose_key_columns_are_gone_is_not_audited_and_says_so(archiving, archived, database):
    database.execute("ALTER TABLE audit_logs RENAME COLUMN id TO ident")
    report = validate(archiving)
    assert report.audited_rows == 0
    assert "under a key" in report.warnings[0]


@pytest.mark.parametrize("percent", [100, 50, 34, 20, 5, 3.34, 1])
def test_the_rotation_reads_every_object_within_its_days(archiving, archived, percent):
    days = buckets_of(percent)
    assert days == min(MOST_BUCKETS, -(-100 // percent))
    session = archiving.session()
    by_day = [
        validate_table(session, asked(day=date(2026, 2, 11) + timedelta(days=n), sample_percent=percent))
        for n in range(days)
    ]
    assert sum(report.read_objects for report in by_day) == len(archived)
    assert sum(report.read_rows for report in by_day) == OLD_ROWS
    assert all(report.rows == OLD_ROWS for report in by_day)


def test_a_share_is_about_what_was_asked_for():
    requests = [asked(day=date(2026, 1, 1) + timedelta(days=n), sample_percent=5) for n in range(20)]
    ids = [hashlib.sha256(str(n).encode()).hexdigest()[:20] for n in range(4000)]
    shares = [sum(request.reads(batch_id) for batch_id in ids) for request in requests]
    assert sum(shares) == len(ids)
    assert all(120 < share < 280 for share in shares)


@pytest.mark.parametrize("percent", [0, -1, 100.1])
def test_a_share_that_makes_no_sense_is_refused(archiving, audit, percent):
    with pytest.raises(ConfigError, match="percent"):
        validate(archiving, sample_percent=percent)


def test_a_damaged_object_outside_the_share_waits_for_its_day(archiving, bucket, archived):
    DAMAGES["a bit flipped"](bucket, archived[0].data_key, "")
    seen = [found(archiving, day=date(2026, 1, 1) + timedelta(days=n), sample_percent=50) for n in range(2)]
    assert sorted(seen, key=len) == [set(), {("damaged", archived[0].data_key)}]


def test_days_choose_windows_and_a_key_chooses_one_batch(archiving, archived):
    windows = sorted({stored.manifest["window"] for stored in archived})
    first = date.fromisoformat(windows[0])
    only = validate(archiving, start=first, end=first)
    assert only.rows == sum(stored.manifest["rows"] for stored in archived if stored.manifest["window"] == windows[0])
    assert validate(archiving, end=first - timedelta(days=1)).is_empty
    # A window of a month holds each of its days.
    by_month = validate(archiving, start=first, overrides={"window": "month"})
    assert by_month.rows == OLD_ROWS
    for ending in ("jsonl.gz", "manifest.json", "receipt.json"):
        one = validate(archiving, data_key=f"{archived[1].stem}.{ending}")
        assert (one.batches["receipted"], one.rows) == (1, archived[1].manifest["rows"])


@pytest.mark.parametrize(
    "key", ["nonsense", "archives/appdb/audit/year=2026/month=01/day=01/audit_2026-01-01_{}.jsonl.gz"]
)
def test_a_key_of_another_table_is_refused(archiving, audit, key):
    with pytest.raises(ConfigError):
        validate(archiving, data_key=key.format("0" * 20))


def test_cold_objects_are_noted_and_their_documents_checked(archiving, bucket, archived, monkeypatch):
    def cold(store, key):
        if key == archived[0].data_key:
            raise ObjectColdError(f"{key}: cold")
        return whole(store, key)

    whole = S3Store.read_blocks
    monkeypatch.setattr(S3Store, "read_blocks", cold)
    report = validate(archiving)
    assert report.is_clean
    assert [(note.kind, note.subject) for note in report.notes] == [(FindingKind.cold, archived[0].data_key)]
    assert report.notes[0].message.startswith("cold, not read")
    assert report.read_objects == len(archived) - 1
    rewrite(bucket, f"{archived[0].stem}.receipt.json", lambda fields: fields | {"rows": 1})
    assert found(archiving) == {("contradictory", archived[0].data_key)}


def test_an_object_written_while_the_listing_goes_on_is_not_missing(archiving, archived, monkeypatch):
    """A page of the listing was made before the data object was there, the next one after its receipt."""
    seen = S3Store.list_objects
    calls = []

    def first_without_data(store, prefix, **options):
        if "/_audit/" in prefix:
            return seen(store, prefix, **options)
        calls.append(prefix)
        listed = list(seen(store, prefix, **options))
        return [item for item in listed if item.key != archived[0].data_key] if len(calls) == 1 else listed

    monkeypatch.setattr(S3Store, "list_objects", first_without_data)
    assert validate(archiving).is_clean
    assert len(calls) == 2


@pytest.mark.parametrize("server", ["store", "database"])
def test_a_server_that_is_down_is_an_error_not_a_valid_archive(archiving, archived, server):
    session = archiving.session()
    if server == "store":
        session.store = S3Store(replace(session.store_settings, endpoint=f"http://127.0.0.1:{free_port()}"))
    else:
        session.database = replace(session.database, primary=archiving.source(port=free_port()))
    with pytest.raises(NetworkError) as refused:
        validate_table(session, asked())
    if server == "database":
        assert "offline" in refused.value.hint
        assert validate_table(session, asked(offline=True)).is_clean


def test_a_store_that_fails_amid_the_validation_is_an_error(archiving, archived, monkeypatch):
    def failing(store, key):
        if key.endswith("receipt.json"):
            raise StoreError(f"{key}: no")
        return whole(store, key)

    whole = S3Store.read_document
    monkeypatch.setattr(S3Store, "read_document", failing)
    with pytest.raises(StoreError):
        validate(archiving)


def test_a_table_that_is_gone_is_an_error_unless_offline(archiving, archived, database):
    database.execute("DROP TABLE audit_logs")
    with pytest.raises(PreflightError, match="no such table"):
        validate(archiving)
    assert validate(archiving, offline=True).is_clean


def test_files_that_wait_for_their_upload(archiving, archived, tmp_path):
    old, young = tmp_path / "fallback" / "x.jsonl.gz", tmp_path / "fallback" / "young"
    other = tmp_path / "fallback" / archived[0].data_key.replace("/audit_logs/", "/audit/")
    for path in (old, young, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    for path in (old, other):
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    session = archiving.session(store=replace(archiving.store_settings(), local_fallback_dir=tmp_path / "fallback"))
    assert [(f.kind, f.subject) for f in validate_table(session, asked()).findings] == [
        (FindingKind.fallback, str(old))
    ]


@pytest.mark.parametrize("point", ["after a manifest", "after a delete committed"])
def test_repair_settles_a_pending_batch(archiving, audit, point):
    left = pending(archiving, audit, point)
    report = validate(archiving, repair=True)
    assert report.is_clean
    assert [line.split(":")[0] for line in report.repairs] == [left.stem]
    assert (report.batches["pending"], report.audited_rows) == (0, report.rows)
    audit.account()
    archiving.archive()
    audit.account_all_archived()


def test_repair_tells_what_it_could_not_settle_and_settles_the_others(archiving, audit, bucket):
    """The only copy of deleted rows is damaged: it stays as it is."""
    left = pending(archiving, audit, "after a delete committed")
    DAMAGES["a bit flipped"](bucket, left.data_key, "")
    report = validate(archiving, repair=True)
    assert kinds(report.findings) == {"pending", "damaged"}
    assert {batch_stem_of(f.subject) if f.subject.endswith("gz") else f.subject for f in report.findings} == {left.stem}
    assert report.repairs == ()
    put(bucket, left.data_key, left.data)
    assert validate(archiving, repair=True).is_clean
    audit.account()


def test_repair_needs_the_lock_and_gives_it_back(archiving, audit):
    pending(archiving, audit)
    session = archiving.session()
    lock = acquire_table_lock(session.primary, session.name)
    with pytest.raises(LockHeldError):
        validate_table(session, asked(repair=True))
    lock.release()
    assert validate_table(session, asked(repair=True)).repairs
    acquire_table_lock(session.primary, session.name).release()


def test_repair_offline_is_refused(archiving, audit):
    with pytest.raises(ConfigError, match="database"):
        validate(archiving, repair=True, offline=True)


@pytest.fixture
def void(archiving, audit, bucket):
    """A superseded batch beside others that are receipted."""
    left = pending(archiving, audit)
    audit.execute(f"UPDATE public.audit_logs SET actor = 'changed' WHERE id = {left.manifest['keys'][0][0]}")
    archiving.archive()
    assert f"{left.stem}.superseded.json" in bucket.keys()  # noqa: SIM118 - not a mapping
    return left


def test_a_superseded_batch_is_noted(archiving, void):
    report = validate(archiving)
    noted = [note.subject for note in report.notes if note.kind is FindingKind.superseded]
    assert noted == [void.data_key]
    # The interrupted run's uploads without a manifest lie there, too.
    assert kinds(report.notes) == {"superseded", "orphaned"}
    assert report.is_clean


def test_repair_keeps_what_became_void_lately(archiving, void, bucket):
    before = bucket.archive_keys()
    assert validate(archiving, repair=True, after=timedelta(days=100)).repairs == ()
    assert bucket.archive_keys() == before


def aged(monkeypatch, days):
    """As if the database's clock were some days ahead of mark and store."""
    now = repair.source_clock
    monkeypatch.setattr(repair, "source_clock", lambda connection: now(connection) + timedelta(days=days))


def test_repair_removes_only_the_data_of_what_is_long_void(archiving, audit, void, bucket, monkeypatch):
    aged(monkeypatch, 8)
    before = set(bucket.keys())
    report = validate(archiving, repair=True)
    assert [line.split(":")[0] for line in report.repairs] == [void.data_key]
    assert before - set(bucket.keys()) == {void.data_key}
    assert report.is_clean
    assert report.batches["superseded"] == 1
    assert validate(archiving, repair=True).repairs == ()
    audit.account_all_archived()


@pytest.mark.parametrize(
    "doubt",
    ["young store", "young mark", "naive mark", "unreadable mark", "other batch", "other manifest", "no manifest"],
)
def test_repair_removes_nothing_in_doubt(archiving, audit, void, bucket, monkeypatch, doubt):
    mark, manifest = f"{void.stem}.superseded.json", f"{void.stem}.manifest.json"
    now = datetime.now(UTC)
    if doubt == "young store":
        rewrite(bucket, mark, lambda fields: fields | {"settled_at": (now - LATE).isoformat()})
    else:
        aged(monkeypatch, 8)
    if doubt == "young mark":
        rewrite(bucket, mark, lambda fields: fields | {"settled_at": (now + LATE).isoformat()})
    if doubt == "naive mark":
        rewrite(bucket, mark, lambda fields: fields | {"settled_at": "2020-01-01T00:00:00"})
    if doubt == "unreadable mark":
        put(bucket, mark, b"{}")
    if doubt == "other batch":
        rewrite(bucket, mark, lambda fields: fields | {"batch_id": "0" * 20})
    if doubt == "other manifest":
        rewrite(bucket, manifest, lambda fields: fields | {"run_id": "other"})
    if doubt == "no manifest":
        drop(bucket, manifest)
    validate(archiving, repair=True)
    assert void.data_key in bucket.keys()  # noqa: SIM118 - not a mapping
    audit.account_all_archived()


def test_the_store_itself_refuses_to_delete_anything_else(archiving, audit, bucket, void):
    store = archiving.session().store
    receipted = audit.receipted()[0]
    for key in (receipted.data_key, f"{void.stem}.manifest.json", f"{void.stem}.superseded.json", "other/key"):
        with pytest.raises(StoreError, match="not deleted"):
            store.delete_superseded(key)
    put(bucket, f"{void.stem}.receipt.json", b"{}")
    with pytest.raises(StoreError, match="not deleted"):
        store.delete_superseded(void.data_key)
    drop(bucket, f"{void.stem}.receipt.json")
    drop(bucket, f"{void.stem}.superseded.json")
    with pytest.raises(StoreError, match="not deleted"):
        store.delete_superseded(void.data_key)
    assert void.data_key in bucket.keys()  # noqa: SIM118 - not a mapping


def test_orphaned_objects_are_never_removed(archiving, audit, bucket, monkeypatch):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedRunError):
        place(POINTS["upload"], interrupt, patch.setattr)
        archiving.archive()
    aged(monkeypatch, 400)
    before = contents(bucket)
    validate(archiving, repair=True, after=timedelta(days=400))
    assert contents(bucket) == before


def test_every_kind_that_an_examination_finds_has_a_next_step():
    own = {FindingKind.duplicated, FindingKind.fallback, FindingKind.drift}
    assert set(examination.NEXT_STEPS) == set(FindingKind) - own
