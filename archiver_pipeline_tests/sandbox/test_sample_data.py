"""The sample audit table is as large, as varied and as recent as asked."""

import gzip

import psycopg
import pytest

from archiver_pipeline.sandbox.sample_data import create_audit_table


def test_rows_spread_over_the_days_up_to_now(database):
    create_audit_table(database.conninfo, rows=5000, days=100)
    [(rows, oldest, newest)] = database.execute(
        """SELECT count(*), extract(epoch FROM now() - min(occurred_at))::float / 86400,
                  extract(epoch FROM now() - max(occurred_at))::float
           FROM audit_logs"""
    )
    assert rows == 5000
    assert 99 < oldest < 100.1
    assert newest < 60


def test_rows_look_like_audit_rows(database):
    create_audit_table(database.conninfo, rows=5000, days=100)
    lines = [line for (line,) in database.execute("SELECT row_to_json(a)::text FROM audit_logs a")]
    size = sum(map(len, lines)) / len(lines)
    text = "\n".join(lines).encode()
    assert 450 < size < 650
    assert 0.1 < len(gzip.compress(text)) / len(text) < 0.3


def test_a_table_that_exists_stays(database):
    create_audit_table(database.conninfo, rows=10, days=1)
    with pytest.raises(psycopg.errors.DuplicateTable):
        create_audit_table(database.conninfo, rows=10, days=1)
    assert database.execute("SELECT count(*) FROM audit_logs") == [(10,)]
