"""The log of a process that Dagster runs: a code server, or the worker of a run."""

import sys
from collections.abc import Callable, Mapping

from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.config.models import Monitoring
from archiver_pipeline.engine.progress import Progress
from archiver_pipeline.logs.lines import LogLevel, choice_of, format_for, open_logger
from archiver_pipeline.logs.listener import LogListener


def process_listener(config: LoadedConfig, environ: Mapping[str, str]) -> Callable[[], Progress]:
    """What makes the listener of a run: it writes to standard output, where Dagster takes it into the compute log.

    The environment may say format and level; without, it is `auto` and `info`. Raises ConfigError for a wrong word.
    """
    choice = choice_of(environ)

    def listen() -> Progress:
        stream = sys.stdout
        logger = open_logger(stream, format=format_for(choice, stream), level=choice.level or LogLevel.info)
        return LogListener(logger, interval_seconds=progress_interval(config.config.monitoring))

    return listen


def progress_interval(monitoring: Monitoring) -> float | None:
    """Seconds between two lines of progress; None when none is wanted."""
    return monitoring.progress_update_interval if monitoring.progress_enabled else None
