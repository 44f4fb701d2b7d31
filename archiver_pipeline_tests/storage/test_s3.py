"""The store: creates only, refuses damaged bytes, never takes a part of a listing for the whole."""

import hashlib
import socket
import threading
from contextlib import contextmanager, suppress
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


def test_a_store_that_hangs_up_amid_its_answer_is_an_error_and_no_endless_loop(archiving, file):
    """botocore would ask whether it may send the body, and read for ever when half of the answer comes."""
    with hanging_up(b"HTTP/1.1 100 Continue\r\n") as (endpoint, requests):
        store = S3Store(replace(archiving.store_settings(), endpoint=endpoint))
        with pytest.raises(NetworkError):
            store.put_file("a", file(b"data"), sha256_hex=sha256(b"data"))
    assert requests
    assert not [request for request in requests if b"100-continue" in request.lower()]


@contextmanager
def hanging_up(answer):
    """A server that says `answer` to every request, and no more: its address, and what was sent to it."""
    requests = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        requests.append(client.recv(1 << 16))
                        client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
