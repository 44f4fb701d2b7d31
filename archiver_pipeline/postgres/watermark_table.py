"""The restore watermark as a table of the target database, in schema `public`.

One row says that one batch of one source was restored whole into one target. It is written in the transaction that
inserts the batch's rows, so that neither is ever there without the other.

Every function leaves the translation of driver errors to its caller, as all that work on a given connection do.
"""

import hashlib

from psycopg import errors, sql

from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.watermark import RestoredBatch
from archiver_pipeline.errors import PermissionDeniedError, PreflightError
from archiver_pipeline.postgres.connection import Connection, fetch_one

SCHEMA = "public"
_KEY = ("source_database", "source_schema", "source_table", "target_schema", "target_table", "batch_id")
_COLUMNS = (*_KEY, "data_key", "rows", "restored_at", "run_id")
_TYPES = {"rows": "pg_catalog.int8", "restored_at": "pg_catalog.timestamptz"}
_PRIVILEGES = ("SELECT", "INSERT", "UPDATE")


def ensure_watermark_table(connection: Connection, table: str) -> None:
    """Create the table where it is missing. Safe to repeat and to do from many sessions at once.

    Raises PermissionDeniedError, with the statement that helps, when this user may not create or use it;
    PreflightError when there is no schema `public` or something else has the table's name.
    """
    try:
        if not _exists(connection, table):
            _create(connection, table)
    except errors.InsufficientPrivilege:
        raise PermissionDeniedError(
            f"{_place(connection, table)} is missing, and this user may not create it",
            hint=sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {};")
            .format(sql.Identifier(SCHEMA), _user(connection))
            .as_string(),
        ) from None
    except errors.InvalidSchemaName:
        raise PreflightError(
            f"{_place(connection, table)} cannot be created: there is no schema {SCHEMA}",
            hint="create the schema, or set restore_watermark.storage_type: s3",
        ) from None
    _require_columns(connection, table)
    _require_privileges(connection, table)


def remembered_batches(connection: Connection, table: str, source: TableName, target: TableName) -> set[str]:
    """The ids of the batches of `source` that were restored into `target`; none while there is no table."""
    if not _exists(connection, table):
        return set()
    query = sql.SQL("SELECT batch_id FROM {} WHERE ({}) = ({})").format(
        _reference(table), _names(_KEY[:-1]), _placeholders(_KEY[:-1])
    )
    return {batch_id for (batch_id,) in connection.execute(query, _between(source, target)).fetchall()}


def remember_batch(
    connection: Connection, table: str, source: TableName, target: TableName, batch: RestoredBatch, run_id: str
) -> None:
    """Note a restored batch, by the server's clock, in the caller's transaction. Safe to repeat: the last one stays."""
    noted = [name for name in _COLUMNS if name not in _KEY]
    query = sql.SQL(
        "INSERT INTO {table} ({columns}) VALUES ({key}, %s, %s, pg_catalog.clock_timestamp(), %s)"
        " ON CONFLICT ({key_columns}) DO UPDATE SET ({noted}) = ROW({excluded})"
    ).format(
        table=_reference(table),
        columns=_names(_COLUMNS),
        key=_placeholders(_KEY),
        key_columns=_names(_KEY),
        noted=_names(noted),
        excluded=sql.SQL(", ").join(sql.Identifier("excluded", name) for name in noted),
    )
    values = (*_between(source, target), batch.batch_id, batch.data_key, batch.rows, run_id)
    connection.execute(query, values)


def _create(connection: Connection, table: str) -> None:
    """One session at a time: two that create a table at once would both find it missing, and one would fail."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} {} NOT NULL").format(sql.Identifier(name), sql.SQL(_TYPES.get(name, "pg_catalog.text")))
        for name in _COLUMNS
    )
    query = sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({}))").format(_reference(table), columns, _names(_KEY))
    with connection.transaction():
        connection.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", (_creation_key(table),))
        if not _exists(connection, table):
            connection.execute(query)


def _exists(connection: Connection, table: str) -> bool:
    return _oid(connection, table) is not None


def _oid(connection: Connection, table: str) -> int | None:
    """By a look into the catalogue: `to_regclass` may answer from a cache that is older than a lock just waited for."""
    row = connection.execute(
        "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s",
        (SCHEMA, table),
    ).fetchone()
    return row[0] if row else None


def _require_columns(connection: Connection, table: str) -> None:
    rows = connection.execute(
        "SELECT attname::pg_catalog.text FROM pg_catalog.pg_attribute"
        " WHERE attrelid = %s::pg_catalog.oid AND attnum > 0 AND NOT attisdropped",
        (_oid(connection, table),),
    ).fetchall()
    if {name for (name,) in rows} != set(_COLUMNS):
        raise PreflightError(
            f"{_place(connection, table)} is not a table of restore watermarks",
            hint="give restore_watermark.table another name",
        )


def _require_privileges(connection: Connection, table: str) -> None:
    """Asked here and not left to the first batch, so that nothing was done when something is missing."""
    (may_look_up,) = fetch_one(connection, sql.SQL("SELECT pg_catalog.has_schema_privilege(%s, 'USAGE')"), (SCHEMA,))
    granted = [privilege for privilege in _PRIVILEGES if _has_privilege(connection, table, privilege)]
    if may_look_up and len(granted) == len(_PRIVILEGES):
        return
    grants = sql.SQL("GRANT USAGE ON SCHEMA {schema} TO {user}; GRANT {privileges} ON {table} TO {user};")
    raise PermissionDeniedError(
        f"{_place(connection, table)} may not be read and written by this user",
        hint=grants.format(
            schema=sql.Identifier(SCHEMA),
            user=_user(connection),
            privileges=sql.SQL(", ".join(_PRIVILEGES)),
            table=_reference(table),
        ).as_string(),
    )


def _has_privilege(connection: Connection, table: str, privilege: str) -> bool:
    (granted,) = fetch_one(
        connection,
        sql.SQL("SELECT pg_catalog.has_table_privilege(%s::pg_catalog.oid, %s)"),
        (_oid(connection, table), privilege),
    )
    return bool(granted)


def _creation_key(table: str) -> int:
    digest = hashlib.sha256("\x00".join(["archiver_pipeline", "watermark", SCHEMA, table]).encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def _between(source: TableName, target: TableName) -> tuple[str, ...]:
    """The values of the key's columns but the last."""
    return source.database, source.schema, source.table, target.schema, target.table


def _reference(table: str) -> sql.Identifier:
    return sql.Identifier(SCHEMA, table)


def _names(columns: tuple[str, ...] | list[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _placeholders(columns: tuple[str, ...]) -> sql.Composed:
    return sql.SQL(", ").join([sql.Placeholder()] * len(columns))


def _place(connection: Connection, table: str) -> str:
    return f"{_reference(table).as_string()} in database {connection.info.dbname}"


def _user(connection: Connection) -> sql.Identifier:
    return sql.Identifier(connection.info.user)
