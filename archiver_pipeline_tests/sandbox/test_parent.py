"""However the process that started the servers ends, they end, and their temporary data goes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from archiver_pipeline_tests.sandbox.waiting import has_ended, wait_until

PARENT = """
import json, time
from archiver_pipeline.sandbox.postgres_server import PostgresServer
from archiver_pipeline.sandbox.s3_server import S3Server

with PostgresServer(durable=False) as postgres, S3Server() as s3:
    paths = [postgres.data_dir, s3.data_dir, *s3._sockets()]
    print(json.dumps({"pids": [postgres.pid, s3.pid], "paths": [str(path) for path in paths]}), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("ending", "exit_code"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, -signal.SIGINT)],
)
def test_the_servers_end_with_their_parent(ending, exit_code):
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        started = json.loads(parent.stdout.readline())
    servers = [psutil.Process(pid) for pid in started["pids"]]
    everything = [*servers, *(server.parent() for server in servers)]
    for server in servers:
        everything += server.children(recursive=True)
    parent.send_signal(ending)
    assert parent.wait(30) == exit_code
    wait_until(lambda: all(map(has_ended, everything)), "every process ends")
    assert [path for path in started["paths"] if Path(path).exists()] == []
