"""Options that several commands share, and opening the configuration they name."""

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from archiver_pipeline.cli.completion import complete_database, complete_table
from archiver_pipeline.cli.console import warn
from archiver_pipeline.config.loading import LoadedConfig, load_config
from archiver_pipeline.engine.inventory import DateRange
from archiver_pipeline.errors import ConfigError

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Configuration file; else ARCHIVER_CONFIG, else ./archiver.yaml.",
        show_default=False,
    ),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option("--database", "-d", help="Only this database.", show_default=False, autocompletion=complete_database),
]
TableOption = Annotated[
    str | None,
    typer.Option(
        "--table",
        "-t",
        help="Only this table: `name` or `schema.name`.",
        show_default=False,
        autocompletion=complete_table,
    ),
]
StartOption = Annotated[
    datetime | None,
    typer.Option(
        "--start-date",
        formats=["%Y-%m-%d"],
        help="First day to take (UTC, inclusive); windows are taken whole.",
        show_default=False,
    ),
]
EndOption = Annotated[
    datetime | None,
    typer.Option(
        "--end-date",
        formats=["%Y-%m-%d"],
        help="Last day to take (UTC, inclusive); windows are taken whole.",
        show_default=False,
    ),
]
StartDayOption = Annotated[
    datetime | None,
    typer.Option(
        "--start-date",
        formats=["%Y-%m-%d"],
        help="First day (UTC, inclusive); windows that hold it are taken whole.",
        show_default=False,
    ),
]
EndDayOption = Annotated[
    datetime | None,
    typer.Option(
        "--end-date",
        formats=["%Y-%m-%d"],
        help="Last day (UTC, inclusive); windows that hold it are taken whole.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout instead of text.")]


def open_config(path: Path | None) -> LoadedConfig:
    """Load the configuration and print its warnings. Raises ConfigError."""
    config = load_config(path, environ=os.environ, cwd=Path.cwd())
    for warning in config.warnings:
        warn(warning)
    return config


def date_range(start: datetime | None, end: datetime | None) -> DateRange:
    """Raises ConfigError when the range is the wrong way round."""
    if start and end and end < start:
        raise ConfigError(f"--end-date {end:%Y-%m-%d} is before --start-date {start:%Y-%m-%d}", hint="swap them")
    return DateRange(start.date() if start else None, end.date() if end else None)


def key_in_bucket(loaded: LoadedConfig, written: str) -> str:
    """The key in the configured bucket, out of a key or an s3:// address. Raises ConfigError for another bucket."""
    if not written.startswith("s3://"):
        return written
    bucket, _, key = written.removeprefix("s3://").partition("/")
    if bucket != loaded.store.bucket:
        raise ConfigError(f"{written} is in bucket {bucket!r}", hint=f"the configured one is {loaded.store.bucket!r}")
    return key
