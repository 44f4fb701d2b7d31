"""`archiver expire`: archives whose own retention is over."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from archiver_pipeline.cli.archive import ExitCode
from archiver_pipeline.cli.console import errors, output, print_json, size
from archiver_pipeline.cli.options import ConfigOption, DatabaseOption, JsonOption, TableOption, open_config
from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.expiry import ExpiringArchive, ExpiryOutcome, ExpiryPlan, SettledExpiry
from archiver_pipeline.engine.expiry import apply_expiry, plan_expiry
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ArchiverError, ConfigError

_RUN_ID = "expire"
_DAY = len("2026-01-31")


def expire(
    config: ConfigOption = None,
    database: DatabaseOption = None,
    table: TableOption = None,
    before_date: Annotated[
        datetime | None,
        typer.Option(
            "--before-date",
            formats=["%Y-%m-%d"],
            help="Of the archives past retention, only those whose last row is before this day (UTC).",
            show_default=False,
        ),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Remove them, for good. Without it, only show what would be removed.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --apply: do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show which archives are past `archive_retention_days`; with --apply, remove them, one after the other.

    An archive stays while a legal hold is on its table, or holds can't be read; while a restore protects its rows;
    while S3 Object Lock keeps it; when its documents do not agree. Data and manifest go, in every version that the
    bucket keeps; the receipt stays, and two more documents say who removed what, when and why. Interrupt it whenever
    you like: run it again, and what was begun is finished.

    Exit codes: 0 done, or nothing to do, or without --apply; 1 some archives past retention stayed; 2 failed,
    3 configuration or preflight, 4 lock held, 5 permission, 7 network.

    Examples:

        archiver expire

        archiver expire --table audit_log --before-date 2019-01-01 --json

        archiver expire --database orders --apply --yes
    """
    loaded = open_config(config)
    tables = loaded.select_tables(database, table)
    before = before_date.date() if before_date else None
    if apply and not yes:
        _require_terminal()
    plans = [_plan(loaded, settings, before) for settings in tables] if not (apply and yes) else []
    if not apply:
        _tell_plans(plans, as_json=as_json)
        return
    if not yes and not _is_wanted(plans):
        return
    applied = [_apply(loaded, settings, before) for settings in tables]
    _tell_applied(applied, as_json=as_json)
    raise typer.Exit(_exit_code(applied))


@dataclass(slots=True)
class _Applied:
    """What became of one table's archives, up to an error that ended it."""

    settings: TableSettings
    settled: list[SettledExpiry] = field(default_factory=list)
    error: ArchiverError | None = None

    @property
    def name(self) -> str:
        return _name(self.settings)

    def of(self, outcome: ExpiryOutcome) -> list[SettledExpiry]:
        return [one for one in self.settled if one.outcome is outcome]


def _require_terminal() -> None:
    if not sys.stdin.isatty():
        raise ConfigError("--apply asks before it removes anything, and there is no terminal", hint="give --yes")


def _is_wanted(plans: Sequence[ExpiryPlan]) -> bool:
    """Show the plans and ask. False when there is nothing to do; an answer of no ends the command."""
    _tell_plans(plans, as_json=False)
    ready = [archive for plan in plans for archive in plan.ready]
    if ready:
        rows = sum(archive.rows for archive in ready)
        typer.confirm(f"Remove {len(ready):,} archives with {rows:,} rows for good?", abort=True, err=True)
    return bool(ready)


@contextlib.contextmanager
def _session(loaded: LoadedConfig, settings: TableSettings) -> Iterator[ArchiveSession]:
    database = loaded.database(settings.database)
    with contextlib.closing(ArchiveSession(settings, database, loaded.store, run_id=_RUN_ID)) as session:
        yield session


def _plan(loaded: LoadedConfig, settings: TableSettings, before: date | None) -> ExpiryPlan:
    with _session(loaded, settings) as session:
        return plan_expiry(session, before=before)


