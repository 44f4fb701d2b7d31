"""A predicate as SQL. No text of the user's is ever SQL: a name finds a column of the catalog, a literal stays one."""

from collections.abc import Callable, Iterable, Mapping

import psycopg
from psycopg import sql

from archiver_pipeline.config.problems import nearest
from archiver_pipeline.domain.predicate import (
    Among,
    And,
    Between,
    Comparison,
    Condition,
    IsNull,
    IsTrue,
    Like,
    Not,
    Or,
    Predicate,
    columns_of,
)
from archiver_pipeline.errors import ConfigError
from archiver_pipeline.postgres.catalog import quoted
from archiver_pipeline.postgres.connection import Connection

Operand = Callable[[str], sql.Composable]
_COLUMNS_NAMED = 12
_USER_MISTAKES = ("0A", "22", "42")
_NO_PRIVILEGE = "42501"


def predicate_sql(predicate: Predicate, columns: Mapping[str, str], operand: Operand) -> sql.Composed:
    """The condition over `operand(name)`, the SQL of a column's value; in parentheses, so it stands beside anything.

    `columns` are name → type as the catalog's `format_type` wrote it. Values are cast to it, and literals are left
    untyped beside them, so PostgreSQL reads a literal as in a comparison with the column itself: as the column's type
    without its length or scale and, for a domain, as its base type. A cast of the literal to the type would cut 'abcd'
    to fit varchar(3), and then match. LIKE is the exception: it compares the value's text.

    Execute it without parameters: a pattern may hold per cent signs. Raises ConfigError for an unknown column. Run
    `check_predicate` first: it knows which types can't be compared.
    """
    _require_columns(predicate, columns)
    return _condition_of(predicate, lambda name: sql.SQL("({})::{}").format(operand(name), sql.SQL(columns[name])))


def check_predicate(connection: Connection, predicate: Predicate, columns: Mapping[str, str]) -> None:
    """Let the server read the predicate without any row; changes nothing, also when a transaction is open.

    Raises ConfigError when a column is unknown, a literal is none of the column's type, or the type has no such
    comparison, and psycopg.Error when the server could not be asked.
    """
    _require_columns(predicate, columns)
    _refuse_foreign_comparisons(connection, predicate, columns)
    condition = predicate_sql(predicate, columns, lambda name: sql.SQL("nothing.{}").format(sql.Identifier(name)))
    try:
        with connection.transaction():
            connection.execute(sql.SQL("SELECT FROM {} WHERE {}").format(_no_rows(predicate, columns), condition))
    except psycopg.Error as error:
        if not _is_user_mistake(error):
            raise
        message = error.diag.message_primary or "the server refused it"
        raise ConfigError(
            f"the predicate does not fit the table: {message}", hint=_types_hint(predicate, columns)
        ) from None


def _condition_of(predicate: Predicate, value: Operand) -> sql.Composed:
    match predicate:
        case Not(part):
            return sql.SQL("(NOT {})").format(_condition_of(part, value))
        case And(parts):
            return _joined(" AND ", (_condition_of(part, value) for part in parts))
        case Or(parts):
            return _joined(" OR ", (_condition_of(part, value) for part in parts))
        case _:
            return sql.SQL("({})").format(_comparison(predicate, value(predicate.column)))


def _joined(word: str, parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL("({})").format(sql.SQL(word).join(parts))


def _comparison(condition: Condition, value: sql.Composable) -> sql.Composed:
    match condition:
        case Comparison(_, operator, literal):
            return sql.SQL("{} {} {}").format(value, sql.SQL(operator.value), sql.Literal(literal))
        case Among(_, literals):
            return sql.SQL("{} IN ({})").format(value, sql.SQL(", ").join(map(sql.Literal, literals)))
        case Between(_, low, high):
            return sql.SQL("{} BETWEEN {} AND {}").format(value, sql.Literal(low), sql.Literal(high))
        case IsNull():
            # `value IS NULL` is also true for a composite whose fields all are.
            return sql.SQL("{} IS NOT DISTINCT FROM NULL").format(value)
        case Like(_, pattern, ignore_case):
            word = sql.SQL("ILIKE" if ignore_case else "LIKE")
            return sql.SQL("{}::pg_catalog.text {} {}").format(value, word, sql.Literal(pattern))
        case IsTrue():
            return sql.SQL("{}").format(value)


def _require_columns(predicate: Predicate, columns: Mapping[str, str]) -> None:
    for name in sorted(columns_of(predicate) - columns.keys()):
        near = nearest(name, columns)
        raise ConfigError(
            f"the predicate names column {quoted(name)}, which the table does not have",
            hint=f"did you mean {quoted(near)}?" if near else f"its columns: {_listed(columns)}",
        )


def _listed(columns: Iterable[str]) -> str:
    names = [quoted(name) for name in columns]
    return ", ".join([*names[:_COLUMNS_NAMED], *(["..."] if len(names) > _COLUMNS_NAMED else [])])


def _types_hint(predicate: Predicate, columns: Mapping[str, str]) -> str:
    return "; ".join(f"{quoted(name)} is {columns[name]}" for name in sorted(columns_of(predicate)))


def _is_user_mistake(error: psycopg.Error) -> bool:
    state = error.sqlstate or ""
    return state.startswith(_USER_MISTAKES) and state != _NO_PRIVILEGE


def _no_rows(predicate: Predicate, columns: Mapping[str, str]) -> sql.Composed:
    """A row source with the predicate's columns and no row."""
    nulls = sql.SQL(", ").join(
        sql.SQL("NULL::{} AS {}").format(sql.SQL(columns[name]), sql.Identifier(name))
        for name in sorted(columns_of(predicate))
    )
    return sql.SQL("(SELECT {} WHERE false) AS nothing").format(nulls)


def _refuse_foreign_comparisons(connection: Connection, predicate: Predicate, columns: Mapping[str, str]) -> None:
    """Operators of an extension's type are not on our search path: what would be found is another type's, such as
    text's for citext, which minds the case."""
    for name in sorted(_compared_columns(predicate)):
        if _has_foreign_operators(connection, columns[name]):
            raise ConfigError(
                f"column {quoted(name)} has the extension type {columns[name]}, which can't be compared here",
                hint="use LIKE, which compares its text, or IS NULL",
            )


def _compared_columns(predicate: Predicate) -> set[str]:
    """The columns whose type's own operators are asked."""
    match predicate:
        case Not(part):
            return _compared_columns(part)
        case And(parts) | Or(parts):
            return set().union(*map(_compared_columns, parts))
        case Comparison(column) | Among(column) | Between(column):
            return {column}
        case _:
            return set()


def _has_foreign_operators(connection: Connection, type_name: str) -> bool:
    """Whether the type, or the one below a domain, is a base type outside pg_catalog that is no array. Enums, arrays,
    ranges and composites of whatever schema are compared by pg_catalog's operators, which know the parts' own."""
    row = connection.execute(
        "WITH RECURSIVE below(oid) AS (SELECT pg_catalog.to_regtype(%s)::pg_catalog.oid UNION ALL"
        " SELECT t.typbasetype FROM below JOIN pg_catalog.pg_type t ON t.oid = below.oid WHERE t.typtype = 'd')"
        " SELECT FROM below JOIN pg_catalog.pg_type t ON t.oid = below.oid"
        " WHERE t.typtype = 'b' AND t.typcategory <> 'A' AND t.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace",
        (type_name,),
    ).fetchone()
    return row is not None
