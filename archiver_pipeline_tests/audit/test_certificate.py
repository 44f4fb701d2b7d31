"""A certificate verifies what is so, and nothing else."""

import hashlib
import json

import pytest

from archiver_pipeline.domain.certificate import CertifiedState, CheckOutcome
from archiver_pipeline.domain.expiry import ExpiryOutcome
from archiver_pipeline.engine.audit_verify import verify_trail
from archiver_pipeline.engine.certificate import certify_batch, certify_key, certify_window, parse_key
from archiver_pipeline.engine.expiry import apply_expiry
from archiver_pipeline.errors import ConfigError
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.audit.trails import NAME, link_keys, links
from archiver_pipeline_tests.engine.running import put
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS


@pytest.fixture
def store(archiving) -> S3Store:
    return S3Store(archiving.store_settings())


@pytest.fixture
def archived(archiving, audit):
    archiving.archive()
    return audit


def line_of(audit, key: int):
    """The object that holds the row, its receipt, and the row's line."""
    for found in audit.receipted():
        for line in audit.lines_of(found):
            if json.loads(line)["id"] == key:
                return found, line
    raise AssertionError(key)


def failed(certificate) -> list[str]:
    return [check.what for check in certificate.checks if check.outcome is CheckOutcome.failed]


def test_a_row_is_certified_with_its_version_place_and_proof(archived, bucket, store, database):
    found, line = line_of(archived, 17)
    [one] = certify_key(store, NAME, "17").certificates
    assert one.verifies
    assert (one.state, one.batch_id) == (CertifiedState.archived, found.receipt["batch_id"])
    assert one.row.key == {"id": 17}
    assert one.row.row_sha256 == hashlib.sha256(line.encode()).hexdigest()
    assert archived.lines_of(found)[one.row.row_number - 1] == line
    xmins = [run[0] for run in found.manifest["xmin_runs"] for _ in range(run[1])]
    assert one.row.xmin == xmins[one.row.row_number - 1]
    assert (one.archived_at, one.deleted_at) == (found.manifest["extracted_at"], found.receipt["settled_at"])
    assert (one.retention_days, one.outcome, one.deleted_by_run) == (30, "deleted", "test-run")
    assert one.who.database_role == database.user
    assert one.stored["etag"]
    link = links(bucket)[one.trail.sequence - 1]
    assert one.trail.entry_id in [entry["entry_id"] for entry in link["entries"]]
    assert one.trail.link_sha256 == hashlib.sha256(bucket.read(one.trail.key)).hexdigest()
    assert [check.outcome for check in one.checks] == [CheckOutcome.passed] * 5


def test_a_window_and_a_batch_are_certified(archived, store):
    found = archived.receipted()
    windows = {one.manifest["window"] for one in found}
    certified = [one for window in windows for one in certify_window(store, NAME, window).certificates]
    assert sum(one.rows for one in certified) == OLD_ROWS
    assert all(one.verifies for one in certified)
    [one] = certify_batch(store, NAME, found[0].receipt["batch_id"]).certificates
    assert (one.verifies, one.data_key) == (True, found[0].data_key)


def test_parquet_is_certified_too(archiving, audit, store):
    archiving.archive(format="parquet")
    [one] = certify_key(store, NAME, "id=17").certificates
    assert one.verifies
    assert one.row.row_sha256 is None


def test_a_key_that_is_in_no_archive_is_said_to_be_in_none(archived, store):
    found = certify_key(store, NAME, "100001")
    assert (found.certificates, found.searched) == ((), len(archived.receipted()))
    assert certify_batch(store, NAME, "0" * 20).certificates == ()


def test_a_row_that_was_restored_and_archived_again_is_in_two(archiving, archived, store, restoring):
    restoring.restore(protect_days=0)
    archived.expected = archived.expected + archived.expected - archived.expected
    [one] = certify_key(store, NAME, "17").certificates
    assert [(restored.target, restored.filtered_rows) for restored in one.restored] == [(str(NAME), 0)]
    archiving.archive()
    two = certify_key(store, NAME, "17").certificates
    assert [one.verifies for one in two] == [True, True]
    assert two[0].row.xmin != two[1].row.xmin
    assert [len(one.restored) for one in two] == [1, 0]


def test_what_was_tampered_with_does_not_verify(archived, bucket, store):
    found, _ = line_of(archived, 17)
    [batch_id] = {found.receipt["batch_id"]}

    def certified():
        return certify_batch(store, NAME, batch_id).certificates[0]

    def after(key: str, data: bytes) -> list[str]:
        before = bucket.read(key)
        put(bucket, key, data)
        one = certified()
        put(bucket, key, before)
        assert not one.verifies, key
        return failed(one)

    damaged = bytearray(found.data)
    damaged[len(damaged) // 2] ^= 1
    assert "data object was read back" in after(found.data_key, bytes(damaged))[0]
    receipt_key = f"{found.stem}.receipt.json"
    assert "the trail tells of this very receipt" in after(receipt_key, bucket.read(receipt_key) + b" ")
    manifest_key = f"{found.stem}.manifest.json"
    assert "manifest and receipt fit" in after(manifest_key, bucket.read(manifest_key) + b" ")[0]
    link = link_keys(bucket)[1]
    assert "unbroken chain" in after(link, bucket.read(link) + b" ")[0]
    assert certified().verifies
    for key in bucket.keys(found.stem):
        bucket.client.delete_object(Bucket=bucket.bucket, Key=key)
    assert (certified().state, certified().verifies) == (CertifiedState.lost, False)


def test_an_expired_archive_is_certified_as_such_and_its_trail_is_clean(archiving, archived, store):
    found = archived.receipted()
    session = archiving.session(archive_retention_days=39)
    assert all(settled.outcome is ExpiryOutcome.expired for settled in apply_expiry(session))
    session.close()
    assert verify_trail(store, NAME).is_clean
    [one] = certify_batch(store, NAME, found[0].receipt["batch_id"]).certificates
    assert (one.state, one.verifies) == (CertifiedState.expired, True)
    assert (one.object_sha256, one.deleted_at) == (found[0].receipt["object_sha256"], found[0].receipt["settled_at"])
    assert certify_key(store, NAME, "17").certificates == ()
    assert len(certify_window(store, NAME, found[0].manifest["window"]).certificates) >= 1


def test_without_a_trail_the_rest_is_verified_and_the_lack_is_said(archiving, audit, store):
    from archiver_pipeline.engine.archive import archive_windows

    session = archiving.session()
    session.audit.enabled = False
    archive_windows(session, archiving.windows(session))
    [one] = certify_key(store, NAME, "17").certificates
    assert one.verifies
    assert [check.outcome for check in one.checks].count(CheckOutcome.not_possible) == 2


@pytest.mark.parametrize(
    ("text", "columns", "parts"),
    [
        ("4711", ["id"], {"id": "4711"}),
        ("id=4711", ["id"], {"id": "4711"}),
        ("a,b=c", ["id"], {"id": "a,b=c"}),
        ("a=1,b=x=y", ["a", "b"], {"a": "1", "b": "x=y"}),
        ('{"b": "x,y", "a": 1}', ["a", "b"], {"a": "1", "b": "x,y"}),
    ],
)
def test_keys_are_written_in_three_ways(text, columns, parts):
    assert parse_key(text, columns) == parts


@pytest.mark.parametrize("text", ["1", "a=1", "a=1,c=2", '{"a": 1', "{}", "[]"])
def test_a_key_that_does_not_name_its_columns_is_refused(text):
    with pytest.raises(ConfigError, match="does not name the key a, b"):
        parse_key(text, ["a", "b"])
