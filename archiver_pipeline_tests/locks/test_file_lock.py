"""What only a lock file does."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from archiver_pipeline.config.enums import LockType
from archiver_pipeline.domain.lock import LockName
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.errors import LockError, LockHeldError, LockLostError
from archiver_pipeline.locks.file_lock import lock_folder, lock_path, try_file_lock
from archiver_pipeline_tests.locks.keepers import NAME, make_keeper


@pytest.fixture
def keeper(archiving, redis_server, tmp_path):
    return make_keeper(LockType.FILE, archiving, redis_server, tmp_path)


@pytest.fixture
def path(keeper):
    return lock_path(keeper.settings.directory, NAME)


def test_the_file_names_its_holder_and_is_empty_afterwards(keeper, path):
    with keeper.holding():
        for told in (f'"pid":{os.getpid()}', '"host":', '"started_at":', '"since":', '"run_id":"run-1234"'):
            assert told in path.read_text()
    assert path.read_bytes() == b""


def test_a_file_that_was_replaced_is_lost_although_another_is_there(keeper, path):
    first = keeper.acquire()
    path.rename(path.with_suffix(".gone"))
    with keeper.holding() as second:
        with pytest.raises(LockLostError, match="removed or replaced"):
            first.require_held()
        first.release()
        second.require_held()


def test_a_killed_holder_s_child_does_not_keep_it(keeper, start):
    other = start(keeper)
    assert other.ask("acquire").startswith("ok ")
    assert other.ask("child").startswith("ok ")
    other.kill()
    keeper.acquire().release()


def test_a_name_half_written_is_no_name(keeper, path):
    with keeper.holding():
        path.write_bytes(b'{"owner": "ab')
        with pytest.raises(LockHeldError, match="not left its name"):
            keeper.acquire()


def test_a_link_in_the_place_of_the_file_is_not_followed(keeper, path, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.parent.mkdir()
    path.symlink_to(victim)
    with pytest.raises(LockError):
        keeper.acquire()
    assert victim.read_text() == "precious"


def test_names_of_any_length_have_files_of_their_own(keeper):
    long = [LockName(TableName("d" * 63, "s" * 63, "ä" * 31 + end), "b" * 63, "p" * 60) for end in "xy"]
    with keeper.holding(long[0]), keeper.holding(long[1]):
        pass
    assert len({lock_path(Path(), name) for name in long}) == 2


def test_the_folder_of_nobody_s_choice_is_this_user_s():
    assert f"archiver-{os.getuid()}" in str(lock_folder(None))


def test_a_try_tells_the_file_system_and_leaves_no_file(keeper):
    found = try_file_lock(keeper.settings.directory, NAME)
    assert list(keeper.settings.directory.iterdir()) == []
    assert (found.path, found.is_shared) == (keeper.settings.directory, False)
    assert found.file_system not in ("", "unknown")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_folder_that_other_machines_may_share_is_told(keeper, monkeypatch, kind):
    """No such file system can be mounted here: its name is what counts."""
    monkeypatch.setattr("archiver_pipeline.locks.file_lock._file_system", lambda folder: kind)
    assert try_file_lock(keeper.settings.directory, NAME).is_shared


def test_a_folder_that_is_a_file(keeper, tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(LockError, match="Not a directory"):
        replace(keeper, settings=replace(keeper.settings, directory=tmp_path / "x" / "y")).acquire()
