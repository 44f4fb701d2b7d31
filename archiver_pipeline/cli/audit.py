"""`archiver audit`: verify, anchor and export the audit trail."""

import contextlib
import csv
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import IO, Annotated, Any

import orjson
import typer
from rich.table import Table

from archiver_pipeline.cli.console import errors, output, print_json, warn
from archiver_pipeline.cli.options import ConfigOption, DatabaseOption, JsonOption, TableOption, date_range, open_config
from archiver_pipeline.codec.audit import decode_anchors, encode_heads
from archiver_pipeline.domain.audit import AuditEntry, AuditKind, TrailAnchor, TrailReport
from archiver_pipeline.engine.audit import find_head
from archiver_pipeline.engine.audit_verify import verify_trail
from archiver_pipeline.engine.trail import READERS, Chain, StoredLink
from archiver_pipeline.errors import ConfigError, ManifestError, PermissionDeniedError, ResourcesError
from archiver_pipeline.postgres.catalog import table_name
from archiver_pipeline.storage.s3 import S3Store

HELP = """Verify, anchor and export the audit trail: who did what to a table, as a chain of objects in the store.

Examples:

    archiver audit verify --anchor heads-2026-01.json

    archiver audit head --json

    archiver audit export --start-date 2026-01-01 --output year.json
"""
_SHOWN = 50
_DAY = timedelta(days=1)
_WHO = ("os_user", "host", "pid", "database_role", "store_identity", "run_id", "command", "job", "actor")
_COLUMNS = (
    "database",
    "schema",
    "table",
    "sequence",
    "link_sha256",
    "entry_id",
    "kind",
    "at",
    *_WHO,
    "software",
    "facts",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class ExitCode(IntEnum):
    """What a verification ends with when no error decides."""

    clean = 0
    findings = 1


class ExportFormat(StrEnum):
    """How entries are written."""

    json = "json"
    csv = "csv"


def verify(
    config: ConfigOption = None,
    database: DatabaseOption = None,
    table: TableOption = None,
    anchor: Annotated[
        list[Path] | None,
        typer.Option(
            "--anchor", help="An earlier output of `archiver audit head --json`; repeatable.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Walk each table's chain and find what is changed, missing, reordered, inserted or truncated; hold its entries
    against the receipts in the store.

    That links are missing at the end, or that all were written anew, shows only against an --anchor: a head that was
    noted earlier and kept elsewhere. Only the store is asked; nothing is changed, and no entry is written.

    Exit codes: 0 clean, 1 findings, 3 configuration, 5 permission, 7 network.

    Examples:

        archiver audit verify

        archiver audit verify --table audit_log --anchor heads-2026-01.json --anchor heads-2026-02.json --json
    """
    loaded = open_config(config)
    anchors = [one for path in anchor or [] for one in _read_anchors(path)]
    store = S3Store(loaded.store, connections=READERS)
    reports = []
    for settings in loaded.select_tables(database, table):
        with errors.status(f"reading the trail of {settings.qualified_name}"):
            reports.append(verify_trail(store, table_name(settings), anchors))
    if unused := {str(one.name) for one in anchors} - {str(report.table) for report in reports}:
        warn(f"anchors of tables that were not looked at: {', '.join(sorted(unused))}")
    if as_json:
        print_json([asdict(report) | {"is_clean": report.is_clean} for report in reports])
    else:
        for report in reports:
            _print_report(report)
    raise typer.Exit(ExitCode.clean if all(report.is_clean for report in reports) else ExitCode.findings)


def head(
    config: ConfigOption = None,
    database: DatabaseOption = None,
    table: TableOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print where each table's chain ends: sequence and SHA-256 of its last link. Keep it outside of this store.

    Whoever has it can tell later whether links before it were removed or written anew: `archiver audit verify
    --anchor`. docs/audit-trail.md says how to have it time-stamped.

    Exit codes: 0 done, 2 the last link is damaged, 3 configuration, 5 permission, 7 network.

    Examples:

        archiver audit head

        archiver audit head --table audit_log --json
    """
    loaded = open_config(config)
    store = S3Store(loaded.store)
    found = [(name, find_head(store, name)) for name in map(table_name, loaded.select_tables(database, table))]
    if as_json:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        output.print(
            encode_heads(found, at=at, bucket=loaded.store.bucket, prefix=loaded.store.prefix),
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
        return
    for name, one in found:
        text = f"{name}: link {one.sequence} {one.sha256}" if one.sequence else f"{name}: no trail yet"
        output.print(text, markup=False, highlight=False, soft_wrap=True)


def export(
    config: ConfigOption = None,
    database: DatabaseOption = None,
    table: TableOption = None,
    written_as: Annotated[ExportFormat, typer.Option("--format", help="json: one array; csv: one line per entry.")] = (
        ExportFormat.json
    ),
    start_date: Annotated[
        datetime | None,
        typer.Option("--start-date", formats=["%Y-%m-%d"], help="First day (UTC, inclusive).", show_default=False),
    ] = None,
    end_date: Annotated[
        datetime | None,
        typer.Option("--end-date", formats=["%Y-%m-%d"], help="Last day (UTC, inclusive).", show_default=False),
    ] = None,
    kind: Annotated[
        list[AuditKind] | None,
        typer.Option("--kind", help="Only entries of this kind; repeatable.", show_default=False),
    ] = None,
    to_file: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; else stdout.", show_default=False)
    ] = None,
) -> None:
    """Write the entries of a range of days, each with its link and that link's SHA-256, in the order of the chains.

    The whole chain is read and held together on the way: what is wrong with it is told on stderr, and the code is 1.

    Exit codes: 0 written, 1 written, and the chain has findings, 3 configuration, 5 permission, 6 resources, 7 network.

    Examples:

        archiver audit export --start-date 2026-01-01 --end-date 2026-01-31 --output january.json

        archiver audit export --table audit_log --kind batch --kind restore --format csv
    """
    loaded = open_config(config)
    date_range(start_date, end_date)
    tables = loaded.select_tables(database, table)
    chains = [Chain(S3Store(loaded.store, connections=READERS), table_name(one)) for one in tables]
    wanted = _Wanted(start_date, end_date, frozenset(kind or AuditKind))
    with _opened(to_file) as file:
        (_write_json if written_as is ExportFormat.json else _write_csv)(file, _rows(chains, wanted))
    findings = [finding for chain in chains for finding in chain.findings]
    for finding in findings[:_SHOWN]:
        warn(f"{finding.kind.value}: {finding.subject}: {finding.message}")
    raise typer.Exit(ExitCode.findings if findings else ExitCode.clean)


class _Wanted:
    """Which entries are exported."""

    def __init__(self, start: datetime | None, end: datetime | None, kinds: frozenset[AuditKind]) -> None:
        self._start = start.strftime("%Y-%m-%d") if start else ""
        self._end = (end + _DAY).strftime("%Y-%m-%d") if end else "9999"
        self._kinds = kinds

    def takes(self, entry: AuditEntry) -> bool:
        return entry.kind in self._kinds and self._start <= entry.at < self._end


def _rows(chains: list[Chain], wanted: _Wanted) -> Iterator[dict[str, Any]]:
    for chain in chains:
        for stored in chain.links():
            yield from _rows_of(stored, wanted)


def _rows_of(stored: StoredLink, wanted: _Wanted) -> Iterator[dict[str, Any]]:
    if stored.link is None:
        return
    place = {
        "database": stored.link.database,
        "schema": stored.link.schema,
        "table": stored.link.table,
        "sequence": stored.sequence,
        "link_sha256": stored.sha256,
    }
    for entry in stored.link.entries:
        if wanted.takes(entry):
            yield place | orjson.loads(orjson.dumps(entry))


def _write_json(file: IO[str], rows: Iterator[dict[str, Any]]) -> None:
    separator = "[\n"
    for row in rows:
        file.write(separator + orjson.dumps(row).decode())
        separator = ",\n"
    file.write("\n]\n" if separator == ",\n" else "[]\n")


def _write_csv(file: IO[str], rows: Iterator[dict[str, Any]]) -> None:
    writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        flat = {**row, **row["who"], "facts": orjson.dumps(row["facts"]).decode()}
        writer.writerow({column: _cell(flat[column]) for column in _COLUMNS})


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[IO[str]]:
    """The file to write, new and whole, or stdout."""
    if path is None:
        yield sys.stdout
        return
    staged = path.with_name(f".{path.name}.part")
    if path.exists():
        raise ConfigError(f"{path} is there already", hint="name another file with --output")
    try:
        with staged.open("w", encoding="utf-8", newline="") as file:
            yield file
        staged.rename(path)
    except PermissionError as error:
        raise PermissionDeniedError(f"{path}: {error.strerror}", hint="name another file with --output") from None
    except OSError as error:
        raise ResourcesError(f"{path}: {error.strerror}", hint="name another file with --output") from None
    finally:
        staged.unlink(missing_ok=True)


def _read_anchors(path: Path) -> list[TrailAnchor]:
    try:
        return decode_anchors(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"--anchor {path}: {error.strerror}", hint="check the path") from None
    except ManifestError as error:
        raise ConfigError(f"--anchor {path}: {error.message}", hint="`archiver audit head --json` writes one") from None


def _print_report(report: TrailReport) -> None:
    word = "clean" if report.is_clean else f"{len(report.findings)} findings"
    _line(
        f"{report.table}: {word}: {report.links:,} links, {report.entries:,} entries, {report.receipts:,} receipts,"
        f" {report.anchors} anchors, {report.seconds:.2f} s"
    )
    if report.findings:
        table = Table("finding", "link", "object", "what", box=None)
        for column in table.columns:
            column.overflow = "fold"
        for finding in report.findings[:_SHOWN]:
            sequence = "" if finding.sequence is None else str(finding.sequence)
            table.add_row(finding.kind.value, sequence, finding.subject, finding.message)
        output.print(table)
        if len(report.findings) > _SHOWN:
            _line(f"and {len(report.findings) - _SHOWN:,} more: --json shows all")
    for note in report.notes:
        _line(f"  note: {note}")


def _line(text: str) -> None:
    output.print(text, markup=False, highlight=False, soft_wrap=True)
