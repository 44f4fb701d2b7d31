"""Objects and documents that are not what was written: nothing of their rows is deleted, and the run says so."""

import gzip
import json

import pytest

from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.compress import compress_batches
from archiver_pipeline.engine.delete import delete_batches
from archiver_pipeline.engine.extract import extract_batches
from archiver_pipeline.engine.upload import upload_batches
from archiver_pipeline.engine.verify import verify_batches
from archiver_pipeline.errors import ArchiverError, ManifestError, StoreError, VerificationError
from archiver_pipeline_tests.engine.running import pending, planned, put, verified
from archiver_pipeline_tests.plugins.archiving import create_audit_table


def uploaded(archiving, session):

    return upload_batches(session, compress_batches(session, extract_batches(session, planned(archiving, session))))


def drop(bucket, key):
    bucket.client.delete_object(Bucket=bucket.bucket, Key=key)


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def with_other_rows(data):
    """Valid gzip with as many rows and the same keys, of which one row says something else."""
    return gzip.compress(gzip.decompress(data).replace(b'"actor":"actor', b'"actor":"Actor', 1))


DAMAGES = {
    "a bit flipped": lambda bucket, key, other: put(bucket, key, flipped(bucket.read(key))),
    "truncated": lambda bucket, key, other: put(bucket, key, bucket.read(key)[:-9]),
    "cut to nothing": lambda bucket, key, other: put(bucket, key, b""),
    "bytes appended": lambda bucket, key, other: put(bucket, key, bucket.read(key) + b"\0"),
    "another batch's object": lambda bucket, key, other: put(bucket, key, bucket.read(other)),
    "other rows": lambda bucket, key, other: put(bucket, key, with_other_rows(bucket.read(key))),
    "deleted": lambda bucket, key, other: drop(bucket, key),
}
PARQUET_DAMAGES = ["a bit flipped", "truncated", "another batch's object"]


@pytest.mark.parametrize(
    ("damage", "data_format"),
    [(damage, "jsonl.gz") for damage in DAMAGES] + [(damage, "parquet") for damage in PARQUET_DAMAGES],
)
def test_damage_before_verify_deletes_nothing(archiving, audit, bucket, damage, data_format):
    session = archiving.session(format=data_format, verify_sample_rows=0)
    upload = uploaded(archiving, session)
    keys = [batch.encoded.key for batch in upload.batches]
    DAMAGES[damage](bucket, keys[2], keys[3])
    with pytest.raises((VerificationError, StoreError)) as found:
        delete_batches(session, verify_batches(session, upload))
    assert keys[2] in str(found.value)
    session.close()
    audit.account()
    assert audit.archived_rows() == []
    archiving.archive(format=data_format)
    audit.account_all_archived()


@pytest.mark.parametrize(
    ("damage", "data_format"),
    [(damage, "jsonl.gz") for damage in DAMAGES] + [(damage, "parquet") for damage in PARQUET_DAMAGES],
)
def test_damage_before_a_pending_batch_is_settled(archiving, audit, bucket, damage, data_format):
    """Its rows are still in the table: they are archived anew under another key."""
    left = pending(archiving, audit, format=data_format)
    other = next(found.data_key for found in audit.objects() if found.data_key != left.data_key)
    DAMAGES[damage](bucket, left.data_key, other)
    report = archiving.archive(format=data_format)
    assert [batch.outcome for batch in report.settled_before] == [Outcome.superseded]
    audit.account_all_archived()


@pytest.mark.parametrize("damage", ["a bit flipped", "bytes appended", "other rows", "deleted"])
def test_damage_to_the_only_copy_is_never_receipted(archiving, audit, bucket, damage):
    """The delete committed and the object is damaged since: the table stops, and stays stopped, until it is mended."""
    left = pending(archiving, audit, "after a delete committed")
    other = next(found.data_key for found in audit.objects() if found.data_key != left.data_key)
    DAMAGES[damage](bucket, left.data_key, other)
    for _ in range(2):
        with pytest.raises((VerificationError, StoreError)):
            archiving.archive()
    assert f"{left.stem}.receipt.json" not in bucket.keys()  # noqa: SIM118 - not a mapping
    put(bucket, left.data_key, left.data)
    archiving.archive()
    audit.account_all_archived()


def without(name):
    def change(manifest):
        del manifest[name]
        return manifest

    return change


