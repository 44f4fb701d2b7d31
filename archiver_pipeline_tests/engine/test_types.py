"""Every type and every name comes back equal: `object ->> column`, then the type's own input function."""

import json

import pytest

from archiver_pipeline.config.enums import ObjectFormat
from archiver_pipeline_tests.ledger import Ledger
from archiver_pipeline_tests.values import TYPES, create_typed_table, values_for

FORMATS = list(ObjectFormat)


@pytest.fixture
def typed(archiving, postgres_major):
    """A table with a column of every type: one row per value, with that value alone, and one row of NULLs."""
    with archiving.database.connect() as connection:
        connection.execute(TYPES.encode())
        create_typed_table(connection, "typed", values_for(postgres_major))
    return archiving.ledger("typed")


@pytest.mark.matrix
@pytest.mark.parametrize("data_format", FORMATS)
def test_every_value_of_every_type_comes_back_equal(archiving, typed, postgres_major, data_format):
    archiving.archive(table="typed", format=data_format, batch_size=1000)
    typed.account_all_archived()
    assert len(typed.archived_rows()) == 1 + sum(map(len, values_for(postgres_major).values()))


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
