"""The log of a command: off unless it is asked for, because a command's results are what its standard output is for.

Once asked for, by option or environment variable, a JSON log takes standard output: each result is a line of it, and
nothing else is printed there. Beside `--json` or a dry run, which need standard output themselves, and as text, it goes
to standard error.
"""

import functools
import inspect
import io
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, TextIO, TypeVar

import typer

from archiver_pipeline.config.models import Monitoring
from archiver_pipeline.engine.progress import Progress, SilentProgress
from archiver_pipeline.logs.lines import (
    FORMAT_VARIABLE,
    LEVEL_VARIABLE,
    LogChoice,
    LogFormat,
    Logger,
    LogLevel,
    format_for,
    open_logger,
)
from archiver_pipeline.logs.listener import LogListener
from archiver_pipeline.logs.process import progress_interval

_FORMAT_PARAMETER = "log_format"
_LEVEL_PARAMETER = "log_level"
_FormatOption = Annotated[
    LogFormat | None,
    typer.Option(
        "--log-format",
        envvar=FORMAT_VARIABLE,
        help="Log what is done: JSON lines on stdout, or text on stderr; auto: text on a terminal, else JSON.",
        show_default=False,
    ),
]
_LevelOption = Annotated[
    LogLevel | None,
    typer.Option(
        "--log-level", envvar=LEVEL_VARIABLE, help="Least level to log: info unless said.", show_default=False
    ),
]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class CommandLog:
    """The log of the command that runs. `logger` is None when none was asked for; `takes_stdout` when lines are all
    that may be printed there."""

    logger: Logger | None = None
    takes_stdout: bool = False

    def listener(self, monitoring: Monitoring) -> Progress:
        """Writes what the engine tells; silent without a log."""
        if self.logger is None:
            return SilentProgress()
        return LogListener(self.logger, interval_seconds=progress_interval(monitoring))


_choice: ContextVar[LogChoice] = ContextVar("log choice")
_current: ContextVar[CommandLog] = ContextVar("command log")


def current_log() -> CommandLog:
    return _current.get(CommandLog())


def open_log(*, stdout_is_taken: bool) -> CommandLog:
    """Open the log that was chosen, for the rest of the command. `stdout_is_taken`: by a result of another form."""
    choice = _choice.get(LogChoice())
    if not choice.is_made:
        return CommandLog()
    form = format_for(choice, sys.stdout)
    takes_stdout = form is LogFormat.json and not stdout_is_taken
    stream = _kept_open(sys.stdout if takes_stdout else sys.stderr)
    log = CommandLog(open_logger(stream, format=form, level=choice.level or LogLevel.info), takes_stdout)
    _current.set(log)
    return log


def with_log_options(command: Callable[..., Result], name: str) -> Callable[..., Result]:
    """The command with two more options, which choose its log; the log's last line tells its exit code."""

    @functools.wraps(command)
    def logged(*arguments: Any, **options: Any) -> Result:
        _choice.set(LogChoice(options.pop(_FORMAT_PARAMETER), options.pop(_LEVEL_PARAMETER)))
        try:
            result = command(*arguments, **options)
        except typer.Exit as end:
            _tell_end(name, end.exit_code)
            raise
        _tell_end(name, os.EX_OK)
        return result

    signature = inspect.signature(command)
    added = {_FORMAT_PARAMETER: _FormatOption, _LEVEL_PARAMETER: _LevelOption}
    parameters = [
        inspect.Parameter(parameter, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for parameter, kind in added.items()
    ]
    logged.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *parameters]
    )
    logged.__annotations__ = command.__annotations__ | added
    return logged


def _tell_end(command: str, exit_code: int) -> None:
    if logger := current_log().logger:
        logger.info("command_finished", command=command, exit_code=int(exit_code))


def _kept_open(stream: TextIO) -> TextIO:
    """The stream as it is now: Dagster turns the process's own over to files while it executes steps."""
    try:
        descriptor = os.dup(stream.fileno())
    except (io.UnsupportedOperation, OSError):
        return stream
    return os.fdopen(descriptor, "w", buffering=1, encoding="utf-8")
