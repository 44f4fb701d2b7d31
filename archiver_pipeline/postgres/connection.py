"""Connections with pinned settings, and the one place that translates driver errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import conninfo, sql

from archiver_pipeline.config.effective import SourceSettings
from archiver_pipeline.errors import (
    ArchiverError,
    NetworkError,
    PermissionDeniedError,
    PreflightError,
    ResourcesError,
    SourceError,
)
from archiver_pipeline.secret_sources.secret import with_current_secret

CONNECT_TIMEOUT_SECONDS = 10
READ_LOCK_TIMEOUT_MS = 5_000
PINNED_SETTINGS = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "3",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "array_nulls": "on",
    "xmloption": "content",
    "quote_all_identifiers": "off",
    "client_encoding": "UTF8",
    "search_path": "",
    "jit": "off",
    "row_security": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "lock_timeout": f"{READ_LOCK_TIMEOUT_MS}ms",
}
"""With these a value's text is exact, and the same whoever asks. Three are for databases that were set otherwise: with
`array_nulls = off` an array's NULL would be read back as the word "NULL", with `xmloption = document` no fragment of
XML could be read back, and with `quote_all_identifiers = on` types would have other names. `row_security = off` turns
a policy that would hide rows into an error. `read committed` lets a statement after a wait for a lock see what was
committed during the wait: with a database's own default of `serializable` the fate of a batch would be read from
before the wait."""

Connection = psycopg.Connection[tuple[Any, ...]]

_NO_CONNECT = re.compile(r'permission denied for database "([^"]+)"')
_SQLSTATE_NETWORK = ("08", "57P01", "57P02", "57P03", "40001", "40P01")
_SQLSTATE_REFUSED = ("23", "P0001")
_SQLSTATE_LOCKED = ("55P03",)
_SQLSTATE_RESOURCES = ("53",)
_SQLSTATE_CANCELED = "57014"
_SQLSTATE_DATA = "22"
_THIS_MACHINE = ("127.0.0.1", "::1")
_NO_TLS_HINT = "nothing was read; turn TLS on in the server (ssl = on), or change what requires it"
_TLS_HINT = (
    "nothing was read; is the server's certificate in date, of this host name, and of an authority in sslrootcert?"
)
_TLS_WORDS = ("certificate", "does not support SSL", "private key file", "SSL error: tls", "SSL error: ssl", "sslmode")
_SQLSTATE_PERMISSION = ("42501", "28")


class DeleteRefusedError(SourceError):
    """The database itself refused the delete: a foreign key refers to a row, or a trigger raised an error."""


class TlsError(PreflightError):
    """The connection is not in TLS, or not to a server that could prove who it is. Nothing was sent over it."""


class RowsLockedError(SourceError):
    """An application holds a lock on the table or on one of the rows."""


_KINDS: tuple[tuple[tuple[str, ...], type[ArchiverError]], ...] = (
    (_SQLSTATE_LOCKED, RowsLockedError),
    (_SQLSTATE_REFUSED, DeleteRefusedError),
    (_SQLSTATE_RESOURCES, ResourcesError),
    (_SQLSTATE_NETWORK, NetworkError),
)


def connect(source: SourceSettings, **settings: str) -> Connection:
    """Open an autocommit connection with pinned settings; `settings` are further PostgreSQL settings.

    Raises NetworkError, PermissionDeniedError or ResourcesError, what reading a password kept elsewhere raises, and
    TlsError when TLS is required and there is none.
    """

    def attempt() -> Connection:
        with source_errors(source):
            return psycopg.connect(connection_string(source, **settings), autocommit=True)

    connection = with_current_secret(source.password, attempt)
    if source.require_tls and not (connection.pgconn.ssl_in_use or is_socket(connection.info.host)):
        connection.close()
        raise not_in_tls(source)
    return connection


def is_socket(host: str) -> bool:
    """Whether it is the folder of a Unix socket, or the name of an abstract one: nothing goes over a network."""
    return host.startswith(("/", "@"))


@dataclass(frozen=True, slots=True)
class Transport:
    """How the bytes of a connection travel, for people."""

    text: str
    is_exposed: bool = False
    """Whether they go over a network in clear."""


def transport_of(connection: Connection) -> Transport:
    """By the driver's word, and the server's for protocol and cipher."""
    host = connection.info.host
    if is_socket(host):
        return Transport(f"Unix socket in {host}: no TLS, and nothing goes over a network")
    if not connection.pgconn.ssl_in_use and connection.info.hostaddr in _THIS_MACHINE:
        return Transport("not in TLS, and the server is on this machine")
    if not connection.pgconn.ssl_in_use:
        return Transport("not in TLS: rows go over the network in clear", is_exposed=True)
    version, cipher = fetch_one(
        connection,
        sql.SQL(
            "SELECT version::pg_catalog.text, cipher::pg_catalog.text FROM pg_catalog.pg_stat_ssl"
            " WHERE pid = pg_catalog.pg_backend_pid()"
        ),
    )
    return Transport(f"in {version or 'TLS'}, {cipher or 'cipher unknown'}")


def not_in_tls(source: SourceSettings) -> TlsError:
    return TlsError(
        f"{source.host}:{source.port}/{source.dbname}: the connection is not in TLS, which is required",
        hint="let the server offer TLS (ssl = on), and set sslmode to verify-full",
    )


def connection_string(source: SourceSettings, **settings: str) -> str:
    """A libpq connection string. It holds the password: never log it."""
    pinned = PINNED_SETTINGS | settings
    options = " ".join(f"-c {name}={_escaped(value)}" for name, value in pinned.items())
    password = source.password.get_secret_value() if source.password else None
    return conninfo.make_conninfo(
        "",
        host=source.host,
        port=source.port,
        dbname=source.dbname,
        user=source.user,
        password=password,
        sslmode=source.sslmode,
        sslrootcert=source.sslrootcert,
        sslcert=source.sslcert,
        sslkey=source.sslkey,
        # A connection encrypted by Kerberos instead would prove nothing of what sslmode asks for.
        gssencmode="disable" if source.require_tls else None,
        application_name=source.application_name,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        keepalives_idle=30,
        keepalives_interval=10,
        keepalives_count=3,
        options=options,
    )


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


@contextmanager
def source_errors(source: SourceSettings) -> Iterator[None]:
    """Translate driver errors. Only the server's primary message is kept: its detail may quote row content."""
    try:
        yield
    except psycopg.Error as error:
        raise translated(error, source) from None


