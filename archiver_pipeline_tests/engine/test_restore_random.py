"""Random tables of random types, keys, names and values go round in both formats.

ARCHIVER_TEST_EXAMPLES=1000 makes that many tables. What went round, counted:
    pytest -s archiver_pipeline_tests/engine/test_restore_random.py | grep "went round"
"""

import os
from collections import Counter
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from archiver_pipeline.config.enums import ObjectFormat
from archiver_pipeline_tests.picture import differences, picture_of
from archiver_pipeline_tests.random_tables import COLUMNS, TYPES, RandomTable, random_tables

EXAMPLES = int(os.environ.get("ARCHIVER_TEST_EXAMPLES", "20"))


@pytest.mark.matrix
@pytest.mark.timeout(60 + 20 * EXAMPLES)
def test_random_tables_go_round(archiving, restoring, postgres_major):
    database, went_round, types, numbers = archiving.database, Counter(), set(), count(1)
    with database.connect() as connection:
        connection.execute("SET lc_monetary = 'C'")
        connection.execute(TYPES.encode())
        connection.execute("CREATE SCHEMA copied")

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            suppress_health_check=[*HealthCheck],
        )
        @given(random_tables(), st.sampled_from(ObjectFormat), st.integers(2, 20))
        def go_round(drawn: RandomTable, data_format: ObjectFormat, batch_size: int) -> None:
            table = f"random {next(numbers)}"
            drawn.create(connection, sql.Identifier(table))
            before = picture_of(database, table, binary=True)
            archiving.archive(
                table=table, format=data_format, batch_size=batch_size, timestamp_column=drawn.timestamp_column
            )
            assert not picture_of(database, table)
            connection.execute(f'CREATE TABLE copied."{table}" (LIKE "{table}" INCLUDING ALL)'.encode())
            for schema in ("public", "copied"):
                report = restoring.restore(restoring.name(table), restoring.name(table, schema=schema))
                assert {item.reason for item in report.objects} == {""}
                assert report.restored_rows == before.total()
                assert not differences(before, picture_of(database, table, schema=schema, binary=True))
            connection.execute(f'DROP TABLE "{table}", copied."{table}"'.encode())
            went_round.update({(data_format, "tables"): 1, (data_format, "rows"): before.total()})
            types.update(drawn.types)

        go_round()
    for data_format in ObjectFormat:
        tables, rows = went_round[data_format, "tables"], went_round[data_format, "rows"]
        print(f"\nPostgreSQL {postgres_major} {data_format}: {tables} random tables, {rows} rows went round")
    print(f"Columns of {len(types)} of the {len(COLUMNS)} types went round")
