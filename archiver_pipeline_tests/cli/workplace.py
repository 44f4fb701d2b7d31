"""A folder with a configuration, a Dagster home and the real servers behind it: where a test uses the product.

Everything that passes through here is searched for tracebacks and for the secrets, so no test has to ask.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import yaml

from archiver_pipeline.config.loading import LoadedConfig, load_config
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.postgres.advisory_lock import table_key
from archiver_pipeline_tests.cli.preloaded import PreloadedCommand
from archiver_pipeline_tests.ledger import Ledger
from archiver_pipeline_tests.plugins.archiving import DATABASE_ID, RETENTION_DAYS, create_audit_table
from archiver_pipeline_tests.plugins.servers import Bucket, Database

PASSWORD_VARIABLE = "TEST_DB_PASSWORD"
SECRET_VARIABLE = "TEST_S3_SECRET"
APPLICATION = "archiver under test"
BATCH_SIZE = 10
COMMAND_SECONDS = 120
# Every window has a batch or two.
_OVER_FIVE_DAYS = """
UPDATE audit_logs SET created_at = date_trunc('day', now()) - interval '40 days' - id * interval '3 hours'
WHERE id < 100000"""
# Everything that would lead a command to a configuration or a Dagster instance of the machine it runs on.
_FOREIGN_VARIABLES = ("ARCHIVER_CONFIG", "DAGSTER_HOME", "PGPASSWORD", "AWS_PROFILE")


@dataclass(frozen=True)
class Finished:
    """How a command ended and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON document that it must be."""
        return json.loads(self.stdout)

    @property
    def error(self) -> str:
        """Standard error with runs of white space made one."""
        return " ".join(self.stderr.split())


@dataclass
class Workplace:
    """`document` is the configuration before it is written; change it, then `write`."""

    folder: Path
    database: Database
    bucket: Bucket
    document: dict[str, Any]
    environment: dict[str, str]
    preloaded: PreloadedCommand
    running: list["subprocess.Popen[str]"] = field(default_factory=list)
    more_secrets: list[str] = field(default_factory=list)

    @property
    def config_path(self) -> Path:
        return self.folder / "archiver.yaml"

    @property
    def dagster_home(self) -> Path:
        return self.folder / "dagster"

    @property
    def tables(self) -> list[dict[str, Any]]:
        """The first database's tables in the document."""
        return self.document["databases"][0]["tables"]

    @property
    def secrets(self) -> tuple[str, ...]:
        return self.database.password, self.bucket.secret_access_key, *self.more_secrets

    def add_table(self, name: str, **settings: Any) -> None:
        self.tables.append({"name": name, "timestamp_column": "created_at"} | settings)

    def write(self, **defaults: Any) -> None:
        """Write the configuration, with these defaults besides those it has."""
        self.document["defaults"] |= defaults
        self.config_path.write_text(yaml.safe_dump(self.document, sort_keys=False))

    def loaded(self) -> LoadedConfig:
        """The written configuration, as a process with this environment loads it."""
        return load_config(self.config_path, environ=self.environment, cwd=self.folder)

    def run(self, *arguments: str, within_seconds: float = COMMAND_SECONDS) -> Finished:
        """Run `archiver` with these arguments to its end."""
        if not self.preloaded.fits(self.environment):
            return self.end(self.start(*arguments), within_seconds=within_seconds)
        return self._looked_over(
            Finished(*self.preloaded.run(arguments, self.folder, self.environment, within_seconds))
        )

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return self.start_program([archiver_script(), *arguments])

    def start_program(self, command: list[str]) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process

    def end(self, process: "subprocess.Popen[str]", *, within_seconds: float = COMMAND_SECONDS) -> Finished:
        """Wait for a command's end."""
        stdout, stderr = process.communicate(timeout=within_seconds)
        return self._looked_over(Finished(process.returncode, stdout, stderr))

    def ledger(self, table: str = "audit_logs", *, schema: str = "public") -> Ledger:
        return Ledger(self.database, self.bucket, DATABASE_ID, schema, table, "created_at", RETENTION_DAYS)

    def keys_like(self, ending: str) -> list[str]:
        found = self.bucket.keys()
        return [key for key in found if key.endswith(ending)]

    def sessions(self) -> int:
        """How many connections of ours the database has."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"
        return self.database.execute(query, [APPLICATION])[0][0]

    def hold_lock(self, table: str = "audit_logs") -> psycopg.Connection[tuple[Any, ...]]:
        """A connection, to be closed, that holds the table lock as another archiver does."""
        connection = self.database.connect(application_name="another archiver")
        key = table_key(TableName(DATABASE_ID, "public", table))
        connection.execute("SELECT pg_advisory_lock(%s)", [key.value])
        return connection

    def require_no_secret_anywhere(self) -> None:
        """No secret is in a file of the folder (Dagster's event log, staged files) or in the bucket."""
        for path in self.folder.rglob("*"):
            if path.is_file():
                self.require_no_secret(str(path), path.read_bytes())
        for key in self.keys_like(""):
            self.require_no_secret(key, self.bucket.read(key))

    def require_no_secret(self, place: str, content: bytes) -> None:
        assert not [secret for secret in self.secrets if secret.encode() in content], f"a secret is in {place}"

    def _looked_over(self, finished: Finished) -> Finished:
        printed = finished.stderr + finished.stdout
        assert "Traceback" not in printed, printed
        self.require_no_secret("the output", printed.encode())
        return finished

    def close(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
                process.communicate()


@dataclass(frozen=True)
class Workshop:
    """What the workplaces of one test process share: a loaded program, and a Dagster home to copy."""

    preloaded: PreloadedCommand
    dagster_home: Path


def open_workshop(folder: Path) -> Iterator[Workshop]:
    """Making the tables of a Dagster instance takes longer than most commands, so it is done once."""
    home = folder / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_run_records(limit=1) == []
    with contextlib.closing(PreloadedCommand(_environment(folder))) as preloaded:
        yield Workshop(preloaded, home)


def open_workplace(folder: Path, database: Database, bucket: Bucket, workshop: Workshop) -> Iterator[Workplace]:
    """A workplace with the table `audit_logs` and a written configuration of it."""
    create_audit_table(database)
    database.execute(_OVER_FIVE_DAYS)
    document, environment = _document(folder, database, bucket), _environment(folder)
    workplace = Workplace(folder, database, bucket, document, environment, workshop.preloaded)
    workplace.environment |= {PASSWORD_VARIABLE: database.password, SECRET_VARIABLE: bucket.secret_access_key}
    shutil.copytree(workshop.dagster_home, workplace.dagster_home)
    workplace.write()
    yield workplace
    workplace.close()
    workplace.require_no_secret_anywhere()


def not_now() -> str:
    """Allowed hours that are half a day away."""
    hour = (datetime.now(UTC) + timedelta(hours=12)).hour
    return f"{hour:02}:00-{hour + 1:02}:00"


def archiver_script() -> str:
    """The installed `archiver` command of this Python."""
    return str(Path(sys.executable).with_name("archiver"))


def wait_until(happened: Callable[[], object], *, what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def cache_of(folder: Path) -> Path:
    """The user's cache, beside the folder: what is read there is no change of the workplace."""
    return folder.with_name(f"{folder.name}-cache")


def _environment(folder: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in _FOREIGN_VARIABLES}
    homes = {"DAGSTER_HOME": str(folder / "dagster"), "XDG_CACHE_HOME": str(cache_of(folder))}
    return own | homes | {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}


def _document(folder: Path, database: Database, bucket: Bucket) -> dict[str, Any]:
    return {
        "version": "1",
        "s3": {
            "bucket": bucket.bucket,
            "endpoint": bucket.endpoint,
            "prefix": bucket.prefix,
            "region": bucket.region,
            "storage_class": "STANDARD",
            "encryption": "none",
            "access_key_id": bucket.access_key_id,
            "secret_access_key_env": SECRET_VARIABLE,
        },
        "defaults": {
            "retention_days": RETENTION_DAYS,
            "batch_size": BATCH_SIZE,
            "sleep_between_batches": 0,
            "workers": 2,
            "vacuum_strategy": "none",
            "staging_dir": str(folder / "staging"),
            "max_staged_bytes": "100MiB",
        },
        "databases": [
            {
                "id": DATABASE_ID,
                "name": database.name,
                "host": database.host,
                "port": database.port,
                "user": database.user,
                "password_env": PASSWORD_VARIABLE,
                "application_name": APPLICATION,
                "tables": [{"name": "audit_logs", "timestamp_column": "created_at"}],
            }
        ],
    }
