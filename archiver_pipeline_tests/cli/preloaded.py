"""A process that has imported the product and forks for every command: the same `main` in a process of its own, without
the second that importing takes. Most tests run commands this way; those that send signals start the installed script.

As a program it reads one JSON request a line: arguments, cwd, env, stdout, stderr. It answers `{"pid": …}` when the
command runs, and `{"code": …}` when it has ended.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IMPORT_TIME_VARIABLES = ("COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR", "PYTHONPATH", "PATH", "LANG", "LC_ALL")
"""What modules read when they are imported: a command with others is not run here."""

FIRST_RETRY_VARIABLE = "TEST_FIRST_RETRY_SECONDS"
"""Seconds before a step's first retry in a command that is run here; each later one waits twice as long."""


@dataclass
class PreloadedCommand:
    """Runs `archiver` commands one after the other. Used by one thread at a time."""

    environment: dict[str, str]
    _process: "subprocess.Popen[str]" = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            text=True,
        )

    @property
    def pid(self) -> int:
        """The process whose children the commands are."""
        return self._process.pid

    def fits(self, environment: dict[str, str]) -> bool:
        """Whether a command with this environment may be run here."""
        return all(environment.get(name) == self.environment.get(name) for name in IMPORT_TIME_VARIABLES)

    def run(
        self, arguments: tuple[str, ...], folder: Path, environment: dict[str, str], seconds: float
    ) -> tuple[int, str, str]:
        """Run a command in `folder` to its end, killed after `seconds`; its exit code and what it printed."""
        with self._lock, tempfile.TemporaryDirectory() as printed:
            stdout, stderr = Path(printed, "stdout"), Path(printed, "stderr")
            request = {"arguments": ["archiver", *arguments], "cwd": str(folder), "env": environment}
            pid = self._ask(request | {"stdout": str(stdout), "stderr": str(stderr)})["pid"]
            killer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
            killer.start()
            code = int(self._answer()["code"])
            killer.cancel()
            return code, stdout.read_text(), stderr.read_text()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, request: dict[str, Any]) -> Any:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        return json.loads(self._process.stdout.readline())


def serve() -> None:
    """Fork for every request until there is none any more."""
    import archiver_pipeline.cli.main
    import archiver_pipeline.orchestration.build  # noqa: F401 - so that no child needs to

    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(request)
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


def _become(request: dict[str, Any]) -> None:
    """Turn this process into the command, and end it."""
    from archiver_pipeline.cli.main import main
    from archiver_pipeline.orchestration import ops

    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    ops._FIRST_RETRY_SECONDS = float(os.environ.get(FIRST_RETRY_VARIABLE, ops._FIRST_RETRY_SECONDS))
    random.seed()
    sys.argv = request["arguments"]
    for number, target in enumerate((os.devnull, request["stdout"], request["stderr"])):
        opened = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0)  # noqa: SIM115 - for the rest of this process
    sys.exit(_exit_code(main))


def _exit_code(main: Any) -> int:
    try:
        main()
    except SystemExit as ended:
        return ended.code or 0
    return 0


if __name__ == "__main__":
    serve()
