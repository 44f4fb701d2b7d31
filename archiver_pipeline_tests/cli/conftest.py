"""A workplace per test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from archiver_pipeline_tests.cli.workplace import Workplace, Workshop, open_workplace
from archiver_pipeline_tests.plugins.servers import Bucket, Database


@pytest.fixture
def workplace(tmp_path: Path, database: Database, bucket: Bucket, workshop: Workshop) -> Iterator[Workplace]:
    """The `archiver` command's surroundings: folder, configuration, Dagster home, database with a table, bucket."""
    yield from open_workplace(tmp_path, database, bucket, workshop)
