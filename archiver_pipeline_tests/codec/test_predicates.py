"""What a user may write as a predicate, what it means, and that everything else is a ConfigError."""

import re
import string
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from archiver_pipeline.codec.predicates import DEEPEST_NESTING, LONGEST_TEXT, MOST_LITERALS, parse_predicate
from archiver_pipeline.domain.predicate import (
    Among,
    And,
    Between,
    Comparison,
    IsNull,
    IsTrue,
    Like,
    Not,
    Operator,
    Or,
    columns_of,
)
from archiver_pipeline.errors import ConfigError


def equal(column, literal):
    return Comparison(column, Operator.equal, literal)


A, B, C = (IsTrue(name) for name in "abc")
GOOD = {
    "a = 1": equal("a", "1"),
    "a=-1.50e+3": equal("a", "-1.50e+3"),
    "a = +7": equal("a", "7"),
    "a = 5.": equal("a", "5."),
    "a = 123456789012345678901234567890.00": equal("a", "123456789012345678901234567890.00"),
    "a != 'x'": Comparison("a", Operator.unequal, "x"),
    "a <> 'x'": Comparison("a", Operator.unequal, "x"),
    "a < 1": Comparison("a", Operator.less, "1"),
    "a <= 1": Comparison("a", Operator.less_or_equal, "1"),
    "1 < a": Comparison("a", Operator.greater, "1"),
    "1 <= a": Comparison("a", Operator.greater_or_equal, "1"),
    "1 > a": Comparison("a", Operator.less, "1"),
    "1 >= a": Comparison("a", Operator.less_or_equal, "1"),
    "'x' = a": equal("a", "x"),
    "a = TRUE": equal("a", "true"),
    "a = false": equal("a", "false"),
    "((a)) = (1)": equal("a", "1"),
    "UserId = 1": equal("userid", "1"),
    '"UserId" = 1': equal("UserId", "1"),
    '"a""b.c d" = 1': equal('a"b.c d', "1"),
    "ÄRGER = 1": equal("Ärger", "1"),
    "_a1$ = 1": equal("_a1$", "1"),
    "a = 'it''s'": equal("a", "it's"),
    r"a = 'back\slash\'": equal("a", "back\\slash\\"),
    "a = '-- no comment /* at all */; $$ %s {} \"'": equal("a", '-- no comment /* at all */; $$ %s {} "'),
    "a = 'line\nbreak'": equal("a", "line\nbreak"),
    "a = ''": equal("a", ""),
    "a\n=\t1 ": equal("a", "1"),
    "date < '2025-01-01'": Comparison("date", Operator.less, "2025-01-01"),
    "timestamp >= '2025-01-01'": Comparison("timestamp", Operator.greater_or_equal, "2025-01-01"),
    "comment = 'x' and action = 'y'": And((equal("comment", "x"), equal("action", "y"))),
    '"user" = 1': equal("user", "1"),
    '"select" = 1': equal("select", "1"),
    "a IN (1, -2, 'x', true)": Among("a", ("1", "-2", "x", "true")),
    "a NOT IN (1)": Not(Among("a", ("1",))),
    "not a in (1)": Not(Among("a", ("1",))),
    "a BETWEEN 1 AND 2": Between("a", "1", "2"),
    "a NOT BETWEEN 1 AND 2 AND b": And((Not(Between("a", "1", "2")), B)),
    "a IS NULL": IsNull("a"),
    "a IS NOT NULL": Not(IsNull("a")),
    "a LIKE 'x%'": Like("a", "x%"),
    "a NOT LIKE 'x%'": Not(Like("a", "x%")),
    "a ILIKE '\\%\\\\'": Like("a", "\\%\\\\", ignore_case=True),
    "a NOT ILIKE 'x'": Not(Like("a", "x", ignore_case=True)),
    "a": A,
    "NOT a": Not(A),
    "NOT NOT a": Not(Not(A)),
    "NOT a = 1": Not(equal("a", "1")),
    "a AND b AND c": And((A, B, C)),
    "a OR b AND c": Or((A, And((B, C)))),
    "a AND b OR c": Or((And((A, B)), C)),
    "(a OR b) AND c": And((Or((A, B)), C)),
    "(a AND b) AND c": And((And((A, B)), C)),
    "a AND (b AND c)": And((A, And((B, C)))),
    "NOT (a OR b)": Not(Or((A, B))),
    "NOT a AND b": And((Not(A), B)),
}
BAD = {
    "": "empty",
    " \n": "empty",
    "a = 1;": "';'",
    "a = 1; DROP TABLE x": "';'",
    "a = 1 -- x": "'-- x'",
    "a = 1 --": "'--'",
    "/* x */ a = 1": "x",
    "a /* x */ = 1": "x",
    "a = 1--1": "--1",
    "a = 1 /* x": "not closed",
    "a = 'x": "not closed",
    '"a = 1': "not closed",
    "a = E'x\\n'": "E'x",
    "a = U&'\\0041'": "U&'",
    'U&"\\0041" = 1': "&",
    "a = N'x'": "N'x'",
    "a = B'1'": "B'1'",
    "a = X'1f'": "X'1f'",
    "a = $$x$$": r"\$\$x",
    "a = $q$x$q$": r"\$q\$",
    "a = 'x' 'y'": "more than one literal",
    "a = 'x'\n'y'": "more than one literal",
    "a = 0x1F": "0x1F",
    "a = 1_000": "_000",
    "a = 1e": "1e",
    "a = .5": r"\.",
    "a = 1.2.3": r"\.",
    "a = １": "literal is needed",
    "a = - - 1": "literal",
    "a = -'1'": "literal",
    "a = $1": r"\$",
    "a = :x": ":",
    "a = %s": "%",
    "a = %(x)s": "%",
    "a = ?": r"\?",
    "a = {{ x }}": "{",
    "@a = 1": "@",
    "`a` = 1": "`",
    "[a] = 1": r"\[",
    '"" = 1': "not understood",
    "t.a = 1": r"'\.'",
    '"t"."a" = 1': r"'\.'",
    "a = b": "literal is needed",
    'a = "b"': "literal is needed",
    "1 = 1": "column is needed",
    "true": "no condition",
    "'x'": "no condition",
    "1": "no condition",
    "NULL": "no condition",
    "a = NULL": "equal to NULL",
    "a IN (1, NULL)": "equal to NULL",
    "NULL IS NULL": "column is needed",
    "a IS TRUE": "TRUE",
    "a IS NOT FALSE": "FALSE",
    "a IS UNKNOWN": "unknown",
    "a IS DISTINCT FROM 1": "out of place",
    "a ISNULL": "out of place",
    "a = 1 = true": "column is needed",
    "a < 1 < 2": "column is needed",
    "a IS NULL IS NULL": "column is needed",
    "a == 1": "==",
    "a <=> 1": "<=>",
    "a ^= 1": r"\^",
    "a ~ 'x'": "~",
    "a ~~ 'x'": "~~",
    "! a": "'!'",
    "a !~~ 'x'": "!",
    "a || 'x' = 'y'": r"\|\|",
    "a + 1 = 2": "a. \\+ 1",
    "a = 1 + 1": r"1 \+ 1",
    "a -> 'x' = 'y'": "->",
    "a::text = 'x'": "::",
    "a = '1'::int": "::",
    "CAST(a AS text) = 'x'": "function",
    "a = DATE '2025-01-01'": "more than one literal",
    "DATE '2025-01-01' = a": "more than one literal",
    "a > INTERVAL '1 day'": "more than one literal",
    "lower(a) = 'x'": "function",
    "pg_sleep(10)": "function",
    '"pg_sleep" (10)': "function",
    "a = now()": "function",
    "a = current_date": "value of the moment",
    "user = 'x'": "value of the moment",
    "Current_User = 'x'": "value of the moment",
    "a IN ()": "list of literals",
    "a IN (SELECT 1)": "out of place",
    "a IN (b)": "literal is needed",
    "a IN b": "not understood",
    "a IN 1": "not understood",
    "a = (SELECT 1)": "out of place",
    "EXISTS (SELECT 1)": "function",
    "a = ANY (1)": "function",
    "a = ANY ('{1}')": "function",
    "a = ARRAY[1]": r"\[",
    "(a, b) = (1, 2)": "not understood",
    "ROW(a) = 1": "function",
    "CASE WHEN a THEN b END": "out of place",
    "a BETWEEN SYMMETRIC 1 AND 2": "literal is needed",
    "a BETWEEN 1": "missing",
    "a BETWEEN b AND 2": "literal is needed",
    "a LIKE 5": "pattern is a string",
    "a LIKE b": "literal is needed",
    "a LIKE 'x' ESCAPE '!'": "more than one literal",
    "a LIKE 'x\\'": "escape character",
    "a LIKE 'x\\\\\\'": "escape character",
    "a SIMILAR TO 'x'": "(?i)similar",
    'a COLLATE "C" = 1': "out of place",
    "a AS b": "out of place",
    "a b": "out of place",
    "a, b": "out of place",
    "a = 1 LIMIT 1": "LIMIT",
    "a = 1 UNION SELECT 1": "UNION",
    "a = 1) OR (1 = 1": "out of place",
    "(a = 1": "missing",
    "a = 1 AND": "missing",
    "AND a": "(?i)and",
    "NOT": "(?i)not",
    "()": "not understood",
    "*": r"\*",
    "a\u00a0= 1": "not understood",
    "a = '\0'": "no character",
    "a = '\ud800'": "no character",
    "SELECT 1": "out of place",
    "DROP TABLE x": "out of place",
    "show = 1": "not understood",
}


