"""Every value of every type comes back from the store as it was, into the same table and into an empty copy.

What went round, counted:  pytest -s archiver_pipeline_tests/engine/test_restore_types.py | grep "went round"
"""

from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql

from archiver_pipeline.config.enums import ObjectFormat
from archiver_pipeline.domain.restore import RestoreReport
from archiver_pipeline_tests.engine.killed_restore import go_by_way_of_a_stage
from archiver_pipeline_tests.picture import Picture, differences, picture_of
from archiver_pipeline_tests.plugins.archiving import Archiving
from archiver_pipeline_tests.plugins.restoring import Restoring
from archiver_pipeline_tests.values import (
    EXTENSIONS,
    NASTY_TEXT,
    TYPES,
    WITHOUT_INPUT,
    XML,
    create_typed_table,
    values_for,
)

FORMATS = list(ObjectFormat)
OLD = "now() - interval '50 days'"
ARRAYS = {name for name in values_for(99) if name.endswith(("[]", "2vector", "oidvector"))} | {"numbers"}
"""Types that are arrays already: an array of them is one of more dimensions."""
CODE_POINTS = [*range(1, 0xD800), *range(0xE000, 0x110000)]


@dataclass
class RoundTrip:
    """Archives tables and brings them back."""

    archiving: Archiving
    restoring: Restoring
    major: int

    def go(
        self,
        table: str,
        *,
        data_format: ObjectFormat,
        schema: str = "public",
        binary: bool = False,
        is_direct: bool = True,
        **options: object,
    ) -> Picture:
        """Archive every row, restore them in place, straight into the table, and by way of a stage into a copy in
        another schema, and compare all three.

        Returns what the table held.
        """
        before = self._picture(table, schema, binary)
        self.archiving.archive(table=table, schema=schema, format=data_format, **options)
        assert not self._picture(table, schema, binary), "rows that were not archived prove nothing"
        source = self.restoring.name(table, schema=schema)
        with pytest.MonkeyPatch.context() as patch:
            if is_direct:
                patch.setattr("archiver_pipeline.engine.restore.merge_rows", None)
            report = self.restoring.restore(source)
        self._require_all(report, before)
        assert not differences(before, self._picture(table, schema, binary))
        self._create_copy(table, schema)
        with pytest.MonkeyPatch.context() as patch:
            go_by_way_of_a_stage(patch.setattr)
            report = self.restoring.restore(source, self.restoring.name(table, schema="copied"))
        self._require_all(report, before)
        assert not differences(before, self._picture(table, "copied", binary))
        print(f"\nPostgreSQL {self.major} {data_format}: {before.total()} rows of {table!r} went round")
        return before

    def _picture(self, table: str, schema: str, binary: bool) -> Picture:
        return picture_of(self.archiving.database, table, schema=schema, binary=binary)

    @staticmethod
    def _require_all(report: RestoreReport, before: Picture) -> None:
        assert {item.reason for item in report.objects} == {""}
        assert (report.restored_rows, report.skipped_rows, report.failed_rows) == (before.total(), 0, 0)

    def _create_copy(self, table: str, schema: str) -> None:
        create = sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(
            sql.Identifier("copied", table), sql.Identifier(schema, table)
        )
        self.archiving.database.execute("CREATE SCHEMA IF NOT EXISTS copied")
        self.archiving.database.execute(create.as_string())


@pytest.fixture
def round_trip(archiving, restoring, postgres_major):
    return RoundTrip(archiving, restoring, postgres_major)


@pytest.fixture
def connection(database):
    """A connection to a database that has the types of `values`."""
    with database.connect() as opened:
        opened.execute(TYPES.encode())
        yield opened


@pytest.mark.matrix
@pytest.mark.parametrize("data_format", FORMATS)
def test_every_value_of_every_type(round_trip, connection, postgres_major, data_format):
    values = values_for(postgres_major)
    rows = create_typed_table(connection, "typed", values)
    before = round_trip.go("typed", data_format=data_format, binary=True, batch_size=100)
    assert before.total() == rows
    print(f"PostgreSQL {postgres_major} {data_format}: {len(values)} types, {rows - 1} values went round")


@pytest.mark.parametrize("data_format", FORMATS)
def test_values_in_small_batches(round_trip, connection, postgres_major, data_format):
    """In a small Parquet file fewer columns turn to text, so most values travel typed."""
    create_typed_table(connection, "typed", values_for(postgres_major))
    round_trip.go("typed", data_format=data_format, binary=True, batch_size=6, workers=4)


