"""Where the command prints: results to stdout, everything else to stderr."""

import orjson
from rich.console import Console
from rich.filesize import decimal

from archiver_pipeline.cli.logs import current_log

output = Console()
errors = Console(stderr=True)


def print_json(value: object) -> None:
    """One JSON document on stdout, for programs."""
    output.print(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode(), soft_wrap=True, highlight=False)


def warn(message: str) -> None:
    """A warning in words; as a line of the log where that is all there is to read."""
    log = current_log()
    if log.logger is not None and log.takes_stdout:
        log.logger.warning("warning", message=message)
        return
    errors.print("warning:", message, style="yellow", highlight=False, markup=False, soft_wrap=True)


def size(size_bytes: int) -> str:
    """Bytes for people, in decimal units."""
    return decimal(size_bytes)


def duration(seconds: float) -> str:
    """Seconds for people."""
    minutes, rest = divmod(seconds, 60)
    return f"{seconds:.2f} s" if not minutes else f"{int(minutes)} min {int(rest)} s"
