"""How each column becomes text: decided from PostgreSQL's catalog, written as SQL.

`row_to_json` is exact for scalars. It loses array lower bounds, JSON white space, the difference between SQL NULL and
a jsonb `null`, and follows casts to json of extension types: those columns go through the type's output function.
"""

from collections.abc import Sequence

from psycopg import sql

from archiver_pipeline.domain.layout import DataFormat
from archiver_pipeline.domain.table import INTEGER_TYPES, Column, KeyColumn, Rendering

_NATIVE_EVERYWHERE = INTEGER_TYPES | {
    "boolean",
    "text",
    "uuid",
    "date",
    "timestamp without time zone",
    "timestamp with time zone",
}
_NATIVE_IN_JSON = frozenset({"real", "double precision"})
_NATIVE_IN_JSON_PREFIXES = ("numeric", "character varying", "character(", "bit")
_NOT_CALLED_BY_NAME = frozenset({"pg_catalog.textout", "pg_catalog.enum_out"})
"""Output functions that a call does not find for each of their types: refcursor's is declared for text, and a domain
is no `anyenum`. `concat` asks them whatever they are declared for."""
_NATIVE_NETWORK = frozenset({"inet", "cidr", "macaddr", "macaddr8"})


def rendering_of(type_name: str, base_type: str, data_format: DataFormat, *, is_key: bool) -> Rendering:
    """The rendering of a column of type `type_name`, which is `base_type` once domains are resolved (both as
    `format_type` writes them).

    Keys are integers or text, so that they compare the same in every place. In Parquet numbers travel as text up to
    the typed column, because NaN and infinity are no JSON numbers. Both are typed by the column's own type, so a
    domain is text to them.
    """
    if is_key:
        return Rendering.native if type_name in INTEGER_TYPES else Rendering.text
    if data_format is DataFormat.parquet:
        return Rendering.native if type_name in _NATIVE_EVERYWHERE else Rendering.text
    if base_type in _NATIVE_EVERYWHERE:
        return Rendering.native
    if base_type == "jsonb":
        return Rendering.jsonb
    # A type in a schema called, say, "bitcoin" begins like a built-in one.
    is_built_in = "." not in base_type and not base_type.endswith("[]")
    is_native = (
        base_type in _NATIVE_IN_JSON or base_type in _NATIVE_NETWORK or base_type.startswith(_NATIVE_IN_JSON_PREFIXES)
    )
    return Rendering.native if is_native and is_built_in else Rendering.text


def rendered_columns(columns: Sequence[Column], alias: sql.Identifier) -> sql.Composed:
    """The select list that turns a row of `alias` into what `row_to_json` may see."""
    return sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(rendered(column, alias), sql.Identifier(column.name)) for column in columns
    )


def rendered(column: Column, alias: sql.Identifier) -> sql.Composed:
    """One column's value, rendered."""
    value = sql.SQL("{}.{}").format(alias, sql.Identifier(column.name))
    if column.rendering is Rendering.native:
        return value
    if column.rendering is Rendering.jsonb:
        return sql.SQL(
            "CASE WHEN pg_catalog.jsonb_typeof({0}) IN ('null', 'string')"
            " THEN pg_catalog.to_jsonb({0}::pg_catalog.text) ELSE {0} END"
        ).format(value)
    return as_text(value, column.output_function)


def as_text(value: sql.Composable, output_function: str) -> sql.Composed:
    """A value through its type's output function; NULL stays NULL, and a composite of NULLs does not become one.

    `output_function` comes from the catalog, already quoted and qualified by the server.
    """
    if output_function in _NOT_CALLED_BY_NAME:
        return sql.SQL(
            "CASE WHEN pg_catalog.num_nulls({0}) OPERATOR(pg_catalog.=) 0 THEN pg_catalog.concat({0}) END"
        ).format(value)
    return sql.SQL("pg_catalog.textin({}({}))").format(sql.SQL(output_function), value)


def row_alias(columns: Sequence[Column]) -> sql.Identifier:
    """A row alias that no column is called: a column of that name would be taken instead of the row."""
    names = {column.name for column in columns}
    alias = "archived_row"
    while alias in names:
        alias += "_"
    return sql.Identifier(alias)


def key_values(key: Sequence[KeyColumn], columns: Sequence[Column], alias: sql.Identifier) -> list[sql.Composed]:
    """The key columns as 64-bit integers or text, in key order."""
    by_name = {column.name: column for column in columns}
    return [_key_value(part, by_name[part.name], alias) for part in key]


def _key_value(part: KeyColumn, column: Column, alias: sql.Identifier) -> sql.Composed:
    value = sql.SQL("{}.{}").format(alias, sql.Identifier(part.name))
    if part.is_integer:
        return sql.SQL("{}::pg_catalog.int8").format(value)
    return as_text(value, column.output_function)
