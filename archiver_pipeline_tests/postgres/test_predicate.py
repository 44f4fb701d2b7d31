"""Predicates on a real PostgreSQL: the same rows as hand-written SQL, nothing of the user's text as SQL, and mistakes
told before a row is read."""

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from archiver_pipeline.codec.predicates import parse_predicate
from archiver_pipeline.domain.predicate import Among, Comparison, Like, Operator
from archiver_pipeline.errors import ConfigError
from archiver_pipeline.postgres.predicate import check_predicate, predicate_sql

TABLE = """
CREATE TYPE public.mood AS ENUM ('sad', 'so so', 'glad');
CREATE TYPE public.pair AS (a int, b text);
CREATE DOMAIN public.code AS varchar(3) NOT NULL;
CREATE DOMAIN public.positive AS int CHECK (VALUE > 0);
CREATE DOMAIN public.flag AS boolean;
CREATE TABLE public.events (
  id int PRIMARY KEY, amount numeric(8, 2), size bigint, ratio double precision, note text, short varchar(3),
  fixed char(4), at timestamptz, naive timestamp(0), day date, span interval, active boolean, ok public.flag, key uuid,
  mood public.mood, code public.code, level public.positive, tags text[], data jsonb, raw json, bits bit(3),
  address inet, data_bytes bytea, pair public.pair, "Mixed ""Name"" é" text, "user" text, "100%" int
);
INSERT INTO public.events VALUES
 (1, 1.50, 9, 0.1, 'new', 'abc', 'ab', '2025-01-01 00:00+00', '2025-01-01 10:00:00', '2025-01-01', '1 day', true, true,
  '00000000-0000-0000-0000-000000000001', 'sad', 'abc', 5, '{a,b}', '{"a": 1}', '{"a": 1}', '101', '10.0.0.1',
  '\\x00ff', '(1,x)', 'first', 'ann', 1),
 (2, -2.25, 10, 'NaN', 'it''s 100% \\ "x"', 'ab', 'abcd', '2025-06-01 12:00+02', '2025-06-01 23:59:59', '2025-06-01',
  '24 hours', false, false, '00000000-0000-0000-0000-000000000002', 'so so', 'ab', 1, '{}', '"text"', '"text"', '000',
  '10.0.0.2', '', '(,)', 'Second', 'bob', 2),
 (3, 10.00, 100, 'Infinity', 'NEW', 'ABC', 'ABCD', 'infinity', 'infinity', 'infinity', '-1 mon', NULL, NULL, NULL,
  'glad', 'x', 10, '{NULL}', 'null', 'null', '111', NULL, '\\x41', NULL, NULL, NULL, NULL),
 (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '', NULL, NULL, NULL, NULL,
  NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE TABLE public.victim AS SELECT 1 AS id;
"""

SAME_AS_SQL = [
    *(f"id {operator} 2" for operator in ("=", "<>", "!=", "<", "<=", ">", ">=")),
    *(f"size {operator} 10" for operator in ("=", "<>", "<", "<=", ">", ">=")),
    "2 < id",
    "amount > 1.5",
    "amount >= 1.499",
    "amount < 1.504",
    "amount = 1.50000",
    "amount = 1.501",
    "amount < -2.2",
    "ratio = 'NaN'",
    "ratio > 1e300",
    "note = 'new'",
    "note <> 'new'",
    "note < 'new'",
    "note = 'it''s 100% \\ \"x\"'",
    "short = 'abc'",
    "short = 'abcd'",
    "code = 'abcd'",
    "code IN ('abcx', 'x')",
    "fixed = 'ab'",
    "fixed = 'abcdef'",
    "at < '2025-06-01 10:00:00.000001'",
    "at = '2025-06-01 05:00-05'",
    "at = 'infinity'",
    "naive < '2025-06-01 23:59:58.9'",
    "naive >= '2025-06-01 23:59:58.9'",
    "day BETWEEN '2025-01-01' AND '2025-06-01'",
    "span = '1 day'",
    "span < '00:00'",
    "active",
    "NOT active",
    "ok",
    "active = true",
    "active <> true",
    "key = '00000000-0000-0000-0000-000000000001'",
    "key > '00000000-0000-0000-0000-000000000001'",
    "mood = 'so so'",
    "mood > 'sad'",
    "mood IN ('sad', 'glad')",
    "level > -1",
    "level < 7",
    "tags = '{a,b}'",
    "tags <> '{}'",
    "data = '{\"a\":1}'",
    "data = '\"text\"'",
    "bits = '101'",
    "bits = '10'",
    "address = '10.0.0.1'",
    "address > '10.0.0.1'",
    "data_bytes = '\\x00ff'",
    "id IN (1, 3, 99)",
    "id NOT IN (1, 3)",
    "note NOT IN ('new')",
    "id BETWEEN 2 AND 3",
    "id NOT BETWEEN 2 AND 3",
    "note IS NULL",
    "note IS NOT NULL",
    "raw IS NULL",
    "code IS NULL",
    "note LIKE 'n%'",
    "note ILIKE 'n_w'",
    "note NOT LIKE 'n%'",
    "note NOT ILIKE '%EW'",
    "note LIKE '%\\%%'",
    "note LIKE '%\\\\%'",
    "NOT note = 'new'",
    "note = 'new' OR id = 3 AND active",
    "(note = 'new' OR id = 3) AND active",
    "NOT (id = 1 OR note IS NULL)",
    '"Mixed ""Name"" é" = \'first\'',
    "\"user\" = 'ann'",
    '"100%" = 1',
    "ID = 1",
]


