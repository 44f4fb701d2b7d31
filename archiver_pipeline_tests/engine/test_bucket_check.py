"""What `archiver check` says of a bucket: versioning, locks, encryption, policies, lifecycle rules."""

import json
from dataclasses import replace

import pytest

from archiver_pipeline.config.enums import Encryption, ObjectLockMode
from archiver_pipeline.engine.bucket_check import bucket_findings, encryption_findings, lock_findings
from archiver_pipeline.engine.finding import Level
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.storage.cold_store import cold_store
from archiver_pipeline_tests.storage.speaking_store import silent_store

OPEN = {"BlockPublicAcls": True, "IgnorePublicAcls": True, "BlockPublicPolicy": False, "RestrictPublicBuckets": True}


def about(settings, what):
    """The findings of the bucket whose message is about this."""
    return [one for one in bucket_findings(S3Store(settings), "store") if what in one.message]


def only(found):
    [one] = found
    return one


def rule(prefix, **what):
    return {"ID": "tidy", "Status": "Enabled", "Filter": {"Prefix": prefix}} | what


def with_rules(bucket, *rules):
    bucket.client.put_bucket_lifecycle_configuration(
        Bucket=bucket.bucket, LifecycleConfiguration={"Rules": list(rules)}
    )


@pytest.mark.parametrize(
    ("status", "level", "told"),
    [(None, Level.warning, "off"), ("Suspended", Level.warning, "suspended"), ("Enabled", Level.ok, "on")],
)
def test_versioning_says_whether_archives_can_be_replaced_unnoticed(archiving, bucket, status, level, told):
    if status:
        bucket.client.put_bucket_versioning(Bucket=bucket.bucket, VersioningConfiguration={"Status": status})
    found = only(about(archiving.store_settings(), "versioning"))
    assert (found.level, f"versioning: {told}" in found.message) == (level, True)


def test_a_rule_that_deletes_archives_fails(archiving, bucket):
    with_rules(bucket, rule("archives/", Expiration={"Days": 30}))
    found = only(about(archiving.store_settings(), "lifecycle"))
    assert (found.level, found.exit_code) == (Level.failed, 3)
    assert "tidy" in found.message
    assert found.hint


@pytest.mark.parametrize("prefix", ["", "arch", "archives/appdb/"])
def test_a_rule_concerns_us_wherever_it_overlaps_with_our_prefix(archiving, bucket, prefix):
    with_rules(bucket, rule(prefix, Expiration={"Days": 30}))
    assert only(about(archiving.store_settings(), "lifecycle")).level is Level.failed


def test_rules_for_other_keys_or_old_versions_or_switched_off_are_harmless(archiving, bucket):
    with_rules(
        bucket,
        rule("logs/", Expiration={"Days": 30}),
        rule("archives", ID="old", NoncurrentVersionExpiration={"NoncurrentDays": 5}),
        rule("archives", ID="not now", Expiration={"Days": 30}) | {"Status": "Disabled"},
    )
    assert only(about(archiving.store_settings(), "lifecycle")).level is Level.ok


def test_a_rule_that_moves_archives_warns():
    with cold_store() as store:
        store.client.put_bucket_lifecycle_configuration(
            Bucket=store.settings.bucket,
            LifecycleConfiguration={
                "Rules": [rule("archives/", Transitions=[{"Days": 30, "StorageClass": "GLACIER"}])]
            },
        )
        found = only(about(store.settings, "lifecycle"))
    assert (found.level, "GLACIER" in found.message) == (Level.warning, True)


def test_object_lock_and_its_default_are_told(archiving, bucket, locking, lock_bucket):
    assert "has none" in only(about(archiving.store_settings(), "Object Lock")).message
    assert "without a default" in only(about(locking.store_settings(), "Object Lock")).message
    lock_bucket.client.put_object_lock_configuration(
        Bucket=lock_bucket.bucket,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 3}},
        },
    )
    assert "GOVERNANCE, 3 days" in only(about(locking.store_settings(), "Object Lock")).message