def _apply(loaded: LoadedConfig, settings: TableSettings, before: date | None) -> _Applied:
    """One table's error does not stop the others."""
    applied = _Applied(settings)
    with _session(loaded, settings) as session, errors.status(f"expiring archives of {settings.qualified_name}"):
        try:
            for settled in apply_expiry(session, before=before):
                applied.settled.append(settled)
        except ArchiverError as error:
            applied.error = error
    return applied


def _exit_code(applied: Sequence[_Applied]) -> int:
    """The code of the only kind of error, else failed; without errors whether anything stayed."""
    codes = {one.error.exit_code for one in applied if one.error}
    if codes:
        return codes.pop() if len(codes) == 1 else ExitCode.failed
    has_left = any(one.outcome is not ExpiryOutcome.expired for table in applied for one in table.settled)
    return ExitCode.partial if has_left else ExitCode.all_good


def _tell_plans(plans: Sequence[ExpiryPlan], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(plan) for plan in plans])
        return
    for plan in plans:
        _print_plan(plan)
    if any(plan.ready for plan in plans):
        output.print("Nothing was removed: --apply does it.")


def _print_plan(plan: ExpiryPlan) -> None:
    if not plan.archives:
        why = "kept for ever: no archive_retention_days is configured"
        if plan.archive_retention_days is not None:
            why = (
                f"no archive is past {plan.archive_retention_days} days; {plan.younger:,} are younger or not asked for"
            )
        _line(f"{plan.table}: {why}")
        return
    title = f"{plan.table}: archives past {plan.archive_retention_days} days; {plan.younger:,} are younger"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("window", no_wrap=True)
    for heading in ("objects", "rows", "stored"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("last row", no_wrap=True)
    table.add_column("stays because")
    for group in _grouped(plan.archives):
        table.add_row(group[0].window_key, *_cells(group), escape(group[0].blocked))
    table.add_section()
    table.add_row("may go", *_cells(plan.ready), "")
    if plan.blocked:
        table.add_row("stay", *_cells(plan.blocked), "")
    output.print(table)


def _grouped(archives: Sequence[ExpiringArchive]) -> list[list[ExpiringArchive]]:
    """Those of one window that share their fate are one line."""
    groups: dict[tuple[str, str], list[ExpiringArchive]] = {}
    for archive in archives:
        groups.setdefault((archive.window_key, archive.blocked), []).append(archive)
    return list(groups.values())


def _cells(archives: Sequence[ExpiringArchive]) -> tuple[str, ...]:
    return (
        f"{len(archives):,}",
        f"{sum(archive.rows for archive in archives):,}",
        size(sum(archive.object_bytes for archive in archives)),
        max((archive.last_row_time for archive in archives), default="")[:_DAY],
    )


def _tell_applied(applied: Sequence[_Applied], *, as_json: bool) -> None:
    if as_json:
        print_json([_as_dict(one) for one in applied])
        return
    for one in applied:
        gone = one.of(ExpiryOutcome.expired)
        rows, stored = sum(x.archive.rows for x in gone), sum(x.archive.object_bytes for x in gone)
        versions = sum(x.removed_versions for x in gone)
        _line(
            f"{one.name}: {len(gone):,} archives expired, {rows:,} rows, {size(stored)}, {versions:,} versions removed"
        )
        reasons = dict.fromkeys((x.outcome, x.reason) for x in one.settled if x.reason)
        for outcome, reason in reasons:
            count = sum((x.outcome, x.reason) == (outcome, reason) for x in one.settled)
            _line(f"{one.name}: {count:,} {outcome.value}: {reason}")
        if one.error:
            errors.print(f"error: {one.name}: {one.error}", style="red", markup=False, highlight=False, soft_wrap=True)


def _as_dict(one: _Applied) -> dict[str, object]:
    return {
        "database": one.settings.database,
        "schema": one.settings.schema,
        "table": one.settings.table,
        "archives": [asdict(settled) for settled in one.settled],
        "error": str(one.error) if one.error else None,
    }


def _name(settings: TableSettings) -> str:
    return f"{settings.database}.{settings.qualified_name}"


def _line(text: str) -> None:
    output.print(text, markup=False, highlight=False, soft_wrap=True)
