"""Server processes of the sandbox: each in a session of its own, ready or explained, gone with its parent."""

import json
import os
import pwd
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from archiver_pipeline.errors import ResourcesError

LOOPBACK = "127.0.0.1"
LOG_TAIL_LINES = 20
_GUARD = Path(__file__).with_name("guard.py")
# Below the range the kernel hands to outgoing connections: none of those takes a port between choice and use.
_PORT_RANGE = range(15_000, 32_000)


@dataclass(frozen=True)
class Account:
    """An unprivileged operating-system account to run a server as."""

    name: str
    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """The account for servers that refuse root, `postgres` or `nobody`; None when this process isn't root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise ResourcesError(
        "PostgreSQL refuses to run as root, and there is no account `postgres` or `nobody` to run it as",
        hint="run this command as a normal user",
    )


def free_port(*, also_free: Sequence[int] = ()) -> int:
    """A TCP port nobody uses on loopback, nor any port at the offsets `also_free` from it.

    Another process may take it before its use: whoever starts a server on it must be ready to choose again.
    """
    for _ in range(1000):
        port = random.choice(_PORT_RANGE[: len(_PORT_RANGE) - max(also_free, default=0)])  # noqa: S311
        if all(_is_free(port + offset) for offset in (0, *also_free)):
            return port
    raise ResourcesError(f"no free TCP port found between {_PORT_RANGE[0]} and {_PORT_RANGE[-1]}")


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        # Connections of a server stopped a moment ago do not keep its port from a new one.
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


class ServerProcess:
    """One running server below a guard (see guard.py) which stops it when this process ends in any way.

    Server and guard share a session of their own: Ctrl-C in the terminal reaches only this process, which
    then stops its servers in its own order.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str | Path],
        log_path: Path,
        *,
        environment: Mapping[str, str],
        directory: Path,
        account: Account | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_seconds: float = 15,
        litter: Sequence[Path] = (),
    ) -> None:
        """Start `arguments` at once, its output appended to `log_path`.

        A server still there `grace_seconds` after `stop_signal` is killed. The files and directories in
        `litter` are removed should this process die without having stopped the server.
        Raises ResourcesError when the program can't be executed.
        """
        self.name = name
        self.log_path = log_path
        self._grace_seconds = grace_seconds
        order = {
            "arguments": [str(argument) for argument in arguments],
            "user": account.uid if account else None,
            "group": account.gid if account else None,
            "stop_signal": stop_signal,
            "grace_seconds": grace_seconds,
            "parent": os.getpid(),
            "litter": [str(path) for path in litter],
        }
        self._guard = self._start_guard(json.dumps(order), environment, directory)
        self.pid = self._read_server_pid()

    @property
    def running(self) -> bool:
        """Whether the server has not ended yet."""
        return self._guard.poll() is None

    def wait_until_ready(self, is_ready: Callable[[], bool], *, within_seconds: float) -> None:
        """Return as soon as `is_ready()`; else stop the server and raise ResourcesError quoting its log."""
        deadline = time.monotonic() + within_seconds
        while not is_ready():
            if not self.running:
                raise self._failure("ended while starting")
            if time.monotonic() > deadline:
                self.stop(first=signal.SIGKILL)
                raise self._failure(f"was not ready within {within_seconds:g} s")
            time.sleep(0.02)

    def stop(self, *, first: signal.Signals | None = None) -> None:
        """Stop the server, SIGKILL after the grace period; returns when it is gone. Safe to repeat.

        `first` is sent before the regular stop signal, for a server that knows a quicker way.
        """
        self._tell_guard_to_stop(first)
        try:
            self._guard.wait(self._grace_seconds + 5)
        except subprocess.TimeoutExpired:
            os.killpg(self._guard.pid, signal.SIGKILL)
            self._guard.wait()

    def log_tail(self) -> str:
        """The last lines of the server's log."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def _tell_guard_to_stop(self, first: signal.Signals | None) -> None:
        stdin = self._guard.stdin
        assert stdin is not None  # noqa: S101 - opened as a pipe below
        if stdin.closed:
            return
        with suppress(BrokenPipeError), stdin:
            if first is not None:
                stdin.write(b"%d\n" % first)

    def _start_guard(self, order: str, environment: Mapping[str, str], directory: Path) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", _GUARD, order],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(environment),
                cwd=directory,
                start_new_session=True,
                bufsize=0,
            )

    def _read_server_pid(self) -> int:
        assert self._guard.stdout is not None  # noqa: S101 - opened as a pipe above
        with self._guard.stdout as answer:
            line = answer.readline()
        if not line:
            self._guard.wait()
            raise self._failure("could not be executed")
        return int(line)

    def _failure(self, what: str) -> ResourcesError:
        return ResourcesError(
            f"{self.name} {what}; the end of {self.log_path}:\n{self.log_tail()}",
            hint="usual causes: another server on that port or directory, a full disk, missing permissions",
        )