def translated(error: psycopg.Error, source: SourceSettings) -> ArchiverError:
    """The error of ours for a driver's error."""
    message = error.diag.message_primary or str(error).strip().splitlines()[0]
    if (error.sqlstate or "").startswith(_SQLSTATE_DATA):
        # Such messages end with the value that does not fit.
        message = message.split(': "')[0]
    place = f"{source.host}:{source.port}/{source.dbname}"
    return error_of_sqlstate(error.sqlstate, f"{place}: {message}", user=source.user)


def error_of_sqlstate(sqlstate: str | None, text: str, *, user: str) -> ArchiverError:
    """The class of ours for an SQLSTATE; None means that the server never answered or the line was cut.

    Source of the codes: PostgreSQL documentation, appendix A.
    """
    if sqlstate is None:
        return _not_connected(text, user)
    if sqlstate.startswith(_SQLSTATE_PERMISSION):
        return _not_permitted(text, user, "grant the privilege; `archiver check` lists what is needed")
    if sqlstate == _SQLSTATE_CANCELED:
        return SourceError(
            text, hint="was the statement too slow? an index that begins with the timestamp column helps"
        )
    for prefixes, kind in _KINDS:
        if sqlstate.startswith(prefixes):
            return kind(text)
    return SourceError(f"{text} (SQLSTATE {sqlstate})")


def _not_connected(text: str, user: str) -> ArchiverError:
    if any(words in text for words in _TLS_WORDS):
        return TlsError(text, hint=_NO_TLS_HINT if "does not support SSL" in text else _TLS_HINT)
    if "permission denied" in text or "authentication failed" in text or "no password supplied" in text:
        return _not_permitted(text, user, "check user and password (password_env, password_from) of this database")
    if "too many clients" in text or "connection slots" in text:
        return ResourcesError(text, hint="lower connection_pool_size or raise max_connections")
    if "does not exist" in text:
        return SourceError(text, hint="check the name and the user of this database")
    return NetworkError(text, hint="check host, port and that the server is running")


def _not_permitted(text: str, user: str, otherwise: str) -> PermissionDeniedError:
    database = _NO_CONNECT.search(text)
    return PermissionDeniedError(
        text, hint=f'GRANT CONNECT ON DATABASE "{database[1]}" TO "{user}"' if database else otherwise
    )


def fetch_one(connection: Connection, query: sql.SQL | sql.Composed, parameters: Any = None) -> tuple[Any, ...]:
    """The single row of a query that always has one."""
    row = connection.execute(query, parameters).fetchone()
    if row is None:
        raise SourceError("the server returned no row where one always exists")
    return row
