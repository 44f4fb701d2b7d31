"""`archiver list`: the archives of a table."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer
from platformdirs import user_cache_path
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from archiver_pipeline.cli.console import errors, output, print_json, size
from archiver_pipeline.cli.options import (
    ConfigOption,
    DatabaseOption,
    EndDayOption,
    JsonOption,
    StartDayOption,
    TableOption,
    date_range,
    open_config,
)
from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.layout import BatchState
from archiver_pipeline.engine.inventory import ArchivedBatch, DateRange, find_archives, read_receipts
from archiver_pipeline.engine.selection import moment_of_text
from archiver_pipeline.storage.document_cache import DocumentCache
from archiver_pipeline.storage.s3 import S3Store

READERS = 16
"""Threads that read receipts; more only wait for each other (benchmarks/listing.py)."""
_WIDE_COLUMNS = 120
_DAY = len("2026-01-31")
_SECONDS = len("2026-01-31 23:59:59")
_MINUTES = len("2026-01-31T23:59")


def list_archives(
    config: ConfigOption = None,
    database: DatabaseOption = None,
    table: TableOption = None,
    start_date: StartDayOption = None,
    end_date: EndDayOption = None,
    state: Annotated[
        BatchState | None, typer.Option("--state", help="Only batches in this state.", show_default=False)
    ] = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="One line per data object, its key last, instead of one per window.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="By the listing alone: read no receipt, leave rows and times out.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List what the store holds of a table: windows, objects, rows, bytes, and the state of each batch.

    receipted: archived and proved; pending: interrupted, the next run settles it; superseded: void, its rows were
    taken by another batch; orphaned: never finished, its rows are still in the table; expiring: its own retention is
    over, its removal is not finished; expired: removed, only its receipts are left, and totals leave it out.

    cold: must be retrieved before it can be read; protected: a restore brought rows of this window back, and they are
    not archived again until then. Only the store is asked, no database.

    Examples:

        archiver list --table audit_log

        archiver list --start-date 2025-01-01 --end-date 2025-03-31 --objects

        archiver list --database orders --table sales.audit_log --state pending --json
    """
    loaded = open_config(config)
    dates = date_range(start_date, end_date)
    tables = loaded.select_tables(database, table)
    found = [_listed(loaded, settings, dates, state, quick=quick) for settings in tables]
    if as_json:
        print_json([_as_dict(listed) for listed in found])
        return
    for listed in found:
        _print(listed, with_objects=objects)


@dataclass(frozen=True, slots=True)
class _Listed:
    """What was found of one table."""

    settings: TableSettings
    batches: list[ArchivedBatch]

    @property
    def name(self) -> str:
        return f"{self.settings.database}.{self.settings.qualified_name}"


@dataclass(frozen=True, slots=True)
class _Figures:
    """Sums over batches. Rows, their bytes, ratio and times are of those whose receipt was read, None for none."""

    objects: int
    object_bytes: int
    rows: int | None
    rows_bytes: int | None
    compression_ratio: float | None
    first_row_time: str | None
    last_row_time: str | None


def _listed(
    loaded: LoadedConfig, settings: TableSettings, dates: DateRange, state: BatchState | None, *, quick: bool
) -> _Listed:
    store = S3Store(loaded.store, connections=READERS)
    with errors.status(f"listing {settings.qualified_name}"):
        found = find_archives(store, settings, dates, state, datetime.now(UTC))
    if quick:
        return _Listed(settings, found)
    receipts = sum(batch.stored.has_receipt for batch in found)
    with _drawing(settings.qualified_name, receipts) as advance:
        cache = DocumentCache.of(loaded.store, user_cache_path("archiver_pipeline"))
        return _Listed(settings, read_receipts(store, found, READERS, advance, cache=cache))


