"""`archiver hold`: which legal holds are in force, and what they cover."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from archiver_pipeline.cli.console import output, print_json, warn
from archiver_pipeline.cli.options import ConfigOption, DatabaseOption, JsonOption, TableOption, open_config
from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.holds import Holds, LegalHold, shown
from archiver_pipeline.domain.table import TableName, TableShape
from archiver_pipeline.engine.holds import HeldRows, count_held_rows, with_holds
from archiver_pipeline.engine.inventory import find_held_rows
from archiver_pipeline.engine.mirror import mirror_holds
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ConfigError, PreflightError
from archiver_pipeline.postgres.catalog import inspect_table, table_name
from archiver_pipeline.postgres.connection import source_errors
from archiver_pipeline.postgres.eligible import count_key

COUNTED_ROWS = 1_000_000

HELP = """Legal holds: which are in force, and what they cover.

Examples:

    archiver hold list

    archiver hold check --table audit_log --key 4711

    archiver hold mirror
"""


class ExitCode(IntEnum):
    """What `hold check` ends with when holds could be read."""

    free = 0
    held = 1


def list_holds(
    config: ConfigOption = None,
    database: DatabaseOption = None,
    table: TableOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every legal hold in force on the configured tables, of all sources, with the rows that each covers now.

    Rows are counted up to 1,000,000 per hold, whatever their age. Reads only. Holds that name no configured table are
    warned about: they may be misspelt.

    Exit codes: 0 all sources were read, also when there is no hold; 2 a source is not understood, 3 configuration or
    preflight, 5 permission, 7 network.

    Examples:

        archiver hold list

        archiver hold list --database orders --table sales.audit_log --json
    """
    loaded = open_config(config)
    tables = loaded.select_tables(database, table)
    found = [_listed(loaded, settings) for settings in tables]
    strangers = sorted({text for settings in tables for text in _strangers(loaded, settings)})
    if as_json:
        print_json({"tables": [_as_dict(listed) for listed in found], "unmatched": strangers})
        return
    for listed in found:
        _print(listed)
    for text in strangers:
        warn(f"holds nothing, because no configured table has these names: {text}")


