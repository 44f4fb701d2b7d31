"""Names that a shell completes: databases and tables of the configuration that the command line names.

Completion never fails, whatever the file says: secrets need not be set for it, and what cannot be read has no names.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from archiver_pipeline.config.document import read_document
from archiver_pipeline.config.loading import locate_config
from archiver_pipeline.errors import ArchiverError


def complete_database(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of databases that begin so."""
    return _beginning((_id_of(database) for database in _databases(ctx)), incomplete)


def complete_table(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of tables that begin so, with the schema when one is being typed; only of `--database` if that is there."""
    wanted = ctx.params.get("database")
    tables = [
        table
        for database in _databases(ctx)
        if wanted in (None, _id_of(database))
        for table in _mappings(database.get("tables"))
    ]
    names = [str(table.get("name", "")) for table in tables]
    qualified = [f"{table.get('schema', 'public')}.{name}" for table, name in zip(tables, names, strict=True)]
    return _beginning(qualified if "." in incomplete else names, incomplete)


def _beginning(names: Any, incomplete: str) -> list[str]:
    return sorted({name for name in names if name and name.startswith(incomplete)})


def _databases(ctx: typer.Context) -> list[dict[str, Any]]:
    path = locate_config(ctx.params.get("config"), os.environ, Path.cwd())
    try:
        return list(_mappings(read_document(path.read_bytes(), os.environ).data.get("databases")))
    except (OSError, ArchiverError):
        return []


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    """The mappings of a list; nothing of anything else."""
    yield from (entry for entry in value if isinstance(entry, dict)) if isinstance(value, list) else ()


def _id_of(database: dict[str, Any]) -> str:
    return str(database.get("id") or database.get("name") or "")