@pytest.fixture(scope="module")
def table(postgres_server):
    name = "test_predicates"
    postgres_server.create_database(name)
    # As the product connects: see PINNED_SETTINGS.
    with psycopg.connect(
        postgres_server.dsn(name), autocommit=True, options="-c search_path= -c TimeZone=UTC -c row_security=off"
    ) as connection:
        connection.execute(TABLE)
        yield connection
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name}".encode())


@pytest.fixture(scope="module")
def columns(table):
    return columns_of_table(table, "public.events")


def columns_of_table(connection, name):
    return dict(
        connection.execute(
            "SELECT attname::text, pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute"
            " WHERE attrelid = %s::pg_catalog.regclass AND attnum > 0 ORDER BY attnum",
            (name,),
        ).fetchall()
    )


def of_row(name):
    return sql.SQL("t.{}").format(sql.Identifier(name))


def of_json(name):
    """The column's value out of a row's JSON, as text."""
    return sql.SQL("pg_catalog.to_jsonb(t) ->> {}").format(sql.Literal(name))


def rows(connection, condition):
    query = sql.SQL("SELECT id FROM public.events AS t WHERE {} ORDER BY id").format(condition)
    return [row[0] for row in connection.execute(query).fetchall()]


@pytest.mark.parametrize("text", SAME_AS_SQL)
def test_the_same_rows_as_sql(table, columns, text):
    predicate = parse_predicate(text)
    check_predicate(table, predicate, columns)
    found = rows(table, predicate_sql(predicate, columns, of_row))
    assert found == rows(table, sql.SQL(text))


def test_the_table_tells_predicates_apart(table):
    """Otherwise the comparison above would prove nothing."""
    found = [tuple(rows(table, sql.SQL(text))) for text in SAME_AS_SQL]
    assert len(set(found)) >= 10
    assert sum(1 for ids in found if 0 < len(ids) < 4) > len(found) * 0.8


def test_values_that_are_text_are_compared_as_the_columns_type(table, columns):
    """'10' < '9' as text."""
    condition = predicate_sql(parse_predicate("size > 9 AND at > '2025-01-01 01:00+01'"), columns, of_json)
    assert rows(table, condition) == [2, 3]


def test_a_literal_is_not_cut_to_the_columns_length(table, columns):
    """A cast to varchar(3), or to a domain over it, makes 'abcd' equal to 'abc'; one to numeric(8, 2) rounds."""
    for text in ("short = 'abcd'", "code = 'abcd'", "amount = 1.501", "fixed = 'abcdx'", "bits = '1011'"):
        assert rows(table, predicate_sql(parse_predicate(text), columns, of_row)) == [], text


def test_null_is_the_value_that_is_null(table, columns):
    """SQL's own IS NULL is also true for a composite of NULLs: row 2 has one."""
    assert rows(table, predicate_sql(parse_predicate("pair IS NULL"), columns, of_row)) == [3, 4]
    assert rows(table, predicate_sql(parse_predicate("pair IS NOT NULL"), columns, of_row)) == [1, 2]


