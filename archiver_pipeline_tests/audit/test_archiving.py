"""What runs, restores and validations tell the trail, and that nothing goes on without it."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from archiver_pipeline.domain.audit import AuditKind, TrailFindingKind
from archiver_pipeline.domain.validation import ValidationRequest
from archiver_pipeline.engine import settlement
from archiver_pipeline.engine.audit_verify import verify_trail
from archiver_pipeline.engine.recording import record_refusal
from archiver_pipeline.engine.validate import validate_table
from archiver_pipeline.errors import ArchiverError, LockHeldError, NetworkError, PermissionDeniedError, StoreError
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.audit.trails import NAME, entries, link_keys, links
from archiver_pipeline_tests.engine.faults import InterruptedRunError
from archiver_pipeline_tests.engine.running import put
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS

BATCHES = 6


@pytest.fixture
def store(archiving) -> S3Store:
    return S3Store(archiving.store_settings())


def sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_a_run_is_told_from_its_plan_to_its_report(archiving, audit, bucket, store, monkeypatch):
    monkeypatch.setenv("ARCHIVER_ACTOR", "carol of records")
    report = archiving.archive()
    told = entries(bucket)
    kinds = [entry["kind"] for entry in told]
    assert kinds[:2] == ["configuration", "plan"]
    assert kinds[-1] == "report"
    batches = [entry["facts"] for entry in told if entry["kind"] == "batch"]
    assert {facts["fate"] for facts in batches} == {"deleted"}
    assert len(batches) == sum(window.batches for window in report.windows)
    for found in audit.receipted():
        [facts] = [facts for facts in batches if facts["batch_id"] == found.receipt["batch_id"]]
        assert facts["document_sha256"] == sha256(bucket.read(facts["document_key"]))
        assert facts["manifest_sha256"] == sha256(bucket.read(f"{found.stem}.manifest.json"))
        for name in ("rows", "rows_sha256", "object_sha256", "first_row_time", "last_row_time"):
            assert facts[name] == found.manifest[name]
    assert told[-1]["facts"]["rows"] == OLD_ROWS
    assert {entry["who"]["actor"] for entry in told} == {"carol of records"}
    settings = told[0]["facts"]["settings"]
    assert (settings["table"]["retention_days"], settings["store"]["bucket"]) == (30, bucket.bucket)
    assert verify_trail(store, NAME).is_clean
    audit.account_all_archived()


def test_no_row_and_no_secret_is_in_a_trail(archiving, audit, bucket):
    archiving.archive()
    content = b"".join(map(bucket.read, link_keys(bucket))).decode()
    assert bucket.secret_access_key not in content
    assert archiving.database.password not in content
    # What every row of the table holds.
    assert "actor \\" not in content
    assert "line\\nbreak" not in content


def test_a_trail_can_be_left_out(archiving, audit, bucket):
    session = archiving.session()
    session.audit.enabled = False
    from archiver_pipeline.engine.archive import archive_windows

    archive_windows(session, archiving.windows(session))
    assert link_keys(bucket) == []
    audit.account_all_archived()


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (AuditKind.plan, PermissionDeniedError("not allowed")),
        (AuditKind.batch, StoreError("said no")),
        (AuditKind.batch, NetworkError("gone")),
    ],
)
def test_without_its_trail_a_table_stops_and_the_next_run_finishes(
    archiving, audit, bucket, store, monkeypatch, kind, error
):
    """The trail fails for plans: nothing is deleted. For batches: what was deleted is pending, and then settled."""
    original = S3Store.put_document

    def failing(self, key, data, **options):
        if "/_audit/" in key and any(entry["kind"] == kind for entry in json.loads(data)["entries"]):
            raise error
        return original(self, key, data, **options)

    with monkeypatch.context() as patch:
        patch.setattr(S3Store, "put_document", failing)
        with pytest.raises(type(error), match=r"audit trail of .* could not be written"):
            archiving.archive()
    assert audit.receipted() == []
    if kind is AuditKind.plan:
        assert len(audit.table_rows()) == audit.expected.total()
    archiving.archive()
    audit.account_all_archived()
    assert verify_trail(store, NAME).is_clean


@pytest.mark.parametrize("point", ["before the entry", "between entry and receipt", "after the receipt"])
def test_a_crash_around_an_entry_ends_with_exact_rows_and_a_full_trail(
    archiving, audit, bucket, store, monkeypatch, point
):
    crashed = []

    def crash() -> None:
        if not crashed:
            crashed.append(True)
            raise InterruptedRunError

    def recording(*arguments):
        if point == "before the entry":
            crash()
        original_record(*arguments)
        if point == "between entry and receipt":
            crash()

    def creating(*arguments):
        original_create(*arguments)
        if point == "after the receipt":
            crash()

    original_record, original_create = settlement.record_receipted, settlement._create_once
    with monkeypatch.context() as patch:
        patch.setattr(settlement, "record_receipted", recording)
        patch.setattr(settlement, "_create_once", creating)
        with pytest.raises(InterruptedRunError):
            archiving.archive(workers=1)
    between = verify_trail(store, NAME)
    assert between.is_clean
    assert any("no receipt yet" in note for note in between.notes) == (point == "between entry and receipt")
    archiving.archive()
    audit.account_all_archived()
    after = verify_trail(store, NAME)
    assert after.is_clean
    assert not any("no receipt yet" in note for note in after.notes)
    told = [entry["facts"]["batch_id"] for entry in entries(bucket, "batch") if entry["facts"]["fate"] != "superseded"]
    assert set(told) == {found.receipt["batch_id"] for found in audit.receipted()}
    assert len(told) - len(set(told)) == (point == "between entry and receipt")


def test_every_receipt_has_its_entry_before_it_is_written(archiving, audit, bucket, monkeypatch):
    """At the instant a receipt is created, the trail in the store tells of its very bytes."""
    seen = []
    original = settlement._create_once

    def creating(session, key, data, *how):
        facts = [entry["facts"] for entry in entries(bucket, "batch")]
        seen.append(any(one["document_key"] == key and one["document_sha256"] == sha256(data) for one in facts))
        original(session, key, data, *how)

    monkeypatch.setattr(settlement, "_create_once", creating)
    archiving.archive()
    assert len(seen) >= BATCHES - 1
    assert all(seen)


def test_receipts_are_held_against_the_trail(archiving, audit, bucket, store):
    archiving.archive()
    receipts = [key for key in bucket.keys() if key.endswith(".receipt.json")]  # noqa: SIM118 - no mapping
    data_keys = [key for key in bucket.keys() if key.endswith(".jsonl.gz")]  # noqa: SIM118 - no mapping
    kept = {key: bucket.read(key) for key in (*receipts, *data_keys)}
    changed = json.loads(kept[receipts[0]]) | {"run_id": "another"}
    put(bucket, receipts[0], json.dumps(changed).encode())
    bucket.client.delete_object(Bucket=bucket.bucket, Key=receipts[1])
    bucket.client.delete_object(Bucket=bucket.bucket, Key=receipts[1].replace("receipt", "manifest"))
    put(bucket, receipts[2].replace(receipts[2][-30:-13], "f" * 17), kept[receipts[2]])
    bucket.client.delete_object(Bucket=bucket.bucket, Key=data_keys[3])
    found = {(finding.kind, finding.subject) for finding in verify_trail(store, NAME).findings}
    assert (TrailFindingKind.untold, receipts[0]) in found
    assert (TrailFindingKind.unproven, receipts[1]) in found
    assert (TrailFindingKind.untold, receipts[2].replace(receipts[2][-30:-13], "f" * 17)) in found
    assert TrailFindingKind.gone in {kind for kind, _ in found}


def test_a_trail_that_is_gone_is_found_when_there_are_receipts(archiving, audit, bucket, store):
    archiving.archive()
    for key in link_keys(bucket):
        bucket.client.delete_object(Bucket=bucket.bucket, Key=key)
    assert [one.kind for one in verify_trail(store, NAME).findings] == [TrailFindingKind.missing]


def test_restores_are_told_object_by_object(archiving, audit, bucket, restoring):
    archiving.archive()
    before = len(links(bucket))
    report = restoring.restore(where="id = 7")
    told = [
        entry["facts"] for link in links(bucket)[before:] for entry in link["entries"] if entry["kind"] == "restore"
    ]
    assert [facts["stage"] for facts in told] == ["begin", *["object"] * len(report.objects), "end"]
    assert told[-1]["restored_rows"] == report.restored_rows == 1
    assert told[-1]["where_sha256"] == sha256(b"id = 7")
    assert sum(facts["filtered_rows"] for facts in told[1:-1]) == OLD_ROWS - 1
    assert all("id = 7" not in json.dumps(facts) for facts in told)


def test_a_validation_is_told_and_fails_without_its_entry(archiving, audit, bucket, monkeypatch):
    archiving.archive()
    request = ValidationRequest(now=datetime.now(UTC), day=datetime.now(UTC).date())
    validate_table(archiving.session(), request)
    [entry] = entries(bucket, "validation")
    assert (entry["facts"]["read_rows"], entry["facts"]["findings"]) == (OLD_ROWS, {})

    def refused(self, key, data, **options):
        assert "/_audit/" in key
        raise PermissionDeniedError("Access Denied")

    monkeypatch.setattr(S3Store, "put_document", refused)
    with pytest.raises(
        PermissionDeniedError, match=r"audit trail of .* could not be written: Access Denied"
    ) as refusal:
        validate_table(archiving.session(), request)
    assert refusal.value.exit_code == 5


def test_a_refusal_is_told_once_and_never_hides_the_error(archiving, audit, bucket, monkeypatch):
    session = archiving.session()
    error = LockHeldError("another run works on it", hint="wait")
    record_refusal(session, error)
    record_refusal(session, error)
    [entry] = entries(bucket, "refusal")
    assert entry["facts"] == {
        "error": "LockHeldError",
        "message": "another run works on it",
        "hint": "wait",
        "exit_code": 4,
    }
    broken = archiving.session(store=replace(archiving.store_settings(), bucket="there-is-none"))
    other = ArchiverError("the first")
    record_refusal(broken, other)
    assert str(other).startswith("the first — the audit trail does not tell of this: ")


def test_a_changed_configuration_is_told_with_what_changed(archiving, audit, bucket):
    archiving.archive()
    archiving.archive(retention_days=31, legal_hold_reason="none")
    changes = [entry["facts"]["changes"] for entry in entries(bucket, "configuration")]
    assert changes == [
        None,
        {"table.legal_hold_reason": [None, "none"], "table.retention_days": [30, 31]},
    ]