def check_hold(
    table: Annotated[
        str, typer.Option("--table", "-t", help="The table: `name` or `schema.name`.", show_default=False)
    ],
    config: ConfigOption = None,
    database: DatabaseOption = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key", help="Primary key of a row; once for each of its columns, in their order.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether a table, or the row with a primary key, is under legal hold.

    Exit codes: 0 no hold, 1 under hold (a table also when only some of its rows are), 2 a source is not understood,
    3 configuration or preflight (also: no such row), 5 permission, 7 network.

    Examples:

        archiver hold check --table audit_log

        archiver hold check --database orders --table sales.audit_log --key 2024 --key 17 --json
    """
    loaded = open_config(config)
    with _session(loaded, _only_table(loaded, database, table)) as session:
        shape = _held_shape(session)
        holds = _holds_of_row(session, shape, key) if key else shape.holds
    subject = f"{session.name} ({', '.join(key)})" if key else str(session.name)
    if as_json:
        print_json({"table": asdict(session.name), "key": key or None, "held": bool(holds), "holds": holds.holds})
    elif holds:
        for hold in holds.holds:
            _line(f"{subject}: {hold}")
    else:
        _line(f"{subject}: no legal hold")
    raise typer.Exit(ExitCode.held if holds else ExitCode.free)


def mirror(
    config: ConfigOption = None,
    database: DatabaseOption = None,
    table: TableOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put S3 Object Lock's legal hold on what was archived of tables that are wholly under hold.

    Needs `legal_holds.mirror_to_object_lock: true` and a bucket with Object Lock. `archiver run` does the same at its
    end. A hold on rows is not mirrored. Nothing is ever taken off: that is for who may lift holds.

    Exit codes: 0 done, also when no table is wholly under hold; 2 the store has no Object Lock, 3 configuration or
    preflight (also: the key is not set), 5 permission, 7 network.

    Examples:

        archiver hold mirror

        archiver hold mirror --table audit_log --json
    """
    loaded = open_config(config)
    if not loaded.config.legal_holds.mirror_to_object_lock:
        raise ConfigError("legal_holds.mirror_to_object_lock is not set", hint="write mirror_to_object_lock: true")
    mirrored = {}
    for settings in loaded.select_tables(database, table):
        with _session(loaded, settings) as session:
            mirrored[str(session.name)] = mirror_holds(session, _held_shape(session))
    if as_json:
        print_json({"objects": mirrored})
        return
    for name, objects in mirrored.items():
        _line(f"{name}: {objects:,} objects under the store's legal hold")


def held_tables(loaded: LoadedConfig, tables: Sequence[TableSettings]) -> Iterator[HeldRows]:
    """Of each table under hold the rows that are old enough and stay; mirrors the hold to its archives where that is
    asked for. Tables without a source of holds cost nothing."""
    for settings in tables:
        with _session(loaded, settings) as session:
            if session.hold_sources.exist and (held := find_held_rows(session, most_rows=COUNTED_ROWS)).holds:
                if held.holds.is_whole and loaded.config.legal_holds.mirror_to_object_lock:
                    mirror_holds(session, _held_shape(session))
                yield held


def held_sentence(held: HeldRows) -> str:
    """For people, on one line."""
    rows = f"more than {held.rows:,}" if held.is_capped else f"{held.rows:,}"
    return f"{held.table}: {rows} old rows stay: {held.holds.reason}"


@dataclass(frozen=True, slots=True)
class _Listed:
    """A table's holds, each with the rows it covers."""

    name: TableName
    holds: tuple[tuple[LegalHold, HeldRows], ...]


def _listed(loaded: LoadedConfig, settings: TableSettings) -> _Listed:
    with _session(loaded, settings) as session:
        if not session.hold_sources.exist:
            return _Listed(session.name, ())
        shape = _held_shape(session)
        counted = ((hold, replace(shape, holds=Holds((hold,)))) for hold in shape.holds.holds)
        return _Listed(
            session.name,
            tuple((hold, count_held_rows(session, alone, None, most_rows=COUNTED_ROWS)) for hold, alone in counted),
        )


def _strangers(loaded: LoadedConfig, settings: TableSettings) -> list[str]:
    with _session(loaded, settings) as session, session.connections.take() as connection:
        return session.hold_sources.unmatched(connection, [table_name(one) for one in loaded.tables])


def _held_shape(session: ArchiveSession) -> TableShape:
    with source_errors(session.primary):
        return with_holds(session, inspect_table(session.connection, session.settings))


def _holds_of_row(session: ArchiveSession, shape: TableShape, key: Sequence[str]) -> Holds:
    """The holds that cover the row. Raises PreflightError when no row of the table has the key."""
    names = [part.name for part in shape.key]
    if len(key) != len(names):
        raise ConfigError(f"{session.name} has the key {', '.join(names)}", hint="give --key once for each, in order")
    with source_errors(session.primary):
        if not count_key(session.connection, shape, key, held=False):
            if shape.holds.is_whole or not shape.holds:
                return shape.holds
            raise PreflightError(
                f"no row of {session.name} has this key, so no row hold can be tried on it",
                hint="look for it in the archive, or check the table without --key",
            )
        covers = [
            hold
            for hold in shape.holds.holds
            if count_key(session.connection, replace(shape, holds=Holds((hold,))), key, held=True)
        ]
    return Holds(tuple(covers))


@contextlib.contextmanager
def _session(loaded: LoadedConfig, settings: TableSettings) -> Iterator[ArchiveSession]:
    session = ArchiveSession(settings, loaded.database(settings.database), loaded.store, run_id="look")
    with contextlib.closing(session):
        yield session


def _only_table(loaded: LoadedConfig, database: str | None, table: str) -> TableSettings:
    found = loaded.select_tables(database, table)
    if len(found) > 1:
        names = ", ".join(f"{one.database}.{one.qualified_name}" for one in found)
        raise ConfigError(f"--table {table} is more than one: {names}", hint="add --database or the schema")
    return found[0]


def _as_dict(listed: _Listed) -> dict[str, object]:
    return asdict(listed.name) | {
        "holds": [
            asdict(hold) | {"scope": hold.scope, "rows": held.rows, "is_capped": held.is_capped}
            for hold, held in listed.holds
        ]
    }


def _print(listed: _Listed) -> None:
    if not listed.holds:
        _line(f"{listed.name}: no legal hold")
        return
    table = Table("rows", "scope", "reason", "requestor", "since", "until", "source", title=str(listed.name))
    table.columns[0].justify = "right"
    for column in table.columns:
        column.overflow = "fold"
    for hold, held in listed.holds:
        rows = f"> {held.rows:,}" if held.is_capped else f"{held.rows:,}"
        scope = hold.scope if hold.predicate is None else f"{hold.scope}: {hold.predicate}"
        scope += f" ({hold.defect})" if hold.defect else ""
        cells = (rows, scope, hold.reason, hold.requestor, hold.starts or "always", hold.ends or "no end", hold.source)
        table.add_row(*map(escape, map(shown, cells)))
    output.print(table)


def _line(text: str) -> None:
    output.print(text, markup=False, highlight=False, soft_wrap=True)
