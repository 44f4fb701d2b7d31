"""Every supported PostgreSQL starts, takes passwords only, and serves a database."""

import psycopg
import pytest

from archiver_pipeline.sandbox import sample_data
from archiver_pipeline.sandbox.postgres_server import PostgresServer

pytestmark = pytest.mark.matrix


def test_the_server_is_the_version_asked_for(postgres_server, postgres_major, database):
    [(version,)] = database.execute("SELECT current_setting('server_version_num')::int / 10000")
    assert version == postgres_server.version_major == postgres_major


def test_a_login_needs_the_password(postgres_server: PostgresServer):
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres_server.dsn(), password="wrong")


def test_passwords_are_kept_as_scram(database):
    [(stored,)] = database.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'")
    assert stored.startswith("SCRAM-SHA-256$")


def test_a_database_is_utf8_and_the_clock_utc(database):
    [(encoding, zone)] = database.execute("SELECT current_setting('server_encoding'), current_setting('timezone')")
    assert (encoding, zone) == ("UTF8", "UTC")


def test_the_sample_table_fills(database):
    sample_data.create_audit_table(database.conninfo, rows=1000, days=30, schema="app", table="events")
    [(rows, size)] = database.execute("SELECT count(*), avg(length(row_to_json(e)::text))::int FROM app.events e")
    assert rows == 1000
    assert 400 < size < 700
