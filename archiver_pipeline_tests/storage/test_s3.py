"""The store: creates only, refuses damaged bytes, never takes a part of a listing for the whole."""

import hashlib
from dataclasses import replace

import pytest
from pydantic import SecretStr

from archiver_pipeline.errors import ArchiverError, NetworkError, PermissionDeniedError, StoreError
from archiver_pipeline.storage.s3 import ObjectExistsError, ObjectMissingError, S3Store


@pytest.fixture
def store(archiving):
    return S3Store(archiving.store_settings())


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def file(tmp_path):
    def write(data):
        path = tmp_path / "object"
        path.write_bytes(data)
        return path

    return write


def test_what_is_put_is_read_back(store, file):
    data = bytes(range(256)) * 10_000
    store.put_file("a/b c+é.bin", file(data), sha256_hex=sha256(data))
    blocks = list(store.read_blocks("a/b c+é.bin"))
    assert b"".join(blocks) == data
    assert len(blocks) > 1


def test_an_object_is_never_overwritten(store, file, bucket):
    store.put_file("a", file(b"first"), sha256_hex=sha256(b"first"))
    with pytest.raises(ObjectExistsError):
        store.put_file("a", file(b"second"), sha256_hex=sha256(b"second"))
    store.put_document("d", b"first")
    with pytest.raises(ObjectExistsError):
        store.put_document("d", b"second")
    assert (bucket.read("a"), bucket.read("d")) == (b"first", b"first")


def test_bytes_that_changed_on_the_disk_are_not_stored(store, file, bucket):
    with pytest.raises(ArchiverError):
        store.put_file("a", file(b"damaged"), sha256_hex=sha256(b"as it was"))
    assert bucket.keys() == []


def test_large_objects_go_in_parts_and_are_never_overwritten_either(archiving, file, bucket):
    store = S3Store(replace(archiving.store_settings(), multipart_threshold_bytes=5 << 20))
    data = hashlib.sha256(b"x").digest() * (400 << 10)
    assert len(data) > 12 << 20
    store.put_file("large", file(data), sha256_hex=sha256(data))
    assert bucket.read("large") == data
    with pytest.raises(ObjectExistsError):
        store.put_file("large", file(data), sha256_hex=sha256(data))


def test_a_missing_object(store):
    with pytest.raises(ObjectMissingError, match="nowhere"):
        store.read_document("nowhere")


def test_a_listing_of_many_pages_is_whole_and_in_order(store, bucket):
    expected = sorted(f"many/{number}" for number in range(1205))
    for key in expected:
        bucket.client.put_object(Bucket=bucket.bucket, Key=key, Body=b"")
    bucket.client.put_object(Bucket=bucket.bucket, Key="manyfold", Body=b"")
    assert [found.key for found in store.list_objects("many/")] == expected


def test_nothing_but_a_probe_s_object_can_be_deleted(store, file, bucket):
    store.put_document("archives/db/table/x.receipt.json", b"{}")
    with pytest.raises(StoreError):
        store.delete_probe("archives/db/table/x.receipt.json")
    assert bucket.keys() == ["archives/db/table/x.receipt.json"]


def test_a_missing_bucket_is_named(archiving):
    store = S3Store(replace(archiving.store_settings(), bucket="no-such-bucket"))
    with pytest.raises(ArchiverError, match="no bucket 'no-such-bucket'"):
        store.require_bucket()
    with pytest.raises(ArchiverError):
        list(store.list_objects(""))


def test_wrong_credentials(archiving):
    store = S3Store(replace(archiving.store_settings(), secret_access_key=SecretStr("wrong")))
    with pytest.raises(PermissionDeniedError) as refused:
        store.require_bucket()
    assert refused.value.exit_code == 5
    assert "wrong" not in str(refused.value)


def test_a_store_that_is_not_there(archiving, monkeypatch):
    monkeypatch.setattr("archiver_pipeline.storage.s3._ATTEMPTS", 1)
    store = S3Store(replace(archiving.store_settings(), endpoint="http://127.0.0.1:1"))
    with pytest.raises(NetworkError) as refused:
        store.require_bucket()
    assert refused.value.transient