@pytest.mark.matrix
def test_no_built_in_type_is_forgotten(connection, postgres_major):
    """The catalog's own list of types against ours."""
    existing = connection.execute(
        "SELECT format_type(oid, -1) FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace"
        " AND typtype IN ('b', 'r', 'm') AND left(typname, 1) <> '_'"
    ).fetchall()
    tested = connection.execute(
        "SELECT format_type(name::regtype, -1) FROM unnest(%s::text[]) AS name", [[*values_for(postgres_major)]]
    ).fetchall()
    assert {name for (name,) in existing} - WITHOUT_INPUT - {"xml"} - {name for (name,) in tested} == set()


@pytest.mark.matrix
@pytest.mark.parametrize("data_format", FORMATS)
def test_arrays_of_every_type(round_trip, connection, postgres_major, data_format):
    """With NULL elements, empty, of two dimensions and with lower bounds of their own."""
    values = {name: found for name, found in values_for(postgres_major).items() if name not in ARRAYS}
    rows = create_array_table(connection, values)
    before = round_trip.go("arrays", data_format=data_format, binary=True, batch_size=60)
    assert before.total() == rows
    print(f"PostgreSQL {postgres_major} {data_format}: {len(values)} array types, {rows - 1} arrays went round")


@pytest.mark.matrix
@pytest.mark.parametrize("data_format", FORMATS)
def test_composites_of_every_type(round_trip, connection, postgres_major, data_format):
    """One composite type with a field of every type, alone, in an array, in a domain and nested in another."""
    values = {name: found for name, found in values_for(postgres_major).items() if "aclitem" not in name}
    fields = ", ".join(f'"f, {position}" {name}' for position, name in enumerate(values))
    connection.execute(f"CREATE TYPE everything AS ({fields})".encode())
    connection.execute("CREATE TYPE deeper AS (one everything, many everything[])")
    connection.execute("CREATE DOMAIN everything_domain AS everything")
    connection.execute(
        f"CREATE TABLE composites (id serial PRIMARY KEY, created_at timestamptz DEFAULT {OLD},"
        " one everything, many everything[], deep deeper, domained everything_domain)".encode()
    )
    rows = max(map(len, values.values()))
    for position in range(rows):
        chosen = [(name, found[position % len(found)]) for name, found in values.items()]
        row = sql.SQL("ROW({})::everything").format(sql.SQL(", ").join(_literal(value, name) for name, value in chosen))
        connection.execute(
            sql.SQL(
                "INSERT INTO composites (one, many, deep, domained)"
                " SELECT e, ARRAY[e, NULL, e], ROW(e, ARRAY[NULL, e])::deeper, e FROM (SELECT {} AS e) AS made"
            ).format(row)
        )
    assert round_trip.go("composites", data_format=data_format, binary=True, batch_size=10).total() == rows


@pytest.mark.matrix
@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("extension", [*EXTENSIONS])
def test_types_of_extensions(round_trip, connection, extension, data_format):
    if not connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = %s", [extension]).fetchall():
        pytest.skip(f"this PostgreSQL was packaged without the files of extension {extension}")
    connection.execute(f"CREATE EXTENSION {extension}".encode())
    values = EXTENSIONS[extension]
    create_typed_table(connection, "typed", values)
    create_array_table(connection, values)
    round_trip.go("typed", data_format=data_format)
    round_trip.go("arrays", data_format=data_format)


@pytest.mark.matrix
@pytest.mark.parametrize("data_format", FORMATS)
def test_xml(round_trip, connection, data_format):
    try:
        connection.execute("SELECT xml '<a/>'")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL was built without libxml")
    create_typed_table(connection, "typed", XML)
    create_array_table(connection, XML)
    # What an application's database defaults to: then content that is no document could not be read back.
    connection.execute(f"ALTER DATABASE {connection.info.dbname} SET xmloption = document".encode())
    round_trip.go("typed", data_format=data_format)
    round_trip.go("arrays", data_format=data_format)


SETTINGS = [
    "array_nulls = off",
    "quote_all_identifiers = on",
    "DateStyle = 'SQL, DMY'",
    "IntervalStyle = sql_standard",
    "TimeZone = 'Asia/Kolkata'",
    "bytea_output = escape",
    "extra_float_digits = -15",
    "transform_null_equals = on",
    "search_path = 'numeric'",
    "standard_conforming_strings = off",
]


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_database_s_own_settings_make_no_difference(round_trip, connection, postgres_major, setting, data_format):
    create_typed_table(connection, "typed", values_for(postgres_major))
    connection.execute(f"ALTER DATABASE {connection.info.dbname} SET {setting}".encode())
    round_trip.go("typed", data_format=data_format, batch_size=1000)


