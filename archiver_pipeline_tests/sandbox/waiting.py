"""Waiting for what happens in another process."""

import time
from collections.abc import Callable

import psutil


def wait_until(condition: Callable[[], object], what: str, *, within_seconds: float = 20) -> None:
    """Return once `condition()` is true; fail the test after `within_seconds`."""
    deadline = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        time.sleep(0.05)


def has_ended(process: psutil.Process) -> bool:
    """Whether a process is gone, or waits only for a parent to take notice."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
