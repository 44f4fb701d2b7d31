"""The sandbox S3 server: private, enforcing signatures, keeping its data, gone when stopped."""

from pathlib import Path

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError

from archiver_pipeline.sandbox.s3_server import S3Server
from archiver_pipeline_tests.sandbox.waiting import has_ended


@pytest.fixture
def server():
    with S3Server() as server:
        yield server


def put(server, key="key", body=b"body"):
    server.client().put_object(Bucket=server.bucket, Key=key, Body=body)


def get(server, key="key"):
    return server.client().get_object(Bucket=server.bucket, Key=key)["Body"].read()


def sockets(server):
    return [path for port in server._ports.values() for path in Path("/tmp").glob(f"seaweedfs-*{port}.sock")]


def test_two_servers_at_once_share_nothing(server):
    with S3Server() as other:
        put(server, body=b"one")
        put(other, body=b"two")
        assert (get(server), get(other)) == (b"one", b"two")


def test_it_listens_on_loopback_only(server):
    listening = [c.laddr.ip for c in psutil.Process(server.pid).net_connections() if c.status == "LISTEN"]
    assert set(listening) == {"127.0.0.1"}


@pytest.mark.parametrize("immediate", [False, True])
def test_stop_leaves_nothing(server, immediate):
    put(server)
    process = psutil.Process(server.pid)
    guard = process.parent()
    server.stop(immediate=immediate)
    assert all(map(has_ended, [process, guard]))
    assert not server.data_dir.exists()
    assert sockets(server) == []


@pytest.mark.parametrize("immediate", [False, True])
def test_restart_keeps_the_objects_and_the_address(server, immediate):
    put(server)
    before = server.endpoint
    server.restart(immediate=immediate)
    assert server.endpoint == before
    assert get(server) == b"body"


def test_a_data_directory_opens_again(tmp_path):
    with S3Server(tmp_path, secret_access_key="a secret that stays") as first:
        put(first)
    with S3Server(tmp_path, secret_access_key="a secret that stays") as second:
        assert get(second) == b"body"


def test_a_wrong_secret_is_refused(server):
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=server.region,
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key="wrong",
    )
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client.list_objects_v2(Bucket=server.bucket)


def test_a_bucket_is_never_created_by_writing_into_it(server):
    with pytest.raises(ClientError, match="NoSuchBucket"):
        server.client().put_object(Bucket="not-there", Key="key", Body=b"")


def test_many_buckets_take_writes(server):
    for number in range(40):
        server.create_bucket(f"many-{number}")
        server.client().put_object(Bucket=f"many-{number}", Key="key", Body=b"x")
