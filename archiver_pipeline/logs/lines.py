"""The form of log lines and where they go. Nothing here is global: every logger has its own stream and settings."""

import logging
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TextIO

import orjson

from archiver_pipeline.errors import ArchiverError, ConfigError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    Logger = FilteringBoundLogger
else:
    Logger = Any

FORMAT_VARIABLE = "ARCHIVER_LOG_FORMAT"
LEVEL_VARIABLE = "ARCHIVER_LOG_LEVEL"
_FIRST_KEYS = ("ts", "level", "event", "run_id", "database", "schema", "table", "window", "batch_id", "step")


class LogFormat(StrEnum):
    """How a line is written; `auto` is text on a terminal and JSON elsewhere."""

    auto = "auto"
    json = "json"
    text = "text"


class LogLevel(StrEnum):
    """The least level of a line that is written."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


_NUMBERS = {
    LogLevel.debug: logging.DEBUG,
    LogLevel.info: logging.INFO,
    LogLevel.warning: logging.WARNING,
    LogLevel.error: logging.ERROR,
}


@dataclass(frozen=True, slots=True)
class LogChoice:
    """What was asked for; None was not."""

    format: LogFormat | None = None
    level: LogLevel | None = None

    @property
    def is_made(self) -> bool:
        return self.format is not None or self.level is not None


def choice_of(environ: Mapping[str, str]) -> LogChoice:
    """What the environment asks for. Raises ConfigError for a word that is no format or level."""
    return LogChoice(
        _word(LogFormat, environ, FORMAT_VARIABLE),
        _word(LogLevel, environ, LEVEL_VARIABLE),
    )


def format_for(choice: LogChoice, stream: TextIO) -> LogFormat:
    """json or text: what was chosen, else by what the stream is."""
    if choice.format not in (None, LogFormat.auto):
        return LogFormat(choice.format)
    return LogFormat.text if stream.isatty() else LogFormat.json


def open_logger(stream: TextIO, *, format: LogFormat, level: LogLevel) -> Logger:
    """A logger that writes one line per event to the stream. Safe for many threads."""
    import structlog  # noqa: PLC0415 - slow to import, and a log is off unless it is asked for

    logger: Logger = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            _in_order,
            _renderer(format, stream),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_NUMBERS[level]),
        cache_logger_on_first_use=False,
    ).bind()
    return logger


def error_fields(error: ArchiverError) -> dict[str, Any]:
    """What a line says of an error: its class, the exit code it stands for, its words."""
    return {
        "error": type(error).__name__,
        "exit_code": error.exit_code,
        "message": error.message,
        "hint": error.hint,
        "problems": [str(problem) for problem in error.problems] if isinstance(error, ConfigError) else None,
    }


def _renderer(format: LogFormat, stream: TextIO) -> Any:
    import structlog  # noqa: PLC0415

    if format is LogFormat.text:
        return structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), timestamp_key="ts", sort_keys=False, pad_event_to=20
        )
    return structlog.processors.JSONRenderer(serializer=_as_json)


def _as_json(fields: Mapping[str, Any], **_: Any) -> str:
    return orjson.dumps(fields, default=str).decode()


def _in_order(_: Any, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What every line has comes first; what is not known is left out."""
    known = {name: value for name, value in fields.items() if value is not None}
    first = {name: known.pop(name) for name in _FIRST_KEYS if name in known}
    return first | known


def _word(kind: Any, environ: Mapping[str, str], variable: str) -> Any:
    text = environ.get(variable, "").strip().lower()
    if not text:
        return None
    try:
        return kind(text)
    except ValueError as error:
        raise ConfigError(f"{variable} is {text!r}", hint=f"it may be {', '.join(kind)}") from error
