"""Runs one server and stops it when the process that asked for it is gone, however that process ended.

A script of the standard library only, run by path, so that it starts in milliseconds. It is a process of its
own because the alternative, PR_SET_PDEATHSIG, fires when the starting *thread* ends, is Linux only, and needs
Python code between fork and exec of a threaded process.

Standard input is the parent's end of the line: a line is a signal number to pass on, end of file is "stop".
The parent id is watched as well, because a forked sibling may still hold the pipe open.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

PARENT_CHECK_SECONDS = 0.5


def main() -> int:
    """Run the order in argv[1] (JSON: arguments, user, group, stop_signal, grace_seconds, parent, litter)."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    server = _start(order)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: server.send_signal(order["stop_signal"]))
    print(server.pid, flush=True)  # noqa: T201 - the parent reads the server's id from here
    threading.Thread(target=_obey_parent, args=(server, order), daemon=True).start()
    status = server.wait()
    if os.getppid() != order["parent"]:
        _remove(order["litter"])
    return status


def _start(order: dict[str, Any]) -> subprocess.Popen[bytes]:
    account: dict[str, Any] = {}
    if order["user"] is not None:
        account = {"user": order["user"], "group": order["group"], "extra_groups": []}
    return subprocess.Popen(order["arguments"], stdin=subprocess.DEVNULL, stdout=sys.stderr, **account)


def _obey_parent(server: subprocess.Popen[bytes], order: dict[str, Any]) -> None:
    while os.getppid() == order["parent"]:
        if not select.select([0], [], [], PARENT_CHECK_SECONDS)[0]:
            continue
        signals = os.read(0, 100).split()
        if not signals:
            break
        for number in signals:
            server.send_signal(int(number))
    _stop(server, order)


def _remove(litter: list[str]) -> None:
    for path in map(Path, litter):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _stop(server: subprocess.Popen[bytes], order: dict[str, Any]) -> None:
    server.send_signal(order["stop_signal"])
    # The main thread reaps the server and ends this process, this thread included, unless the server hangs.
    threading.Event().wait(order["grace_seconds"])
    server.kill()


if __name__ == "__main__":
    sys.exit(main())
