"""Reads a predicate that a user wrote. SQL's grammar is sqlglot's work; what of it is allowed is decided here.

Whatever is not named below is refused, so a new version of the parser cannot let something new through. Words that are
not of the grammar are handed to the parser as quoted identifiers: to it no column is a keyword, a type or a function.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

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
    Operator,
    Or,
    Predicate,
)
from archiver_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from sqlglot.expressions import Expr
    from sqlglot.tokenizer_core import Token

LONGEST_TEXT = 10_000
DEEPEST_NESTING = 16
MOST_LITERALS = 1_000
_EXAMPLE = "write for example: status IN ('new', 'open') AND created_at >= '2024-01-01' AND NOT note LIKE 'test%'"
_QUOTED = 'quote a column of that name: "user"'

_WHITE_SPACE = " \t\n\r\f\v"
_SYMBOLS = frozenset({"(", ")", ",", "+", "-", "=", "<>", "!=", "<", "<=", ">", ">="})
_GRAMMAR = frozenset({"and", "or", "not", "in", "between", "is", "null", "like", "ilike", "true", "false"})
_VALUE_WORDS = frozenset(
    {
        *("current_catalog", "current_date", "current_role", "current_schema", "current_time", "current_timestamp"),
        *("current_user", "default", "localtime", "localtimestamp", "session_user", "system_user", "user"),
    }
)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(r"[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*")
_DANGLING_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")
# As PostgreSQL does in UTF-8: letters beyond ASCII keep their case.
_FOLDING = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

_COMPARISONS = {
    "eq": Operator.equal,
    "neq": Operator.unequal,
    "lt": Operator.less,
    "lte": Operator.less_or_equal,
    "gt": Operator.greater,
    "gte": Operator.greater_or_equal,
}
_PARTS_OF_NODE = {
    **{key: {"this", "expression"} for key in (*_COMPARISONS, "and", "or")},
    "in": {"this", "expressions"},
    "between": {"this", "low", "high"},
    **{key: {"this", "expression", "negate"} for key in ("is", "like", "ilike")},
    **{key: {"this"} for key in ("not", "paren", "neg", "column", "boolean")},
    "identifier": {"this", "quoted"},
    "literal": {"this", "is_string"},
    "null": set[str](),
}
"""Every node of sqlglot's tree that is understood, with everything that may hang on it."""


def parse_predicate(text: str) -> Predicate:
    """The predicate that `text` says, with PostgreSQL's precedence.

    Raises ConfigError, naming the part that is not understood, for anything but: columns compared with literals, IN,
    BETWEEN, IS NULL, LIKE, ILIKE, boolean columns, AND, OR, NOT and parentheses; and for text beyond LONGEST_TEXT
    characters, DEEPEST_NESTING levels or MOST_LITERALS in one list. It knows no columns: `check_predicate` does.
    """
    _require_characters(text)
    tokens = _allowed_tokens(text)
    _require_shallow(tokens)
    return _predicate(_tree(text, tokens))


def _refused(what: str, hint: str = _EXAMPLE) -> ConfigError:
    return ConfigError(f"not a predicate of rows: {what}", hint=hint)


def _shown(part: str) -> str:
    """A part of the user's text, short enough for a message."""
    return repr(part if len(part) <= 40 else f"{part[:37]}...")


def _require_characters(text: str) -> None:
    if not text.strip(_WHITE_SPACE):
        raise _refused("it is empty")
    if len(text) > LONGEST_TEXT:
        raise _refused(f"{len(text)} characters are too many", hint=f"at most {LONGEST_TEXT} are read")
    for character in text:
        if character == "\0" or "\ud800" <= character <= "\udfff":
            raise _refused(f"PostgreSQL's text has no character {character!r}")


