"""Too little disk or memory, at whatever moment it runs out: nothing is lost, and a run with enough goes on."""

import pickle
import subprocess
import sys

import pytest

from archiver_pipeline_tests.engine.limited_run import Orders
from archiver_pipeline_tests.engine.running import archive_when_free


def limited(archiving, **limits):
    session = archiving.session(batch_size=16)
    orders = Orders(session.settings, session.database, session.store_settings, **limits)
    session.close()
    return subprocess.run(
        [sys.executable, "-m", "archiver_pipeline_tests.engine.limited_run"],
        input=pickle.dumps(orders),
        capture_output=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("file_bytes", [0, 100, 600, 1_500])
def test_a_disk_that_is_full_stops_the_run(archiving, audit, file_bytes):
    """Staged rows, row versions, checkpoints and objects have different sizes: each limit stops another of them."""
    ended = limited(archiving, file_bytes=file_bytes)
    assert ended.returncode == 6, ended.stderr.decode()
    assert "staging" in ended.stderr.decode()
    assert "Traceback" not in ended.stderr.decode()
    audit.account()
    archive_when_free(archiving)
    audit.account_all_archived()


@pytest.mark.parametrize("memory_mib", [4, 16, 40])
def test_memory_that_runs_out_loses_nothing(archiving, audit, memory_mib):
    """However the process ends: a library that gets no memory may end it at once."""
    ended = limited(archiving, memory_bytes=memory_mib << 20)
    assert ended.returncode != 0
    archive_when_free(archiving)
    audit.account_all_archived()
