"""What a restore command's names mean, and running it, recorded in Dagster or not."""

import contextlib
from dataclasses import dataclass

from archiver_pipeline.cli.archive import recorded_in
from archiver_pipeline.cli.options import key_in_bucket
from archiver_pipeline.cli.progress import RunListener
from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.layout import table_of_key
from archiver_pipeline.domain.restore import RestoreOutcome, RestoreRequest
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.recording import record_refusal
from archiver_pipeline.engine.restore import restore_archives
from archiver_pipeline.errors import ArchiverError, ConfigError
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.launch import run_restore_in_process
from archiver_pipeline.orchestration.runtime import open_restore


@dataclass(frozen=True, slots=True)
class RestoreNames:
    """The names of a command line as they were written; None was not written."""

    database: str | None
    schema: str | None
    table: str | None
    s3_key: str | None
    to_database: str | None
    to_schema: str | None
    to_table: str | None


@dataclass(frozen=True, slots=True)
class ResolvedNames:
    """The tables that are meant, and the key in the bucket."""

    source: TableName
    target: TableName
    data_key: str | None


def resolve_names(loaded: LoadedConfig, names: RestoreNames) -> ResolvedNames:
    """Source and target. Without a key the source is the one configured table that the names fit.

    With a key the source is the key's table, and `--database`, `--schema` and `--table` say where to restore to where
    they differ from it; `--to-…` outranks them. Raises ConfigError when names are unknown or fit several tables.
    """
    if names.s3_key is None:
        source = _name_of(_only_table(loaded, names))
        target = _overridden(source, names)
        data_key = None
    else:
        data_key = key_in_bucket(loaded, names.s3_key)
        source = _source_of_key(loaded, data_key)
        _require_a_database(loaded, source, names)
        target = _overridden(_wanted(loaded, source, names), names)
    loaded.database(target.database)
    return ResolvedNames(source, target, data_key)


def listed_table(schema: str | None, table: str | None) -> str | None:
    """The table of a listing: its name, with the schema where one was written.

    Raises ConfigError for a schema without a table.
    """
    if schema is None or (table or "").startswith(f"{schema}."):
        return table
    if table is None:
        raise ConfigError("--schema alone names no table", hint="name it with --table")
    return f"{schema}.{table}"


def run_restore(
    loaded: LoadedConfig, request: RestoreRequest, listener: RunListener, *, direct: bool, log_level: str
) -> None:
    """Restore; report and errors go to the listener. `direct` calls the engine without Dagster."""
    with recorded_in(loaded, direct=direct) as instance:
        if instance is None:
            _restore_directly(loaded, request, listener)
            return
        definitions = build_definitions(loaded, progress=lambda: listener)
        database = loaded.database(request.target.database)
        succeeded = run_restore_in_process(definitions, instance, database, request, log_level=log_level)
        if not succeeded and not _is_explained(listener):
            error = ArchiverError("the run failed outside the engine", hint="run again with --verbose")
            listener.fail(request.target, error)


def _is_explained(listener: RunListener) -> bool:
    """Whether the engine has said why the run failed: an error, or objects that could not be restored."""
    return bool(listener.errors) or any(report.count(RestoreOutcome.failed) for report in listener.restores)


def _restore_directly(loaded: LoadedConfig, request: RestoreRequest, listener: RunListener) -> None:
    session = open_restore(loaded, request, run_id="direct", progress=listener)
    with contextlib.closing(session):
        try:
            restore_archives(session)
        except ArchiverError as error:
            record_refusal(session, error)
            listener.fail(session.name, error)


def _only_table(loaded: LoadedConfig, names: RestoreNames) -> TableSettings:
    found = [
        table for table in loaded.select_tables(names.database, names.table) if names.schema in (None, table.schema)
    ]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{table.database}.{table.qualified_name}" for table in found or loaded.tables)
    problem = "several tables fit" if found else f"no configured table of these names is in schema {names.schema!r}"
    raise ConfigError(f"{problem}: {known}", hint="name one with --database, --schema and --table")


def _name_of(table: TableSettings) -> TableName:
    return TableName(table.database, table.schema, table.table)


def _overridden(name: TableName, names: RestoreNames) -> TableName:
    return TableName(names.to_database or name.database, names.to_schema or name.schema, names.to_table or name.table)


def _wanted(loaded: LoadedConfig, source: TableName, names: RestoreNames) -> TableName:
    """The key's table where no name was written; a configured table's schema where its name was."""
    database = names.database or source.database
    if names.table is None:
        return TableName(database, names.schema or source.schema, source.table)
    fitting = [
        _name_of(table)
        for table in loaded.database(database).tables
        if names.table in (table.table, table.qualified_name) and names.schema in (None, table.schema)
    ]
    same = TableName(database, names.schema or source.schema, names.table)
    if len(fitting) > 1 and same not in fitting:
        known = ", ".join(map(str, fitting))
        raise ConfigError(f"several tables fit as the target: {known}", hint="name one with --schema or --to-schema")
    return same if same in fitting or not fitting else fitting[0]


def _require_a_database(loaded: LoadedConfig, source: TableName, names: RestoreNames) -> None:
    """Archives outlive databases: a key may be of one that is not configured any more."""
    known = [database.id for database in loaded.databases]
    if source.database not in known and names.to_database is None and names.database is None:
        raise ConfigError(
            f"the key is an archive of {source}, and no database {source.database!r} is configured",
            hint=f"say with --to-database where to restore to; configured: {', '.join(known)}",
        )


def _source_of_key(loaded: LoadedConfig, key: str) -> TableName:
    try:
        return table_of_key(loaded.store.prefix, key)
    except ValueError as error:
        raise ConfigError(str(error), hint="`archiver list --objects` shows the keys") from error
