"""Every type and every name comes back equal: `object ->> column`, then the type's own input function."""

import json

import pytest

from archiver_pipeline.config.enums import ObjectFormat
from archiver_pipeline_tests.ledger import Ledger

FORMATS = list(ObjectFormat)

TYPES = """
CREATE TYPE public.mood AS ENUM ('sad', 'so so', 'it''s "fine"', 'Ünïcode');
CREATE TYPE public.pair AS (a int, b text);
CREATE TYPE public.nested AS (p pair, many pair[]);
CREATE DOMAIN public.positive AS int CHECK (VALUE > 0);
CREATE DOMAIN public.price AS numeric(12, 2);
CREATE DOMAIN public.flag AS boolean;
CREATE DOMAIN public.label AS varchar(40);
CREATE DOMAIN public.pair_domain AS pair;
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
    "a\nb\r\nc\rd",
    "tab\there",
    "back\\slash \\n \\u0041",
    "quote\" and 'apostrophe'",
    "\u2028 \u2029 \u0085 \u00a0 \ufeff",
    "\U0001f600 é e\u0301 Ünï 漢字",
    "\x01\x02\x07\x08\x1b\x1f\x7f",
    '{"json": [1, 2]}',
    ",;|",
    "%s %% {} {0} :name ?",
    "x" * 10_000,
]

VALUES = {
    "jsonb": ["null", '"string"', '"null"', "{}", '{"a": [1, null, "x\\ny"], "b": {"c": 1e400}}', "1.10", "true", "[]"],
    "json": ["null", '"s"', '{ "a" :\n 1,\t"a": 2 }', "[1 ,\r\n 2]", '"\\ud800"', "  1  ", '{"k":"\u2028"}'],
    "numeric(6,2)[]": ["[0:1]={1.50,2.00}", "{NaN}"],
    "varchar(5)[]": ["[2:3]={a,NULL}"],
    "bit(2)[]": ["[0:0]={10}"],
    "int[]": ["{}", "{1,NULL,3}", "[0:2]={1,2,3}", "[-2:-1][3:4]={{1,2},{3,4}}"],
    "text[]": ["{}", '{"a,b","c\\"d","e\\\\f",NULL,"NULL",""}', '{{a,b},{c,"\n"}}'],
    "bytea": ["", "\\x00ff10", "\\x5c5c"],
    "numeric": ["NaN", "0", "-0.00", "1e-300", "1" * 300, "1.50"],
    "numeric(10,2)": ["1.50", "-99999999.99", "NaN"],
    "numeric(38,0)": ["9" * 38],
    "numeric(50,10)": ["1.0000000001"],
    "real": ["1e-45", "3.4028235e38", "NaN", "Infinity", "-Infinity", "-0", "0.1"],
    "double precision": ["5e-324", "1.7976931348623157e308", "NaN", "Infinity", "-0", "0.1", "123456789.123456789"],
    "smallint": ["-32768"],
    "integer": ["2147483647"],
    "bigint": ["-9223372036854775808", "9007199254740993"],
    "boolean": ["t", "f"],
    "money": ["-12.34"],
    "oid": ["4294967295"],
    "uuid": ["00000000-0000-0000-0000-0000000000ff"],
    "inet": ["10.0.0.1", "10.0.0.0/8", "::1/64"],
    "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2b:01:02:03"],
    "bit(3)": ["101"],
    "bit varying": ["", "10101"],
    "char(5)": ["ab", ""],
    "varchar(20)": ["ab  "],
    '"char"': ["x", ""],
    "name": ["some_name"],
    "interval": ["1 year 2 mons -3 days 04:05:06.789", "-00:00:00.000001", "0"],
    "date": ["infinity", "-infinity", "0044-03-15 BC", "5874897-12-31", "2024-02-29"],
    "time": ["24:00", "00:00:00.000001"],
    "timetz": ["12:00:00+05:30", "24:00:00-11"],
    "timestamp": ["infinity", "0044-03-15 12:00 BC", "294276-12-31", "2024-01-01 00:00:00.000001"],
    "timestamptz": ["-infinity", "0044-03-15 12:00+00 BC", "294276-12-31+00", "2024-01-01 00:00:00.1+05"],
    "int4range": ["empty", "[1,)", "(,)", "[1,5)"],
    "numrange": ["[1.50,2.0]"],
    "tstzrange": ['["2024-01-01 00:00:00+00",infinity)', "(,)"],
    "point": ["(1.5,-0)"],
    "polygon": ["((0,0),(1,1),(1,0))"],
    "tsvector": ["'a':1A 'b c':2"],
    "mood": ["so so", 'it\'s "fine"', "Ünïcode"],
    "mood[]": ['{sad,"so so"}'],
    "pair": ["(1,x)", '(,"a,""b"" \n")', "(,)"],
    "pair[]": ['{"(1,x)","(,)"}'],
    "nested": ['("(1,x)","{""(2,y)""}")'],
    "positive": ["7"],
    "price": ["1.50"],
    "flag": ["t"],
    "label": ["a\nb"],
    "pair_domain": ["(1,x)"],
    "bitcoin.wallet": ["(1,x)"],
    '"numeric".thing': ["(1,x)"],
}


@pytest.fixture
def typed(archiving):
    """A table with a column of every type: one row per value, with that value alone, and one row of NULLs."""
    columns = ", ".join(f"c{position} {name}" for position, name in enumerate(VALUES))
    with archiving.database.connect() as connection:
        connection.execute("SET lc_monetary = 'C'")
        connection.execute(TYPES.encode())
        connection.execute(
            f"CREATE TABLE typed (id serial PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT"
            f" now() - interval '50 days', plain text, {columns})".encode()
        )
        connection.execute("INSERT INTO typed DEFAULT VALUES")
        for position, (name, values) in enumerate(VALUES.items()):
            for value in values:
                connection.execute(
                    f"INSERT INTO typed (c{position}) VALUES (%s::text::{name})".encode(), [value], prepare=False
                )
        for text in NASTY_TEXT:
            connection.execute("INSERT INTO typed (plain) VALUES (%s)", [text])
    return archiving.ledger("typed")


@pytest.mark.matrix
@pytest.mark.parametrize("data_format", FORMATS)
def test_every_value_of_every_type_comes_back_equal(archiving, typed, data_format):
    archiving.archive(table="typed", format=data_format, batch_size=1000)
    typed.account_all_archived()
    assert len(typed.archived_rows()) == 1 + sum(map(len, VALUES.values())) + len(NASTY_TEXT)


@pytest.mark.parametrize("data_format", FORMATS)
def test_values_in_batches_of_one_row(archiving, typed, data_format):
    """With one value per object every column meets its rarest values alone."""
    archiving.archive(table="typed", format=data_format, batch_size=7, verify_sample_rows=7)
    typed.account_all_archived()


@pytest.mark.parametrize("setting", ["DateStyle = 'SQL, DMY'", "TimeZone = 'Asia/Kolkata'", "bytea_output = 'escape'"])
def test_the_server_s_own_settings_make_no_difference(archiving, typed, setting):
    archiving.database.execute(f"ALTER DATABASE {archiving.database.name} SET {setting}")
    archiving.archive(table="typed", batch_size=1000)
    typed.account_all_archived()


KEYS = {
    "uuid": "md5(n::text)::uuid",
    "text": "E'k\\n\"\\\\, ' || n",
    "varchar(30)": "'k' || n",
    "char(10)": "'k' || n",
    "numeric": "n / 3.0",
    "date": "date '2020-01-01' + n::int",
    "timestamp": "timestamp '0001-01-01 BC' + n * interval '1 s'",
    "bytea": "decode(md5(n::text), 'hex')",
    "inet": "inet '10.0.0.0' + n",
    "smallint": "n::smallint",
    "positive": "n::int",
    "label": "'k' || n",
    "bit(40)": "n::bit(40)",
}


@pytest.mark.parametrize(
    ("key_type", "data_format"),
    [(key_type, "jsonl.gz") for key_type in KEYS]
    + [(key_type, "parquet") for key_type in ("uuid", "date", "positive", "smallint")],
)
def test_keys_of_other_types(archiving, key_type, data_format):
    archiving.database.execute(TYPES)
    archiving.database.execute(f"CREATE TABLE keyed (k {key_type} PRIMARY KEY, created_at timestamptz NOT NULL, v int)")
    archiving.database.execute(
        f"INSERT INTO keyed SELECT {KEYS[key_type]}, date_trunc('day', now()) - interval '50 days', n"
        " FROM generate_series(1::bigint, 25) AS n"
    )
    ledger = archiving.ledger("keyed")
    session_options = {"table": "keyed", "format": data_format}
    archiving.archive(**session_options)
    ledger.account_all_archived()


def test_an_enum_key(archiving):
    archiving.database.execute(TYPES)
    archiving.database.execute("CREATE TABLE keyed (k mood PRIMARY KEY, created_at timestamptz NOT NULL)")
    archiving.database.execute("INSERT INTO keyed SELECT unnest(enum_range(NULL::mood)), now() - interval '50 days'")
    ledger = archiving.ledger("keyed")
    archiving.archive(table="keyed", batch_size=2)
    ledger.account_all_archived()


@pytest.mark.parametrize("data_format", FORMATS)
def test_a_composite_key(archiving, data_format):
    archiving.database.execute(
        "CREATE TABLE keyed (tenant text, n int, at timestamptz, created_at timestamptz NOT NULL,"
        " PRIMARY KEY (n, at, tenant))"
    )
    archiving.database.execute(
        "INSERT INTO keyed SELECT 'ten,\"ant' || n % 2, n / 4, now() - n % 4 * interval '1 s',"
        " date_trunc('day', now()) - interval '50 days' FROM generate_series(1, 60) AS n"
    )
    ledger = archiving.ledger("keyed")
    archiving.archive(table="keyed", format=data_format, batch_size=7)
    ledger.account_all_archived()


def test_a_configured_key_that_is_not_the_primary_one(archiving, audit):
    archiving.database.execute("CREATE UNIQUE INDEX ON audit_logs (created_at)")
    archiving.archive(primary_key=("created_at",))
    audit.account_all_archived()


NAMES = ["t", "r", "s", "k", "v", "archived_row", "position", "wanted", "v_xmin", "v_key_0", "v_ctid", "row_xmin"]
NASTY_NAMES = [
    'quo"te',
    "sp ace",
    "per%cent %s",
    "cur{ly} {0}",
    "semi;colon",
    "Ünï",
    "漢字",
    "slash/dot.",
    "$1",
    "-",
    "🙂",
]


@pytest.mark.matrix
@pytest.mark.parametrize("data_format", FORMATS)
def test_every_name(archiving, data_format, audit):
    """Names that our own queries use as aliases, and names that need quoting; as columns, keys, table and schema."""
    schema, table = "Sche ma/Ü", 'ta"ble.%s{}'
    columns = ", ".join(_quoted(name) + " text" for name in [*NAMES[1:], *NASTY_NAMES])
    name = f"{_quoted(schema)}.{_quoted(table)}"
    archiving.database.execute(f"CREATE SCHEMA {_quoted(schema)}")
    archiving.database.execute(
        f'CREATE TABLE {name} ("t" int, {columns}, "Created At" timestamptz, PRIMARY KEY ("t", "v_xmin", "v_key_0"))'
    )
    copies = ", ".join(["'x'"] * (len(NAMES) - 1 + len(NASTY_NAMES)))
    archiving.database.execute(
        f"INSERT INTO {name} SELECT n, {copies}, now() - interval '50 days' FROM generate_series(1, 20) AS n"
    )
    ledger = archiving.ledger(table, schema=schema, timestamp_column="Created At")
    options = {"schema": schema, "table": table, "timestamp_column": "Created At", "format": data_format}
    with archiving.database.connect(autocommit=False) as application:
        application.execute(f'SELECT FROM {name} WHERE "t" = 3 FOR UPDATE'.encode())
        archiving.archive(**options)
        application.rollback()
    ledger.account()
    archiving.archive(**options)
    ledger.account_all_archived()


def test_the_longest_names_there_are(archiving):
    """63 bytes each, and every one of them three characters in a key."""
    schema, table = "ü" * 31, "漢" * 21
    archiving.database.execute(f"CREATE SCHEMA {schema}")
    archiving.database.execute(
        f"CREATE TABLE {schema}.{table} AS SELECT n AS id, now() - interval '50 days' AS created_at"
        " FROM generate_series(1, 5) AS n"
    )
    archiving.database.execute(f"ALTER TABLE {schema}.{table} ADD PRIMARY KEY (id)")
    ledger = archiving.ledger(table, schema=schema)
    archiving.archive(schema=schema, table=table)
    ledger.account_all_archived()


@pytest.mark.matrix
@pytest.mark.parametrize("data_format", FORMATS)
def test_a_natively_partitioned_table(archiving, data_format):
    """Rows of all leaves, also where ctid and xmin of two leaves are the same, and a row that moved to another leaf."""
    archiving.database.execute(
        "CREATE TABLE parts (id bigint, region text, created_at timestamptz NOT NULL, PRIMARY KEY (id, region))"
        " PARTITION BY LIST (region)"
    )
    for region in ("eu", "us", "asia"):
        archiving.database.execute(f"CREATE TABLE parts_{region} PARTITION OF parts FOR VALUES IN ('{region}')")
    archiving.database.execute("CREATE INDEX ON parts (created_at)")
    archiving.database.execute(
        "INSERT INTO parts SELECT n, region, date_trunc('day', now()) - n * interval '5 days'"
        " FROM generate_series(1, 20) AS n, unnest(ARRAY['eu', 'us', 'asia']) AS region"
    )
    ledger = archiving.ledger("parts")
    archiving.database.execute("UPDATE parts SET region = 'us', id = 1000 WHERE id = 19 AND region = 'eu'")
    ledger = archiving.ledger("parts")
    assert archiving.database.execute("SELECT count(DISTINCT (ctid, xmin::text)) < count(*) FROM parts") == [(True,)]
    archiving.archive(table="parts", format=data_format, window="month", retention_days=40)
    ledger.account()
    assert ledger.archived_rows()
    archiving.archive(table="parts", format=data_format)
    ledger.account_all_archived()


def test_rows_larger_than_a_block(archiving):
    """Rows of many megabytes, over the blocks in which text is copied out, unpacked and compared."""
    archiving.database.execute(
        "CREATE TABLE large AS SELECT n AS id, now() - interval '50 days' AS created_at,"
        " repeat(md5(n::text), n * 60000) AS body FROM generate_series(1, 4) AS n"
    )
    archiving.database.execute("ALTER TABLE large ADD PRIMARY KEY (id)")
    ledger = archiving.ledger("large")
    for data_format, limit in (("jsonl.gz", 2), ("parquet", None)):
        archiving.archive(table="large", format=data_format, batch_size=2, limit_rows=limit)
        ledger.account()
    ledger.account_all_archived()


def test_deeply_nested_json(archiving):
    deep = "[" * 3000 + "]" * 3000
    archiving.database.execute("CREATE TABLE deep (id int PRIMARY KEY, created_at timestamptz, body jsonb)")
    archiving.database.execute("INSERT INTO deep VALUES (1, now() - interval '50 days', %s)", [deep])
    ledger = archiving.ledger("deep")
    archiving.archive(table="deep")
    ledger.account_all_archived()


def test_a_jsonl_row_is_what_the_documentation_says(archiving, audit):
    """One JSON object per line, with the table's columns in order."""
    archiving.archive()
    [first, *_] = audit.receipted()
    for line in Ledger.lines_of(first):
        assert list(json.loads(line)) == ["id", "created_at", "actor", "changes", "tags", "amount"]


def _quoted(name):
    return '"' + name.replace('"', '""') + '"'