MANIFESTS = {
    "garbage": lambda manifest: b"\x00garbage",
    "no object": lambda manifest: b"[1, 2]",
    "empty": lambda manifest: b"",
    "a future version": lambda manifest: manifest | {"format_version": 2},
    "no version": without("format_version"),
    "an unknown field": lambda manifest: manifest | {"compression": "none"},
    "a missing field": without("system_identifier"),
    "another table": lambda manifest: manifest | {"table": "other"},
    "another schema": lambda manifest: manifest | {"schema": "other"},
    "another database": lambda manifest: manifest | {"database": "other"},
    "another batch": lambda manifest: manifest | {"batch_id": "0" * 20},
    "another object": lambda manifest: manifest | {"data_key": "archives/appdb/other/x.jsonl.gz"},
    "too many rows": lambda manifest: manifest | {"rows": manifest["rows"] + 1},
    "too few rows": lambda manifest: manifest | {"rows": manifest["rows"] - 1},
    "no keys": lambda manifest: manifest | {"keys": []},
    "keys of another type": lambda manifest: manifest | {"keys": [["x"] * manifest["rows"]]},
    "broken runs": lambda manifest: manifest | {"xmin_runs": [[5]]},
    "a negative run": lambda manifest: manifest | {"xmin_runs": [[5, -1], [5, manifest["rows"] + 1]]},
    "another key column": lambda manifest: manifest | {"primary_key": ["actor"]},
}


@pytest.mark.parametrize(
    ("change", "rows_are"),
    [(change, "in the table") for change in MANIFESTS]
    + [(change, "gone") for change in ("garbage", "a future version", "too few rows", "keys of another type")],
)
def test_a_manifest_that_cannot_be_trusted_stops_the_table(archiving, audit, bucket, change, rows_are):
    point = "after a manifest" if rows_are == "in the table" else "after a delete committed"
    left = pending(archiving, audit, point)
    changed = MANIFESTS[change](dict(left.manifest))
    key = f"{left.stem}.manifest.json"
    put(bucket, key, changed if isinstance(changed, bytes) else json.dumps(changed).encode())
    before, in_table = bucket.archive_keys(), audit.table_rows()
    with pytest.raises(ManifestError) as refused:
        archiving.archive()
    assert refused.value.exit_code == 2
    assert bucket.archive_keys() == before
    assert audit.table_rows() == in_table
    put(bucket, key, json.dumps(left.manifest).encode())
    archiving.archive()
    audit.account_all_archived()


@pytest.mark.parametrize("name", ["rows_sha256", "object_sha256"])
def test_a_manifest_with_another_hash_vouches_for_nothing(archiving, audit, bucket, name):
    left = pending(archiving, audit)
    put(bucket, f"{left.stem}.manifest.json", json.dumps(left.manifest | {name: "0" * 64}).encode())
    report = archiving.archive()
    assert [batch.outcome for batch in report.settled_before] == [Outcome.superseded]
    audit.account_all_archived()


def test_tables_whose_names_begin_alike_are_kept_apart(archiving, bucket):
    """`audit` must not settle, nor count, what is pending of `audit_logs`, and the other way round."""
    for table in ("audit", "audit_logs", '"audit/year=2020"'):
        create_audit_table(archiving.database, table)
    short, long = archiving.ledger("audit"), archiving.ledger("audit_logs")
    left = pending(archiving, long, table="audit_logs")
    report = archiving.archive(table="audit")
    assert report.settled_before == ()
    assert f"{left.stem}.receipt.json" not in bucket.keys()  # noqa: SIM118 - not a mapping
    archiving.archive(table="audit/year=2020")
    for ledger in (short, archiving.ledger("audit/year=2020")):
        assert ledger.old_rows_in_table() == 0
    archiving.archive(table="audit_logs")
    long.account_all_archived()
    short.account_all_archived()


def test_a_schema_and_a_public_table_of_one_name_share_no_key(archiving, bucket):
    archiving.database.execute("CREATE SCHEMA sales")
    create_audit_table(archiving.database, "sales")
    create_audit_table(archiving.database, "sales.sales")
    create_audit_table(archiving.database, "sales.audit_logs")
    ledgers = [
        archiving.ledger("sales"),
        archiving.ledger("sales", schema="sales"),
        archiving.ledger("audit_logs", schema="sales"),
    ]
    archiving.archive(table="sales")
    archiving.archive(table="sales", schema="sales")
    archiving.archive(table="audit_logs", schema="sales")
    for ledger in ledgers:
        ledger.account_all_archived()
    keys = [{found.data_key for found in ledger.objects()} for ledger in ledgers]
    assert all(keys)
    assert len(set.union(*keys)) == sum(map(len, keys))


def test_a_store_that_goes_away_amid_the_run(archiving, audit, bucket):
    """The bucket disappears before the manifests: nothing is deleted without one."""
    session = archiving.session()
    verification = verified(archiving, session)
    session.store.settings = session.store.settings.__class__(
        **{**vars(session.store.settings), "bucket": "no-such-bucket"}
    )
    with pytest.raises(ArchiverError, match="no bucket"):
        delete_batches(session, verification)
    session.close()
    audit.account()
    assert audit.old_rows_in_table() > 0
    again = archiving.session()
    archive_windows(again, archiving.windows(again))
    audit.account_all_archived()
