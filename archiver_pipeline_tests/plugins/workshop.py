"""What the tests of the command share, made once per test process."""

from collections.abc import Iterator

import pytest

from archiver_pipeline_tests.cli.workplace import Workshop, open_workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """A loaded program and a Dagster home to copy."""
    yield from open_workshop(tmp_path_factory.mktemp("workshop"))
