"""Buckets and sessions for archives that must be encrypted or locked."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from archiver_pipeline.sandbox.s3_server import S3Server
from archiver_pipeline_tests.plugins.archiving import Archiving, create_audit_table
from archiver_pipeline_tests.plugins.servers import Bucket, Database


@pytest.fixture
def lock_bucket(s3_server: S3Server, bucket: Bucket) -> Iterator[Bucket]:
    """An empty bucket with Object Lock. What is locked in it stays until the server goes away."""
    name = f"lock-{uuid4().hex[:12]}"
    s3_server.create_bucket(name, object_lock=True)
    yield replace(bucket, bucket=name)
    try:
        bucket.client.delete_bucket(Bucket=name)
    except ClientError:
        return


@pytest.fixture
def locking(lock_bucket: Bucket, database: Database, tmp_path: Path) -> Iterator[Archiving]:
    """As `archiving`, with its table, in a bucket with Object Lock."""
    create_audit_table(database, old=12)
    factory = Archiving(database, lock_bucket, tmp_path / "staging")
    yield factory
    for session in factory.opened:
        session.close()
