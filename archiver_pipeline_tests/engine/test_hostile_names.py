"""Names that would break out of an identifier, a path or a key: archived, listed and validated as they are."""

import pytest
from psycopg import sql

from archiver_pipeline.engine.archived import list_stored
from archiver_pipeline_tests.engine.test_validate import found

NAMES = {
    "a quote and a statement": 'x"; DROP TABLE victims; --',
    "an apostrophe": "o'clock'); DROP TABLE victims; --",
    "parent folders": "../../etc",
    "a dot": ".",
    "a slash": "a/b//c",
    "spaces": "  two  spaces ",
    "percent signs": "%s %(x)s %25 %",
    "braces": "{} {0} {name}",
    "emoji": "📦🔥",
    "right to left": "جدول",
    "as long as can be": "n" * 63,
    "a backslash": "\\ \\\\ \\n",
    "a line break": "one\ntwo",
    "the end of a manifest": "x.manifest.json",
    "the audit trail": "_audit",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_table_of_any_name_goes_round(archiving, name):
    database = archiving.database
    database.execute("CREATE TABLE victims ()")
    # Identifiers are cut after 63 bytes.
    schema, key, time, other = (f"{part}{name}"[:63] for part in "skto")
    identifiers = {"schema": schema, "table": name, "key": key, "time": time, "other": other}
    create = sql.SQL(
        "CREATE SCHEMA {schema}; CREATE TABLE {schema}.{table} ({key} bigint, {time} timestamptz, {other} text,"
        " PRIMARY KEY ({key})); INSERT INTO {schema}.{table} SELECT n, now() - interval '40 days', 'row ' || n"
        " FROM generate_series(1, 25) AS n"
    ).format(**{role: sql.Identifier(part) for role, part in identifiers.items()})
    with database.connect() as connection:
        connection.execute(create)
    overrides = {"schema": schema, "table": name, "timestamp_column": time}
    ledger = archiving.ledger(name, schema=schema, timestamp_column=time)
    archiving.archive(**overrides)
    ledger.account_all_archived()
    session = archiving.session(**overrides)
    assert len(list_stored(session.store, session.name)) == 3
    assert found(archiving, overrides=overrides) == set()
    assert database.execute("SELECT to_regclass('victims') IS NOT NULL") == [(True,)]
