"""Values that are hard to bring back, of every type, as the text that each type's input function takes.

One list for both directions: the archive's tests and the restore's fill their tables from here.
"""

import psycopg
from psycopg import sql

TYPES = """
CREATE TYPE public.mood AS ENUM ('sad', 'so so', 'it''s "fine"', 'Ünïcode', '', ',{}\\', '
');
CREATE TYPE public.pair AS (a int, b text);
CREATE TYPE public.nested AS (p pair, many pair[]);
CREATE TYPE public."Od d,(Type)" AS ("quo""te" text, "sp ace" int[], "漢" jsonb);
CREATE DOMAIN public.positive AS int CHECK (VALUE > 0);
CREATE DOMAIN public.price AS numeric(12, 2);
CREATE DOMAIN public.flag AS boolean;
CREATE DOMAIN public.label AS varchar(40);
CREATE DOMAIN public.blanks AS char(5);
CREATE DOMAIN public.letter AS "char";
CREATE DOMAIN public.document AS json;
CREATE DOMAIN public.tree AS jsonb CHECK (jsonb_typeof(VALUE) <> 'boolean');
CREATE DOMAIN public.label_domain AS label CHECK (VALUE <> 'no');
CREATE DOMAIN public.numbers AS int[] CHECK (array_length(VALUE, 1) < 5);
CREATE DOMAIN public.pair_domain AS pair;
CREATE DOMAIN public.mood_domain AS mood;
CREATE DOMAIN public.span AS int4range;
CREATE TYPE public.text_range AS RANGE (subtype = text, collation = "C");
CREATE TYPE public.float_range AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE TABLE public.row_type (id int, at timestamptz, note text, tags text[]);
CREATE SCHEMA bitcoin;
CREATE TYPE bitcoin.wallet AS (id int, note text);
CREATE SCHEMA "numeric";
CREATE TYPE "numeric".thing AS (id int, note text);
"""

NASTY_TEXT = [
    "",
    " ",
    "NULL",
    "null",
    "\\N",
    "\\.",
    "\\.\n",
    "a\n\\.\nb",
    "a\nb\r\nc\rd",
    "\r",
    "\n",
    "\r\n",
    "tab\there",
    "\t",
    "back\\slash \\n \\u0041",
    "\\",
    '"',
    '""',
    "quote\" and 'apostrophe'",
    "\u2028 \u2029 \u0085 \u00a0 \ufeff",
    "\ufeff",
    "\ufffe\uffff\U0010ffff\ufffd",
    "\U0001f600 é e\u0301 Ünï 漢字",
    "\x01\x02\x07\x08\x1b\x1f\x7f",
    "\x01",
    "\x02",
    "\x01a\x01\x02\x01\x01",
    '{"json": [1, 2]}',
    ",;|",
    "%s %% {} {0} :name ?",
    "x" * 10_000,
]