def test_a_condition_stands_beside_others(table, columns):
    either = predicate_sql(parse_predicate("id = 1 OR id = 2"), columns, of_row)
    assert rows(table, sql.SQL("{} AND t.id > 1").format(either)) == [2]
    assert rows(table, sql.SQL("NOT {}").format(either)) == [3, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id = 'abc'", 'invalid input syntax for .*integer: "abc"'),
        ("id = 1.5", "integer"),
        ("id = 99999999999", "out of range"),
        ("id IN (1, 'x')", "integer"),
        ("id BETWEEN 1 AND 'x'", "integer"),
        ("at < 'yesterdayish'", "timestamp"),
        ("day = '2025-02-30'", "out of range"),
        ("mood = 'angry'", "enum"),
        ("key = '1'", "uuid"),
        ("level = 'x'", "integer"),
        ("active = 2", "boolean"),
        ("data = '{'", "json"),
        ("tags = 'a'", "array"),
        ("raw = '{}'", "json = unknown"),
        ("pair = '(1,x)'", "composite"),
        ("note", "must be type boolean"),
        ("id AND active", "must be type boolean"),
        ("NOT id", "must be type boolean"),
    ],
)
def test_a_mistake_is_told_without_reading_a_row(table, columns, text, message):
    with pytest.raises(ConfigError, match=message) as raised:
        check_predicate(table, parse_predicate(text), columns)
    assert " is " in raised.value.hint


def test_a_check_leaves_a_transaction_alive(table, columns):
    with table.transaction():
        table.execute("CREATE TABLE public.kept (id int)")
        with pytest.raises(ConfigError):
            check_predicate(table, parse_predicate("id = 'abc'"), columns)
        assert table.execute("SELECT count(*) FROM public.kept").fetchone() == (0,)


def test_a_lost_connection_is_no_mistake_of_the_user(postgres_server, columns):
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.close()
        with pytest.raises(psycopg.OperationalError):
            check_predicate(connection, parse_predicate("id = 1"), columns)


def test_unknown_columns_name_the_nearest(table, columns):
    for act in (
        lambda predicate: predicate_sql(predicate, columns, of_row),
        lambda predicate: check_predicate(table, predicate, columns),
    ):
        with pytest.raises(ConfigError, match=r'column "noet".*did you mean "note"\?'):
            act(parse_predicate("id = 1 AND NOT (noet IS NULL)"))
        with pytest.raises(ConfigError, match=r'did you mean "Mixed ""Name"" é"\?'):
            act(parse_predicate('"mixed name e" = 1'))
        with pytest.raises(ConfigError, match=r'its columns: "id", "amount".*\.\.\.'):
            act(parse_predicate("zzzzzzzz"))


CITEXT_LIKE = """
CREATE TYPE public.folded;
CREATE FUNCTION public.folded_in(cstring) RETURNS public.folded LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION public.folded_out(public.folded) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE public.folded (INPUT = public.folded_in, OUTPUT = public.folded_out, LIKE = text, CATEGORY = 'S');
CREATE CAST (public.folded AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE DOMAIN public.folded_domain AS public.folded;
CREATE TABLE public.foreign_types (a public.folded, b public.folded_domain);
"""


def test_an_extensions_type_is_compared_by_nobody_elses_operator(table):
    """Like citext: with its own operators out of sight, text's would be taken, and the case would matter."""
    with table.transaction(force_rollback=True):
        table.execute(CITEXT_LIKE)
        columns = columns_of_table(table, "public.foreign_types")
        for text in ("a = 'x'", "b = 'x'", "NOT (a IN ('x') AND a IS NULL)", "a BETWEEN 'a' AND 'b'"):
            with pytest.raises(ConfigError, match="extension type public"):
                check_predicate(table, parse_predicate(text), columns)
        check_predicate(table, parse_predicate("a LIKE 'x' AND b IS NULL"), columns)


def test_names_of_types_are_as_the_server_quotes_them(table):
    with table.transaction(force_rollback=True):
        table.execute('CREATE SCHEMA "s "" %s {}"')
        table.execute('CREATE TYPE "s "" %s {}"."t(3) "" %" AS ENUM (\'x\')')
        table.execute('CREATE TABLE public.odd (a "s "" %s {}"."t(3) "" %")')
        check_predicate(table, parse_predicate("a = 'x'"), columns_of_table(table, "public.odd"))