def _allowed_tokens(text: str) -> list[Token]:
    """The text's tokens. What lies between them, such as a comment, is seen here because tokens don't cover it."""
    from sqlglot.dialects.postgres import Postgres  # noqa: PLC0415 - slow to import, and few commands need it
    from sqlglot.errors import TokenError  # noqa: PLC0415

    try:
        tokens = Postgres().tokenize(text)
    except TokenError:
        raise _refused("a quote or a comment is not closed") from None
    end = 0
    allowed = []
    for token in tokens:
        _require_white_space(text[end : token.start])
        end = token.end + 1
        allowed.append(_allowed_token(token, text[token.start : end]))
    _require_white_space(text[end:])
    _refuse_neighbours(text, allowed)
    return allowed


def _require_white_space(between: str) -> None:
    if rest := between.strip(_WHITE_SPACE):
        raise _refused(
            f"{_shown(rest)} is not understood",
            hint="comments are not allowed; a column that is called like a command takes double quotes",
        )


def _allowed_token(token: Token, written: str) -> Token:
    """The token, where `written` is one that the grammar has."""
    word = written.translate(_FOLDING)
    if written in _SYMBOLS or word in _GRAMMAR or _NUMBER.fullmatch(written):
        return token
    if written[0] == "'" and token.token_type.name == "STRING":
        return token
    if written[0] == '"' and token.token_type.name == "IDENTIFIER" and token.text:
        return token
    if word in _VALUE_WORDS:
        raise _refused(f"{written} is no column but a value of the moment", hint=_QUOTED)
    if not _WORD.fullmatch(written):
        raise _refused(f"{_shown(written)} is not understood")
    return _as_identifier(token, word)


def _as_identifier(token: Token, name: str) -> Token:
    from sqlglot.tokenizer_core import Token, TokenType  # noqa: PLC0415

    return Token(TokenType.IDENTIFIER, name, token.line, token.col, token.start, token.end)


def _refuse_neighbours(text: str, tokens: Sequence[Token]) -> None:
    """Say in words what two tokens side by side would have been."""
    for token, following in pairwise(tokens):
        written = text[token.start : following.end + 1]
        kinds = (token.token_type.name, following.token_type.name)
        if kinds == ("IDENTIFIER", "L_PAREN"):
            raise _refused(f"{_shown(written)} is a function", hint="only columns and literals can be compared")
        if kinds in {("IDENTIFIER", "STRING"), ("STRING", "STRING")}:
            raise _refused(
                f"{_shown(written)} is more than one literal",
                hint="write the string alone: it takes the type of the column, as in created_at < '2024-01-01'",
            )


def _require_shallow(tokens: Sequence[Token]) -> None:
    """Before anything recursive sees them. A level is a parenthesis, or a NOT or sign before the same operand."""
    outside = [0]
    depth = 0
    for token in tokens:
        match token.token_type.name:
            case "L_PAREN":
                depth += 1
                outside.append(depth)
            case "R_PAREN":
                outside = outside[:-1] or [0]
                depth = outside[-1]
            case "NOT" | "DASH" | "PLUS":
                depth += 1
            case "AND" | "OR" | "COMMA":
                depth = outside[-1]
        if depth > DEEPEST_NESTING:
            raise _refused(f"more than {DEEPEST_NESTING} levels of NOT and parentheses", hint="write it flatter")


def _tree(text: str, tokens: list[Token]) -> Expr:
    from sqlglot import exp  # noqa: PLC0415
    from sqlglot.dialects.postgres import Postgres  # noqa: PLC0415
    from sqlglot.errors import ParseError  # noqa: PLC0415

    try:
        [tree] = Postgres().parser().parse_into(exp.Condition, tokens, text)
    except ParseError as error:
        raise _refused(_place(error.errors)) from None
    except RecursionError:
        raise _refused("it is nested too deeply", hint="write it flatter") from None
    if tree is None:
        raise _refused("it is empty")
    return tree


def _place(problems: list[dict[str, object]]) -> str:
    first = problems[0] if problems else {}
    part = first.get("highlight")
    return f"{_shown(str(part))} is out of place, or something is missing beside it" if part else "it is incomplete"


