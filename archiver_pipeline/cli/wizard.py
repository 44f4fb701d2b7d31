"""`archiver wizard`: from two connections to a configuration that `archiver check` passes."""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.table import Table

from archiver_pipeline.cli.asking import ask, ask_choice, ask_number, ask_secret, say_wrong
from archiver_pipeline.cli.check import exit_code_of
from archiver_pipeline.cli.console import errors, output, print_json, size, warn
from archiver_pipeline.cli.options import JsonOption
from archiver_pipeline.cli.writing import write_whole
from archiver_pipeline.config.draft import Draft, DraftDatabase, DraftStore, DraftTable, parse_draft, render_draft
from archiver_pipeline.config.effective import SourceSettings, TableSettings
from archiver_pipeline.config.enums import StorageClass, WindowSize
from archiver_pipeline.config.loading import DEFAULT_NAME, LoadedConfig, load_config
from archiver_pipeline.domain.retention import RETENTION_FLOOR_DAYS
from archiver_pipeline.domain.suggestion import DEFAULT_RETENTION_DAYS, FoundTable, TimeColumn
from archiver_pipeline.engine.discovery import Candidate, Discovery, discover
from archiver_pipeline.engine.preflight import Finding, Level, preflight, probe_configured_store
from archiver_pipeline.errors import ArchiverError, ConfigError, PreflightError
from archiver_pipeline.postgres.connection import connect

_REFUSED_SHOWN = 10
_MOST_RETENTION_DAYS = 36_500
_ACCESS_KEY_VARIABLE = "ARCHIVER_S3_ACCESS_KEY"
_SECRET_KEY_VARIABLE = "ARCHIVER_S3_SECRET_KEY"  # noqa: S105
_HARMLESS_NAME = re.compile(r"\w{1,63}", re.ASCII)
_NO_STORE = DraftStore("placeholder", None, "us-east-1", "", StorageClass.STANDARD)
_PLACEHOLDER = DraftTable(schema="public", name="placeholder", timestamp_column="placeholder")


@dataclass
class _Wizard:
    """What is known so far. `environ` is the process's environment with the secrets that were typed; none is written
    but into the file, and there only when `plain_secrets` asks for it."""

    path: Path
    database: DraftDatabase
    store: DraftStore
    password_variable: str | None
    retention_days: int
    is_asking: bool
    plain_secrets: bool
    environ: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def draft(self, *tables: DraftTable) -> Draft:
        title = f"Written by `archiver wizard` on {datetime.now(UTC):%Y-%m-%d}."
        return Draft(title, self.store, self.database, self.retention_days, tables or (_PLACEHOLDER,))

    def loaded(self, *tables: DraftTable) -> LoadedConfig:
        """The configuration so far, as it would be loaded. Raises ConfigError with what is wrong in it."""
        return parse_draft(self.draft(*tables), self.path, self.environ)

    def source(self) -> SourceSettings:
        """How to connect to the database, whatever is known of the store."""
        draft = replace(self.draft(), store=_NO_STORE)
        return parse_draft(draft, self.path, self.environ).databases[0].primary


