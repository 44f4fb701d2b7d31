"""A workplace per test."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from archiver_pipeline_tests.cli.workplace import Workplace, Workshop, open_workplace
from archiver_pipeline_tests.plugins.servers import Bucket, Database


@pytest.fixture
def workplace(tmp_path: Path, database: Database, bucket: Bucket, workshop: Workshop) -> Iterator[Workplace]:
    """What a code location needs: folder, configuration, Dagster home, database with a table, bucket."""
    yield from open_workplace(tmp_path, database, bucket, workshop)


@pytest.fixture
def instance(workplace: Workplace) -> Iterator[dg.DagsterInstance]:
    """The workplace's own Dagster instance, on SQLite files."""
    with dg.DagsterInstance.from_config(str(workplace.dagster_home)) as opened:
        yield opened