@contextmanager
def _drawing(name: str, receipts: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr when it is a terminal; gives what moves it on by one receipt."""
    with Progress(
        TextColumn(f"{name} [bold]receipts[/]"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    ) as bar:
        task = bar.add_task("", total=receipts)
        yield lambda: bar.advance(task)


def _as_dict(listed: _Listed) -> dict[str, object]:
    return {
        "database": listed.settings.database,
        "schema": listed.settings.schema,
        "table": listed.settings.table,
        "totals": asdict(_figures(_there(listed.batches))),
        "batches": [_batch_as_dict(batch) for batch in listed.batches],
    }


def _batch_as_dict(batch: ArchivedBatch) -> dict[str, object]:
    return {
        "window": batch.stored.window_key,
        "batch_id": batch.stored.batch_id,
        "state": batch.stored.state.value,
        "data_key": batch.stored.data_key,
        "storage_class": batch.stored.storage_class,
        "cold": batch.stored.is_cold,
        "protected_until": batch.protection.ends_at if batch.protection else None,
        **asdict(_figures([batch])),
        "receipt": asdict(batch.receipt) if batch.receipt else None,
    }


def _there(batches: Sequence[ArchivedBatch]) -> list[ArchivedBatch]:
    """Without what is gone for good: rows of an expired batch are in no archive."""
    return [batch for batch in batches if batch.stored.state is not BatchState.expired]


def _figures(batches: Sequence[ArchivedBatch]) -> _Figures:
    """Times are compared as times: as text, years BC and beyond 9999 would be out of order."""
    receipts = [batch.receipt for batch in batches if batch.receipt is not None]
    objects = sum(batch.stored.data_key is not None for batch in batches)
    object_bytes = sum(batch.stored.object_bytes for batch in batches)
    if not receipts:
        return _Figures(objects, object_bytes, None, None, None, None, None)
    rows_bytes, stored_bytes = sum(r.rows_bytes for r in receipts), sum(r.object_bytes for r in receipts)
    return _Figures(
        objects,
        object_bytes,
        sum(receipt.rows for receipt in receipts),
        rows_bytes,
        round(rows_bytes / stored_bytes, 3) if stored_bytes else None,
        min((receipt.first_row_time for receipt in receipts), key=moment_of_text),
        max((receipt.last_row_time for receipt in receipts), key=moment_of_text),
    )


def _print(listed: _Listed, *, with_objects: bool) -> None:
    if not listed.batches:
        output.print(f"{listed.name}: no archives found", markup=False, highlight=False)
    elif with_objects:
        _print_objects(listed)
    else:
        _print_windows(listed)


def _print_windows(listed: _Listed) -> None:
    """On a narrow terminal without the bytes before compression, and with days for times: no figure is ever cut."""
    is_wide = output.width >= _WIDE_COLUMNS
    has_notes = any(map(_notes, listed.batches))
    title = f"{listed.name}: {_states(listed.batches)}"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("window", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("objects", "rows", *(["bytes"] if is_wide else []), "stored", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("first row", "last row"):
        table.add_column(heading, no_wrap=True)
    if has_notes:
        table.add_column("notes")
    for group in _grouped(listed.batches):
        cells = _cells(group, is_wide=is_wide)
        notes = [_notes(group[0])] if has_notes else []
        table.add_row(group[0].stored.window_key, group[0].stored.state.value, *cells, *notes)
    table.add_section()
    table.add_row("all", "", *_cells(_there(listed.batches), is_wide=is_wide))
    output.print(table)


def _print_objects(listed: _Listed) -> None:
    """Lines that any program can split at white space: no key is folded, and it stands last."""
    output.print(f"{listed.name}: {_states(listed.batches)}", markup=False, highlight=False, soft_wrap=True)
    for batch in listed.batches:
        rows = f"{batch.receipt.rows:,}" if batch.receipt else "-"
        stored = size(batch.stored.object_bytes).replace(" ", "")
        key = batch.stored.data_key or f"{batch.stored.stem}.*"
        notes = _notes(batch)
        line = f"{batch.stored.state.value:<10} {rows:>11} {stored:>9} {f'({notes}) ' if notes else ''}{key}"
        output.print(line, markup=False, highlight=False, soft_wrap=True)


def _grouped(batches: Sequence[ArchivedBatch]) -> list[list[ArchivedBatch]]:
    """Batches that share a line: of one window, state and notes."""
    groups: dict[tuple[str, BatchState, str], list[ArchivedBatch]] = {}
    for batch in batches:
        groups.setdefault((batch.stored.window_key, batch.stored.state, _notes(batch)), []).append(batch)
    return list(groups.values())


def _cells(batches: Sequence[ArchivedBatch], *, is_wide: bool) -> tuple[str, ...]:
    """Objects, rows, bytes (if wide), stored, ratio, first row, last row; what no receipt tells is left empty."""
    figures = _figures(batches)
    rows_bytes = "" if figures.rows_bytes is None else size(figures.rows_bytes)
    shown = _SECONDS if is_wide else _DAY
    return (
        f"{figures.objects:,}",
        "" if figures.rows is None else f"{figures.rows:,}",
        *([rows_bytes] if is_wide else []),
        size(figures.object_bytes),
        "" if figures.compression_ratio is None else f"{figures.compression_ratio:.2f}",
        (figures.first_row_time or "")[:shown],
        (figures.last_row_time or "")[:shown],
    )


def _notes(batch: ArchivedBatch) -> str:
    notes = []
    if batch.stored.state is BatchState.expired:
        notes.append(f"expired {batch.stored.modified_at:%Y-%m-%d}")
    elif batch.stored.data_key is None:
        notes.append("object missing")
    if batch.stored.is_cold:
        notes.append("cold")
    if batch.protection:
        notes.append(f"protected until {batch.protection.ends_at[:_MINUTES].replace('T', ' ')}")
    return ", ".join(notes)


def _states(batches: Sequence[ArchivedBatch]) -> str:
    counts = Counter(batch.stored.state for batch in batches)
    return ", ".join(f"{counts[state]:,} {state.value}" for state in BatchState if counts[state])
