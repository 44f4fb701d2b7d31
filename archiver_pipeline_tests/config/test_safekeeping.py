"""What the file may ask of encryption, TLS and locks, and what it must not leave open."""

import pytest

from archiver_pipeline.config.enums import Encryption, ObjectLockMode, SslMode
from archiver_pipeline_tests.config.conftest import MINIMAL, with_database, with_s3, with_table

TLS = "compliance: {require_tls: true}\n"
CLASS_TLS = "compliance: {data_classifications: {pii: {require_tls: true}}}\n"
ENFORCED = "        critical: true\ncompliance: {enforce_encryption: true}\n"


def tables(loaded):
    return loaded.databases[0].tables


def test_the_default_of_the_bucket_satisfies_what_must_be_encrypted(load):
    loaded = load(with_s3("encryption: bucket-default") + ENFORCED)
    assert loaded.store.encryption is Encryption.BUCKET_DEFAULT
    assert tables(loaded)[0].must_encrypt


def test_a_table_must_be_encrypted_by_its_mark_or_its_classification_only(load):
    assert not tables(load(MINIMAL + "compliance: {enforce_encryption: true}\n"))[0].must_encrypt
    rules = "compliance: {data_classifications: {pii: {require_encryption: true}}}\n"
    classified = with_table("classification: pii").replace("bucket: archive", "bucket: archive\n  encryption: SSE-S3")
    assert tables(load(classified + rules))[0].must_encrypt
    assert not tables(load(classified))[0].must_encrypt


@pytest.mark.parametrize("alias", ["alias/archive", "arn:aws:kms:eu-west-1:111122223333:alias/archive"])
def test_an_alias_is_refused_where_the_answer_must_be_compared(problems, load, alias):
    text = with_s3(f"encryption: SSE-KMS\nkms_key_id: {alias}")
    assert load(text).store.kms_key_id == alias
    assert "can't be compared" in problems(text + ENFORCED)["s3.kms_key_id"].message


@pytest.mark.parametrize("mode", ["disable", "prefer", "require", "verify-ca"])
@pytest.mark.parametrize("rule", ["all", "classification"])
def test_required_tls_needs_a_verified_server(problems, load, mode, rule):
    text = with_database(f"sslmode: {mode}")
    assert load(text)
    demanding = text + (TLS if rule == "all" else f"        classification: pii\n{CLASS_TLS}")
    assert set(problems(demanding)) == {"databases[0].sslmode"}


def test_required_tls_takes_verify_full_unless_something_is_written(load, tmp_path):
    source = load(MINIMAL + TLS).databases[0].primary
    assert (source.sslmode, source.require_tls) == (SslMode.VERIFY_FULL, True)
    own = load(with_database("sslmode: verify-ca\nsslrootcert: certs/ca.pem") + TLS).databases[0].primary
    assert own.sslmode is SslMode.VERIFY_CA
    assert own.sslrootcert.endswith("/certs/ca.pem")
    assert load(with_database("sslrootcert: system") + TLS).databases[0].primary.sslrootcert == "system"
    assert not load(MINIMAL).databases[0].primary.require_tls


def test_a_replica_has_the_certificates_of_its_primary_unless_it_has_its_own(problems, load):
    primary = "sslrootcert: /a/ca.pem\nsslcert: /a/c.pem\nsslkey: /a/c.key\nread_replica: "
    replica = load(with_database(primary + "{host: r, sslrootcert: /b/ca.pem}") + TLS).databases[0].replica
    assert (replica.sslrootcert, replica.sslcert, replica.sslkey) == ("/b/ca.pem", "/a/c.pem", "/a/c.key")
    assert (replica.sslmode, replica.require_tls) == (SslMode.VERIFY_FULL, True)
    assert set(problems(with_database("read_replica: {host: r, sslmode: require}") + TLS)) == {
        "databases[0].read_replica.sslmode"
    }


def test_required_tls_includes_the_way_to_the_store(problems, load):
    assert set(problems(with_s3("endpoint: http://localhost:9000") + TLS)) == {"s3.endpoint"}
    assert load(with_s3("endpoint: https://localhost:9000") + TLS)


def test_every_gap_is_reported_at_once(problems):
    text = with_database("sslmode: require").replace("bucket: archive", "bucket: archive\n  endpoint: http://s")
    text = text.replace("bucket: archive", "bucket: archive\n  object_lock: {mode: compliance}")
    assert set(problems(text + TLS)) == {
        "databases[0].sslmode",
        "s3.endpoint",
        "s3.object_lock.acknowledge_irrevocable",
        "s3.object_lock.retain_days",
    }


def test_a_lock_lasts_until_the_archive_may_expire_where_that_is_written(problems, load):
    text = with_s3("object_lock: {mode: governance}")
    assert set(problems(text)) == {"s3.object_lock.retain_days"}
    loaded = load(text + "        archive_retention_days: 900\n")
    assert (tables(loaded)[0].lock_days, tables(loaded)[0].lock_from_last_row) == (900, True)


def test_a_lock_needs_a_length_and_compliance_an_acknowledgement(load):
    loaded = load(with_s3("object_lock: {mode: compliance, retain_days: 10, acknowledge_irrevocable: true}"))
    assert loaded.store.object_lock is ObjectLockMode.COMPLIANCE
    assert (tables(loaded)[0].lock_days, tables(loaded)[0].lock_from_last_row) == (10, False)
    assert tables(load(MINIMAL))[0].lock_days is None
