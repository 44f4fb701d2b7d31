"""`archiver list`: the archives of a table."""

from dataclasses import asdict

from rich.table import Table

from archiver_pipeline.cli.console import output, print_json, size
from archiver_pipeline.cli.options import ConfigOption, DatabaseOption, JsonOption, TableOption, open_config
from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.layout import BatchState
from archiver_pipeline.engine import inventory
from archiver_pipeline.engine.inventory import ArchivedBatch
from archiver_pipeline.engine.session import ArchiveSession

_SECONDS = len("2026-01-31 23:59:59")


def list_archives(
    config: ConfigOption = None,
    database: DatabaseOption = None,
    table: TableOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what the store holds of a table: windows, batches, rows, bytes, and the state of each batch.

    receipted: archived and proved; pending: interrupted, the next run settles it; superseded: void, its rows were
    taken by another batch; orphaned: never finished, its rows are still in the table.

    Examples:

        archiver list --table audit_log

        archiver list --database orders --table sales.audit_log --json
    """
    loaded = open_config(config)
    found = {settings: _archives(loaded, settings) for settings in loaded.select_tables(database, table)}
    if as_json:
        print_json([_as_dict(settings, batch) for settings, batches in found.items() for batch in batches])
        return
    for settings, batches in found.items():
        _print(settings, batches)


def _archives(loaded: LoadedConfig, settings: TableSettings) -> list[ArchivedBatch]:
    session = ArchiveSession(settings, loaded.database(settings.database), loaded.store, run_id="list")
    try:
        return inventory.list_archives(session)
    finally:
        session.close()


def _as_dict(settings: TableSettings, batch: ArchivedBatch) -> dict[str, object]:
    receipt = asdict(batch.receipt) if batch.receipt else None
    return {
        "database": settings.database,
        "schema": settings.schema,
        "table": settings.table,
        "window": batch.stored.window_key,
        "batch_id": batch.stored.batch_id,
        "state": batch.stored.state.value,
        "data_key": batch.stored.data_key,
        "object_bytes": batch.stored.object_bytes,
        "receipt": receipt,
    }


def _print(settings: TableSettings, batches: list[ArchivedBatch]) -> None:
    name = f"{settings.database}.{settings.qualified_name}"
    if not batches:
        output.print(f"{name}: no archives found", markup=False)
        return
    table = Table("window", "state", "batches", "rows", "stored", "first row", "last row", title=name)
    for column in table.columns[2:5]:
        column.justify = "right"
    for (window, state), group in _grouped(batches).items():
        table.add_row(window, state.value, f"{len(group):,}", *_figures(group))
    output.print(table)


def _grouped(batches: list[ArchivedBatch]) -> dict[tuple[str, BatchState], list[ArchivedBatch]]:
    groups: dict[tuple[str, BatchState], list[ArchivedBatch]] = {}
    for batch in batches:
        groups.setdefault((batch.stored.window_key, batch.stored.state), []).append(batch)
    return groups


def _figures(group: list[ArchivedBatch]) -> tuple[str, ...]:
    receipts = [batch.receipt for batch in group if batch.receipt is not None]
    stored = size(sum(batch.stored.object_bytes for batch in group))
    if not receipts:
        return ("", stored, "", "")
    return (
        f"{sum(receipt.rows for receipt in receipts):,}",
        stored,
        min(receipt.first_row_time for receipt in receipts)[:_SECONDS],
        max(receipt.last_row_time for receipt in receipts)[:_SECONDS],
    )
