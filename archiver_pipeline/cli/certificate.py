"""`archiver certificate`: a proof, for people and machines, of what was deleted and where it is now."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from enum import IntEnum
from typing import Annotated

import typer

from archiver_pipeline.cli.console import errors, output, print_json
from archiver_pipeline.cli.options import ConfigOption, DatabaseOption, JsonOption, TableOption, open_config
from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.certificate import Certificate, CertifiedState, CheckOutcome
from archiver_pipeline.engine.certificate import Certified, certify_batch, certify_key, certify_window
from archiver_pipeline.engine.trail import READERS
from archiver_pipeline.errors import ConfigError
from archiver_pipeline.postgres.catalog import table_name
from archiver_pipeline.storage.s3 import S3Store

FORMAT_VERSION = 1
_MARKS = {CheckOutcome.passed: "ok", CheckOutcome.failed: "FAILED", CheckOutcome.not_possible: "not possible"}
_STATES = {
    CertifiedState.archived: "deleted from the table, archived",
    CertifiedState.expired: "deleted from the table; the archive's own retention is over, and it was removed",
    CertifiedState.pending: "not decided: a run was interrupted or is at work; the next run settles it",
    CertifiedState.superseded: "not deleted by this batch: it is void",
    CertifiedState.lost: "deleted from the table, and not in the store",
}


class ExitCode(IntEnum):
    """What the command ends with when no error decides."""

    verified = 0
    unverified = 1


def certificate(
    config: ConfigOption = None,
    database: DatabaseOption = None,
    table: TableOption = None,
    batch: Annotated[str | None, typer.Option("--batch", help="Id of one batch.", show_default=False)] = None,
    window: Annotated[
        str | None,
        typer.Option("--window", help="Key of a window, like 2026-01-31; with --key: only it.", show_default=False),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Primary key of one row: VALUE, a=1,b=2, or a JSON object.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Certify what was deleted: when and by whom it was archived and deleted, from which row version, where it is, and
    that all of it verifies now.

    Every document is read anew, the data object is read back and held against them, a row is located in it, and the
    table's audit trail is walked from end to end. Only the store is asked; nothing is changed.

    Exit codes: 0 everything verifies, 1 something does not, or there is nothing to certify, 2 failed,
    3 configuration, 5 permission, 7 network.

    Examples:

        archiver certificate --table audit_log --key 4711

        archiver certificate --table audit_log --window 2026-01-31 --json

        archiver certificate --batch 5b8e318c047ab97cc3a0
    """
    if (batch and (window or key)) or not (batch or window or key):
        raise ConfigError("nothing, or too much, says what to certify", hint="give --batch, --window or --key")
    loaded = open_config(config)
    tables = loaded.select_tables(database, table)
    if not batch and len(tables) > 1:
        names = ", ".join(f"{one.database}.{one.qualified_name}" for one in tables)
        raise ConfigError(f"several tables fit: {names}", hint="name one with --database and --table")
    found = [_certified(loaded, settings, batch, window, key) for settings in tables]
    made = [one for certified in found for one in certified.certificates]
    if as_json:
        print_json(_document(made, sum(certified.searched for certified in found)))
    else:
        _print(made, batch=batch, window=window, key=key, searched=sum(certified.searched for certified in found))
    verifies = bool(made) and all(one.verifies for one in made)
    raise typer.Exit(ExitCode.verified if verifies else ExitCode.unverified)


def _certified(
    loaded: LoadedConfig, settings: TableSettings, batch: str | None, window: str | None, key: str | None
) -> Certified:
    store, name = S3Store(loaded.store, connections=READERS), table_name(settings)
    with errors.status(f"reading the archives of {settings.qualified_name}"):
        if batch is not None:
            return certify_batch(store, name, batch)
        if key is not None:
            return certify_key(store, name, key, window=window)
        return certify_window(store, name, window or "")


def _document(made: list[Certificate], searched: int) -> dict[str, object]:
    return {
        "format_version": FORMAT_VERSION,
        "issued_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "verifies": bool(made) and all(one.verifies for one in made),
        "searched_batches": searched,
        "certificates": [asdict(one) | {"verifies": one.verifies} for one in made],
    }


def _print(made: list[Certificate], *, batch: str | None, window: str | None, key: str | None, searched: int) -> None:
    if not made and key is not None:
        _line(
            f"The key {key} is in no archive: {searched:,} batches were searched. It was not deleted by this program."
        )
    elif not made:
        _line(f"There is no {f'batch {batch}' if batch else f'archive of the window {window}'}.")
    if len(made) > 1 and key is not None:
        _line(
            f"The key {key} is in {len(made)} archives: versions of the row that were archived one after the other.\n"
        )
    for one in made:
        for line in _lines(one):
            _line(line)
        _line("")
    if made:
        failed = sum(not one.verifies for one in made)
        issued = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        _line(f"{'VERIFIED' if not failed else f'{failed} of {len(made)} NOT VERIFIED'} at {issued}")


def _lines(one: Certificate) -> Iterator[str]:
    yield f"Deletion certificate of {one.table}, batch {one.batch_id}"
    yield f"  state       {_STATES[one.state]}"
    if one.row is not None:
        names = ", ".join(f"{name}={value}" for name, value in one.row.key.items())
        yield f"  row         {names}, row version xmin {one.row.xmin}, row {one.row.row_number} of {one.rows:,}"
        if one.row.row_sha256:
            yield f"  row SHA-256 {one.row.row_sha256}"
    yield f"  window      {one.window}: {one.window_start} to {one.window_end} (exclusive), {one.rows:,} rows"
    yield f"  rows from   {one.first_row_time} to {one.last_row_time}"
    retention = f", retention {one.retention_days} days" if one.retention_days is not None else ""
    yield f"  cutoff      {one.cutoff}{retention}"
    yield f"  archived    {one.archived_at}, run {one.archived_by_run}, {one.software}"
    if one.deleted_at:
        how = "its delete committed" if one.outcome == "deleted" else "none of its row versions was in the table"
        yield f"  deleted     {one.deleted_at}, run {one.deleted_by_run}: {how} (settled by {one.settled_by})"
    if one.who is not None:
        actor = f" for {one.who.actor}" if one.who.actor else ""
        yield (
            f"  by          {one.who.os_user}@{one.who.host} pid {one.who.pid}{actor}, database role"
            f" {one.who.database_role}, {one.who.store_identity}, {one.who.command or one.who.job}"
        )
    yield f"  object      s3://{one.bucket}/{one.data_key}"
    told = ", ".join(f"{name} {value}" for name, value in one.stored.items() if value)
    yield f"              {told or 'not in the store'}; {one.object_bytes:,} bytes"
    yield f"  SHA-256     object   {one.object_sha256}"
    yield f"              rows     {one.rows_sha256}"
    yield f"              manifest {one.manifest_sha256}"
    if one.receipt_sha256:
        yield f"              receipt  {one.receipt_sha256}"
    if one.trail is not None:
        yield f"  trail       link {one.trail.sequence}, entry {one.trail.entry_id}, {one.trail.at}"
        yield f"              link     {one.trail.link_sha256}"
    for restored in one.restored:
        part = " (a part: it may or may not hold this row)" if restored.filtered_rows and one.row else ""
        yield f"  RESTORED    {restored.at} into {restored.target}: {restored.rows:,} rows{part}, run {restored.run_id}"
    for check in one.checks:
        yield f"  [{_MARKS[check.outcome]}] {check.what}{f': {check.detail}' if check.detail else ''}"


def _line(text: str) -> None:
    output.print(text, markup=False, highlight=False, soft_wrap=True)
