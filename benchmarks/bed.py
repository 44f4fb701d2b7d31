"""The servers and the table that every contender starts from, in the same state each time."""

import contextlib
import gzip
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg
import yaml

from archiver_pipeline.config.loading import LoadedConfig, load_config
from archiver_pipeline.domain.windows import WindowUnit, end_of_eligible
from archiver_pipeline.sandbox.postgres_server import PostgresServer
from archiver_pipeline.sandbox.s3_server import S3Server
from archiver_pipeline.sandbox.sample_data import create_audit_table

DATABASE = "bench"
TABLE = "audit_log"
DAYS = 200
RETENTION_DAYS = 30
_PRISTINE = "audit_log_pristine"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Work:
    """What a contender has to do: archive the `eligible_rows` rows before `cutoff` (exclusive), a window's end.

    `eligible_bytes` is their size as JSON lines, with line ends.
    """

    rows: int
    cutoff: datetime
    eligible_rows: int
    eligible_bytes: int


@dataclass(frozen=True)
class Bed:
    """Running servers of this benchmark and a folder for everything temporary."""

    folder: Path
    postgres: PostgresServer
    s3: S3Server

    @property
    def dsn(self) -> str:
        return self.postgres.dsn(DATABASE)

    def environment(self) -> dict[str, str]:
        """Environment of a contender: the servers' addresses and secrets, and no other setting of libpq or AWS."""
        foreign = ("PG", "AWS_", "ARCHIVER_", "DAGSTER_")
        own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return own | {
            "PGHOST": self.postgres.host,
            "PGPORT": str(self.postgres.port),
            "PGUSER": self.postgres.user,
            "PGPASSWORD": self.postgres.password,
            "PGDATABASE": DATABASE,
            "AWS_ENDPOINT_URL": self.s3.endpoint,
            "AWS_REGION": self.s3.region,
            "AWS_DEFAULT_REGION": self.s3.region,
            "AWS_ACCESS_KEY_ID": self.s3.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.s3.secret_access_key,
        }

    def create_table(self, rows: int, window: WindowUnit, *, row_bytes: int | None = None) -> Work:
        """A fresh pristine copy of `rows` rows, spread over DAYS days, and an empty table of its shape.

        Rows shorter than `row_bytes` of JSON are padded to about that with text that compresses by half.
        """
        self.run(f"DROP TABLE IF EXISTS {TABLE}", f"DROP TABLE IF EXISTS {_PRISTINE}")
        create_audit_table(self.dsn, rows=rows, days=DAYS, table=_PRISTINE)
        if row_bytes is not None:
            self._pad(row_bytes)
        self.run(f"CREATE TABLE {TABLE} (LIKE {_PRISTINE} INCLUDING ALL)")
        cutoff = end_of_eligible(window, self._row("SELECT now() AT TIME ZONE 'UTC'")[0], RETENTION_DAYS)
        measured = self._row(
            "SELECT count(*), coalesce(sum(octet_length(row_to_json(t)::text) + 1), 0)"
            f" FROM {_PRISTINE} t WHERE occurred_at < %s::timestamp AT TIME ZONE 'UTC'",
            cutoff,
        )
        return Work(rows, cutoff, measured[0], int(measured[1]))

    def _pad(self, row_bytes: int) -> None:
        digests = "SELECT string_agg(md5(t.id::text || n), '') FROM generate_series(1, {missing} / 32) AS n"
        missing = f"({row_bytes} - octet_length(row_to_json(t)::text))"
        self.run(
            f"UPDATE {_PRISTINE} AS t SET changes = changes || jsonb_build_object('pad', ({digests}))".replace(
                "{missing}", missing
            )
            + f" WHERE {missing} >= 32",
            f"VACUUM FULL {_PRISTINE}",
        )

    def refill(self) -> None:
        """Bring the table back to the pristine state: rows in key order, vacuumed, analyzed, on disk."""
        self.run(
            f"TRUNCATE {TABLE}",
            f"INSERT INTO {TABLE} SELECT * FROM {_PRISTINE} ORDER BY id",
            f"VACUUM ANALYZE {TABLE}",
            "CHECKPOINT",
        )

    def rows_left(self) -> int:
        """Rows now in the table."""
        return int(self._row(f"SELECT count(*) FROM {TABLE}")[0])

    def count_rows(self, table: str) -> int:
        """Rows of any table here."""
        return int(self._row(f"SELECT count(*) FROM {table}")[0])

    def postgres_version(self) -> str:
        """Like 16.4."""
        return str(self._row("SHOW server_version")[0])

    def stored(self, prefix: str) -> dict[str, int]:
        """Bytes of every object below a prefix, by key."""
        pages = self.s3.client().get_paginator("list_objects_v2").paginate(Bucket=self.s3.bucket, Prefix=prefix)
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", ())}

    def count_lines(self, key: str) -> int:
        """Lines of one gzipped object."""
        body = self.s3.client().get_object(Bucket=self.s3.bucket, Key=key)["Body"]
        with gzip.open(body) as lines:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: lines.read(_CHUNK_BYTES), b""))

    def remove(self, prefix: str) -> None:
        """Delete every object below a prefix."""
        client, keys = self.s3.client(), list(self.stored(prefix))
        for first in range(0, len(keys), 1000):
            doomed = [{"Key": key} for key in keys[first : first + 1000]]
            client.delete_objects(Bucket=self.s3.bucket, Delete={"Objects": doomed, "Quiet": True})

    def server_cpu_seconds(self) -> dict[str, float]:
        """CPU seconds used so far by PostgreSQL, ended backends included, and by the S3 server."""
        return {"postgres": _cpu_seconds(self.postgres.pid), "s3": _cpu_seconds(self.s3.pid)}

    def configuration(self, tables: Iterable[str]) -> LoadedConfig:
        """These tables of the database, with every other setting as a user who writes none has it."""
        document = {
            "s3": {
                "bucket": self.s3.bucket,
                "endpoint": self.s3.endpoint,
                "region": self.s3.region,
                "access_key_id": self.s3.access_key_id,
                "secret_access_key_env": "BENCH_S3_SECRET",
            },
            "defaults": {"retention_days": RETENTION_DAYS},
            "databases": [
                {
                    "name": DATABASE,
                    "host": self.postgres.host,
                    "port": self.postgres.port,
                    "user": self.postgres.user,
                    "password_env": "BENCH_DB_PASSWORD",
                    "tables": [{"name": name, "timestamp_column": "occurred_at"} for name in tables],
                }
            ],
        }
        path = self.folder / "archiver.yaml"
        path.write_text(yaml.safe_dump(document))
        secrets = {"BENCH_S3_SECRET": self.s3.secret_access_key, "BENCH_DB_PASSWORD": self.postgres.password}
        return load_config(path, environ=secrets, cwd=self.folder)

    def run(self, *statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def _row(self, query: str, *parameters: object) -> tuple[Any, ...]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            row = connection.execute(query.encode(), parameters or None).fetchone()
        assert row is not None
        return row


@contextlib.contextmanager
def running_bed(*, durable: bool = False) -> Iterator[Bed]:
    """Start both servers and a temporary folder; all of it is gone afterwards, whatever happened."""
    with (
        tempfile.TemporaryDirectory(prefix="archiver-bench-") as folder,
        PostgresServer(durable=durable) as postgres,
        S3Server(bucket="bench") as s3,
    ):
        postgres.create_database(DATABASE)
        yield Bed(Path(folder), postgres, s3)


def _cpu_seconds(pid: int) -> float:
    """Of a process, its ended children (which Linux reports with it) and its living ones."""
    root = psutil.Process(pid)
    times = root.cpu_times()
    seconds = times.user + times.system + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    for child in root.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            seconds += child.cpu_times().user + child.cpu_times().system
    return float(seconds)
