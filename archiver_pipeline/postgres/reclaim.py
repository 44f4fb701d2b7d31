"""Writes a table anew so that its free space goes back to the file system: VACUUM FULL, pg_repack, pg_squeeze.

All three give every row another place, and the last two another xmin. A batch that waits to be settled would not find
its rows again: the caller must hold the table lock and have none pending.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from psycopg import sql

from archiver_pipeline.config.effective import SourceSettings
from archiver_pipeline.config.enums import VacuumStrategy
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.errors import PreflightError, ResourcesError, SourceError
from archiver_pipeline.postgres.catalog import quoted, server_version
from archiver_pipeline.postgres.connection import (
    CONNECT_TIMEOUT_SECONDS,
    Connection,
    RowsLockedError,
    connect,
    fetch_one,
    source_errors,
)
from archiver_pipeline.postgres.maintenance import vacuum_table

REPACK, SQUEEZE = "pg_repack", "pg_squeeze"
_PROGRAM_OF_DEBIAN = "/usr/lib/postgresql/{major}/bin/pg_repack"
# An older server does not know the privilege, and would refuse its name.
_MAINTAIN = (
    "CASE WHEN pg_catalog.current_setting('server_version_num')::int4 >= 170000 THEN 'MAINTAIN' ELSE 'SELECT' END"
)
_STOP_SECONDS = 30
_POLL_SECONDS = 0.2
_KEPT_LINES = 5
_TLS_VARIABLES = {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY"}
_VERSION = re.compile(r"\d+(?:\.\d+)+")
LEFTOVER_HINT = (
    "of a pg_repack that was killed, or of one that runs now; when none does, DROP EXTENSION pg_repack CASCADE and"
    " CREATE EXTENSION pg_repack remove it. Until then its trigger copies each change of the table to a growing log"
)


class LeftoversError(PreflightError):
    """Something of an earlier pg_repack is still on the table."""


@dataclass(frozen=True, slots=True)
class RepackProgram:
    """The client program of pg_repack; its version must be that of the extension."""

    path: Path
    version: str


def rewrite_full(source: SourceSettings, name: TableName) -> None:
    """VACUUM FULL. Locks the table against everything; gives up after 5 s behind another lock.

    Raises RowsLockedError or PermissionDeniedError.
    """
    vacuum_table(source, name, VacuumStrategy.FULL, gently=False)


def rewrite_squeeze(source: SourceSettings, name: TableName) -> None:
    """`squeeze.squeeze_table`, which copies the table while it is used and locks it only for the swap."""
    with source_errors(source), connect(source) as connection:
        require_extension(connection, source, SQUEEZE)
        connection.execute("SELECT squeeze.squeeze_table(%s, %s)", (name.schema, name.table))


def rewrite_repack(
    source: SourceSettings,
    name: TableName,
    program: RepackProgram,
    *,
    wait_seconds: int,
    tell: Callable[[str], None],
) -> None:
    """Run pg_repack on this one table, and tell every line that it says. Gives up rather than end other sessions.

    Raises SourceError with the end of what it said when it did not succeed, RowsLockedError when it waited in vain for
    a lock, LeftoversError when an earlier one left something behind.
    """
    with source_errors(source), connect(source) as connection:
        require_repack(connection, source, program)
        require_no_leftovers(connection, name)
        is_superuser = connection.execute("SELECT pg_catalog.current_setting('is_superuser')").fetchone() == ("on",)
        before = _files(connection, name)
    command = [str(program.path), *_options(name, wait_seconds, is_superuser=is_superuser)]
    code, said = _run(command, _environment(source), tell)
    with source_errors(source), connect(source) as connection:
        if code == 0 and _files(connection, name) != before:
            return
        require_no_leftovers(connection, name)
    if any("timed out" in line.lower() for line in said):
        raise RowsLockedError(f"{name}: pg_repack got no lock within {wait_seconds} s")
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    raise SourceError(f"{name}: pg_repack {ended}: {'; '.join(said[-_KEPT_LINES:]) or 'it said nothing'}")


def find_repack(connection: Connection, configured: Path | None) -> RepackProgram:
    """The program that is configured, else the one on PATH, else Debian's of the server's version.

    Raises PreflightError, with how to install it, when there is none.
    """
    major = server_version(connection) // 10000
    debian = Path(_PROGRAM_OF_DEBIAN.format(major=major))
    wanted = str(configured) if configured else REPACK
    path = shutil.which(wanted) or (str(debian) if not configured and os.access(debian, os.X_OK) else None)
    if path is None:
        hint = f"apt install postgresql-{major}-repack on Debian, or set pg_repack_path, or use reclaim: full or none"
        raise PreflightError(f"the program {wanted} is not on this machine", hint=hint)
    printed = subprocess.run([path, "--version"], check=False, capture_output=True, text=True, timeout=30)
    found = _VERSION.search(printed.stdout)
    if found is None:
        raise PreflightError(f"{path} does not say its version", hint="set pg_repack_path to the program of pg_repack")
    return RepackProgram(Path(path), found[0])


def require_repack(connection: Connection, source: SourceSettings, program: RepackProgram) -> None:
    """Raises PreflightError when the extension is not in the database, or is of another version than the program."""
    installed = require_extension(connection, source, REPACK)
    if installed != program.version:
        raise PreflightError(
            f"{program.path} is version {program.version}, the extension in {source.dbname} is {installed}",
            hint="install the same version on both: DROP EXTENSION pg_repack CASCADE, then CREATE EXTENSION pg_repack",
        )


def require_extension(connection: Connection, source: SourceSettings, extension: str) -> str:
    """Its version. Raises PreflightError, with how to install it, when it is not in the database."""
    version = extension_version(connection, extension)
    if version is None:
        major = server_version(connection) // 10000
        raise PreflightError(
            f"the extension {extension} is not in the database {source.dbname}",
            hint=f"on the server: apt install postgresql-{major}-{extension.removeprefix('pg_')} (Debian,"
            f" apt.postgresql.org), then CREATE EXTENSION {extension} as a superuser; or use reclaim: full or none",
        )
    return version


def extension_version(connection: Connection, extension: str) -> str | None:
    """None when the extension is not in this database."""
    row = connection.execute(
        "SELECT extversion::text FROM pg_catalog.pg_extension WHERE extname = %s", (extension,)
    ).fetchone()
    return str(row[0]) if row else None


def may_rewrite(connection: Connection, name: TableName) -> bool:
    """Whether PostgreSQL lets the connected user write the table anew: its owner, or from version 17 with MAINTAIN."""
    query = sql.SQL(
        "SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') OR (pg_catalog.current_setting('server_version_num')::int4"
        " >= 170000 AND pg_catalog.has_table_privilege(c.oid, {})) FROM pg_catalog.pg_class c"
        " WHERE c.oid = {}::pg_catalog.regclass"
    ).format(sql.SQL(_MAINTAIN), sql.Literal(quoted(name.schema, name.table)))
    return bool(fetch_one(connection, query)[0])


def find_leftovers(connection: Connection, name: TableName) -> list[str]:
    """What pg_repack made for this table and has not removed: its trigger, log and copy."""
    rows = connection.execute(
        "SELECT 'trigger ' || t.tgname FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE t.tgname = 'repack_trigger' AND n.nspname = %s AND c.relname = %s"
        " UNION ALL SELECT 'table repack.' || l.relname FROM pg_catalog.pg_class l"
        " JOIN pg_catalog.pg_namespace m ON m.oid = l.relnamespace AND m.nspname = 'repack'"
        " JOIN pg_catalog.pg_class c ON l.relname IN ('log_' || c.oid, 'table_' || c.oid)"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %s AND c.relname = %s",
        (name.schema, name.table, name.schema, name.table),
    ).fetchall()
    return [str(row[0]) for row in rows]


def require_no_leftovers(connection: Connection, name: TableName) -> None:
    """Raises LeftoversError with what to do."""
    if found := find_leftovers(connection, name):
        raise LeftoversError(f"{name}: {', '.join(found)} is there", hint=LEFTOVER_HINT)


def _options(name: TableName, wait_seconds: int, *, is_superuser: bool) -> list[str]:
    return [
        "--no-password",
        "--no-order",
        "--no-kill-backend",
        f"--wait-timeout={wait_seconds}",
        f"--table={quoted(name.schema, name.table)}",
        *([] if is_superuser else ["--no-superuser-check"]),
    ]


def _environment(source: SourceSettings) -> dict[str, str]:
    """This process's, with the source's address and secret: arguments can be seen by everybody on the machine."""
    own = {name: value for name, value in os.environ.items() if name not in ("PGOPTIONS", "PGSERVICE")}
    own |= {
        "PGHOST": source.host,
        "PGPORT": str(source.port),
        "PGUSER": source.user,
        "PGDATABASE": source.dbname,
        "PGAPPNAME": source.application_name,
        "PGCONNECT_TIMEOUT": str(CONNECT_TIMEOUT_SECONDS),
    }
    if source.password is not None:
        own["PGPASSWORD"] = source.password.get_secret_value()
    for field, variable in _TLS_VARIABLES.items():
        if value := getattr(source, field):
            own[variable] = str(value)
    if source.require_tls:
        own["PGGSSENCMODE"] = "disable"
    return own


def _run(command: list[str], environment: dict[str, str], tell: Callable[[str], None]) -> tuple[int, list[str]]:
    """Exit code and lines. Stopped as by Ctrl-C, so that it removes what it made; in a session of its own, because a
    Ctrl-C on the terminal is for us to pass on."""
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise ResourcesError(f"{command[0]} can't be started: {error.strerror}") from error
    said: list[str] = []
    try:
        _listen(process, said, tell)
    finally:
        _stop(process)
    return process.returncode, said


def _listen(process: "subprocess.Popen[str]", said: list[str], tell: Callable[[str], None]) -> None:
    """Details of errors are left out: they may quote rows."""
    assert process.stdout is not None  # noqa: S101 - it was asked for
    for line in process.stdout:
        if (text := line.strip()) and not text.startswith("DETAIL:"):
            said.append(text)
            tell(text)
    process.wait()


def _stop(process: "subprocess.Popen[str]") -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    deadline = monotonic() + _STOP_SECONDS
    while process.poll() is None and monotonic() < deadline:
        try:
            process.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    if process.poll() is None:
        process.kill()
        process.wait()


def _files(connection: Connection, name: TableName) -> object:
    """Which file the table is in. pg_repack leaves out a table that it could not lock, and ends with 0 all the same."""
    query = sql.SQL("SELECT pg_catalog.pg_relation_filenode({}::pg_catalog.regclass)")
    return fetch_one(connection, query.format(sql.Literal(quoted(name.schema, name.table))))[0]
