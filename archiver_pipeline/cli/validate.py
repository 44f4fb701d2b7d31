"""`archiver validate`: prove old archives, through Dagster, and say what is wrong with each."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import IntEnum
from itertools import groupby
from typing import Annotated

import dagster as dg
import typer

from archiver_pipeline.cli.archive import recorded_in
from archiver_pipeline.cli.console import duration, errors, output, print_json, size, warn
from archiver_pipeline.cli.logs import open_log
from archiver_pipeline.cli.options import (
    ConfigOption,
    DatabaseOption,
    EndDayOption,
    JsonOption,
    StartDayOption,
    TableOption,
    date_range,
    key_in_bucket,
    open_config,
)
from archiver_pipeline.cli.progress import RunListener, listen
from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.layout import table_of_key
from archiver_pipeline.domain.validation import Finding, FindingKind, ValidationReport, ValidationRequest, buckets_of
from archiver_pipeline.engine.recording import record_refusal
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.validate import require_possible, validate_table
from archiver_pipeline.errors import ArchiverError, ConfigError
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.launch import run_validation_in_process
from archiver_pipeline.postgres.catalog import table_name

_SHOWN_PER_KIND = 20
_HEADINGS = {
    FindingKind.in_table: "in the table and archived",
    FindingKind.missing: "missing objects",
    FindingKind.damaged: "damaged data objects",
    FindingKind.duplicated: "archived twice",
    FindingKind.contradictory: "contradictory documents",
    FindingKind.unreadable: "unreadable documents",
    FindingKind.pending: "pending batches",
    FindingKind.unencrypted: "archives that are not encrypted as they must be",
    FindingKind.unlocked: "archives whose lock is missing or too short",
    FindingKind.orphaned: "orphaned objects",
    FindingKind.fallback: "stale local fallbacks",
    FindingKind.superseded: "superseded batches",
    FindingKind.cold: "cold objects that were not read",
    FindingKind.drift: "columns that changed",
}


class ExitCode(IntEnum):
    """What a validation ends with when no error decides."""

    valid = 0
    findings = 1
    failed = 2


def validate(
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
            help="Only this archive: the key of any of its objects, or s3://bucket/key.",
            show_default=False,
        ),
    ] = None,
    start_date: StartDayOption = None,
    end_date: EndDayOption = None,
    sample: Annotated[
        str, typer.Option("--sample", help="Share of the data objects to read, such as 5%; each day another share.")
    ] = "100%",
    repair: Annotated[
        bool, typer.Option("--repair", help="First settle pending batches and remove data void for over 7 days.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Ask the store only, no database.")] = False,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="A table without archives is no reason to fail.")
    ] = False,
    direct: Annotated[
        bool, typer.Option("--direct", help="Call the engine without Dagster; the run is not recorded.")
    ] = False,
    as_json: JsonOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show Dagster's log and every finding.")] = False,
) -> None:
    """Prove that archives are all there, whole and without contradiction, and that their rows are not in the table.

    Documents of all batches are read and compared; with --sample only a share of the data objects is read, every day
    another one: with 5% every object within 20 days, and never more than 30 days. Nothing is changed without --repair.

    Exit codes: 0 valid, 1 findings, or no archives found, 2 failed, 3 configuration or preflight, 4 lock held
    (--repair), 5 permission, 6 resources, 7 network.

    Examples:

        archiver validate

        archiver validate --table audit_log --start-date 2025-01-01 --end-date 2025-03-31 --json

        archiver validate --database orders --sample 5% --repair
    """
    log = open_log(stdout_is_taken=as_json)
    loaded = open_config(config)
    request = _request(loaded, sample, s3_key, start_date, end_date, offline=offline, repair=repair)
    tables = _tables(loaded, database, schema, table, request.data_key)
    listener = listen(loaded)
    with listener.drawing(quiet=as_json or verbose):
        _validate_tables(loaded, tables, request, listener, direct=direct, log_level="INFO" if verbose else "CRITICAL")
    if not log.takes_stdout:
        _print_outcome(listener, as_json=as_json, shown=None if verbose else _SHOWN_PER_KIND)
    raise typer.Exit(exit_code(listener, allow_empty=allow_empty))


def exit_code(listener: RunListener, *, allow_empty: bool) -> int:
    """The code of the only kind of error, else failed; without errors whether anything was found that is wrong."""
    codes = {error.exit_code for _, error in listener.errors}
    if codes:
        return codes.pop() if len(codes) == 1 else ExitCode.failed
    reports = listener.validations
    if any(not report.is_clean or (report.is_empty and not allow_empty) for report in reports):
        return ExitCode.findings
    return ExitCode.valid


def _request(
    loaded: LoadedConfig,
    sample: str,
    s3_key: str | None,
    start: datetime | None,
    end: datetime | None,
    *,
    offline: bool,
    repair: bool,
) -> ValidationRequest:
    now = datetime.now(UTC)
    dates = date_range(start, end)
    return ValidationRequest(
        now=now,
        day=now.date(),
        sample_percent=_percent(sample),
        start=dates.start,
        end=dates.end,
        data_key=key_in_bucket(loaded, s3_key) if s3_key is not None else None,
        offline=offline,
        repair=repair,
    )


def _percent(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
        buckets_of(percent)
    except ValueError:
        raise ConfigError(f"--sample {text} is no percentage above 0 and up to 100", hint="write it like 5%") from None
    return percent


def _tables(
    loaded: LoadedConfig, database: str | None, schema: str | None, table: str | None, key: str | None
) -> tuple[TableSettings, ...]:
    """The tables that the names fit, or the one whose archive the key is. Raises ConfigError when there is none."""
    named = [one for one in loaded.select_tables(database, table) if schema in (None, one.schema)]
    if not named:
        raise ConfigError(f"no configured table of these names is in schema {schema!r}", hint="check --schema")
    if key is None:
        return tuple(named)
    try:
        owner = table_of_key(loaded.store.prefix, key)
    except ValueError as error:
        raise ConfigError(str(error), hint="`archiver list --objects` shows the keys") from error
    owned = tuple(one for one in named if table_name(one) == owner)
    if not owned:
        raise ConfigError(f"{key} is an archive of {owner}", hint="that is none of the chosen, configured tables")
    return owned


def _validate_tables(
    loaded: LoadedConfig,
    tables: tuple[TableSettings, ...],
    request: ValidationRequest,
    listener: RunListener,
    *,
    direct: bool,
    log_level: str,
) -> None:
    """Validate one table after the other; one table's error does not stop the others."""
    with recorded_in(loaded, direct=direct) as instance:
        definitions = build_definitions(loaded, progress=lambda: listener)
        for settings in tables:
            _One(loaded, settings, request, listener, definitions, instance, log_level).run()


