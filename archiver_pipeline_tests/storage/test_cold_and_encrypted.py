"""What the real server of the other tests lacks: cold classes and KMS. moto knows them; it proves nothing else."""

import hashlib
from dataclasses import replace
from uuid import uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from archiver_pipeline.config.effective import StoreSettings
from archiver_pipeline.config.enums import AddressingStyle, Encryption, StorageClass
from archiver_pipeline.errors import StoreError
from archiver_pipeline.storage.s3 import S3Store

CONTENT = b"rows\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def moto_settings():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = StoreSettings(
        bucket=f"cold-{uuid4().hex}",
        endpoint=f"http://{host}:{port}",
        prefix="archives",
        region="us-east-1",
        storage_class=StorageClass.STANDARD,
        encryption=Encryption.NONE,
        kms_key_id=None,
        multipart_threshold_bytes=64 << 20,
        access_key_id="moto",
        secret_access_key=SecretStr("moto"),
        addressing_style=AddressingStyle.PATH,
        local_fallback_dir=None,
    )
    client_of(settings).create_bucket(Bucket=settings.bucket)
    yield settings
    server.stop()


def client_of(settings):
    return boto3.client(
        "s3", endpoint_url=settings.endpoint, region_name="us-east-1", aws_access_key_id="m", aws_secret_access_key="m"
    )


def stored(settings, tmp_path, key="archives/x.jsonl.gz"):
    """An object put by the store, and what the server then says of it."""
    path = tmp_path / "object"
    path.write_bytes(CONTENT)
    store = S3Store(settings)
    store.put_file(key, path, sha256_hex=SHA256)
    return store, lambda: client_of(settings).head_object(Bucket=settings.bucket, Key=key)


@pytest.mark.parametrize("storage_class", [StorageClass.GLACIER, StorageClass.DEEP_ARCHIVE])
def test_a_cold_object_is_readable_until_it_was_verified(moto_settings, tmp_path, storage_class):
    store, head = stored(replace(moto_settings, storage_class=storage_class), tmp_path)
    assert "StorageClass" not in head()
    assert b"".join(store.read_blocks("archives/x.jsonl.gz")) == CONTENT
    store.move_to_class("archives/x.jsonl.gz", SHA256)
    assert head()["StorageClass"] == storage_class.value


def test_a_copy_with_another_checksum_is_refused(moto_settings, tmp_path):
    store, _ = stored(replace(moto_settings, storage_class=StorageClass.GLACIER), tmp_path)
    with pytest.raises(StoreError, match="verified checksum"):
        store.move_to_class("archives/x.jsonl.gz", hashlib.sha256(b"other").hexdigest())


@pytest.mark.parametrize("storage_class", [StorageClass.STANDARD_IA, StorageClass.GLACIER_IR])
def test_a_warm_class_is_set_at_once(moto_settings, tmp_path, storage_class):
    store, head = stored(replace(moto_settings, storage_class=storage_class), tmp_path)
    assert head()["StorageClass"] == storage_class.value
    store.move_to_class("archives/x.jsonl.gz", SHA256)
    assert head()["StorageClass"] == storage_class.value


def test_documents_stay_readable_in_a_cold_table(moto_settings):
    settings = replace(moto_settings, storage_class=StorageClass.DEEP_ARCHIVE)
    S3Store(settings).put_document("archives/x.receipt.json", b"{}")
    assert "StorageClass" not in client_of(settings).head_object(Bucket=settings.bucket, Key="archives/x.receipt.json")


@pytest.mark.parametrize(
    ("encryption", "key_id", "said"), [(Encryption.SSE_S3, None, "AES256"), (Encryption.SSE_KMS, "key-1", "aws:kms")]
)
def test_encryption_is_asked_for(moto_settings, tmp_path, encryption, key_id, said):
    _, head = stored(replace(moto_settings, encryption=encryption, kms_key_id=key_id), tmp_path)
    assert head()["ServerSideEncryption"] == said
    assert key_id is None or key_id in head()["SSEKMSKeyId"]
