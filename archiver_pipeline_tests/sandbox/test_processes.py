"""A server process is ready or explained, and never outlives whoever started it."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from archiver_pipeline.errors import ResourcesError
from archiver_pipeline.sandbox.processes import ServerProcess, free_port
from archiver_pipeline_tests.sandbox.waiting import has_ended, wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("deaf").touch()
time.sleep(600)
"""


@pytest.fixture
def start(tmp_path):
    started = []

    def start(arguments, **options):
        log = tmp_path / "log"
        server = ServerProcess("server", arguments, log, environment=os.environ, directory=tmp_path, **options)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop(first=signal.SIGKILL)


def test_stop_leaves_no_process(start):
    server = start(SLEEP)
    family = [psutil.Process(server.pid), psutil.Process(server.pid).parent()]
    server.stop()
    server.stop()
    assert all(map(has_ended, family))


def test_a_server_deaf_to_its_signal_is_killed(start, tmp_path: Path):
    server = start([sys.executable, "-c", STUBBORN], grace_seconds=0.2)
    server.wait_until_ready((tmp_path / "deaf").exists, within_seconds=10)
    server.stop()
    assert not psutil.pid_exists(server.pid)


def test_a_server_that_ends_is_explained_by_its_log(start):
    server = start([sys.executable, "-c", "raise SystemExit('the disk is full of cats')"])
    with pytest.raises(ResourcesError, match=r"(?s)ended while starting.*full of cats"):
        server.wait_until_ready(lambda: False, within_seconds=10)


def test_a_server_that_is_never_ready_is_stopped(start):
    server = start(SLEEP)
    with pytest.raises(ResourcesError, match=r"not ready within 0\.1 s"):
        server.wait_until_ready(lambda: False, within_seconds=0.1)
    assert not psutil.pid_exists(server.pid)


def test_a_program_that_is_missing_is_named(start, tmp_path: Path):
    with pytest.raises(ResourcesError, match="no-such-program"):
        start([tmp_path / "no-such-program"])


def test_a_server_outlives_the_thread_that_started_it(start):
    servers = []
    thread = threading.Thread(target=lambda: servers.append(start(SLEEP)))
    thread.start()
    thread.join()
    time.sleep(1)
    assert servers[0].running


def test_a_child_holding_the_pipe_does_not_keep_the_server(tmp_path: Path):
    pid_file = tmp_path / "pid"
    parent = os.fork()
    if parent == 0:
        server = ServerProcess("s", SLEEP, tmp_path / "log", environment=os.environ, directory=tmp_path)
        pid_file.write_text(str(server.pid))
        holder = os.fork()
        if holder == 0:
            time.sleep(30)
            os._exit(0)
        (tmp_path / "holder").write_text(str(holder))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    server_pid = int(pid_file.read_text())
    wait_until(lambda: not psutil.pid_exists(server_pid), "the server ends", within_seconds=10)
    os.kill(int((tmp_path / "holder").read_text()), signal.SIGKILL)


def test_a_free_port_has_its_companions_free():
    port = free_port(also_free=[10_000])
    assert port >= 15_000
    assert port + 10_000 < 32_000
