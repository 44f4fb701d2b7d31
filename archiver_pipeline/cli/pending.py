"""`archiver upload-pending`: upload the batches that an outage of the store left on the local disk."""

import contextlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from archiver_pipeline.cli.archive import ExitCode
from archiver_pipeline.cli.console import errors, output, print_json, size, warn
from archiver_pipeline.cli.logs import open_log
from archiver_pipeline.cli.options import ConfigOption, DatabaseOption, JsonOption, TableOption, open_config
from archiver_pipeline.cli.progress import RunListener, listen
from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.batch import SettledBatch
from archiver_pipeline.domain.fallback import KeptBatch, KeptState
from archiver_pipeline.engine.fallback import upload_kept
from archiver_pipeline.engine.kept_files import list_kept
from archiver_pipeline.engine.recording import record_refusal
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.postgres.catalog import table_name

_LINES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class _Pending:
    """What was found of one table: batches settled now, and batches that stay on the local disk."""

    settings: TableSettings
    settled: list[SettledBatch] = field(default_factory=list)
    left: list[KeptBatch] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.settings.database}.{self.settings.qualified_name}"


def upload_pending(
    config: ConfigOption = None,
    database: DatabaseOption = None,
    table: TableOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what is kept; ask neither database nor store.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Upload the batches that runs kept in `s3.local_fallback_dir`, delete their rows, and archive nothing new.

    A kept batch is uploaded only if every one of its rows is still in the table as it was read; it is read back and
    proved like any other. One that is stale is told, and its files stay until you remove them. `archiver run` does the
    same before anything else. The table is not vacuumed, and Dagster records nothing of it.

    Exit codes: 0 nothing is left on the local disk, or --dry-run, 1 something is left, 2 failed, 3 configuration or
    preflight, 4 lock held, 5 permission, 6 resources, 7 network.

    Examples:

        archiver upload-pending --dry-run

        archiver upload-pending --database orders --table audit_log --json
    """
    log = open_log(stdout_is_taken=as_json or dry_run)
    loaded = open_config(config)
    listener = listen(loaded)
    tables = loaded.select_tables(database, table)
    found = [_look(loaded, settings) if dry_run else _upload(loaded, settings, listener) for settings in tables]
    if as_json:
        print_json({"tables": [_as_dict(one) for one in found], "errors": _errors_as_dicts(listener)})
    elif not log.takes_stdout:
        _print(found, listener, loaded.store.local_fallback_dir)
    raise typer.Exit(ExitCode.all_good if dry_run else _exit_code(found, listener))


def warn_of_kept(loaded: LoadedConfig, tables: tuple[TableSettings, ...]) -> None:
    """Say what of these tables is on the local disk: batches that wait in one line per table, others one by one; a long
    list shows its beginning."""
    found = {table_name(settings): list_kept(loaded.store, table_name(settings)) for settings in tables}
    for name, kept in found.items():
        if waiting := [one for one in kept if one.state is KeptState.waiting]:
            warn(f"{name}: {_waiting(waiting)}; `archiver upload-pending` or the next run uploads them")
    others = [one for kept in found.values() for one in kept if one.state is not KeptState.waiting]
    for one in others[:_LINES_SHOWN]:
        warn(f"kept on the local disk: {one}")
    if len(others) > _LINES_SHOWN:
        warn(f"and {len(others) - _LINES_SHOWN:,} more: `archiver upload-pending --dry-run` shows all")


def _waiting(kept: list[KeptBatch]) -> str:
    rows = sum(one.rows or 0 for one in kept)
    oldest = min(kept, key=lambda one: one.since)
    since = f"{oldest.since:%Y-%m-%d %H:%M} UTC"
    return f"{len(kept):,} batches with {rows:,} rows wait on the local disk since {since}: {oldest.reason}"


def _look(loaded: LoadedConfig, settings: TableSettings) -> _Pending:
    return _Pending(settings, left=list_kept(loaded.store, table_name(settings)))


def _upload(loaded: LoadedConfig, settings: TableSettings, listener: RunListener) -> _Pending:
    """Settle what is kept of one table; its error does not stop the others."""
    if not _look(loaded, settings).left:
        return _Pending(settings)
    session = ArchiveSession(
        settings, loaded.database(settings.database), loaded.store, run_id="upload-pending", progress=listener
    )
    with contextlib.closing(session):
        try:
            settled, left = upload_kept(session)
        except ArchiverError as error:
            record_refusal(session, error)
            listener.fail(session.name, error)
            return _look(loaded, settings)
    return _Pending(settings, list(settled), list(left))


def _exit_code(found: list[_Pending], listener: RunListener) -> int:
    """The code of the only kind of error, else failed; without errors whether anything is left."""
    codes = {error.exit_code for _, error in listener.errors}
    if codes:
        return codes.pop() if len(codes) == 1 else ExitCode.failed
    return ExitCode.partial if any(one.left for one in found) else ExitCode.all_good


def _as_dict(one: _Pending) -> dict[str, object]:
    return {
        "database": one.settings.database,
        "schema": one.settings.schema,
        "table": one.settings.table,
        "settled": [asdict(batch) for batch in one.settled],
        "left": [asdict(kept) | {"age_seconds": round(_age_seconds(kept))} for kept in one.left],
    }


def _errors_as_dicts(listener: RunListener) -> list[dict[str, str]]:
    return [{"table": str(n), "error": type(e).__name__, "message": str(e)} for n, e in listener.errors]


def _print(found: list[_Pending], listener: RunListener, folder: Path | None) -> None:
    if folder is None:
        output.print("No s3.local_fallback_dir is configured: nothing is ever kept.")
    elif not any(one.settled or one.left for one in found):
        output.print("Nothing is kept on the local disk.")
    for one in found:
        _print_settled(one)
    if any(one.left for one in found):
        output.print(_table_of_left(found, folder))
    for name, error in listener.errors:
        text = str(error) if str(name) in str(error) else f"{name}: {error}"
        errors.print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


def _print_settled(one: _Pending) -> None:
    counts = Counter(batch.outcome.value for batch in one.settled)
    if counts:
        what = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())
        rows = sum(batch.archived_rows for batch in one.settled)
        output.print(f"{one.name}: {what}; {rows:,} rows archived", markup=False, highlight=False)


def _table_of_left(found: list[_Pending], folder: Path | None) -> Table:
    table = Table("batch", "state", "rows", "bytes", "age", "why", title=f"in {folder}")
    table.columns[0].overflow = "fold"
    for one in found:
        for kept in one.left:
            rows = "" if kept.rows is None else f"{kept.rows:,}"
            table.add_row(kept.path.name, kept.state.value, rows, size(kept.size_bytes), _age(kept), kept.reason)
    return table


def _age_seconds(kept: KeptBatch) -> float:
    return (datetime.now(UTC) - kept.since).total_seconds()


def _age(kept: KeptBatch) -> str:
    minutes = int(_age_seconds(kept) // 60)
    days, hours = divmod(minutes // 60, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min"
