"""TLS to a real PostgreSQL: the one of npm's packages, since those of the Python package were built without OpenSSL."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from archiver_pipeline.config.enums import SslMode
from archiver_pipeline.domain.lock import LockName
from archiver_pipeline.engine.table_lock import acquire_lock
from archiver_pipeline.errors import ArchiverError, NetworkError
from archiver_pipeline.postgres.connection import TlsError, connect, error_of_sqlstate, transport_of
from archiver_pipeline.postgres.copy_out import RowStream
from archiver_pipeline.sandbox.postgres_server import PostgresServer
from archiver_pipeline_tests.certificates import write_certificate
from archiver_pipeline_tests.matrix.postgres_versions import postgres_bin_dir
from archiver_pipeline_tests.plugins.archiving import Archiving, create_audit_table
from archiver_pipeline_tests.plugins.restoring import Restoring
from archiver_pipeline_tests.plugins.servers import Bucket, Database, fresh_database

LOCALHOST = x509.DNSName("localhost")
OPENERS = pytest.mark.parametrize("opened", [connect, RowStream], ids=["psycopg", "adbc"])


class TlsServer(PostgresServer):
    """Takes TLS and plain connections, and has a Unix socket."""

    def _settings(self) -> dict[str, str]:
        return super()._settings() | {"unix_socket_directories": str(self.data_dir)}

    def use(self, certificate: Path) -> None:
        """Serve this certificate from now on; its key is in the same file."""
        own = self.data_dir / certificate.name
        shutil.copy(certificate, own)
        own.chmod(0o600)
        if self._account:
            os.chown(own, self._account.uid, self._account.gid)
        for name in ("ssl_cert_file", "ssl_key_file"):
            self.command(f"ALTER SYSTEM SET {name} = '{own.name}'")
        self.command("ALTER SYSTEM SET ssl = on")
        self.reload()

    def reload(self) -> None:
        self.command("SELECT pg_reload_conf()")
        self.command("SELECT pg_sleep(0.2)")

    def command(self, query: str) -> None:
        with Database("postgres", "", 0, "", "", self.dsn("postgres")).connect() as connection:
            connection.execute(query.encode())


@dataclass
class Served:
    """The server and the certificates that a client may trust."""

    server: TlsServer
    right: Path
    other: Path
    expired: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("tls")
    server = TlsServer(bin_dir=postgres_bin_dir(15), durable=False)
    server.start()
    right = write_certificate(folder / "right.pem", LOCALHOST)
    server.use(right)
    other = write_certificate(folder / "other.pem", LOCALHOST)
    expired = write_certificate(folder / "expired.pem", LOCALHOST, ends_in=timedelta(minutes=-5))
    yield Served(server, right, other, expired)
    server.stop(immediate=True)


@dataclass
class TlsArchiving(Archiving):
    """Sessions whose every connection must be in TLS to `localhost`."""

    authorities: str = ""

    def source(self, **overrides):
        wanted = {
            "host": "localhost",
            "sslmode": SslMode.VERIFY_FULL,
            "sslrootcert": self.authorities,
            "require_tls": True,
        }
        return super().source(**wanted | overrides)


@pytest.fixture
def tls(served: Served, bucket: Bucket, tmp_path: Path) -> Iterator[TlsArchiving]:
    with fresh_database(served.server) as database:
        create_audit_table(database, old=12)
        factory = TlsArchiving(database, bucket, tmp_path / "staging", authorities=str(served.right))
        yield factory
        for session in factory.opened:
            session.close()


def test_a_table_goes_out_and_back_without_one_connection_in_clear(tls, served, bucket):
    """The server itself refuses those from here on, so whoever opened one would fail."""
    ledger = tls.ledger()
    rules = served.server.data_dir / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text("hostssl all all all scram-sha-256\n")
    try:
        _reload(tls, served)
        tls.archive()
        assert Restoring(tls).restore().restored_rows == 12
    finally:
        rules.write_text(before)
        _reload(tls, served)
    assert Counter(ledger.table_rows()) == ledger.expected
    assert len(ledger.archived_rows()) == 12


def _reload(tls, served):
    with connect(tls.source(dbname="postgres")) as connection:
        connection.execute("SELECT pg_catalog.pg_reload_conf()")
        connection.execute("SELECT pg_catalog.pg_sleep(0.2)")


@OPENERS
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda served: {"sslrootcert": str(served.other)}, "certificate"),
        (lambda served: {"host": "127.0.0.1"}, "does not match host name"),
        (lambda served: {"sslrootcert": "/nowhere/ca.pem"}, "does not exist"),
    ],
    ids=["another authority", "another name", "no authority"],
)
def test_a_server_that_can_not_prove_who_it_is_gets_nothing(tls, served, opened, wrong, said):
    with pytest.raises(TlsError, match=said) as refused:
        opened(tls.source(**wrong(served)))
    assert refused.value.exit_code == 3
    assert tls.database.password not in str(refused.value)
    assert "sslrootcert" in str(refused.value)


@OPENERS
def test_an_expired_certificate_is_refused(tls, served, opened):
    served.server.use(served.expired)
    try:
        with pytest.raises(TlsError, match="certificate verify failed"):
            opened(tls.source(sslrootcert=str(served.expired)))
    finally:
        served.server.use(served.right)


@OPENERS
def test_a_connection_in_clear_is_refused_whatever_sslmode_says(tls, opened):
    plain = tls.source(sslmode=SslMode.DISABLE)
    with pytest.raises(TlsError, match="not in TLS"):
        opened(plain)
    opened(replace(plain, require_tls=False)).close()


@OPENERS
def test_a_server_without_tls_is_refused(tls, postgres_server, opened):
    plain = tls.source(dbname="postgres", port=postgres_server.port, user=postgres_server.user)
    with pytest.raises(TlsError, match=r"does not support SSL.*ssl = on"):
        opened(plain)


@OPENERS
def test_a_unix_socket_is_accepted_for_what_it_is(tls, served, opened):
    opened(tls.source(host=str(served.server.data_dir))).close()


def test_nothing_is_archived_over_a_connection_that_is_refused(tls, served, bucket):
    ledger = tls.ledger()
    tls.authorities = str(served.other)
    with pytest.raises(TlsError):
        tls.archive()
    ledger.account()
    assert bucket.keys() == []


def test_lock_and_replica_are_held_to_it_too(tls, served):
    session = tls.session(replica=tls.source(sslmode=SslMode.DISABLE))
    with pytest.raises(TlsError, match="not in TLS"), session.row_streams.take():
        pass
    name = LockName(session.name, "bucket", "prefix")
    with pytest.raises(TlsError):
        acquire_lock(session.database.lock, tls.source(sslmode=SslMode.DISABLE), name, "run")


def test_check_tells_how_the_bytes_travel(tls, served):
    with connect(tls.source()) as connection:
        assert transport_of(connection).text.startswith("in TLSv1.")
    with connect(tls.source(host=str(served.server.data_dir))) as connection:
        assert "Unix socket" in transport_of(connection).text
    with connect(tls.source(sslmode=SslMode.DISABLE, require_tls=False)) as connection:
        assert "on this machine" in transport_of(connection).text
        assert not transport_of(connection).is_exposed


def test_a_line_that_is_cut_is_no_matter_of_certificates():
    for text in ("SSL connection has been closed unexpectedly", "SSL SYSCALL error: EOF detected"):
        error: ArchiverError = error_of_sqlstate(None, text, user="archiver")
        assert type(error) is NetworkError
