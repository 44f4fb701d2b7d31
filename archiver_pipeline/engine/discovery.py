"""Discovery: which tables of a database could be archived, what they hold, and which settings suit them. Reads only."""

from collections.abc import Callable
from dataclasses import dataclass

from archiver_pipeline.config.effective import SourceSettings, TableSettings
from archiver_pipeline.domain.measure import TableMeasure
from archiver_pipeline.domain.suggestion import FoundTable, Suggestion, TimeColumn, best_time_column, suggest
from archiver_pipeline.engine.costing import open_read_only
from archiver_pipeline.errors import ArchiverError, NetworkError
from archiver_pipeline.postgres.catalog import inspect_table, require_version
from archiver_pipeline.postgres.connection import Connection, source_errors
from archiver_pipeline.postgres.discovery import find_tables
from archiver_pipeline.postgres.measure import measure_table

SettingsOf = Callable[[FoundTable, TimeColumn], TableSettings]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A table that an archive would take, with estimates and suggested settings."""

    found: FoundTable
    measure: TableMeasure
    suggestion: Suggestion


@dataclass(frozen=True, slots=True)
class RefusedTable:
    """A table that is not offered, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found. `candidates` are ordered by the disk that their eligible rows take, most first."""

    candidates: tuple[Candidate, ...]
    refused: tuple[RefusedTable, ...]


def discover(source: SourceSettings, settings_of: SettingsOf, looking_at: Callable[[str], None]) -> Discovery:
    """Look at every table. `settings_of` makes the settings that a table would have, or raises ConfigError for names
    that no configuration can hold. `looking_at` is told the name of each table that is measured.

    Raises PreflightError when the server is too old, and what connecting raises.
    """
    candidates, refused = [], []
    with source_errors(source), open_read_only(source) as connection:
        require_version(connection)
        for found in find_tables(connection):
            looked = found.refusal or _candidate(connection, source, found, settings_of, looking_at)
            if isinstance(looked, str):
                refused.append(RefusedTable(found.qualified_name, looked))
            else:
                candidates.append(looked)
    candidates.sort(key=lambda one: (one.measure.eligible_bytes, one.measure.disk_bytes), reverse=True)
    return Discovery(tuple(candidates), tuple(refused))


def _candidate(
    connection: Connection,
    source: SourceSettings,
    found: FoundTable,
    settings_of: SettingsOf,
    looking_at: Callable[[str], None],
) -> Candidate | str:
    """The table as a candidate, or why it is none: in the words of `archiver check`."""
    looking_at(found.qualified_name)
    column = best_time_column(found.time_columns)
    try:
        settings = settings_of(found, column)
        with source_errors(source):
            shape = inspect_table(connection, settings, with_warnings=False)
            measure = measure_table(connection, shape, settings.retention_days)
    except NetworkError:
        raise
    except ArchiverError as error:
        return str(error).removeprefix(f"{source.id}.{found.qualified_name}: ")
    return Candidate(found, measure, suggest(found, column, measure))
