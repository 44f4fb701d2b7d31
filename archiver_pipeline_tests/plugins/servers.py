"""Real servers for tests: a PostgreSQL and an S3 server per test process, a database and a bucket per test.

A server that does not come up fails the tests that need it; none is ever skipped for it.
"""

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from archiver_pipeline.sandbox import sample_data
from archiver_pipeline.sandbox.postgres_server import DEFAULT_MAJOR, PostgresServer
from archiver_pipeline.sandbox.s3_server import S3Server
from archiver_pipeline_tests.matrix.postgres_versions import postgres_bin_dir


@dataclass(frozen=True)
class Database:
    """A fresh database of one test, on the shared server."""

    name: str
    host: str
    port: int
    user: str
    password: str
    conninfo: str

    def connect(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A new connection in autocommit, to be used in a `with` or closed."""
        return psycopg.connect(self.conninfo, **{"autocommit": True, **options})

    def execute(self, query: str, params: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement in a connection and transaction of its own; its rows, if it has any."""
        with self.connect() as connection:
            cursor = connection.execute(query.encode(), params)
            return cursor.fetchall() if cursor.description else []


@dataclass(frozen=True)
class Bucket:
    """A fresh bucket of one test, on the shared server, and a prefix in it to put things under."""

    endpoint: str
    bucket: str
    prefix: str
    region: str
    access_key_id: str
    secret_access_key: str
    client: Any = field(repr=False)

    def keys(self, prefix: str = "") -> list[str]:
        """All keys that start with `prefix`, sorted."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", ()))

    def archive_keys(self) -> list[str]:
        """All keys but those of the audit trail, which grows with every look."""
        return [key for key in self.keys() if not key.startswith(f"{self.prefix}/_audit/")]

    def read(self, key: str) -> bytes:
        """The bytes of one object."""
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()


@pytest.fixture(scope="session")
def postgres_major() -> int:
    """The PostgreSQL version under test: ARCHIVER_TEST_POSTGRES, or 16."""
    return int(os.environ.get("ARCHIVER_TEST_POSTGRES", DEFAULT_MAJOR))


@pytest.fixture(scope="session")
def postgres_server(postgres_major: int) -> Iterator[PostgresServer]:
    """The PostgreSQL server of this test process, empty, without durability."""
    server = PostgresServer(bin_dir=postgres_bin_dir(postgres_major), durable=False)
    server.start()
    yield server
    server.stop(immediate=True)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The S3 server of this test process."""
    server = S3Server()
    server.start()
    yield server
    server.stop(immediate=True)


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    """An empty database that goes away after the test, with whoever is still connected to it."""
    with fresh_database(postgres_server) as fresh:
        yield fresh


@pytest.fixture
def other_database(postgres_server: PostgresServer) -> Iterator[Database]:
    """A second one, on the same server."""
    with fresh_database(postgres_server) as fresh:
        yield fresh


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[Bucket]:
    """An empty bucket that goes away after the test with everything in it."""
    with fresh_bucket(s3_server) as fresh:
        yield fresh


@contextmanager
def fresh_database(postgres_server: PostgresServer) -> Iterator[Database]:
    """An empty database until the end of the block."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    postgres_server.create_database(name)
    try:
        yield Database(
            name=name,
            host=postgres_server.host,
            port=postgres_server.port,
            user=postgres_server.user,
            password=postgres_server.password,
            conninfo=postgres_server.dsn(name),
        )
    finally:
        sample_data.drop_database(postgres_server.dsn(), name)


@contextmanager
def fresh_bucket(s3_server: S3Server) -> Iterator[Bucket]:
    """An empty bucket until the end of the block."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3_server.create_bucket(name)
    fresh = Bucket(
        endpoint=s3_server.endpoint,
        bucket=name,
        prefix="archives",
        region=s3_server.region,
        access_key_id=s3_server.access_key_id,
        secret_access_key=s3_server.secret_access_key,
        client=s3_server.client(),
    )
    try:
        yield fresh
    finally:
        # This server deletes a bucket together with its objects.
        fresh.client.delete_bucket(Bucket=name)