VALUES = {
    "jsonb": [
        "null",
        '"string"',
        '"null"',
        '""',
        "{}",
        '{"a": [1, null, "x\\ny"], "b": {"c": 1e400}}',
        "1.10",
        "-0.0",
        "true",
        "[]",
        '"\\u0001\\u0002"',
        '"{\\"a\\": 1}"',
        '{"": "", "\\n": "\\\\."}',
    ],
    "json": [
        "null",
        '"s"',
        "17",
        "false",
        '{ "a" :\n 1,\t"a": 2 }',
        '{"a": null, "a": {"a":1 , "a" : 1}}',
        "[1 ,\r\n 2]",
        '"\\ud800"',
        '"\\u0000"',
        "  1  ",
        "\n\n{}\n\n",
        '{"k":"\u2028"}',
        "1.0E+400",
        "-0",
    ],
    "numeric(6,2)[]": ["[0:1]={1.50,2.00}", "{NaN}"],
    "varchar(5)[]": ["[2:3]={a,NULL}"],
    "bit(2)[]": ["[0:0]={10}"],
    "int[]": [
        "{}",
        "{1,NULL,3}",
        "[0:2]={1,2,3}",
        "[2:3]={1,2}",
        "[-2:-1][3:4]={{1,2},{3,4}}",
        "{{{1},{2}},{{3},{4}}}",
    ],
    "text[]": [
        "{}",
        "{NULL}",
        '{"NULL","null",""}',
        '{"a,b","c\\"d","e\\\\f",NULL,"NULL",""}',
        '{{a,b},{c,"\n"}}',
        '{"\\\\.","\x01\x02","{}","[1:2]={1,2}"}',
    ],
    "json[]": ['{"{ \\"a\\" : 1 }",null,NULL,"\\"null\\""}'],
    "jsonb[]": ['{"null",NULL,"\\"s\\"","[1]"}'],
    "bytea": ["", "\\x00ff10", "\\x5c5c", "\\x0d0a5c2e0a", "\\x" + "".join(f"{byte:02x}" for byte in range(256))],
    "numeric": [
        "NaN",
        "0",
        "-0.00",
        "0.000",
        "1e-300",
        "1" * 300,
        "-" + "9" * 400 + "." + "0123456789" * 40,
        "1.50",
        "1E+20",
        "0." + "0" * 500 + "1",
    ],
    "numeric(10,2)": ["1.50", "-99999999.99", "NaN", "0.00"],
    "numeric(38,0)": ["9" * 38],
    "numeric(38,38)": ["0." + "0" * 37 + "1", "-0." + "9" * 38],
    "numeric(20,12)": ["0.000000000001", "-1.000000000010"],
    "numeric(50,10)": ["1.0000000001"],
    "real": ["1e-45", "1.1754942e-38", "3.4028235e38", "NaN", "Infinity", "-Infinity", "-0", "0.1", "16777217", "1e10"],
    "double precision": [
        "5e-324",
        "2.225073858507201e-308",
        "1.7976931348623157e308",
        "-1.7976931348623157e308",
        "NaN",
        "Infinity",
        "-Infinity",
        "-0",
        "0.1",
        "0.30000000000000004",
        "123456789.123456789",
        "9007199254740993",
        "1e22",
        "1e23",
    ],
    "smallint": ["-32768", "32767", "0"],
    "integer": ["2147483647", "-2147483648"],
    "bigint": ["-9223372036854775808", "9223372036854775807", "9007199254740993"],
    "boolean": ["t", "f"],
    "money": ["-12.34", "92233720368547758.07", "-92233720368547758.08", "0"],
    "oid": ["4294967295", "0"],
    "uuid": ["00000000-0000-0000-0000-0000000000ff", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "inet": ["10.0.0.1", "10.0.0.0/8", "0.0.0.0/0", "::1/64", "::ffff:1.2.3.4", "fe80::1"],
    "cidr": ["10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/32", "::/0"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05", "ff:ff:ff:ff:ff:ff:ff:ff"],
    "bit(3)": ["101", "000"],
    "bit(1)": ["0"],
    '"bit"': ["10110"],
    "bit varying": ["", "10101", "0" * 300],
    "bit varying(7)": ["", "0000000"],
    "char(5)": ["ab", "", "a b  ", "漢字"],
    "char(1)": [" ", '"'],
    "bpchar": ["ab   ", "   ", ""],
    "varchar(20)": ["ab  ", "   "],
    "varchar": ["ab  "],
    '"char"': ["x", "", "\\", '"', " ", "\n", "\x01"],
    "name": ["some_name", "", "Sp ace\n", "漢" * 21],
    "text": NASTY_TEXT,
    "interval": [
        "1 year 2 mons -3 days 04:05:06.789",
        "-1 years +2 mons -3 days +04:05:06.789",
        "-00:00:00.000001",
        "0.999999 s",
        "0",
        "1 mon -1 day",
        "99 hours",
        "-178000000 years",
        "178000000 years 2147483647 days",
        "1000000000:59:59.999999",
    ],
    "interval(3)": ["1 day 00:00:01.123"],
    "interval year to month": ["-3 years -2 mons"],
    "date": ["infinity", "-infinity", "0044-03-15 BC", "4713-11-24 BC", "5874897-12-31", "0001-01-01", "2024-02-29"],
    "time": ["24:00", "00:00:00.000001", "23:59:59.999999"],
    "time(0)": ["24:00"],
    "timetz": ["12:00:00+05:30", "24:00:00-11", "00:00:00.000001+15:59:59", "23:59:60-15:59"],
    "timestamp": [
        "infinity",
        "-infinity",
        "0044-03-15 12:00 BC",
        "4713-11-24 00:00:00 BC",
        "294276-12-31 23:59:59.999999",
        "9999-12-31 23:59:59.999999",
        "10000-01-01",
        "0001-01-01",
        "1677-09-21 00:12:43",
        "2024-01-01 00:00:00.000001",
    ],
    "timestamp(3)": ["2024-01-01 00:00:00.123"],
    "timestamptz": [
        "infinity",
        "-infinity",
        "0044-03-15 12:00+00 BC",
        "4713-11-24 00:00:00+00 BC",
        "294276-12-31 23:59:59.999999+00",
        "0001-01-01 00:00:00+00",
        "1883-11-18 12:03:58-04:56:02",
        "2024-01-01 00:00:00.1+05",
    ],
    "timestamptz(0)": ["infinity", "2024-01-01 00:00:00+00"],
    "int4range": ["empty", "[1,)", "(,)", "[1,5)", "(,-2147483647)"],
    "int8range": ["[-9223372036854775808,9223372036854775807)", "empty"],
    "numrange": ["[1.50,2.0]", "(,NaN]", "[0.00,0.00]", "empty"],
    "tsrange": ['["0044-03-15 12:00 BC",infinity]', "(,)", "empty"],
    "tstzrange": ['["2024-01-01 00:00:00+00",infinity)', "(,)", "empty"],
    "daterange": ["[-infinity,infinity]", "[2024-01-01,2024-01-02)", "empty"],
    "text_range": ['["a,\\"b","c\\\\ "]', '("",)', "empty"],
    "float_range": ["[-Infinity,5e-324]", "(0.1,0.30000000000000004)"],
    "point": ["(1.5,-0)", "(NaN,Infinity)", "(5e-324,1.7976931348623157e308)"],
    "line": ["{1,-2,3.5}", "{0.1,0.2,-0}"],
    "lseg": ["[(0,0),(1e300,-0.1)]"],
    "box": ["(1,1),(0,0)", "(0.1,0.2),(-0.3,-0.4)"],
    "path": ["[(0,0),(1,1)]", "((0,0),(1,1),(0.1,5e-324))"],
    "polygon": ["((0,0),(1,1),(1,0))"],
    "circle": ["<(0.1,-0.2),3e-10>", "<(0,0),0>"],
    "tsvector": ["'a':1A 'b c':2", "'it''s':3B,16383 '\\\\':1 'x'", ""],
    "tsquery": ["'a' & !'b c':*A", "", "'x' <2> 'y' | 'it''s'"],
    "pg_lsn": ["0/0", "FFFFFFFF/FFFFFFFF", "16/B374D848"],
    "txid_snapshot": ["10:20:10,14,15", "1:1:"],
    "tid": ["(0,1)", "(4294967295,65535)"],
    "xid": ["0", "4294967295"],
    "cid": ["0", "4294967295"],
    "int2vector": ["", "1 -2 3"],
    "oidvector": ["", "1 4294967295"],
    "refcursor": ["a cursor", ""],
    "regclass": ["pg_class", "-", "4000000000", "row_type"],
    "regtype": ["integer", "numeric[]", "mood", '"Od d,(Type)"', "-"],
    "regproc": ["pg_catalog.now", "-"],
    "regprocedure": ["pg_catalog.abs(integer)", "-"],
    "regoper": ["pg_catalog.||/", "0"],
    "regoperator": ["pg_catalog.+(integer,integer)", "0"],
    "regconfig": ["english", "-"],
    "regdictionary": ["simple", "-"],
    "regrole": ["postgres", "-"],
    "regnamespace": ["pg_catalog", '"numeric"', "-"],
    "aclitem": ["postgres=arwdDxt/postgres", "=r*/postgres"],
    "information_schema.sql_identifier": ["An identifier"],
    "information_schema.cardinal_number": ["0"],
    "mood": ["so so", 'it\'s "fine"', "Ünïcode", "", ",{}\\", "\n"],
    "mood[]": ['{sad,"so so",NULL,"",",{}\\\\","\n"}'],
    "mood_domain": ["so so", ""],
    "pair": ["(1,x)", '(,"a,""b"" \n")', "(,)", '(,"")', '(1,"\\\\.")'],
    "pair[]": ['{"(1,x)","(,)",NULL}', '[2:3]={"(1,)","(,\\"\\")"}'],
    "nested": ['("(1,x)","{""(2,y)""}")', "(,)", '("(,)",{})', '(,"{NULL,""(,)""}")'],
    '"Od d,(Type)"': ['("a ""b"" ","[0:1]={1,NULL}","null")', '(,{},"""s""")', "(,,)"],
    "row_type": ['(1,infinity,"no,te","{a,NULL}")', "(,,,)"],
    "positive": ["7"],
    "positive[]": ["{1,NULL}", "[0:0]={3}"],
    "price": ["1.50", "NaN"],
    "flag": ["t"],
    "label": ["a\nb", "a  "],
    "label_domain": ["yes ", ""],
    "blanks": ["ab", "", " a "],
    "letter": ["x", "", '"', "\n"],
    "document": ["null", '"s"', ' { "a" : 1, "a":2 } '],
    "tree": ["null", '"s"', '{"a": [null]}', "1.0"],
    "tree[]": ['{"null",NULL,"\\"s\\""}'],
    "numbers": ["{}", "[2:3]={1,NULL}", "{{1,2},{3,4}}"],
    "pair_domain": ["(1,x)", "(,)"],
    "pair_domain[]": ['{"(1,x)","(,)",NULL}'],
    "span": ["empty", "[1,)"],
    "bitcoin.wallet": ["(1,x)"],
    '"numeric".thing': ["(1,x)"],
}
"""Type → values that PostgreSQL 11 and everything newer takes."""

SINCE = {
    12: {"jsonpath": ['$."a"[*]?(@ > 1.50)', "strict $", '$."quo\\"te"']},
    13: {
        "xid8": ["18446744073709551615", "0"],
        "pg_snapshot": ["10:20:10,14,15"],
        "regcollation": ['"C"', "-"],
    },
    14: {
        "numeric": ["Infinity", "-Infinity"],
        "price[]": ["{NaN}"],
        "numrange": ["[Infinity,Infinity]"],
        "int4multirange": ["{}", "{(,)}", "{[1,2),[5,9)}"],
        "int8multirange": ["{[1,)}"],
        "nummultirange": ["{[1.50,2.0],(3,NaN]}"],
        "datemultirange": ["{[-infinity,infinity]}"],
        "tsmultirange": ['{["0044-03-15 12:00 BC",infinity]}'],
        "tstzmultirange": ['{(,"2024-01-01 00:00:00+00"),["2024-01-02 00:00:00+00",)}'],
        "text_multirange": ['{["a,\\"b","c\\\\ "]}'],
        "int4multirange[]": ['{"{[1,2),[5,9)}",NULL,"{}"}'],
    },
    15: {"numeric(5,-2)": ["1234500", "-100"], "numeric(3,5)": ["0.00123", "-0.00001"]},
    16: {'"char"': ["\\303", "\\377"], "letter": ["\\303"]},
    17: {"interval": ["infinity", "-infinity"]},
}
"""Type → values that PostgreSQL takes from a version on."""

UNTIL = {
    11: {
        "abstime": ["infinity", "2024-01-01 00:00:00+00"],
        "reltime": ["1 day 00:00:01", "-3 days"],
        "tinterval": ['["2024-01-01 00:00:00+00" "2024-01-02 00:00:00+00"]'],
    }
}
"""Type → values that PostgreSQL takes up to a version."""

WITHOUT_INPUT = {
    "gtsvector",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_ndistinct",
    "pg_node_tree",
    "smgr",
}
"""Built-in types of the server's own catalogs: no text can be put into a column of theirs."""

EXTENSIONS = {
    "hstore": {"hstore": ['a=>1, "b c"=>NULL', '""=>"", "q\\"t"=>"NULL"', '"t"=>"true", "n"=>"1.50"', ""]},
    "citext": {"citext": ["MiXed ", "", "\\.", "\x01\x02"]},
    "ltree": {
        "ltree": ["Top.Science.Astronomy", ""],
        "lquery": ["Top.*{1,2}.!a|b@*"],
        "ltxtquery": ["a & !b*@"],
    },
    "cube": {"cube": ["(1, -0, 5e-324)", "(0, 0),(1, 1)"]},
    "seg": {"seg": ["1.50 .. 2", "~ 6.50", "< 3"]},
    "intarray": {"query_int": ["1&(2|!3)"]},
    "isn": {"isbn13": ["978-0-11-000222-4"], "ean13": ["978-0-11-000222-5!"]},
    "lo": {"lo": ["4294967295"]},
}
XML = {
    "xml": [
        "",
        "text only",
        "<a b='1'>\n <b/> &amp; 漢 </a>",
        "<?xml version='1.0' standalone='yes'?><a/>",
        "<a/><b/>",
        "<!-- c --><a><![CDATA[<x>]]></a>",
    ]
}


def values_for(major: int) -> dict[str, list[str]]:
    """The values that a PostgreSQL version takes."""
    values = {name: list(found) for name, found in VALUES.items()}
    added = [found for since, found in SINCE.items() if since <= major]
    added += [found for until, found in UNTIL.items() if major <= until]
    for types in added:
        for name, found in types.items():
            values.setdefault(name, []).extend(found)
    return values


def create_typed_table(connection: psycopg.Connection, table: str, values: dict[str, list[str]]) -> int:
    """Create a table with a column c0, c1, … of every type, one row per value with that value alone, and one row of
    NULLs, all old enough to be archived. Returns how many rows."""
    connection.execute("SET lc_monetary = 'C'")
    columns = ", ".join(f"c{position} {name}" for position, name in enumerate(values))
    connection.execute(
        f"CREATE TABLE {table} (id serial PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT"
        f" now() - interval '50 days', {columns})".encode()
    )
    connection.execute(f"INSERT INTO {table} DEFAULT VALUES".encode())
    for position, (name, found) in enumerate(values.items()):
        for value in found:
            insert_value(connection, table, f"c{position}", sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(name)))
    return 1 + sum(map(len, values.values()))


def insert_value(connection: psycopg.Connection, table: str, column: str, value: sql.Composed) -> None:
    """Insert one row with an expression in one column. The type's input function reads it: a cast is not asked."""
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(sql.Identifier(table), sql.Identifier(column), value)
    )
