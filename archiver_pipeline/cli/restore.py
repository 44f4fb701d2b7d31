"""`archiver restore`: bring archived rows back, through Dagster, or show what would be."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from archiver_pipeline.cli.archive import ExitCode
from archiver_pipeline.cli.console import duration, errors, output, print_json, size, warn
from archiver_pipeline.cli.listing import list_archives
from archiver_pipeline.cli.logs import open_log
from archiver_pipeline.cli.options import (
    ConfigOption,
    DatabaseOption,
    JsonOption,
    TableOption,
    date_range,
    open_config,
)
from archiver_pipeline.cli.progress import RunListener, listen
from archiver_pipeline.cli.restoring import RestoreNames, listed_table, resolve_names, run_restore
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.restore import (
    ConflictStrategy,
    RestoreOutcome,
    RestoreReport,
    RestoreRequest,
    RetrievalTier,
    SchemaStrategy,
)
from archiver_pipeline.engine.restore import RestorePreview, preview_restore
from archiver_pipeline.engine.selection import Selection
from archiver_pipeline.errors import ConfigError
from archiver_pipeline.orchestration.names import plain_name
from archiver_pipeline.orchestration.runtime import open_restore

_OBJECTS_SHOWN = 20
_NARROWEST_NAME = 26
_DAY_FORMATS = ["%Y-%m-%d"]


def restore(
    config: ConfigOption = None,
    database: DatabaseOption = None,
    table: TableOption = None,
    schema: Annotated[
        str | None, typer.Option("--schema", help="Schema of the table, when names repeat.", show_default=False)
    ] = None,
    s3_key: Annotated[
        str | None,
        typer.Option(
            "--s3-key",
            help="Restore this archive: a key, or s3://bucket/key; the key of its manifest or receipt will do.",
            show_default=False,
        ),
    ] = None,
    restore_all: Annotated[
        bool, typer.Option("--restore-all", help="Restore every archive of the table (within the dates).")
    ] = False,
    start_date: Annotated[
        datetime | None,
        typer.Option(
            "--start-date", formats=_DAY_FORMATS, help="First day of rows (UTC, inclusive).", show_default=False
        ),
    ] = None,
    end_date: Annotated[
        datetime | None,
        typer.Option("--end-date", formats=_DAY_FORMATS, help="Last day of rows (UTC, inclusive).", show_default=False),
    ] = None,
    to_database: Annotated[
        str | None, typer.Option("--to-database", help="Restore into this configured database.", show_default=False)
    ] = None,
    to_schema: Annotated[
        str | None, typer.Option("--to-schema", help="Restore into this schema.", show_default=False)
    ] = None,
    to_table: Annotated[
        str | None, typer.Option("--to-table", help="Restore into this table, which must exist.", show_default=False)
    ] = None,
    conflict_strategy: Annotated[
        ConflictStrategy,
        typer.Option(
            "--conflict-strategy",
            help="Rows whose key is in the target: skip keeps them; overwrite replaces every column; upsert sets"
            " only the archived columns; fail restores nothing of the object.",
        ),
    ] = ConflictStrategy.skip,
    schema_strategy: Annotated[
        SchemaStrategy,
        typer.Option(
            "--schema-strategy",
            help="When columns changed since: strict refuses and shows the difference; lenient maps by name.",
        ),
    ] = SchemaStrategy.strict,
    where: Annotated[
        str | None,
        typer.Option(
            "--where", help="Only rows for which this is true, like \"actor = 'ann' AND id > 7\".", show_default=False
        ),
    ] = None,
    ignore_watermark: Annotated[
        bool, typer.Option("--ignore-watermark", help="Restore what was restored before, too.")
    ] = False,
    allow_lossy_casts: Annotated[
        bool, typer.Option("--allow-lossy-casts", help="With lenient: take values that lose something in a new type.")
    ] = False,
    protect_days: Annotated[
        int | None,
        typer.Option(
            "--protect-days",
            min=0,
            help="Days until the restored rows may be archived again; else as configured.",
            show_default=False,
        ),
    ] = None,
    retrieval_tier: Annotated[
        RetrievalTier, typer.Option("--retrieval-tier", help="How fast archives in a cold class are retrieved.")
    ] = RetrievalTier.Standard,
    retrieval_days: Annotated[
        int, typer.Option("--retrieval-days", min=1, max=365, help="Days that retrieved archives stay readable.")
    ] = 7,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be restored; change and write nothing.")
    ] = False,
    direct: Annotated[
        bool, typer.Option("--direct", help="Call the engine without Dagster; the run is not recorded.")
    ] = False,
    as_json: JsonOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show Dagster's log of every step.")] = False,
) -> None:
    """Bring archived rows back. Without a key or --restore-all it lists the archives.

    Every object is proved against its manifest first, and then restored whole in one transaction or not at all. What
    was restored is remembered: a second restore takes only new archives, unless --ignore-watermark. With --s3-key,
    --database and --table may name another target than the key's table.

    Exit codes: 0 all restored (or nothing new), 1 some objects failed or wait for their retrieval, 2 all failed,
    3 configuration or preflight, 4 the table is being archived or restored, 5 permission, 6 resources, 7 network.

    Examples:

        archiver restore --table audit_log

        archiver restore --table audit_log --restore-all --start-date 2025-01-01 --end-date 2025-01-31 --dry-run

        archiver restore --table audit_log --restore-all --to-table audit_log_2024 --where "actor = 'ann'"

        archiver restore --s3-key archives/orders/audit_log/year=2025/month=01/day=31/audit_log_2025-01-31_1f.jsonl.gz
    """
    if s3_key is None and not restore_all:
        listed = listed_table(schema, table)
        list_archives(config, database, listed, start_date, end_date, objects=True, as_json=as_json)
        if not as_json:
            _say_how_to_restore()
        return
    if s3_key is not None and restore_all:
        raise ConfigError("--s3-key and --restore-all exclude each other", hint="leave one of them out")
    log = open_log(stdout_is_taken=as_json or dry_run)
    loaded = open_config(config)
    names = resolve_names(
        loaded,
        RestoreNames(database, schema, table, s3_key, to_database, to_schema, to_table),
    )
    dates = date_range(start_date, end_date)
    request = RestoreRequest(
        source=names.source,
        target=names.target,
        data_key=names.data_key,
        start=dates.start,
        end=dates.end,
        conflict=conflict_strategy,
        schema=schema_strategy,
        where=where,
        allow_lossy_casts=allow_lossy_casts,
        ignore_watermark=ignore_watermark,
        protect_days=protect_days,
        retrieval_tier=retrieval_tier,
        retrieval_days=retrieval_days,
    )
    if dry_run:
        _print_preview(_preview(loaded, request), as_json=as_json)
        return
    listener = listen(loaded)
    with listener.drawing(quiet=as_json or verbose):
        run_restore(loaded, request, listener, direct=direct, log_level="INFO" if verbose else "CRITICAL")
    if not log.takes_stdout:
        _print_outcome(listener, as_json=as_json)
    raise typer.Exit(_exit_code(listener))


def _say_how_to_restore() -> None:
    errors.print(
        "Nothing was restored: choose an archive with --s3-key KEY, or all of a table with --restore-all.",
        highlight=False,
    )


def _preview(loaded: LoadedConfig, request: RestoreRequest) -> RestorePreview:
    session = open_restore(loaded, request, run_id="dry-run", progress=RunListener())
    try:
        return preview_restore(session)
    finally:
        session.close()


def _exit_code(listener: RunListener) -> int:
    if listener.errors:
        return listener.errors[0][1].exit_code
    report = listener.restores[0]
    unfinished = report.count(RestoreOutcome.failed) + report.count(RestoreOutcome.waiting)
    if not unfinished:
        return ExitCode.all_good
    return ExitCode.failed if report.count(RestoreOutcome.failed) == len(report.objects) else ExitCode.partial


def _print_preview(preview: RestorePreview, *, as_json: bool) -> None:
    selection = preview.selection
    if as_json:
        print_json(_preview_as_dict(preview))
        return
    for drift in preview.drifts:
        warn(f"columns changed since: {drift}")
    refused = [(key, reason) for key, _, reason in (text.partition(": ") for text in preview.problems)]
    for line in _by_reason(refused):
        warn(line)
    _print_selection(selection)
    _print_remembered(selection.remembered)
    if selection.expired:
        since = f"{selection.expired_since:%Y-%m-%d %H:%M} UTC"
        output.print(f"{selection.expired:,} archives are expired, the first since {since}.", markup=False)
    if selection.pending:
        output.print(f"{selection.pending:,} pending batches are not taken: `archiver run` settles them.", markup=False)
    if refused:
        output.print(f"{_count(len(refused))} would be refused.", highlight=False)
    if selection.waiting:
        output.print(
            f"{_count(len(selection.waiting))} in a cold class: {selection.started:,} retrievals would be started, for"
            f" about ${selection.retrieval_dollars:,.4f}; all readable at about {_moment(selection.ready_at)}.",
            highlight=False,
        )
    output.print("Dry run: nothing was changed, nothing was written.")


def _print_selection(selection: Selection) -> None:
    """One line per archive in the order of their keys, the last one for all; a long list shows its beginning."""
    output.print(f"{selection.request.source} → {selection.request.target}", markup=False, highlight=False)
    found = [(archive, "readable") for archive in selection.archives]
    found += [(archive, "cold") for archive in selection.waiting]
    table = Table("archive", "rows", "stored", "state")
    table.columns[0].overflow = "fold"
    for column in table.columns[1:3]:
        column.justify = "right"
    for archive, state in sorted(found, key=lambda pair: pair[0].data_key)[:_OBJECTS_SHOWN]:
        receipt = archive.receipt
        table.add_row(_file(archive.data_key), f"{receipt.rows:,}", size(receipt.object_bytes), state)
    table.add_section()
    rows = sum(archive.receipt.rows for archive, _ in found)
    stored = sum(archive.receipt.object_bytes for archive, _ in found)
    table.add_row(_total(len(found)), f"{rows:,}", size(stored), "")
    output.print(table)


def _preview_as_dict(preview: RestorePreview) -> dict[str, object]:
    selection = preview.selection
    return {
        "source": asdict(selection.request.source),
        "target": asdict(selection.request.target),
        "archives": [asdict(archive.receipt) for archive in selection.archives],
        "rows": selection.rows,
        "waiting": [archive.data_key for archive in selection.waiting],
        "retrievals_to_start": selection.started,
        "pending": selection.pending,
        "expired": selection.expired,
        "ready_at": selection.ready_at,
        "retrieval_dollars": selection.retrieval_dollars,
        "restored_before": selection.remembered,
        "drift": [drift.lines() for drift in preview.drifts],
        "problems": list(preview.problems),
    }


def _print_outcome(listener: RunListener, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "reports": [_as_dict(report) for report in listener.restores],
                "errors": [
                    {"table": str(name), "error": type(error).__name__, "message": str(error)}
                    for name, error in listener.errors
                ],
            }
        )
        return
    for report in listener.restores:
        _print_report(report)
    for name, error in listener.errors:
        text = str(error) if str(name) in str(error) else f"{name}: {error}"
        errors.print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


def _as_dict(report: RestoreReport) -> dict[str, object]:
    return asdict(report) | {
        "restored_rows": report.restored_rows,
        "replaced_rows": report.replaced_rows,
        "skipped_rows": report.skipped_rows,
        "filtered_rows": report.filtered_rows,
        "failed_rows": report.failed_rows,
    }


def _print_report(report: RestoreReport) -> None:
    for warning in report.warnings:
        warn(warning)
    if not report.objects:
        why = "nothing new to restore" if report.remembered else "nothing to restore: no archive has rows in these days"
        output.print(f"{report.source}: {why}.", markup=False, highlight=False)
        _print_remembered(report.remembered)
        return
    output.print(_objects_table(report))
    per_second = report.restored_rows / report.seconds if report.seconds else 0
    output.print(
        f"{report.restored_rows:,} rows restored into {report.target} in {duration(report.seconds)}"
        f" ({per_second:,.0f} rows/s).",
        markup=False,
        highlight=False,
    )
    _print_remembered(report.remembered)
    if report.protected_until:
        output.print(f"Their days are not archived again before {_moment(report.protected_until)}.", highlight=False)
    if waiting := report.count(RestoreOutcome.waiting):
        output.print(
            f"{_count(waiting)} being retrieved from a cold class (about ${report.retrieval_dollars:,.4f}):"
            f" run the same command again after {_moment(report.ready_at)}, or let the sensor"
            f" retrieved_{plain_name(report.target.database)} do it.",
            highlight=False,
        )
    failed = [
        (item.data_key, item.reason.removeprefix(f"{item.data_key}: "))
        for item in report.objects
        if item.outcome is RestoreOutcome.failed
    ]
    for line in _by_reason(failed):
        errors.print(f"error: {line}", style="red", markup=False, highlight=False, soft_wrap=True)


def _by_reason(refused: list[tuple[str, str]]) -> list[str]:
    """One line per reason, out of keys and reasons: damage has its own, a table that changed has the same for all."""
    keys: dict[str, list[str]] = {}
    for key, reason in refused:
        keys.setdefault(reason, []).append(key)
    return [
        f"{_count(len(found))}, the first of them {found[0]}: {reason}" if len(found) > 1 else f"{found[0]}: {reason}"
        for reason, found in keys.items()
    ]


def _objects_table(report: RestoreReport) -> Table:
    """One line per object, the last one for all; a long list shows its failures and its beginning.

    Kinds of rows that there are none of have no column.
    """
    kinds = {
        "restored": [item.restored_rows for item in report.objects],
        "replaced": [item.replaced_rows for item in report.objects],
        "skipped": [item.skipped_rows for item in report.objects],
        "left out": [item.filtered_rows for item in report.objects],
        "failed": [item.failed_rows for item in report.objects],
    }
    told = {kind: counts for kind, counts in kinds.items() if kind == "restored" or any(counts)}
    table = Table("archive", "outcome", "rows", *told)
    table.columns[0].overflow = "fold"
    table.columns[0].min_width = _NARROWEST_NAME
    for column in table.columns[2:]:
        column.justify = "right"
    for index in _shown(report):
        item = report.objects[index]
        counts = (item.rows, *(counts[index] for counts in told.values()))
        table.add_row(_file(item.data_key), item.outcome.value, *(f"{count:,}" for count in counts))
    table.add_section()
    rows = sum(item.rows for item in report.objects)
    totals = (rows, *(sum(counts) for counts in told.values()))
    table.add_row(_total(len(report.objects)), "", *(f"{count:,}" for count in totals))
    return table


def _shown(report: RestoreReport) -> list[int]:
    """The objects that a long list shows: those that were not restored come before the others."""
    numbers = range(len(report.objects))
    unlucky_first = sorted(numbers, key=lambda number: report.objects[number].outcome is RestoreOutcome.restored)
    return sorted(unlucky_first[:_OBJECTS_SHOWN])


def _total(archives: int) -> str:
    hidden = archives - _OBJECTS_SHOWN
    return _count(archives) + (f" ({hidden:,} not shown; --json shows all)" if hidden > 0 else "")


def _count(archives: int) -> str:
    return f"{archives:,} archive" if archives == 1 else f"{archives:,} archives"


def _file(key: str) -> str:
    return key.rpartition("/")[2]


def _print_remembered(remembered: int) -> None:
    if remembered:
        output.print(
            f"{_count(remembered)} restored before and left out; --ignore-watermark takes them again.",
            highlight=False,
        )


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "an unknown time"
