"""The sandbox PostgreSQL: private, durable across restarts, gone when stopped."""

import os
import shutil
import stat
from pathlib import Path

import psutil
import psycopg
import pytest

from archiver_pipeline.errors import ResourcesError
from archiver_pipeline.sandbox import postgres_server as module
from archiver_pipeline.sandbox.postgres_server import PostgresServer, start_replica
from archiver_pipeline_tests.sandbox.waiting import has_ended, wait_until

CREATE = "CREATE TABLE kept AS SELECT 42 AS answer"


@pytest.fixture
def server():
    with PostgresServer(durable=False) as server:
        yield server


@pytest.fixture
def data_dir(tmp_path):
    """A directory to be, and the end of whatever it became a link to."""
    wanted = tmp_path / "data"
    yield wanted
    shutil.rmtree(wanted.resolve())


def run(server, query, dbname="postgres"):
    with psycopg.connect(server.dsn(dbname), autocommit=True) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall() if cursor.description else []


def family(server):
    process = psutil.Process(server.pid)
    return [process.parent(), process, *process.children(recursive=True)]


@pytest.mark.parametrize("immediate", [False, True])
def test_stop_leaves_no_process_and_no_file(server, immediate):
    with psycopg.connect(server.dsn()):
        processes = family(server)
        server.stop(immediate=immediate)
    assert len(processes) > 5
    wait_until(lambda: all(map(has_ended, processes)), "all of its processes end")
    assert not server.data_dir.exists()


def test_a_stopped_temporary_server_starts_again_empty(server):
    run(server, CREATE)
    server.stop()
    server.start()
    assert run(server, "SELECT to_regclass('kept')") == [(None,)]


def test_two_servers_at_once(server):
    with PostgresServer(durable=False) as other:
        assert other.port != server.port
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.dsn(), password=other.password)


def test_it_listens_on_loopback_only(server):
    listening = [c.laddr.ip for c in psutil.Process(server.pid).net_connections() if c.status == "LISTEN"]
    assert listening == ["127.0.0.1"]
    assert run(server, "SHOW unix_socket_directories") == [("",)]


@pytest.mark.parametrize("immediate", [False, True])
def test_restart_keeps_the_data_and_the_address(server, immediate):
    run(server, CREATE)
    before = server.dsn()
    server.restart(immediate=immediate)
    assert server.dsn() == before
    assert run(server, "SELECT answer FROM kept") == [(42,)]


def test_a_data_directory_opens_again_with_its_password(data_dir):
    with PostgresServer(data_dir) as first:
        run(first, CREATE)
    with PostgresServer(data_dir) as second:
        assert second.password == first.password
        assert run(second, "SELECT answer FROM kept") == [(42,)]


def test_a_data_directory_of_another_version_is_refused(data_dir):
    with PostgresServer(data_dir):
        pass
    with pytest.raises(ResourcesError, match=r"holds data of PostgreSQL 16, this is PostgreSQL 18"):
        PostgresServer(data_dir, bin_dir=module.packaged_bin_dir(18)).start()


def test_one_data_directory_serves_one_server(data_dir):
    with PostgresServer(data_dir) as first:
        with pytest.raises(ResourcesError, match="lock file"):
            PostgresServer(data_dir).start()
        assert run(first, "SELECT 1") == [(1,)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives its servers to another account")
def test_a_directory_below_a_private_one_becomes_a_link(data_dir):
    data_dir.parent.chmod(0o700)
    with PostgresServer(data_dir) as server:
        assert data_dir.is_symlink()
        assert server.data_dir == data_dir.resolve()
        assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE((server.data_dir / "sandbox_password").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives its servers to another account")
def test_programs_below_a_private_directory_are_copied(tmp_path):
    private = tmp_path / "private"
    install = module.packaged_bin_dir(16).parent
    for part in (Path(install.parent.name) / install.name, Path(f"{install.parent.name}.libs")):
        shutil.copytree(install.parents[1] / part, private / part, symlinks=True)
    private.chmod(0o700)
    bin_dir = private / install.parent.name / install.name / "bin"
    with PostgresServer(bin_dir=bin_dir, durable=False) as server:
        assert private not in server.bin_dir.parents
        assert run(server, "SELECT 1") == [(1,)]


def test_a_missing_install_is_explained(tmp_path):
    with pytest.raises(ResourcesError, match="no PostgreSQL programs"):
        PostgresServer(bin_dir=tmp_path)


def test_a_database_name_may_hold_anything(server):
    server.create_database("ümlaut \"quoted\" 'name'")
    assert run(server, "SELECT current_database()", "ümlaut \"quoted\" 'name'") == [("ümlaut \"quoted\" 'name'",)]


@pytest.mark.parametrize("major", [16, 18])
def test_a_replica_streams_and_refuses_writes(major):
    with PostgresServer(bin_dir=module.packaged_bin_dir(major), durable=False) as server:
        replica = start_replica(server)
        try:
            run(server, CREATE)
            wait_until(lambda: run(replica, "SELECT to_regclass('kept')") != [(None,)], "the table arrives")
            assert run(replica, "SELECT pg_is_in_recovery(), answer FROM kept") == [(True, 42)]
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                run(replica, "DELETE FROM kept")
            replica.restart()
            run(server, "INSERT INTO kept VALUES (43)")
            wait_until(lambda: run(replica, "SELECT count(*) FROM kept") == [(2,)], "the row arrives")
        finally:
            replica.stop()
    assert not replica.data_dir.exists()


@pytest.mark.matrix
def test_a_replica_of_every_version(postgres_server):
    with start_replica(postgres_server) as replica:
        assert run(replica, "SELECT pg_is_in_recovery()") == [(True,)]