@pytest.mark.parametrize("data_format", FORMATS)
def test_casts_of_the_application_are_not_asked(round_trip, connection, data_format):
    """A cast from text that an application made is not the type's input function."""
    connection.execute("CREATE TYPE hue AS ENUM ('dark', 'light')")
    connection.execute("CREATE DOMAIN hue_domain AS hue")
    for name, wrong in {"pair": "ROW(0, $1)::pair", "int[]": "ARRAY[0]", "hue": "hue 'dark'"}.items():
        function = f'"{name} of text"(text)'
        connection.execute(f"CREATE FUNCTION {function} RETURNS {name} LANGUAGE sql AS $$ SELECT {wrong} $$".encode())
        connection.execute(f"CREATE CAST (text AS {name}) WITH FUNCTION {function}".encode())
    create_typed_table(
        connection,
        "typed",
        {
            "pair": ["(1,x)"],
            "pair_domain": ["(2,y)"],
            "pair[]": ['{"(1,x)"}'],
            "int[]": ["{1,2}"],
            "numbers": ["{1,2}"],
            "hue": ["light"],
            "hue_domain": ["light"],
        },
    )
    round_trip.go("typed", data_format=data_format)


@pytest.mark.matrix
@pytest.mark.parametrize("data_format", FORMATS)
def test_text_with_every_code_point(round_trip, connection, data_format):
    """Alone between others, in rows of 8,192, also as array element, JSON string, composite field and key."""
    connection.execute(
        f"CREATE TABLE characters (id text PRIMARY KEY, created_at timestamptz DEFAULT {OLD}, plain text,"
        " list text[], document json, tree jsonb, field pair, padded char(5), short varchar)".encode()
    )
    pieces = ["".join(map(chr, CODE_POINTS[start : start + 8192])) for start in range(0, len(CODE_POINTS), 8192)]
    for piece in pieces:
        connection.execute(
            "INSERT INTO characters (id, plain, list, document, tree, field, padded, short) SELECT left(t, 600), t,"
            " ARRAY[t, NULL, t], to_json(t), to_jsonb(t), ROW(1, t)::pair, left(t, 5), t FROM (SELECT %s::text AS t) s",
            [piece],
        )
    for text in [*NASTY_TEXT, *map(chr, range(1, 256))]:
        connection.execute(
            "INSERT INTO characters (id, plain, list, field) SELECT t, t, ARRAY[t], ROW(2, t)::pair"
            " FROM (SELECT %s::text AS t) s ON CONFLICT DO NOTHING",
            [text],
        )
    assert round_trip.go("characters", data_format=data_format, batch_size=50).total() > len(pieces) + 255


NAMES = [
    *("t", "r", "s", "v", "w", "line", "target", "excluded", "c0", "c1", "archiver_stage", "new", "old"),
    *("select", "Upper", 'quo"te', '"', "'", "sp ace", " ", "%", "%s %(a)s %%", "{}", "{0}", ":name", "$1", "?", ";--"),
    *("a", "a.b", "a.b.c", "a.list.element", "slash/", "back\\slash", "new\nline", "cr\r\n", "tab\t", "\x01", "\x02"),
    *("Ünï", "漢字", "🙂", "\u2028", "-", "\ufeff", "x" * 63, "漢" * 21, "é" * 31),
]


@pytest.mark.matrix
@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize(
    ("schema", "table"),
    [
        ("public", "%s:{}\n\"'"),
        ("Sche ma/Ü.%", "漢" * 21),
        ("numeric", "select"),
        ("é" * 31, "archiver_stage"),
        ("public", "x" * 63),
    ],
)
def test_every_name(round_trip, connection, schema, table, data_format):
    """Columns, keys, tables and schemas that need quoting or are called like something in the restore's queries."""
    name = sql.Identifier(schema, table)
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL("text[]" if position % 3 else "text NOT NULL"))
        for position, column in enumerate(NAMES)
    )
    connection.execute(
        sql.SQL('CREATE TABLE {} ({}, "Created\n%" timestamptz, PRIMARY KEY ({}))').format(
            name, columns, sql.SQL(", ").join(map(sql.Identifier, NAMES[:40:3]))
        )
    )
    for row in range(12):
        values = [f"{{{row},{column}}}" if column % 3 else f"{row} {column}" for column in range(len(NAMES))]
        connection.execute(
            sql.SQL("INSERT INTO {} VALUES ({}, {})").format(
                name, sql.SQL(", ").join(map(sql.Literal, values)), sql.SQL(OLD)
            )
        )
    # A column called ":name" looks like the end of a string to whoever reads lines without parsing them.
    is_direct = data_format is ObjectFormat.PARQUET
    options = {"timestamp_column": "Created\n%", "batch_size": 5, "is_direct": is_direct}
    round_trip.go(table, schema=schema, data_format=data_format, **options)


