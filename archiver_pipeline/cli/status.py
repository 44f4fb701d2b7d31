"""`archiver status`: how each table stands, and whether any is quietly stuck."""

import contextlib
import os
from datetime import UTC, datetime
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from archiver_pipeline.cli.console import output, print_json
from archiver_pipeline.cli.options import ConfigOption, DatabaseOption, JsonOption, TableOption, open_config
from archiver_pipeline.orchestration.launch import find_instance
from archiver_pipeline.orchestration.status import TableStatus, Verdict, table_statuses

_STYLES = {Verdict.ok: "green", Verdict.behind: "yellow"}
_NEEDS_ATTENTION_EXIT_CODE = 1


def status(
    config: ConfigOption = None,
    database: DatabaseOption = None,
    table: TableOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how each table stands: last success, rows left to archive, the oldest of them, rows that go and come per day.

    Verdicts: ok (nothing to do, or only fresh rows wait), behind (older rows wait, runs get on with them), stuck (runs
    fail, archive nothing, don't shrink the backlog, or don't happen; or the lock is held for long), never ran, unknown
    (could not be looked at). Reads only; runs of `archiver run --direct` are not recorded and so not known.

    Exit codes: 0 every table is ok or behind, 1 a table is stuck or never ran; when none is and some could not be
    looked at, the code of that error: 2 other, 3 configuration or preflight, 5 permission, 6 resources, 7 network.

    Examples:

        archiver status

        archiver status --config audit.yaml --database orders --json
    """
    loaded = open_config(config)
    tables = loaded.select_tables(database, table)
    instance = find_instance(loaded.path.parent)
    with instance or contextlib.nullcontext():
        statuses = list(table_statuses(loaded, instance, tables, datetime.now(UTC)))
    if as_json:
        print_json([_document(one) for one in statuses])
    else:
        _print(statuses)
    raise typer.Exit(_exit_code(statuses))


def _document(one: TableStatus) -> dict[str, Any]:
    backlog, pace = one.backlog, one.pace
    return {
        "table": str(one.table),
        "verdict": one.verdict.value,
        "reason": one.reason,
        "last_success": one.last_success,
        "backlog_rows": backlog.eligible_rows if backlog else None,
        "is_capped": backlog.is_capped if backlog else None,
        "oldest_eligible_row": backlog.oldest_row if backlog else None,
        "drained_rows_per_day": round(pace.drained_rows_per_day, 1) if pace else None,
        "intake_rows_per_day": round(pace.intake_rows_per_day, 1) if pace else None,
        "days_until_drained": pace.days_until_drained if pace else None,
    }


def _print(statuses: list[TableStatus]) -> None:
    table = Table(
        "table",
        "verdict",
        "last success",
        "backlog",
        "oldest row",
        "go/day",
        "come/day",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.columns[0].overflow = "fold"
    for column in table.columns[3:]:
        column.justify = "right"
    for one in statuses:
        backlog, pace = one.backlog, one.pace
        table.add_row(
            str(one.table),
            f"[{_STYLES.get(one.verdict, 'bold red')}]{one.verdict}[/]",
            _moment(one.last_success),
            f"{backlog.eligible_rows:,}{'+' if backlog.is_capped else ''}" if backlog else "?",
            _moment(backlog.oldest_row) if backlog else "?",
            f"{pace.drained_rows_per_day:,.0f}" if pace else "?",
            f"{pace.intake_rows_per_day:,.0f}" if pace else "?",
        )
    output.print(table)
    for one in statuses:
        output.print(f"{one.table}: {one.reason}", markup=False, highlight=False, soft_wrap=True)


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else "none"


def _exit_code(statuses: list[TableStatus]) -> int:
    if any(one.needs_attention and one.error is None for one in statuses):
        return _NEEDS_ATTENTION_EXIT_CODE
    codes = {one.error.exit_code for one in statuses if one.error is not None}
    return min(codes, key=[3, 5, 7, 6, 4, 2].index, default=os.EX_OK)