@pytest.mark.parametrize("text", GOOD, ids=repr)
def test_what_is_understood(text):
    assert parse_predicate(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD, ids=ascii)
def test_what_is_refused(text):
    with pytest.raises(ConfigError, match=BAD[text]) as raised:
        parse_predicate(text)
    assert raised.value.hint


def test_the_columns_of_a_predicate():
    text = """a = 1 AND (B IN (2) OR NOT "C" LIKE 'x') AND d IS NULL AND e AND f BETWEEN 1 AND 2 AND a < 5"""
    assert columns_of(parse_predicate(text)) == {"a", "b", "C", "d", "e", "f"}


def test_the_length_is_bounded():
    text = f"a = '{'x' * (LONGEST_TEXT - 6)}'"
    assert parse_predicate(text) == equal("a", "x" * (LONGEST_TEXT - 6))
    with pytest.raises(ConfigError, match="too many"):
        parse_predicate(f"{text} ")


def test_a_list_is_bounded():
    literals = ("1",) * MOST_LITERALS
    assert parse_predicate(f"a IN ({','.join(literals)})") == Among("a", literals)
    with pytest.raises(ConfigError, match="1001 literals"):
        parse_predicate(f"a IN ({','.join([*literals, '1'])})")


@pytest.mark.parametrize(
    "opening", ["(", "NOT ", "NOT(", "a AND (", "a IN (", "a = (", "a = -", "- ", "f((", "a = 1 OR NOT ("]
)
def test_nesting_is_bounded(opening):
    with pytest.raises(ConfigError):
        parse_predicate(opening * (LONGEST_TEXT // len(opening)))


def test_nesting_within_the_bound():
    half = DEEPEST_NESTING // 2
    deep = A
    for _ in range(half):
        deep = Not(deep)
    assert parse_predicate("NOT (" * half + "a" + ")" * half) == deep
    with pytest.raises(ConfigError, match="levels"):
        parse_predicate("NOT (" * half + "(a)" + ")" * half)


def test_many_conditions_side_by_side():
    many = parse_predicate(" OR ".join(["NOT (a)"] * 900))
    assert many == Or((Not(A),) * 900)
    assert columns_of(many) == {"a"}


def test_a_stack_that_is_nearly_full_is_no_crash():
    def deep_in(frames):
        return deep_in(frames - 1) if frames else parse_predicate("(" * 10 + "a" + ")" * 10)

    with pytest.raises(ConfigError, match="too deeply"):
        deep_in(sys.getrecursionlimit() - 250)


# Every character that PostgreSQL's text has.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
WORDS = st.text(string.ascii_lowercase + "_é", min_size=1, max_size=3).map("col_".__add__)
NUMBER = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,5})?(e[+-]?[0-9]{1,3})?")
NUMBERS = st.from_regex(NUMBER, fullmatch=True)
COLUMNS = st.one_of(NAMES, WORDS)
PATTERNS = TEXT.map(lambda text: text.replace("\\", "\\\\"))
LITERALS = st.one_of(TEXT, NUMBERS, st.sampled_from(["true", "false"]))
CONDITIONS = st.one_of(
    st.builds(Comparison, COLUMNS, st.sampled_from(Operator), LITERALS),
    st.builds(Among, COLUMNS, st.lists(LITERALS, min_size=1, max_size=4).map(tuple)),
    st.builds(Between, COLUMNS, LITERALS, LITERALS),
    st.builds(IsNull, COLUMNS),
    st.builds(Like, COLUMNS, PATTERNS, st.booleans()),
    st.builds(IsTrue, COLUMNS),
)
PREDICATES = st.recursive(
    CONDITIONS,
    lambda parts: st.one_of(
        st.builds(Not, parts),
        st.builds(And, st.lists(parts, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(parts, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)


class Writer:
    """Writes predicates as a user might: with or without quotes, with sides exchanged, in any case."""

    def __init__(self, choose):
        self.choose = choose

    def write(self, predicate):
        match predicate:
            case Not(Among(column, literals)) if self.choose():
                return f"{self.name(column)} {self.word('NOT IN')} ({self.listed(literals)})"
            case Not(IsNull(column)) if self.choose():
                return f"{self.name(column)} {self.word('IS NOT NULL')}"
            case Not(part):
                return f"{self.word('NOT')} ({self.write(part)})"
            case And(parts):
                return f" {self.word('AND')} ".join(f"({self.write(part)})" for part in parts)
            case Or(parts):
                return f" {self.word('OR')} ".join(f"({self.write(part)})" for part in parts)
            case _:
                return self.condition(predicate)

    def condition(self, condition):
        match condition:
            case Comparison(column, operator, literal) if self.choose():
                return f"{self.literal(literal)}{operator.mirrored.value}{self.name(column)}"
            case Comparison(column, operator, literal):
                return f"{self.name(column)} {operator.value} {self.literal(literal)}"
            case Among(column, literals):
                return f"{self.name(column)} {self.word('IN')}({self.listed(literals)})"
            case Between(column, low, high):
                return f"{self.name(column)} BETWEEN {self.literal(low)} {self.word('AND')} {self.literal(high)}"
            case IsNull(column):
                return f"{self.name(column)} {self.word('IS NULL')}"
            case Like(column, pattern, ignore_case):
                word = self.word("ILIKE" if ignore_case else "LIKE")
                return f"{self.name(column)} {word} {quoted(pattern, chr(39))}"
            case IsTrue(column):
                return self.name(column)

    def word(self, word):
        return word.lower() if self.choose() else word

    def name(self, name):
        return name.replace("c", "C") if name.startswith("col_") and self.choose() else quoted(name, '"')

    def literal(self, text):
        plain = text in {"true", "false"} or NUMBER.fullmatch(text)
        return text if plain and self.choose() else quoted(text, "'")

    def listed(self, literals):
        return ", ".join(map(self.literal, literals))


def quoted(text, quote):
    return quote + text.replace(quote, quote * 2) + quote


@settings(max_examples=300, deadline=None)
@given(predicate=PREDICATES, random=st.randoms(use_true_random=False))
def test_what_is_written_is_read(predicate, random):
    text = Writer(lambda: random.random() < 0.5).write(predicate)
    assert parse_predicate(text) == predicate


WORDS_AND_SIGNS = r"""
a b "c" 'x' 1 -2 1e5 ( ) , = <> != < <= > >= ; :: . -- /* */ $$ $1 AND OR NOT IN BETWEEN IS NULL LIKE ILIKE TRUE SELECT
FROM WHERE CASE WHEN END CAST DATE INTERVAL ARRAY [ ] { } {{ E'x' U&'x' ANY ESCAPE SIMILAR TO OVER FILTER WITHIN GROUP
{% AT TIME ZONE COLLATE SHOW SET BEGIN ROW VALUES LATERAL DISTINCT EXISTS * + - / ~ || -> ' " \ % ? @ # !
"""
PIECES = st.one_of(
    st.text(max_size=6),
    st.sampled_from(WORDS_AND_SIGNS.split()),
)


@settings(max_examples=600, deadline=None)
@given(st.one_of(st.text(), st.lists(PIECES, max_size=14).map(" ".join), st.lists(PIECES, max_size=10).map("".join)))
@example("a = '\ud800'")
@example("\0")
@example("{%")
@example("{# a #}")
@example("$a$")
@example("\\")
def test_any_text_is_read_or_a_config_error(text):
    try:
        predicate = parse_predicate(text)
    except ConfigError as error:
        assert str(error)
    else:
        assert columns_of(predicate)