@dataclass(frozen=True, slots=True)
class _One:
    """The validation of one table, recorded in Dagster unless there is no instance."""

    loaded: LoadedConfig
    settings: TableSettings
    request: ValidationRequest
    listener: RunListener
    definitions: dg.Definitions
    instance: dg.DagsterInstance | None
    log_level: str

    def run(self) -> None:
        session = ArchiveSession(
            self.settings,
            self.loaded.database(self.settings.database),
            self.loaded.store,
            run_id="direct",
            progress=self.listener,
        )
        with contextlib.closing(session):
            try:
                self._require_servers(session)
                if self.instance is None:
                    validate_table(session, self.request)
                else:
                    self._run_recorded(self.instance)
            except ArchiverError as error:
                record_refusal(session, error)
                self.listener.fail(session.name, error)

    def _require_servers(self, session: ArchiveSession) -> None:
        """A person is told at once what a recorded run would try again and again."""
        require_possible(session, self.request)
        session.store.require_bucket()
        if not self.request.offline:
            session.connection.close()

    def _run_recorded(self, instance: dg.DagsterInstance) -> None:
        known = len(self.listener.validations) + len(self.listener.errors)
        run_validation_in_process(self.definitions, instance, self.settings, self.request, log_level=self.log_level)
        if len(self.listener.validations) + len(self.listener.errors) == known:
            raise ArchiverError("the run failed outside the engine", hint="run again with --verbose")


def _print_outcome(listener: RunListener, *, as_json: bool, shown: int | None) -> None:
    if as_json:
        print_json(
            {
                "reports": [_as_dict(report) for report in listener.validations],
                "errors": [
                    {"table": str(name), "error": type(error).__name__, "message": str(error)}
                    for name, error in listener.errors
                ],
            }
        )
        return
    for report in listener.validations:
        _print_report(report, shown)
    for name, error in listener.errors:
        text = str(error) if str(name) in str(error) else f"{name}: {error}"
        errors.print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


def _as_dict(report: ValidationReport) -> dict[str, object]:
    derived = {"is_clean": report.is_clean, "is_empty": report.is_empty, "read_share": report.read_share}
    return asdict(report) | derived


def _print_report(report: ValidationReport, shown: int | None) -> None:
    for warning in report.warnings:
        warn(f"{report.table}: {warning}")
    _line(f"{report.table}: {_verdict(report)}", style="red bold" if report.findings or report.is_empty else "green")
    for line in (*_figures(report), *report.repairs):
        _line(f"  {line}")
    for title, found in (("findings", report.findings), ("notes", report.notes)):
        for line in _grouped(title, found, shown):
            _line(f"  {line}")


def _line(text: str, *, style: str | None = None) -> None:
    output.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _verdict(report: ValidationReport) -> str:
    if report.findings:
        return f"NOT VALID: {len(report.findings):,} findings"
    if report.is_empty:
        return "NO ARCHIVES FOUND: nothing was validated"
    return "valid"


def _figures(report: ValidationReport) -> Iterator[str]:
    states = ", ".join(f"{count:,} {state}" for state, count in report.batches.items() if count)
    yield f"batches: {states or 'none'}; {report.rows:,} rows archived in {size(report.object_bytes)}"
    yield (
        f"read back and proved: {report.read_objects:,} of {report.readable_objects:,} objects"
        f" ({report.read_share:.1%}), {report.read_rows:,} rows, {size(report.read_bytes)}"
        f" in {duration(report.seconds)}"
    )
    if report.audited_rows is not None:
        yield f"looked for in the table: {report.audited_rows:,} rows"


def _grouped(title: str, found: tuple[Finding, ...], shown: int | None) -> Iterator[str]:
    """Findings under their kind, the most serious first, each kind with what to do."""
    for kind, group in groupby(found, key=lambda finding: finding.kind):
        of_kind = list(group)
        yield f"{title}: {_HEADINGS[kind]} ({len(of_kind):,})"
        for finding in of_kind[:shown]:
            yield f"  {finding.subject}: {finding.message}"
        if shown is not None and len(of_kind) > shown:
            yield f"  and {len(of_kind) - shown:,} more: --verbose or --json show all"
        for next_step in dict.fromkeys(finding.next_step for finding in of_kind):
            yield f"  next: {next_step}"
