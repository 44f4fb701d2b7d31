"""Replacing a document: never over a version that was not read, on stores that can; known of those that cannot."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from archiver_pipeline.config.enums import StorageClass
from archiver_pipeline.errors import PermissionDeniedError, PreflightError
from archiver_pipeline.storage.s3 import ObjectChangedError, S3Store
from archiver_pipeline_tests.storage.test_cold_and_encrypted import client_of, moto_settings
from archiver_pipeline_tests.storage.weak_store import Weakness, weak_store

__all__ = ["moto_settings"]

KEY = "archives/db/a b+é/.restore_watermark.json"


@pytest.fixture
def store(archiving):
    return S3Store(archiving.store_settings())


@pytest.fixture(params=list(Weakness))
def weak(request, archiving, bucket):
    """A store that ignores conditions, and one that refuses them."""
    with weak_store(bucket, request.param) as shown:
        yield S3Store(replace(archiving.store_settings(), endpoint=shown.endpoint))


def test_what_is_not_there_has_no_version(store):
    assert store.read_versioned(KEY) is None


def test_a_missing_bucket_is_not_taken_for_a_missing_object(archiving):
    store = S3Store(replace(archiving.store_settings(), bucket="no-such-bucket"))
    with pytest.raises(PreflightError, match="no-such-bucket"):
        store.read_versioned(KEY)


def test_a_refusal_is_not_taken_for_a_missing_object(archiving):
    store = S3Store(replace(archiving.store_settings(), access_key_id="nobody"))
    with pytest.raises(PermissionDeniedError):
        store.read_versioned(KEY)


def test_a_version_is_replaced_by_who_read_it(store, bucket):
    store.replace_document(KEY, b"1", etag=None)
    data, etag = store.read_versioned(KEY)
    assert data == b"1"
    store.replace_document(KEY, b"2", etag=etag)
    assert bucket.read(KEY) == b"2"
    assert store.replaces_conditionally is True


def test_another_version_is_not_replaced(store, bucket):
    store.replace_document(KEY, b"1", etag=None)
    _, first = store.read_versioned(KEY)
    bucket.client.put_object(Bucket=bucket.bucket, Key=KEY, Body=b"of somebody else")
    for _ in range(2):
        with pytest.raises(ObjectChangedError, match="in between"):
            store.replace_document(KEY, b"2", etag=first)
    assert bucket.read(KEY) == b"of somebody else"


def test_what_was_created_meanwhile_is_not_replaced(store, bucket):
    bucket.client.put_object(Bucket=bucket.bucket, Key=KEY, Body=b"of somebody else")
    with pytest.raises(ObjectChangedError):
        store.replace_document(KEY, b"1", etag=None)
    assert bucket.read(KEY) == b"of somebody else"


def test_what_was_removed_meanwhile_is_not_written_over(store, bucket):
    store.replace_document(KEY, b"1", etag=None)
    _, etag = store.read_versioned(KEY)
    bucket.client.delete_object(Bucket=bucket.bucket, Key=KEY)
    for _ in range(2):
        with pytest.raises(ObjectChangedError):
            store.replace_document(KEY, b"2", etag=etag)
    assert bucket.keys() == []


@pytest.mark.parametrize("exists", [False, True])
def test_of_many_at_once_one_wins(archiving, bucket, exists):
    if exists:
        bucket.client.put_object(Bucket=bucket.bucket, Key=KEY, Body=b"first")
    found = S3Store(archiving.store_settings()).read_versioned(KEY)
    barrier = Barrier(8)

    def write(number):
        store = S3Store(archiving.store_settings())
        barrier.wait()
        try:
            store.replace_document(KEY, b"%d" % number, etag=found[1] if found else None)
        except ObjectChangedError:
            return None
        return b"%d" % number

    with ThreadPoolExecutor(8) as threads:
        winners = [data for data in threads.map(write, range(8)) if data is not None]
    assert winners == [bucket.read(KEY)]


def test_a_weak_store_is_written_and_known_as_weak(weak, bucket):
    weak.replace_document(KEY, b"1", etag=None)
    _, etag = weak.read_versioned(KEY)
    weak.replace_document(KEY, b"2", etag=etag)
    assert weak.replaces_conditionally is False
    assert bucket.read(KEY) == b"2"
    weak.replace_document(KEY, b"3", etag=etag)
    assert bucket.read(KEY) == b"3"


@pytest.mark.parametrize("storage_class", [StorageClass.DEEP_ARCHIVE, StorageClass.STANDARD_IA])
def test_a_document_has_no_class_of_its_own(moto_settings, storage_class):
    settings = replace(moto_settings, storage_class=storage_class)
    store = S3Store(settings)
    store.replace_document(KEY, b"1", etag=None)
    data, etag = store.read_versioned(KEY)
    store.replace_document(KEY, data + b"2", etag=etag)
    assert store.read_versioned(KEY)[0] == b"12"
    assert "StorageClass" not in client_of(settings).head_object(Bucket=settings.bucket, Key=KEY)
    with pytest.raises(ObjectChangedError):
        store.replace_document(KEY, b"3", etag=etag)


def test_a_store_that_says_what_was_removed_is_missing_is_understood(moto_settings):
    """As AWS answers; the server of the other tests says that the condition does not hold."""
    store = S3Store(moto_settings)
    store.replace_document(KEY, b"1", etag=None)
    _, etag = store.read_versioned(KEY)
    client_of(moto_settings).delete_object(Bucket=moto_settings.bucket, Key=KEY)
    for _ in range(2):
        with pytest.raises(ObjectChangedError):
            store.replace_document(KEY, b"2", etag=etag)
    assert store.read_versioned(KEY) is None