INJECTIONS = [
    "id = 1; DROP TABLE public.victim",
    "id = 1) OR (1=1",
    "id = 1 OR 1=1",
    "id = 1 OR true",
    "id = 1 OR 'a' = 'a'",
    "id = 1 --",
    "id = 1 /* */ OR 1=1",
    "id = 1 UNION SELECT id FROM public.victim",
    "id = (SELECT id FROM public.victim)",
    "id IN (SELECT id FROM public.victim)",
    "id = pg_sleep(10)",
    "note = E'\\' OR 1=1 --'",
    "note = U&'\\0027 OR 1=1 --'",
    "note = $$x$$ OR 1=1",
    'id = 1 OR "id" = "id"',
    "note = 'x'::text OR id = id",
    "note = '' OR ''=''",
    "id = 1\0 OR 1=1",
]


@pytest.mark.parametrize("text", INJECTIONS, ids=ascii)
def test_injections_by_syntax_are_refused(text):
    with pytest.raises(ConfigError):
        parse_predicate(text)


EVIL = [
    "x'; DROP TABLE public.victim; --",
    "x' OR '1'='1",
    "\\' OR 1=1 --",
    "\\'; DROP TABLE public.victim; --",
    "\\\\' OR 1=1 --",
    "x\\",
    "$$; DROP TABLE public.victim; $$",
    "') OR (1=1",
    "\u02bc OR 1=1 --",
    "\uff07 OR 1=1 --",
    "\u0127\u0027 OR 1=1 --",
    "/* */ '' OR 1=1",
    "%s %(x)s %% {} {0}",
    "\n'; DROP TABLE public.victim; --\n",
    '" OR 1=1 --',
]


@pytest.mark.parametrize("evil", EVIL, ids=ascii)
def test_injections_by_literals_are_inert(table, columns, evil):
    written = evil.replace("'", "''")
    for text in (f"note = '{written}'", f"note IN ('{written}')", f"note BETWEEN '{written}' AND '{written}'"):
        predicate = parse_predicate(text)
        check_predicate(table, predicate, columns)
        assert rows(table, predicate_sql(predicate, columns, of_row)) == []
    assert table.execute("SELECT id FROM public.victim").fetchall() == [(1,)]


@pytest.mark.parametrize("evil", EVIL, ids=ascii)
def test_injections_by_column_names_are_unknown_columns(table, columns, evil):
    predicate = parse_predicate(f'"{evil.replace(chr(34), chr(34) * 2)}" IS NULL')
    with pytest.raises(ConfigError, match="which the table does not have"):
        check_predicate(table, predicate, columns)
    assert table.execute("SELECT id FROM public.victim").fetchall() == [(1,)]


@pytest.mark.parametrize("evil", EVIL, ids=ascii)
def test_a_column_of_any_name_is_just_a_column(table, evil):
    with table.transaction(force_rollback=True):
        table.execute(sql.SQL("CREATE TABLE public.evil AS SELECT 1 AS id, 'x' AS {}").format(sql.Identifier(evil)))
        types = columns_of_table(table, "public.evil")
        predicate = parse_predicate(f"\"{evil.replace(chr(34), chr(34) * 2)}\" = 'x' AND id = 1")
        check_predicate(table, predicate, types)
        query = sql.SQL("SELECT FROM public.evil AS t WHERE {}").format(predicate_sql(predicate, types, of_row))
        assert len(table.execute(query).fetchall()) == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_literal_of_any_text_is_itself(table, text):
    """The server compares the literal with the same text sent as a parameter."""
    columns = {"note": "text"}
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    for predicate in (
        Comparison("note", Operator.equal, text),
        Among("note", (text,)),
        Like("note", escaped),
        parse_predicate("note = '{}'".format(text.replace("'", "''"))) if len(text) < 1000 else Among("note", (text,)),
    ):
        condition = predicate_sql(predicate, columns, lambda _: sql.SQL("t.note"))
        table.execute("SELECT pg_catalog.set_config('predicates.note', %s, false)", (text,))
        query = sql.SQL("SELECT {} FROM (SELECT pg_catalog.current_setting('predicates.note') AS note) AS t")
        assert table.execute(query.format(condition)).fetchone() == (True,)