def wizard(
    output_path: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path(DEFAULT_NAME),
    force: Annotated[bool, typer.Option("--force", help="Replace the file when it is there already.")] = False,
    non_interactive: Annotated[
        bool, typer.Option("--non-interactive", help="Ask nothing: everything comes from options and variables.")
    ] = False,
    db_host: Annotated[str, typer.Option("--db-host", help="Host of the database, or folder of its socket.")] = (
        "localhost"
    ),
    db_port: Annotated[int, typer.Option("--db-port", min=1, max=65535, help="Its port.")] = 5432,
    db_name: Annotated[str | None, typer.Option("--db-name", help="Its name.", show_default=False)] = None,
    db_user: Annotated[str, typer.Option("--db-user", help="The user that archives.")] = "archiver",
    db_password_env: Annotated[
        str | None,
        typer.Option(
            "--db-password-env",
            help="Variable with the password; by default named after the database, like SHOP_DB_PASSWORD.",
            show_default=False,
        ),
    ] = None,
    db_password: Annotated[
        str | None,
        typer.Option(
            "--db-password",
            help="The password itself, to connect with now. Others on this machine may see it: prefer a variable.",
            show_default=False,
        ),
    ] = None,
    s3_bucket: Annotated[str | None, typer.Option("--s3-bucket", help="The bucket.", show_default=False)] = None,
    s3_endpoint: Annotated[
        str | None,
        typer.Option("--s3-endpoint", help="URL of an S3-compatible server; AWS without.", show_default=False),
    ] = None,
    s3_region: Annotated[str, typer.Option("--s3-region", help="Region of the bucket.")] = "us-east-1",
    s3_prefix: Annotated[str, typer.Option("--s3-prefix", help="First part of every key.")] = "archives",
    s3_access_key_env: Annotated[
        str | None,
        typer.Option(
            "--s3-access-key-env",
            help=f"Variable with the access key; {_ACCESS_KEY_VARIABLE} where that is set, else AWS's own chain.",
            show_default=False,
        ),
    ] = None,
    s3_secret_key_env: Annotated[
        str | None,
        typer.Option(
            "--s3-secret-key-env",
            help=f"Variable with the secret key; {_SECRET_KEY_VARIABLE} where that is set, else AWS's own chain.",
            show_default=False,
        ),
    ] = None,
    storage_class: Annotated[
        StorageClass | None,
        typer.Option(
            "--storage-class",
            help="Class of the archives. Default: STANDARD_IA at AWS, STANDARD elsewhere.",
            show_default=False,
        ),
    ] = None,
    retention_days: Annotated[
        int,
        typer.Option(
            "--retention-days",
            min=RETENTION_FLOOR_DAYS,
            max=_MOST_RETENTION_DAYS,
            help="Rows older than this are archived.",
        ),
    ] = DEFAULT_RETENTION_DAYS,
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            "-t",
            help="A table to archive: `name` or `schema.name`; may be repeated. Default: what is recommended.",
            show_default=False,
        ),
    ] = None,
    plain_secrets: Annotated[
        bool,
        typer.Option(
            "--plain-secrets", help="Write password and keys into the file (mode 0600) instead of variables' names."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a configuration: try both connections, find the tables, explain what it suggests, write a commented file.

    It asks one question after the other, and asks again when a connection fails. It reads the database only, by
    estimates and index look-ups, and writes small probe objects to the bucket, which it removes. A password is asked
    for to connect, never written: the file names a variable, and the lines to type are shown at the end.

    Exit codes: 0 written and checked, 3 configuration or preflight, 5 permission, 6 resources, 7 network, 2 other,
    130 interrupted: nothing is written then.

    Examples:

        archiver wizard

        archiver wizard --db-host db.example.com --db-name shop --s3-bucket audit-archive --output shop.yaml

        archiver wizard --non-interactive --db-host db.example.com --db-name shop --db-user archiver \\
        --db-password-env SHOP_DB_PASSWORD --s3-bucket audit-archive --s3-region eu-central-1 --table audit_log
    """
    is_asking = not (non_interactive or as_json)
    _require_terminal(is_asking)
    _refuse_existing(output_path, force=force)
    database = DraftDatabase(db_name or "", db_host, db_port, db_user)
    store = DraftStore(
        s3_bucket or "",
        s3_endpoint,
        s3_region,
        s3_prefix,
        storage_class or _usual_class(s3_endpoint),
        s3_access_key_env,
        s3_secret_key_env,
    )
    known = _Wizard(
        Path.cwd() / output_path, database, store, db_password_env, retention_days, is_asking, plain_secrets
    )
    if is_asking:
        _introduce()
    _reach_database(known, db_password)
    _reach_store(known, is_class_given=storage_class is not None)
    if is_asking:
        question = "Days that rows stay in the database"
        least, most = RETENTION_FLOOR_DAYS, _MOST_RETENTION_DAYS
        known.retention_days = ask_number(question, retention_days, least=least, most=most)
    discovery = _discovery(known)
    if is_asking:
        _print_discovery(discovery, known)
    chosen = _chosen(discovery, known, table or [])
    if not (is_asking or as_json):
        _print_discovery(discovery, known)
    _finish(known, discovery, chosen, output_path, force=force, as_json=as_json)


def _require_terminal(is_asking: bool) -> None:
    if is_asking and not sys.stdin.isatty():
        raise ConfigError("the wizard asks questions, and there is no terminal", hint="give --non-interactive")


def _refuse_existing(path: Path, *, force: bool) -> None:
    """At once, so that nobody answers questions in vain; writing looks again."""
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already", hint="name another file with --output, or give --force")
    if not (Path.cwd() / path).parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent}", hint="make it, or name another file with --output")


def _introduce() -> None:
    output.print(
        "This asks for a database and a bucket, tries both, and writes a configuration."
        " Enter takes what is in [brackets]; Ctrl-C ends it, and nothing is written.",
        markup=False,
        highlight=False,
    )


def _usual_class(endpoint: str | None) -> StorageClass:
    """Most other servers know no class but STANDARD."""
    return StorageClass.STANDARD if endpoint else StorageClass.STANDARD_IA


def _reach_database(known: _Wizard, password: str | None) -> None:
    """Settle on a database that can be connected to. Raises what is wrong when nobody can be asked again."""
    is_first = True
    while True:
        if known.is_asking:
            _ask_database(known)
        try:
            _take_password(known, password if is_first else None, is_first=is_first)
            with connect(known.source()):
                _say_done(f"connected to {known.database.name} at {known.database.host}:{known.database.port}", known)
                return
        except ArchiverError as error:
            _again_or_raise(error, known)
        is_first = False


def _ask_database(known: _Wizard) -> None:
    old = known.database
    output.print("\nDatabase", style="bold")
    known.database = replace(
        old,
        host=ask("  Host", old.host),
        port=ask_number("  Port", old.port, least=1, most=65535),
        name=ask("  Name", old.name),
        user=ask("  User", old.user),
    )


def _take_password(known: _Wizard, given: str | None, *, is_first: bool) -> None:
    """Find the password: given, in its variable, or typed. Raises ConfigError for a variable that is asked for and
    not set."""
    if not known.database.name:
        raise ConfigError("the database has no name", hint="give --db-name")
    wanted = known.password_variable
    variable = wanted or _variable_for(known.database.name)
    if given is None and known.is_asking and not (is_first and known.environ.get(variable)):
        given = ask_secret("  Password (not written down; empty for none)")
    if given is not None:
        known.environ[variable] = given
    if known.environ.get(variable):
        known.database = replace(known.database, password_env=variable)
    elif wanted and not known.is_asking:
        raise ConfigError(f"environment variable {wanted} is not set", hint=f"export {wanted}='…'")
    else:
        known.database = replace(known.database, password_env=None)


def _variable_for(name: str) -> str:
    """The usual name of the variable with a database's password."""
    plain = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")
    return f"{plain}_DB_PASSWORD" if plain and not plain[0].isdigit() else "ARCHIVER_DB_PASSWORD"


def _reach_store(known: _Wizard, *, is_class_given: bool) -> None:
    """Settle on a bucket that can be listed, written and read. Raises what is wrong when nobody can be asked again."""
    is_first = True
    while True:
        if known.is_asking:
            _ask_store(known, is_class_given=is_class_given)
        try:
            _take_keys(known, is_first=is_first)
            probe_configured_store(known.loaded().store)
            place = known.store.endpoint or "AWS"
            _say_done(f"bucket {known.store.bucket} at {place} can be listed, written and read", known)
            return
        except ArchiverError as error:
            _again_or_raise(error, known)
        is_first = False


def _ask_store(known: _Wizard, *, is_class_given: bool) -> None:
    old = known.store
    output.print("\nObject store", style="bold")
    bucket = ask("  Bucket", old.bucket)
    written = ask("  Endpoint, like https://minio.example.com:9000 (aws for AWS)", old.endpoint or "aws")
    endpoint = None if written.lower() == "aws" else written
    known.store = replace(
        old,
        bucket=bucket,
        endpoint=endpoint,
        region=ask("  Region", old.region),
        prefix=ask("  Prefix of all keys", old.prefix),
        storage_class=old.storage_class if is_class_given else _usual_class(endpoint),
    )


def _take_keys(known: _Wizard, *, is_first: bool) -> None:
    """Find the keys: in their variables, or typed. Without any, AWS's credential chain applies."""
    if not known.store.bucket:
        raise ConfigError("the bucket has no name", hint="give --s3-bucket")
    access = known.store.access_key_id_env or _ACCESS_KEY_VARIABLE
    secret = known.store.secret_access_key_env or _SECRET_KEY_VARIABLE
    are_set = known.environ.get(access) and known.environ.get(secret)
    if known.is_asking and not (is_first and are_set):
        _ask_keys(known, access, secret)
        are_set = known.environ.get(access) and known.environ.get(secret)
    are_named = known.store.access_key_id_env and known.store.secret_access_key_env
    if are_set or (are_named and not known.is_asking):
        known.store = replace(known.store, access_key_id_env=access, secret_access_key_env=secret)
    elif known.is_asking:
        known.store = replace(known.store, access_key_id_env=None, secret_access_key_env=None)


def _ask_keys(known: _Wizard, access: str, secret: str) -> None:
    key = ask("  Access key (- for AWS's own credential chain)", known.environ.get(access, "-"))
    for variable in (access, secret):
        known.environ.pop(variable, None)
    if key != "-":
        known.environ |= {access: key, secret: ask_secret("  Secret key (not written down)")}


def _again_or_raise(error: ArchiverError, known: _Wizard) -> None:
    if not known.is_asking:
        raise error
    say_wrong(error)


def _say_done(text: str, known: _Wizard) -> None:
    if known.is_asking:
        output.print(f"  ok: {text}", style="green", markup=False, highlight=False, soft_wrap=True)


def _discovery(known: _Wizard) -> Discovery:
    """Look at all tables. Raises PreflightError when none can be archived."""
    source = known.source()

    usual = known.loaded().tables[0]

    def settings_of(found: FoundTable, column: TimeColumn) -> TableSettings:
        names = (found.schema, found.table, column.name)
        if all(map(_HARMLESS_NAME.fullmatch, names)):
            # Reading the whole draft again for each of a thousand tables takes longer than looking at them.
            return replace(usual, schema=found.schema, table=found.table, timestamp_column=column.name)
        try:
            return known.loaded(DraftTable(*names)).tables[0]
        except ConfigError as error:
            # Everything else was tried before, so it is the names that a configuration cannot hold.
            raise ConfigError("its name " + "; ".join(one.message for one in error.problems)) from None

    with errors.status("looking for tables") as status:
        found = discover(source, settings_of, lambda name: status.update(f"looking at {_plain(name)}"))
    if not found.candidates:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in found.refused[:_REFUSED_SHOWN]) or "there is none"
        raise PreflightError(
            f"no table of {known.database.name} can be archived: {reasons}",
            hint="a table needs a column that holds a time, and a primary key",
        )
    return found


def _plain(name: str) -> str:
    """A name that is no markup."""
    return name.replace("[", "(").replace("]", ")")


def _print_discovery(discovery: Discovery, known: _Wizard) -> None:
    title = f"tables with a time and a key; rows are estimates, old is over {known.retention_days} days"
    shown = Table("#", "table", "rows", "disk", "oldest", "old", title=title)
    shown.columns[1].overflow = "fold"
    for number, one in enumerate(discovery.candidates, start=1):
        measure = one.measure
        oldest = f"{measure.oldest:%Y-%m-%d}" if measure.oldest else "unknown"
        old = f"{measure.eligible_share:.0%}, {size(round(measure.eligible_bytes))}"
        cells = (f"{measure.rows:,.0f}", size(measure.disk_bytes), oldest, old)
        shown.add_row(str(number), _escaped(one.found.qualified_name), *cells)
    output.print()
    output.print(shown)
    for number, one in enumerate(discovery.candidates, start=1):
        _line(f"{number}. {one.found.qualified_name}: {_explanation(one)}")
        for doubt in one.suggestion.doubts:
            _line(f"   not recommended: {doubt}")
        for note in one.measure.notes:
            _line(f"   {note}")
    _print_refused(discovery)


def _print_refused(discovery: Discovery) -> None:
    if discovery.refused:
        _line("Not offered:")
    for refused in discovery.refused[:_REFUSED_SHOWN]:
        _line(f"   {refused.name}: {refused.reason}")
    if len(discovery.refused) > _REFUSED_SHOWN:
        _line(f"   and {len(discovery.refused) - _REFUSED_SHOWN:,} more: --json shows all")


def _explanation(one: Candidate) -> str:
    suggestion = one.suggestion
    return (
        f"by {suggestion.timestamp_column} ({suggestion.column_reason}); a window per {suggestion.window.value}"
        f" ({suggestion.window_reason}); batches of {suggestion.batch_size:,} ({suggestion.batch_reason})"
    )


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


def _line(text: str) -> None:
    output.print(text, markup=False, highlight=False, soft_wrap=True)


def _chosen(discovery: Discovery, known: _Wizard, names: list[str]) -> list[Candidate]:
    """The tables named, else those asked for, else those recommended. Raises ConfigError when there is none."""
    candidates = discovery.candidates
    if names:
        return [_named(discovery, name) for name in dict.fromkeys(names)]
    recommended = [number for number, one in enumerate(candidates, start=1) if one.suggestion.is_recommended]
    if known.is_asking:
        question = "\nTables to archive, like 1,3-5 or all"
        return [candidates[number - 1] for number in ask_choice(question, len(candidates), recommended)]
    if recommended:
        return [candidates[number - 1] for number in recommended]
    reasons = "; ".join(f"{one.found.qualified_name}: {one.suggestion.doubts[0]}" for one in candidates)
    raise ConfigError(f"no table is recommended: {reasons}", hint="name those you mean with --table")


def _named(discovery: Discovery, name: str) -> Candidate:
    fitting = [one for one in discovery.candidates if name in (one.found.table, one.found.qualified_name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        known = ", ".join(one.found.qualified_name for one in fitting)
        raise ConfigError(f"several tables are named {name}: {known}", hint="write the schema too")
    for refused in discovery.refused:
        if name == refused.name or refused.name.endswith(f".{name}"):
            raise ConfigError(f"{refused.name} cannot be archived: {refused.reason}")
    offered = ", ".join(one.found.qualified_name for one in discovery.candidates[:_REFUSED_SHOWN])
    raise ConfigError(f"there is no table {name!r}", hint=f"tables that can be archived: {offered}")


def _finish(
    known: _Wizard, discovery: Discovery, chosen: list[Candidate], shown_path: Path, *, force: bool, as_json: bool
) -> None:
    """Write the file, check it as `archiver check` does, and say what to type next."""
    tables = tuple(_draft_table(one, known.retention_days) for one in chosen)
    known.loaded(*tables)
    draft = known.draft(*tables)
    if known.plain_secrets:
        draft = _with_secrets(draft, known.environ)
    write_whole(known.path, render_draft(draft), is_private=draft.has_secrets, replace=force)
    loaded = load_config(known.path, environ=known.environ, cwd=Path.cwd())
    with errors.status("checking the file"):
        findings = list(preflight(loaded, loaded.tables, datetime.now(UTC)))
    exports, commands = _exports(draft), _commands(shown_path)
    if as_json:
        print_json(_as_dict(known, discovery, chosen, findings, exports, commands))
    else:
        _print_end(known, shown_path, findings, exports, commands)
    raise typer.Exit(exit_code_of(findings))


def _draft_table(one: Candidate, retention_days: int) -> DraftTable:
    measure, suggestion = one.measure, one.suggestion
    return DraftTable(
        schema=one.found.schema,
        name=one.found.table,
        timestamp_column=suggestion.timestamp_column,
        window=WindowSize(suggestion.window.value),
        batch_size=suggestion.batch_size,
        first_window=suggestion.first_window,
        remarks=(
            f"About {measure.rows:,.0f} rows, {size(measure.disk_bytes)} on disk;"
            f" about {measure.eligible_share:.0%} are older than {retention_days} days.",
            *(f"Think twice: {doubt}." for doubt in suggestion.doubts),
            *(f"Note: {note}." for note in measure.notes),
        ),
        reasons={
            "timestamp_column": suggestion.column_reason,
            "window": suggestion.window_reason,
            "first_window": suggestion.first_window_reason,
            "batch_size": suggestion.batch_reason,
        },
    )


def _with_secrets(draft: Draft, environ: dict[str, str]) -> Draft:
    """The draft with secrets themselves where it names their variables."""
    database, store = draft.database, draft.store
    if database.password_env:
        password = SecretStr(environ[database.password_env])
        database = replace(database, password_env=None, password=password)
    if store.access_key_id_env and store.secret_access_key_env:
        store = replace(
            store,
            access_key_id_env=None,
            secret_access_key_env=None,
            access_key_id=environ[store.access_key_id_env],
            secret=SecretStr(environ[store.secret_access_key_env]),
        )
    return replace(draft, database=database, store=store)


def _exports(draft: Draft) -> list[str]:
    """The lines that set the variables which this shell lacks."""
    names = (draft.database.password_env, draft.store.access_key_id_env, draft.store.secret_access_key_env)
    return [f"export {name}='…'" for name in names if name and not os.environ.get(name)]


def _commands(path: Path) -> list[str]:
    config = f" --config {shlex.quote(str(path))}" if path != Path(DEFAULT_NAME) else ""
    return [f"archiver {what}" for what in (f"check{config}", f"cost{config} --compare", f"run{config} --dry-run")]


def _as_dict(
    known: _Wizard,
    discovery: Discovery,
    chosen: list[Candidate],
    findings: list[Finding],
    exports: list[str],
    commands: list[str],
) -> dict[str, object]:
    return {
        "output": str(known.path),
        "tables": [one.found.qualified_name for one in chosen],
        "offered": [_candidate_as_dict(one) for one in discovery.candidates],
        "not_offered": [asdict(refused) for refused in discovery.refused],
        "check": [asdict(finding) for finding in findings],
        "exports": exports,
        "next": commands,
    }


def _candidate_as_dict(one: Candidate) -> dict[str, object]:
    return {
        "table": one.found.qualified_name,
        "measure": asdict(one.measure) | {"name": str(one.measure.name), "eligible_share": one.measure.eligible_share},
        "suggestion": asdict(one.suggestion) | {"is_recommended": one.suggestion.is_recommended},
    }


def _print_end(
    known: _Wizard, shown_path: Path, findings: list[Finding], exports: list[str], commands: list[str]
) -> None:
    _line(f"\nWritten: {shown_path}")
    for problem in _problems(findings):
        warn(problem)
    if not any(finding.level is Level.failed for finding in findings):
        _line(f"Checked: {len(findings)} lines, none failed.")
    if exports:
        _line("The file names variables instead of secrets. Set them first:")
    for export in exports:
        _line(f"  {export}")
    _line("Next:")
    for command in commands:
        _line(f"  {command}")
    if known.plain_secrets:
        warn(f"{shown_path} holds secrets: keep it private (its mode is 0600)")


def _problems(findings: list[Finding]) -> Iterator[str]:
    for finding in findings:
        if finding.level is not Level.ok:
            text = f"{finding.subject}: {finding.message}"
            yield f"{text} — {finding.hint}" if finding.hint else text