def _predicate(node: Expr) -> Predicate:
    _require_known(node)
    match node.key:
        case "paren":
            return _predicate(node.this)
        case "not":
            return Not(_predicate(node.this))
        case "and":
            return And(tuple(map(_predicate, _chain(node))))
        case "or":
            return Or(tuple(map(_predicate, _chain(node))))
    condition = _condition(node)
    return Not(condition) if node.args.get("negate") else condition


def _chain(node: Expr) -> Iterator[Expr]:
    """The operands of `a AND b AND c ...`, which may be too many for recursion."""
    operands: list[Expr] = []
    link = node
    while link.key == node.key:
        operands.append(link.expression)
        link = link.this
    return reversed([*operands, link])


def _condition(node: Expr) -> Condition:
    match node.key:
        case "in":
            return Among(_column(node.this), _literals(node))
        case "between":
            return Between(_column(node.this), _literal(node.args["low"]), _literal(node.args["high"]))
        case "is":
            _require_null(node.expression)
            return IsNull(_column(node.this))
        case "like" | "ilike":
            return Like(_column(node.this), _pattern(node.expression), node.key == "ilike")
        case "column":
            return IsTrue(_column(node))
        case key if key in _COMPARISONS:
            return _comparison(node, _COMPARISONS[key])
    raise _refused(f"{_sql(node)} is no condition")


def _comparison(node: Expr, operator: Operator) -> Comparison:
    left, right = node.this.unnest(), node.expression.unnest()
    if left.key != "column" and right.key == "column":
        return Comparison(_column(right), operator.mirrored, _literal(left))
    return Comparison(_column(left), operator, _literal(right))


def _column(node: Expr) -> str:
    column = node.unnest()
    _require_known(column)
    if column.key != "column":
        raise _refused(f"{_sql(column)} stands where a column is needed")
    _require_known(column.this)
    return str(column.this.this)


def _literals(node: Expr) -> tuple[str, ...]:
    literals = node.expressions
    if not literals:
        raise _refused("IN needs a list of literals")
    if len(literals) > MOST_LITERALS:
        raise _refused(f"a list of {len(literals)} literals", hint=f"at most {MOST_LITERALS} are read in one IN")
    return tuple(map(_literal, literals))


def _literal(node: Expr) -> str:
    """The text of a literal, to be read by the input function of the column's type."""
    literal = node.unnest()
    _require_known(literal)
    match literal.key:
        case "literal":
            return str(literal.this)
        case "boolean":
            return "true" if literal.this else "false"
        case "neg" if literal.this.key == "literal" and not literal.this.is_string:
            return f"-{literal.this.this}"
        case "null":
            raise _refused("nothing is equal to NULL", hint="write IS NULL or IS NOT NULL")
        case "column":
            raise _refused(
                f"{_sql(literal)} stands where a literal is needed", hint=f"strings take single quotes; {_EXAMPLE}"
            )
    raise _refused(f"{_sql(literal)} stands where a literal is needed")


def _pattern(node: Expr) -> str:
    pattern = _literal(node)
    if not node.unnest().is_string:
        raise _refused(f"LIKE {_sql(node)}: a pattern is a string", hint="write for example: code LIKE '4%'")
    if _DANGLING_ESCAPE.search(pattern):
        raise _refused(f"the pattern {_shown(pattern)} ends in its escape character", hint=r"write \\ for a backslash")
    return pattern


def _require_null(node: Expr) -> None:
    if node.key != "null":
        raise _refused(f"IS {_sql(node)}", hint="only IS NULL and IS NOT NULL are read; write flag = true")


def _require_known(node: Expr) -> None:
    known = _PARTS_OF_NODE.get(node.key)
    written = {name for name, part in node.args.items() if part}
    if known is None or not written <= known:
        raise _refused(f"{_sql(node)} is not understood")


def _sql(node: Expr) -> str:
    return _shown(node.sql(dialect="postgres"))
