"""A configuration file written from text, and the problems of a wrong one as `path -> problem`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from archiver_pipeline.config import LoadedConfig, load_config
from archiver_pipeline.errors import ConfigError, ConfigProblem

Load = Callable[..., LoadedConfig]
Problems = Callable[..., dict[str, ConfigProblem]]

MINIMAL = """\
s3:
  bucket: archive
databases:
  - name: shop
    host: localhost
    user: archiver
    tables:
      - name: audit_logs
        timestamp_column: created_at
        retention_days: 90
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_text(text: str | bytes, **environ: str) -> LoadedConfig:
        path = tmp_path / "archiver.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path, environ=environ, cwd=tmp_path)

    return load_text


@pytest.fixture
def problems(load: Load) -> Problems:
    def problems_of(text: str | bytes, **environ: str) -> dict[str, ConfigProblem]:
        with pytest.raises(ConfigError) as caught:
            load(text, **environ)
        found = {problem.path: problem for problem in caught.value.problems}
        assert len(found) == len(caught.value.problems), "a place was reported twice"
        return found

    return problems_of


def with_s3(lines: str) -> str:
    """The minimal file with more lines under s3."""
    return MINIMAL.replace("  bucket: archive\n", f"  bucket: archive\n{_indented(lines, 2)}")


def with_database(lines: str) -> str:
    """The minimal file with more lines in its database."""
    return MINIMAL.replace("    user: archiver\n", f"    user: archiver\n{_indented(lines, 4)}")


def with_table(lines: str) -> str:
    """The minimal file with more lines in its table."""
    return MINIMAL + _indented(lines, 8)


def without(line: str) -> str:
    """The minimal file without one of its lines."""
    assert MINIMAL.count(f"{line}\n") == 1
    return MINIMAL.replace(f"{line}\n", "")


def _indented(lines: str, spaces: int) -> str:
    return "".join(f"{' ' * spaces}{line}\n" for line in lines.splitlines())
