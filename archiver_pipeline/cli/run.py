"""`archiver run`: archive what is due, through Dagster, or show what would be."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer
from rich.table import Table

from archiver_pipeline.cli.archive import archive_tables, exit_code
from archiver_pipeline.cli.console import duration, errors, output, print_json, size, warn
from archiver_pipeline.cli.hold import held_sentence, held_tables
from archiver_pipeline.cli.logs import open_log
from archiver_pipeline.cli.options import (
    ConfigOption,
    DatabaseOption,
    EndOption,
    JsonOption,
    StartOption,
    TableOption,
    date_range,
    open_config,
)
from archiver_pipeline.cli.parallel import archive_databases, databases_at_once
from archiver_pipeline.cli.pending import warn_of_kept
from archiver_pipeline.cli.progress import RunListener, listen
from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.prices import AWS
from archiver_pipeline.engine.holds import HeldRows
from archiver_pipeline.engine.inventory import DateRange
from archiver_pipeline.engine.preview import ArchivePreview, preview_archive
from archiver_pipeline.engine.protection import session_protections
from archiver_pipeline.engine.report import ArchiveReport
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.postgres.catalog import table_name
from archiver_pipeline.postgres.connection import source_errors

_NOTHING_TO_DO = "every table was asked, and no unprotected window is wholly older than its retention"


def run(
    config: ConfigOption = None,
    database: DatabaseOption = None,
    table: TableOption = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Rows to take per table at most, rounded up to whole batches.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be archived; change and write nothing.")
    ] = False,
    direct: Annotated[
        bool, typer.Option("--direct", help="Call the engine without Dagster; the run is not recorded.")
    ] = False,
    ignore_hours: Annotated[
        bool,
        typer.Option("--ignore-hours", help="Begin batches outside allowed_hours as well; the audit trail is told."),
    ] = False,
    as_json: JsonOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show Dagster's log of every step.")] = False,
) -> None:
    """Archive every window that is wholly older than retention, one table after the other; with parallel_databases,
    up to max_parallel_databases databases at a time.

    Rows leave a table only after they were read back from the store and compared. Interrupt it whenever you like and
    run it again: it goes on at the last finished batch.

    Exit codes: 0 all good (also: nothing to do), 1 partial (also: rows are due outside allowed_hours), 2 failed,
    3 configuration or preflight, 4 lock held, 5 permission, 6 resources, 7 network.

    Examples:

        archiver run --dry-run

        archiver run --config audit.yaml --table audit_log

        archiver run --database orders --end-date 2025-12-31 --limit 1000000 --json
    """
    log = open_log(stdout_is_taken=as_json or dry_run)
    loaded = open_config(config)
    tables = loaded.select_tables(database, table)
    dates = date_range(start_date, end_date)
    if dry_run:
        _print_previews([_preview(loaded, settings, dates, limit) for settings in tables], as_json=as_json)
        return
    listener = listen(loaded)
    at_once = databases_at_once(loaded, tables)
    archive = archive_tables if at_once == 1 else partial(archive_databases, at_once=at_once)
    with listener.drawing(quiet=as_json or verbose):
        archive(
            loaded,
            tables,
            dates,
            listener,
            limit_rows=limit,
            direct=direct,
            log_level="INFO" if verbose else "CRITICAL",
            ignore_hours=ignore_hours,
        )
    warn_of_kept(loaded, tables)
    held = _held(loaded, tables, listener)
    if not log.takes_stdout:
        _print_outcome(listener, held, as_json=as_json)
    elif log.logger:
        for one in held:
            log.logger.info("rows_held", table=str(one.table), rows=one.rows, reason=one.holds.reason)
        if not (listener.reports or listener.errors or listener.closed):
            log.logger.info("nothing_to_do", message=_NOTHING_TO_DO)
    if not (log.takes_stdout or as_json or listener.reports or listener.errors or listener.closed):
        _print_protections(loaded, tables)
    raise typer.Exit(exit_code(listener, len(tables), is_limited=limit is not None))


def _preview(loaded: LoadedConfig, settings: TableSettings, dates: DateRange, limit_rows: int | None) -> ArchivePreview:
    session = ArchiveSession(settings, loaded.database(settings.database), loaded.store, run_id="dry-run")
    try:
        with source_errors(session.primary):
            return preview_archive(session, dates, limit_rows=limit_rows)
    finally:
        session.close()


def _print_previews(previews: list[ArchivePreview], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(preview) | {"rows": preview.rows, "batches": preview.batches} for preview in previews])
        return
    for preview in previews:
        _print_preview(preview)
    output.print("Dry run: nothing was changed, nothing was written.")


def _print_preview(preview: ArchivePreview) -> None:
    for warning in preview.warnings:
        warn(f"{preview.table}: {warning}")
    if not (preview.windows or preview.protected or preview.held):
        output.print(f"{preview.table}: nothing to do: no window is wholly older than {preview.cutoff}")
        return
    table = Table("window", "rows", "bytes", "batches", title=f"{preview.table}: rows older than {preview.cutoff}")
    for column in table.columns[1:]:
        column.justify = "right"
    if preview.protected or preview.held:
        table.add_column("stays")
    for window in preview.windows:
        table.add_row(window.window_key, f"{window.rows:,}", size(window.rows_bytes), f"{window.batches:,}")
    for held in preview.protected:
        table.add_row(held.window_key, f"{held.rows:,}", "", "0", held.reason)
    for under_hold in preview.held:
        table.add_row(under_hold.window_key, f"{under_hold.rows:,}", "", "0", under_hold.reason)
    table.add_section()
    table.add_row("all", f"{preview.rows:,}", size(preview.rows_bytes), f"{preview.batches:,}")
    output.print(table)
    output.print(
        f"Estimated: {size(preview.object_bytes)} stored as {preview.storage_class},"
        f" ${preview.month_dollars:,.4f} a month, ${preview.write_dollars:,.4f} to write"
        f" ({AWS.name} {AWS.region} prices of {AWS.as_of}),"
        f" about {duration(preview.seconds)}."
    )


def _held(loaded: LoadedConfig, tables: Sequence[TableSettings], listener: RunListener) -> list[HeldRows]:
    """What stays under legal hold in the tables that did not fail. Rows of such a table may be in no report at all,
    because a window of nothing else is not due."""
    failed = {name for name, _ in listener.errors}
    try:
        return list(held_tables(loaded, [one for one in tables if table_name(one) not in failed]))
    except ArchiverError as error:
        warn(f"rows under legal hold could not be counted after the run: {error}")
        return []


def _print_outcome(listener: RunListener, held: list[HeldRows], *, as_json: bool) -> None:
    reports, failures = listener.reports, listener.errors
    if as_json:
        print_json(
            {
                "reports": [asdict(report) | {"rows": report.rows} for report in reports],
                "errors": [{"table": str(n), "error": type(e).__name__, "message": str(e)} for n, e in failures],
                "held": [
                    {"table": asdict(one.table), "rows": one.rows, "is_capped": one.is_capped, "why": one.holds.reason}
                    for one in held
                ],
                "outside_hours": [{"table": str(name), "reason": reason} for name, reason in listener.closed],
            }
        )
        return
    for report in reports:
        for warning in report.warnings:
            warn(f"{report.table}: {warning}")
    if reports:
        output.print(summary_table(reports))
        for line in disk_lines(reports):
            output.print(line, markup=False, highlight=False, soft_wrap=True)
    elif not (failures or listener.closed):
        output.print(f"Nothing to do: {_NOTHING_TO_DO}.")
    for sentence in (text for report in reports for text in leaf_sentences(report)):
        output.print(sentence, markup=False, highlight=False, soft_wrap=True)
    for name, reason in listener.closed:
        output.print(f"{name}: rows are due, and it is {reason}", markup=False, highlight=False, soft_wrap=True)
    for one in held:
        output.print(held_sentence(one), markup=False, highlight=False, soft_wrap=True)
    for name, error in failures:
        text = str(error) if str(name) in str(error) else f"{name}: {error}"
        errors.print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


def leaf_sentences(report: ArchiveReport) -> Iterator[str]:
    """What became of partitions as a whole; nothing for a table that is not archived partition by partition."""
    if dropped := report.dropped_leaves:
        yield f"{report.table}: {_partitions(len(dropped))} dropped, {size(report.dropped_bytes)} given back at once"
    for reason, count in Counter(end.reason for end in report.leaves if not end.dropped).items():
        yield f"{report.table}: {_partitions(count)} not dropped, rows deleted instead: {reason}"


def _partitions(count: int) -> str:
    return "1 partition" if count == 1 else f"{count} partitions"


def _print_protections(loaded: LoadedConfig, tables: Sequence[TableSettings]) -> None:
    """Why a table may have had nothing to do: a restore protects what it brought back."""
    for settings in tables:
        session = ArchiveSession(settings, loaded.database(settings.database), loaded.store, run_id="look")
        with contextlib.closing(session), source_errors(session.primary):
            sentences = dict.fromkeys(map(str, session_protections(session)))
        for sentence in sentences:
            output.print(f"{session.name}: {sentence}", markup=False, highlight=False, soft_wrap=True)


def disk_lines(reports: Sequence[ArchiveReport]) -> Iterator[str]:
    """What each table's files hold at the end, what was given back, and what would give more."""
    last = {report.table: report.disk for report in reports if report.disk is not None}
    for name, disk in last.items():
        if disk.reclaim is not None or disk.advice:
            yield f"{name}: {disk}"
        if disk.reclaim is not None:
            yield f"{name}: {disk.reclaim}"
        if disk.advice:
            yield f"{name}: {disk.advice}"


def summary_table(reports: list[ArchiveReport]) -> Table:
    """One line per table: what was archived, what it weighs now, what is left and why."""
    table = Table("table", "rows", "batches", "stored", "reclaimed", "seconds", "left behind")
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    for name in dict.fromkeys(report.table for report in reports):
        own = [report for report in reports if report.table == name]
        rows, seconds = sum(r.rows for r in own), sum(r.total_seconds for r in own)
        left = sum(r.left_behind_rows for r in own if not r.truncated)
        reasons = ", ".join(sorted({r.left_behind_reason for r in own if r.left_behind_rows and not r.truncated}))
        held = "".join(f"; {r.protected_rows:,} {r.protected_reason}" for r in own if r.protected_rows)
        table.add_row(
            str(name),
            f"{rows:,}",
            f"{sum(w.batches for r in own for w in r.windows):,}",
            size(sum(r.object_bytes for r in own)),
            size(max(0, own[0].table_bytes_before - own[-1].table_bytes_after)),
            f"{seconds:.2f}",
            (f"{left:,} ({reasons})" if left else "0") + held,
        )
    return table
