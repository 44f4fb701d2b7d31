"""One cluster for all tests that need it, and a workplace per test."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from archiver_pipeline_tests.cli.workplace import Workplace, Workshop, open_workplace
from archiver_pipeline_tests.deployment.cluster import Cluster, fill, running_cluster
from archiver_pipeline_tests.plugins.servers import Bucket, Database, fresh_bucket, fresh_database

DATABASES = ("one", "two")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, postgres_server, s3_server) -> Iterator[Cluster]:
    """Storage, code server, webserver and daemon, over two source databases."""
    with ExitStack() as stack:
        storage = stack.enter_context(fresh_database(postgres_server))
        databases = {name: stack.enter_context(fresh_database(postgres_server)) for name in DATABASES}
        bucket = stack.enter_context(fresh_bucket(s3_server))
        fill(databases, bucket)
        folder = tmp_path_factory.mktemp("cluster")
        yield stack.enter_context(running_cluster(folder, storage, databases, bucket))


@pytest.fixture
def workplace(tmp_path: Path, database: Database, bucket: Bucket, workshop: Workshop) -> Iterator[Workplace]:
    """What the `archiver` command needs: folder, configuration, Dagster home, database with a table, bucket."""
    yield from open_workplace(tmp_path, database, bucket, workshop)
