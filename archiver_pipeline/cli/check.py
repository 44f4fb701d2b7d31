"""`archiver check`: the preflight."""

import contextlib
import os
from dataclasses import asdict
from datetime import UTC, datetime

import typer

from archiver_pipeline.cli.alert_state import alert_findings
from archiver_pipeline.cli.console import output, print_json
from archiver_pipeline.cli.options import ConfigOption, DatabaseOption, JsonOption, TableOption, open_config
from archiver_pipeline.engine.preflight import Finding, Level, preflight
from archiver_pipeline.orchestration.launch import find_instance
from archiver_pipeline.orchestration.pools import pool_findings

_MARKS = {Level.ok: "[green]ok     [/]", Level.warning: "[yellow]warning[/]", Level.failed: "[red]FAILED [/]"}


def check(
    config: ConfigOption = None,
    database: DatabaseOption = None,
    table: TableOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check everything an archive needs, one line each, and say what to do about each failure.

    Writes nothing but small probe objects below `_probe/` of the prefix, which it removes.

    Exit codes: 0 ready (warnings allowed), else that of the worst failure: 3 configuration or preflight,
    5 permission, 6 resources, 7 network, 2 other.

    Examples:

        archiver check

        archiver check --config audit.yaml --database orders --json
    """
    loaded = open_config(config)
    findings = [Finding(f"config {loaded.path.name}", Level.ok, f"valid, {len(loaded.tables)} tables")]
    findings += alert_findings(loaded)
    findings += preflight(loaded, loaded.select_tables(database, table), datetime.now(UTC))
    instance = find_instance(loaded.path.parent)
    with instance or contextlib.nullcontext():
        findings += pool_findings(loaded, instance)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _print(findings)
    raise typer.Exit(exit_code_of(findings))


def _print(findings: list[Finding]) -> None:
    for finding in findings:
        output.print(_MARKS[finding.level], end=" ")
        text = f"{finding.subject}: {finding.message}"
        output.print(
            f"{text} — {finding.hint}" if finding.hint else text,
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def exit_code_of(findings: list[Finding]) -> int:
    """That of the only kind of failure; with several kinds, configuration first: it is what to mend first."""
    codes = {finding.exit_code for finding in findings if finding.level is Level.failed}
    return min(codes, key=[3, 5, 7, 6, 4, 2].index, default=os.EX_OK)
