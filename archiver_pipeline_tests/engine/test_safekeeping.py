"""Tables whose archives must be encrypted or locked: the store's word is read back before any delete."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from archiver_pipeline.config.enums import Encryption, ObjectLockMode
from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.domain.safekeeping import ObjectRetention, StoredEncryption
from archiver_pipeline.domain.validation import FindingKind, ValidationRequest
from archiver_pipeline.engine.safekeeping import encryption_defect
from archiver_pipeline.engine.validate import validate_table
from archiver_pipeline.errors import StoreError, VerificationError
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.engine.faults import InterruptedRunError, Point, interrupt, place
from archiver_pipeline_tests.engine.running import pending
from archiver_pipeline_tests.plugins.archiving import create_audit_table
from archiver_pipeline_tests.storage.cold_store import settings_at
from archiver_pipeline_tests.storage.speaking_store import silent_store, unlocking_store

DAYS = 10
FEW_ROWS = 12
ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
AES = {
    "ServerSideEncryptionConfiguration": {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
}


@pytest.fixture
def audit(archiving):
    """Few rows: what is asked of each object is asked of all."""
    create_audit_table(archiving.database, old=FEW_ROWS)
    return archiving.ledger()


def encrypted(archiving, **overrides):
    return replace(archiving.store_settings(), **({"encryption": Encryption.SSE_S3} | overrides))


def locked(archiving, mode=ObjectLockMode.GOVERNANCE, **overrides):
    return replace(archiving.store_settings(), object_lock=mode, **overrides)


def algorithms(bucket):
    heads = (bucket.client.head_object(Bucket=bucket.bucket, Key=key) for key in bucket.keys(bucket.prefix))
    return {head.get("ServerSideEncryption") for head in heads}


def findings(archiving, kind, *, store, after=timedelta(0), **overrides):
    now = datetime.now(UTC) + after
    report = validate_table(archiving.session(store=store, **overrides), ValidationRequest(now=now, day=now.date()))
    return [found for found in report.findings if found.kind is kind]


def untouched(audit):
    """Every row is in the table and none is in a receipted object."""
    audit.account()
    return len(audit.receipted()) == 0


@pytest.mark.parametrize(
    ("encryption", "key_id", "algorithm", "answered", "defect"),
    [
        (Encryption.SSE_S3, None, "AES256", None, ""),
        (Encryption.SSE_S3, None, "aws:kms", ARN, "encrypted by aws:kms instead of SSE-S3"),
        (Encryption.SSE_S3, None, None, None, "does not say"),
        (Encryption.SSE_KMS, ARN, "AES256", None, "encrypted by AES256 instead of SSE-KMS"),
        (Encryption.SSE_KMS, ARN, "aws:kms", ARN, ""),
        (Encryption.SSE_KMS, ARN, "aws:kms", ARN[:-1] + "c", "not s3.kms_key_id"),
        (Encryption.SSE_KMS, ARN, "aws:kms", None, "not s3.kms_key_id"),
        (Encryption.SSE_KMS, ARN.rpartition("/")[2], "aws:kms", ARN, ""),
        (Encryption.SSE_KMS, "1234567890ab", "aws:kms", ARN, "not s3.kms_key_id"),
        (Encryption.SSE_KMS, "my-key", "aws:kms", "arn:aws:kms:my-key", ""),
        (Encryption.SSE_KMS, "alias/archive", "aws:kms", ARN, "not s3.kms_key_id"),
        (Encryption.BUCKET_DEFAULT, None, "AES256", None, ""),
        (Encryption.BUCKET_DEFAULT, None, "aws:kms:dsse", ARN, ""),
        (Encryption.BUCKET_DEFAULT, ARN, "AES256", None, "not s3.kms_key_id"),
        (Encryption.BUCKET_DEFAULT, None, None, None, "does not say"),
    ],
)
def test_what_an_answer_lacks(encryption, key_id, algorithm, answered, defect):
    settings = replace(settings_at("http://nowhere"), encryption=encryption, kms_key_id=key_id)
    found = encryption_defect(settings, StoredEncryption(algorithm, answered))
    assert (defect in found) if defect else (found == "")


def test_data_and_documents_are_encrypted(archiving, audit, bucket):
    archiving.archive(store=encrypted(archiving), must_encrypt=True)
    assert algorithms(bucket) == {"AES256"}
    audit.account_all_archived()
    assert findings(archiving, FindingKind.unencrypted, store=encrypted(archiving), must_encrypt=True) == []


def test_no_row_gets_to_a_store_that_does_not_say_it_encrypts(archiving, audit, bucket):
    with silent_store(bucket.endpoint) as endpoint, pytest.raises(VerificationError, match="a probe: the store does"):
        archiving.archive(store=encrypted(archiving, endpoint=endpoint), must_encrypt=True)
    assert untouched(audit)
    assert bucket.keys(audit.prefix) == []


def test_a_store_that_says_nothing_of_an_object_is_refused_before_any_delete(archiving, audit, bucket):
    with (
        silent_store(bucket.endpoint, r"jsonl") as endpoint,
        pytest.raises(VerificationError, match="does not say") as refused,
    ):
        archiving.archive(store=encrypted(archiving, endpoint=endpoint), must_encrypt=True)
    assert "not deleted" in str(refused.value)
    assert untouched(audit)
    assert not [key for key in bucket.keys(bucket.prefix) if key.endswith("manifest.json")]


def test_a_manifest_holds_keys_so_it_must_be_encrypted_too(archiving, audit, bucket):
    with silent_store(bucket.endpoint, r"manifest") as endpoint, pytest.raises(VerificationError, match="manifest"):
        archiving.archive(store=encrypted(archiving, endpoint=endpoint), must_encrypt=True)
    assert untouched(audit)


def test_a_table_that_is_not_marked_asks_nothing(archiving, audit, bucket):
    with silent_store(bucket.endpoint) as endpoint:
        archiving.archive(store=encrypted(archiving, endpoint=endpoint))
    audit.account_all_archived()


def test_the_default_of_the_bucket_counts_if_the_store_says_so(archiving, audit, bucket):
    settings = encrypted(archiving, encryption=Encryption.BUCKET_DEFAULT)
    with pytest.raises(VerificationError, match="does not say"):
        archiving.archive(store=settings, must_encrypt=True)
    assert untouched(audit)
    bucket.client.put_bucket_encryption(
        Bucket=bucket.bucket, ServerSideEncryptionConfiguration=AES["ServerSideEncryptionConfiguration"]
    )
    archiving.archive(store=settings, must_encrypt=True)
    audit.account_all_archived()


def test_a_pending_batch_that_is_not_encrypted_is_archived_anew(archiving, audit, bucket):
    left = pending(archiving, audit)
    report = archiving.archive(store=encrypted(archiving), must_encrypt=True)
    assert [(one.outcome, "does not say" in one.reason) for one in report.settled_before] == [
        (Outcome.superseded, True)
    ]
    audit.account_all_archived()
    assert left.data_key not in {found.data_key for found in audit.receipted()}
    wrong = findings(archiving, FindingKind.unencrypted, store=encrypted(archiving), must_encrypt=True)
    assert not [one for one in wrong if one.subject.startswith(left.stem)]


def test_validation_names_every_object_of_an_archive_that_is_not_encrypted(archiving, audit):
    archiving.archive()
    found = findings(archiving, FindingKind.unencrypted, store=encrypted(archiving), must_encrypt=True)
    assert len(found) == 3 * len(audit.receipted())
    assert "does not say" in found[0].message


def keep(archiving, store, **overrides):
    """A run whose first upload finds no room."""
    with pytest.MonkeyPatch.context() as patch:
        point = Point("archiver_pipeline.storage.s3:S3Store", "put_file", before=True)
        place(point, lambda: (_ for _ in ()).throw(StoreError("no room")), patch.setattr)
        return archiving.archive(store=store, workers=1, **overrides).kept


def test_a_kept_batch_that_is_not_encrypted_gets_no_manifest(archiving, audit, bucket, tmp_path):
    """It may have been uploaded by an earlier run; encryption is not added to an object that is there."""
    store = encrypted(archiving, local_fallback_dir=tmp_path / "kept")
    assert keep(archiving, store, must_encrypt=True)
    with silent_store(bucket.endpoint, r"jsonl") as endpoint, pytest.raises(VerificationError, match="does not say"):
        archiving.archive(store=replace(store, endpoint=endpoint), must_encrypt=True)
    assert untouched(audit)
    assert not [key for key in bucket.keys(bucket.prefix) if key.endswith("manifest.json")]
    archiving.archive(store=store, must_encrypt=True)
    audit.account_all_archived()


def test_a_kept_batch_is_locked_before_its_rows_go(locking, lock_bucket, tmp_path):
    store = locked(locking, local_fallback_dir=tmp_path / "kept")
    kept = keep(locking, store, lock_days=DAYS)
    with (
        unlocking_store(lock_bucket.endpoint, r"jsonl\.gz") as endpoint,
        pytest.raises(VerificationError, match="not locked"),
    ):
        locking.archive(store=replace(store, endpoint=endpoint), lock_days=DAYS)
    assert untouched(locking.ledger())
    locking.archive(store=store, lock_days=DAYS)
    assert all(S3Store(store).retention_of(one.key) for one in kept)


def test_archives_are_locked_and_can_not_be_deleted(locking, lock_bucket):
    locking.archive(store=locked(locking), lock_days=DAYS)
    ledger = locking.ledger()
    keys = lock_bucket.keys(locking.ledger().prefix)
    assert len(keys) == 3 * len(ledger.receipted()) > 0
    store = S3Store(locking.store_settings())
    wanted = ObjectRetention("GOVERNANCE", datetime.now(UTC) + timedelta(days=DAYS, minutes=-5))
    assert all(found is not None and found.covers(wanted) for found in map(store.retention_of, keys))
    versions = lock_bucket.client.list_object_versions(Bucket=lock_bucket.bucket)["Versions"]
    for version in versions:
        with pytest.raises(ClientError, match="AccessDenied"):
            lock_bucket.client.delete_object(
                Bucket=lock_bucket.bucket, Key=version["Key"], VersionId=version["VersionId"]
            )
    assert findings(locking, FindingKind.unlocked, store=locked(locking), lock_days=DAYS) == []


def test_a_lock_for_the_archives_own_retention_counts_from_its_last_row(locking, lock_bucket):
    days = 400
    locking.archive(store=locked(locking), lock_days=days, lock_from_last_row=True)
    store = S3Store(locking.store_settings())
    for found in locking.ledger().receipted():
        last = datetime.fromisoformat(found.receipt["last_row_time"])
        assert store.retention_of(found.data_key).until == last + timedelta(days=days)


def test_rows_so_old_that_their_archive_may_expire_at_once_need_no_lock(locking, lock_bucket):
    locking.archive(store=locked(locking), lock_days=1, lock_from_last_row=True)
    assert locking.ledger().receipted()
    store = S3Store(locking.store_settings())
    assert {store.retention_of(key) for key in lock_bucket.keys(locking.ledger().prefix)} == {None}


@pytest.mark.parametrize("versioning", ["Enabled", None])
def test_a_bucket_without_object_lock_is_refused_before_any_delete(archiving, audit, bucket, versioning):
    """With versions but without locks this store answers well to a lock, and keeps none."""
    if versioning:
        bucket.client.put_bucket_versioning(Bucket=bucket.bucket, VersioningConfiguration={"Status": versioning})
    with pytest.raises((StoreError, VerificationError)):
        archiving.archive(store=locked(archiving), lock_days=DAYS)
    assert untouched(audit)


@pytest.mark.parametrize("keys", [r"jsonl\.gz", "manifest"])
def test_a_store_that_shows_no_lock_is_refused_before_any_delete(locking, lock_bucket, keys):
    ledger = locking.ledger()
    with (
        unlocking_store(lock_bucket.endpoint, keys) as endpoint,
        pytest.raises(VerificationError, match="not locked instead of GOVERNANCE"),
    ):
        locking.archive(store=locked(locking, endpoint=endpoint), lock_days=DAYS)
    assert untouched(ledger)


def test_a_pending_batch_without_a_lock_is_locked_before_its_rows_go(locking, lock_bucket):
    ledger = locking.ledger()
    left = pending(locking, ledger)
    report = locking.archive(store=locked(locking), lock_days=DAYS)
    assert [one.outcome for one in report.settled_before] == [Outcome.deleted]
    store = S3Store(locking.store_settings())
    assert all(store.retention_of(left.stem + suffix) for suffix in (".jsonl.gz", ".manifest.json", ".receipt.json"))
    ledger.account_all_archived()


def test_a_batch_that_never_gets_to_its_delete_is_not_locked(locking, lock_bucket):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedRunError):
        place(Point("archiver_pipeline.engine.archive", "verify_batches"), interrupt, patch.setattr)
        locking.archive(store=locked(locking), lock_days=DAYS)
    store = S3Store(locking.store_settings())
    keys = lock_bucket.keys(locking.ledger().prefix)
    assert keys
    assert {store.retention_of(key) for key in keys} == {None}


def test_validation_names_locks_that_are_missing_or_too_short(locking):
    locking.archive(store=locked(locking), lock_days=DAYS)
    batches = len(locking.ledger().receipted())
    store = locked(locking)
    longer = findings(locking, FindingKind.unlocked, store=store, lock_days=DAYS + 5)
    assert len(longer) == 3 * batches
    assert "GOVERNANCE until" in longer[0].message
    stronger = locked(locking, ObjectLockMode.COMPLIANCE)
    assert len(findings(locking, FindingKind.unlocked, store=stronger, lock_days=DAYS)) == 3 * batches
    over = timedelta(days=DAYS + 6)
    assert findings(locking, FindingKind.unlocked, store=store, lock_days=DAYS + 5, after=over) == []


def test_validation_names_archives_made_before_there_was_a_lock(locking):
    locking.archive()
    found = findings(locking, FindingKind.unlocked, store=locked(locking), lock_days=DAYS)
    assert {one.message.split(",")[0] for one in found} == {"not locked"}
