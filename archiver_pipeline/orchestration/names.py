"""Names that Dagster accepts, made from names that PostgreSQL accepts."""

import hashlib
import re

import dagster as dg

from archiver_pipeline.config.effective import TableSettings

PROCESS_TAG = "archiver/process"
"""On runs that a command executes in its own process: which process."""

_PLAIN = re.compile(r"[A-Za-z0-9_]+")
_HASH_DIGITS = 6


def process_of(run: dg.DagsterRun) -> str | None:
    """The process of a command that executes this run; None when Dagster does.

    Dagster copies the tag to re-executions, which it executes elsewhere.
    """
    return None if run.parent_run_id else run.tags.get(PROCESS_TAG)


def asset_key(settings: TableSettings) -> dg.AssetKey:
    """[database, schema, table]. Plain names only: Dagster makes names of the asset's checks out of its key."""
    return dg.AssetKey([plain_name(part) for part in (settings.database, settings.schema, settings.table)])


def asset_name(settings: TableSettings) -> str:
    """The asset's name where only letters, digits and underscores are allowed."""
    return "__".join(plain_name(part) for part in (settings.database, settings.schema, settings.table))


def plain_name(name: str) -> str:
    """A name of letters, digits and underscores; a short hash keeps changed names apart."""
    if _PLAIN.fullmatch(name):
        return name
    return re.sub(r"[^A-Za-z0-9_]", "_", name) + "_" + _digest(name)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]


def pool_of(database: str) -> str:
    """The concurrency pool that every op on one source database shares."""
    return f"archiver_{plain_name(database)}"
