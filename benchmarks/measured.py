"""Runs one command and writes what it cost into a file: measured.py REPORT COMMAND...

A small process of its own, because Linux counts the memory of the process that starts a command as the command's own
peak. Started by this one, a command's peak is its own, or the few MiB of this.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    """Seconds of wall and of CPU (with all waited-for children), and bytes of the largest process at its peak."""
    report, *command = sys.argv[1:]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    figures = {
        "wall_seconds": time.perf_counter() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }
    Path(report).write_text(json.dumps(figures))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
