"""A file is written whole or not at all, and is private when it must be."""

import os
import stat

import pytest

from archiver_pipeline.cli.writing import write_whole
from archiver_pipeline.errors import ConfigError, PermissionDeniedError, ResourcesError


def names(folder):
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize(("is_private", "mode"), [(False, 0o644), (True, 0o600)])
def test_a_private_file_is_its_owners(tmp_path, is_private, mode):
    before = os.umask(0o022)
    path = tmp_path / "a.yaml"
    write_whole(path, "text 🐘", is_private=is_private, replace=False)
    os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_text() == "text 🐘"
    assert names(tmp_path) == ["a.yaml"]


def test_a_file_that_appeared_meanwhile_is_not_replaced_and_nothing_is_left(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        write_whole(path, "new", is_private=False, replace=False)
    assert path.read_text() == "mine"
    write_whole(path, "new", is_private=False, replace=True)
    assert (names(tmp_path), path.read_text()) == (["a.yaml"], "new")


@pytest.mark.parametrize(
    ("error", "kind"), [(PermissionError(13, "no"), PermissionDeniedError), (OSError(28, "full"), ResourcesError)]
)
def test_what_the_system_refuses_is_told_and_nothing_is_left(tmp_path, monkeypatch, error, kind):
    def refuse(_):
        raise error

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(kind, match=f"{error.strerror} — name another file"):
        write_whole(tmp_path / "a.yaml", "new", is_private=False, replace=False)
    assert names(tmp_path) == []