def test_public_access_and_the_policy_are_told():
    with cold_store() as store:
        assert only(about(store.settings, "public access")).level is Level.warning
        assert "bucket policy: none" in only(about(store.settings, "bucket policy")).message
        store.client.put_public_access_block(Bucket=store.settings.bucket, PublicAccessBlockConfiguration=OPEN)
        assert "BlockPublicPolicy" in only(about(store.settings, "public access")).message
        store.client.put_public_access_block(
            Bucket=store.settings.bucket, PublicAccessBlockConfiguration=dict.fromkeys(OPEN, True)
        )
        assert only(about(store.settings, "public access")).level is Level.ok


def test_a_policy_that_makes_the_bucket_public_fails(archiving, bucket):
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket.bucket}/*",
    }
    bucket.client.put_bucket_policy(
        Bucket=bucket.bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    found = only(about(archiving.store_settings(), "bucket policy"))
    assert (found.level, found.exit_code) == (Level.failed, 3)


def test_what_the_store_does_not_know_is_said_and_fails_nothing(archiving):
    found = only(about(archiving.store_settings(), "public access"))
    assert (found.level, found.message) == (Level.ok, "public access: the store does not know the question")


def test_the_default_encryption_of_the_bucket_is_told(archiving, bucket):
    settings = archiving.store_settings()
    assert only(about(settings, "default encryption")).level is Level.ok
    assert only(about(replace(settings, encryption=Encryption.BUCKET_DEFAULT), "default encr")).level is Level.warning
    aes = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
    bucket.client.put_bucket_encryption(Bucket=bucket.bucket, ServerSideEncryptionConfiguration=aes)
    assert only(about(settings, "default encryption")).message.endswith("AES256")


@pytest.mark.parametrize(("must_encrypt", "level"), [(False, Level.warning), (True, Level.failed)])
def test_a_store_that_does_not_say_it_encrypts_is_told_by_a_probe(archiving, bucket, must_encrypt, level):
    settings = replace(archiving.store_settings(), encryption=Encryption.SSE_S3)
    tables = (archiving.settings(must_encrypt=must_encrypt),)
    assert only(list(encryption_findings(S3Store(settings), tables, "store"))).level is Level.ok
    with silent_store(bucket.endpoint) as endpoint:
        silent = S3Store(replace(settings, endpoint=endpoint))
        assert only(list(encryption_findings(silent, tables, "store"))).level is level
    assert bucket.keys() == []


def test_nothing_is_tried_that_nobody_asks_for(archiving):
    store, tables = S3Store(archiving.store_settings()), (archiving.settings(),)
    assert [*encryption_findings(store, tables, "store"), *lock_findings(store, tables, "store")] == []


def test_kms_is_compared_by_its_key():
    with cold_store() as store:
        settings = replace(store.settings, encryption=Encryption.SSE_KMS, kms_key_id="key-1")
        [found] = encryption_findings(S3Store(settings), (), "store")
        assert (found.level, "key-1" in found.message) == (Level.ok, True)


def test_a_probe_is_locked_where_archives_are(locking, lock_bucket, archiving):
    settings = replace(locking.store_settings(), object_lock=ObjectLockMode.GOVERNANCE)
    tables = (locking.settings(lock_days=9),)
    assert "for 9 days" in only(list(lock_findings(S3Store(settings), tables, "store"))).message
    irrevocable = replace(settings, object_lock=ObjectLockMode.COMPLIANCE)
    assert [one.level for one in lock_findings(S3Store(irrevocable), tables, "store")] == [Level.ok, Level.warning]
    none = replace(archiving.store_settings(), object_lock=ObjectLockMode.GOVERNANCE)
    assert only(list(lock_findings(S3Store(none), tables, "store"))).level is Level.failed