@pytest.mark.matrix
@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize(
    ("columns", "type_name", "value"),
    [
        (1600, "int", "row * 1000 + position"),
        (1600, "smallint[]", "CASE WHEN position % 40 = 0 THEN ARRAY[row, position] END"),
        (430, "text", "string_agg(md5(position || ' ' || row || ' ' || n), '')"),
    ],
    ids=["1600 integers", "1600 arrays", "430 toasted texts"],
)
def test_as_many_columns_as_a_table_can_have(round_trip, connection, columns, type_name, value, data_format):
    """A row holds a pointer of 18 bytes for each value that went out of line: about 440 fit."""
    names = ["id", "created_at", *(f"c{position}" for position in range(2, columns))]
    definitions = ", ".join(f"{name} {type_name}" for name in names[2:])
    connection.execute(f"CREATE TABLE wide (id int PRIMARY KEY, created_at timestamptz, {definitions})".encode())
    for row in range(5):
        numbers = "generate_series(1, 90)" if type_name == "text" else "generate_series(1, 1)"
        group = f"SELECT {value}" if type_name == "text" else f"SELECT max({value})"
        made = ", ".join(
            f"({group} FROM (SELECT {row} AS row, {position} AS position, n FROM {numbers} AS n) AS v)"
            for position in range(2, columns)
        )
        connection.execute(f"INSERT INTO wide SELECT {row}, {OLD}, {made}".encode())
    assert round_trip.go("wide", data_format=data_format, batch_size=2).total() == 5


@pytest.mark.matrix
@pytest.mark.parametrize("data_format", FORMATS)
def test_a_row_of_thirty_megabytes(round_trip, connection, data_format):
    """Text, control characters that JSON escapes sixfold, bytes, an array and JSON; and small rows beside it."""
    connection.execute(
        f"CREATE TABLE large (id int PRIMARY KEY, created_at timestamptz DEFAULT {OLD}, plain text, escaped text,"
        " bytes bytea, list text[], document json)".encode()
    )
    connection.execute("INSERT INTO large (id, plain) SELECT n, 'small' FROM generate_series(10, 20) AS n")
    connection.execute(
        "INSERT INTO large (id, plain, escaped, bytes, list, document) SELECT 15000, t, repeat(E'\\x01\\x02\\\\\\n\"',"
        " 400000), decode(md5(t), 'hex') || convert_to(left(t, 8000000), 'UTF8'), ARRAY[left(t, 5000000), NULL],"
        " to_json(left(t, 3000000)) FROM (SELECT repeat(md5('x') || E'漢\\r\\n', 333333) AS t) AS s"
    )
    [(size,)] = connection.execute("SELECT max(length(l::text)) FROM large AS l").fetchall()
    assert size > 30_000_000
    round_trip.go("large", data_format=data_format, is_direct=data_format is ObjectFormat.PARQUET)


def create_array_table(connection: psycopg.Connection, values: dict[str, list[str]]) -> int:
    """Create the table `arrays` with a column for arrays of every type; returns how many rows it has."""
    create = ", ".join(f"c{position} {name}[]" for position, name in enumerate(values))
    connection.execute(
        f"CREATE TABLE arrays (id serial PRIMARY KEY, created_at timestamptz DEFAULT {OLD}, {create})".encode()
    )
    connection.execute("INSERT INTO arrays DEFAULT VALUES")
    for position, (name, found) in enumerate(values.items()):
        elements = sql.SQL(", ").join(_literal(value, name) for value in found)
        first, last = _literal(found[0], name), _literal(found[-1], name)
        connection.execute(
            sql.SQL(
                "INSERT INTO arrays ({column}) SELECT list FROM (VALUES"
                " (ARRAY[{elements}]::{type}[]), (ARRAY[NULL, {first}, NULL]::{type}[]),"
                " ('{{}}'::{type}[]), (ARRAY[NULL]::{type}[]),"
                " (ARRAY[ARRAY[{first}, NULL], ARRAY[{last}, {first}]]::{type}[]),"
                " (array_fill({last}, ARRAY[2, 1], ARRAY[-3, 7]))) AS made(list)"
            ).format(
                column=sql.Identifier(f"c{position}"),
                elements=elements,
                first=first,
                last=last,
                type=sql.SQL(name),
            )
        )
    return 1 + 6 * len(values)


def _literal(value: str, type_name: str) -> sql.Composed:
    """A constant, read by the type's input function."""
    return sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(type_name))
