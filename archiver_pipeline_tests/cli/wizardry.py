"""A database to be discovered, and the wizard run on it: with flags, or by somebody who types at a real terminal."""

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pexpect
import pytest
import yaml

from archiver_pipeline.cli.main import main
from archiver_pipeline_tests.cli.workplace import PASSWORD_VARIABLE, Finished, Workplace, archiver_script

ACCESS_VARIABLE = "TEST_S3_ACCESS"
SECRET_VARIABLE = "TEST_S3_SECRET"
ANSWER_SECONDS = 30
# Names that YAML, SQL and terminals may take for something else.
HOSTILE_TABLES = ('Say "hi": #1', "no", "null", "1e3", "émoji 🐘 log", "${HOME}", "it's; DROP", "[red]log[green]")
TABLES = """
CREATE SCHEMA tracking;
CREATE TABLE tracking.events (happened_on date NOT NULL, id bigint, body text, PRIMARY KEY (id, happened_on))
    PARTITION BY RANGE (happened_on);
CREATE TABLE tracking.events_old PARTITION OF tracking.events FOR VALUES FROM ('2000-01-01') TO ('2100-01-01');
CREATE INDEX ON tracking.events (happened_on);
INSERT INTO tracking.events SELECT current_date - n / 2, n, repeat('x', 200) FROM generate_series(1, 2000) AS n;
CREATE TABLE customers (id int PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, updated_at timestamptz);
CREATE TABLE keyless_log (created_at timestamptz);
CREATE TABLE timeless (id int PRIMARY KEY);
CREATE UNLOGGED TABLE fleeting_log (id int PRIMARY KEY, created_at timestamptz);
CREATE VIEW log_view AS SELECT * FROM customers;
CREATE TABLE parent_log (id int PRIMARY KEY, created_at timestamptz);
CREATE TABLE child (parent int REFERENCES parent_log ON DELETE CASCADE);
CREATE FOREIGN DATA WRAPPER elsewhere;
CREATE SERVER far FOREIGN DATA WRAPPER elsewhere;
CREATE FOREIGN TABLE foreign_log (id int, created_at timestamptz) SERVER far;
ANALYZE tracking.events;
ANALYZE audit_logs;
"""


@dataclass
class Wizardry:
    """A workplace whose database has many tables and that has no configuration."""

    place: Workplace

    @property
    def output(self) -> Path:
        return self.place.folder / "shop.yaml"

    @property
    def written(self) -> dict[str, Any]:
        """What the file says."""
        return yaml.safe_load(self.output.read_text())

    @property
    def tables(self) -> list[dict[str, Any]]:
        return self.written["databases"][0]["tables"]

    def flags(self, **changed: str | None) -> list[str]:
        """All flags for the servers at hand; None leaves one out."""
        database, bucket = self.place.database, self.place.bucket
        given: dict[str, str | None] = {
            "output": self.output.name,
            "db_host": database.host,
            "db_port": str(database.port),
            "db_name": database.name,
            "db_user": database.user,
            "db_password_env": PASSWORD_VARIABLE,
            "s3_bucket": bucket.bucket,
            "s3_endpoint": bucket.endpoint,
            "s3_access_key_env": ACCESS_VARIABLE,
            "s3_secret_key_env": SECRET_VARIABLE,
            "retention_days": "30",
        }
        given |= changed
        return [
            word
            for name, value in given.items()
            if value is not None
            for word in (f"--{name.replace('_', '-')}", value)
        ]

    def run(self, *more: str, **changed: str | None) -> Finished:
        return self.inside("wizard", "--non-interactive", *self.flags(**changed), *more)

    def inside(self, *arguments: str) -> Finished:
        """A command in this process: many are tried, and another process would read every module's files again."""
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        stdout, stderr = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
            patch.chdir(self.place.folder)
            patch.setattr(sys, "argv", ["archiver", *arguments])
            patch.setattr(os, "environ", self.place.environment)
            with pytest.raises(SystemExit) as ended:
                main()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        self.place.require_no_secret("the output", (stdout.getvalue() + stderr.getvalue()).encode())
        return Finished(int(ended.value.code or 0), stdout.getvalue(), stderr.getvalue())

    def check(self) -> Finished:
        return self.inside("check", "--config", self.output.name)

    def sit_down(self, *arguments: str) -> "pexpect.spawn[str]":
        """The wizard at a terminal of 100 columns."""
        environment = self.place.environment | {"TERM": "dumb", "COLUMNS": "100"}
        environment.pop("NO_COLOR", None)
        return pexpect.spawn(
            archiver_script(),
            ["wizard", *arguments],
            cwd=str(self.place.folder),
            env=environment,
            encoding="utf-8",
            timeout=ANSWER_SECONDS,
            dimensions=(50, 100),
        )

    def leftovers(self) -> list[str]:
        """Files that a wizard may have left half done."""
        return [path.name for path in self.place.folder.iterdir() if "yaml" in path.name]


def answer(terminal: "pexpect.spawn[str]", *answers: tuple[str, str]) -> None:
    """Wait for each question in turn and type its answer."""
    for question, text in answers:
        terminal.expect_exact(question)
        terminal.sendline(text)


def open_wizardry(place: Workplace) -> Iterator[Wizardry]:
    """The workplace without its configuration, its database full of tables."""
    place.config_path.unlink()
    place.database.execute(TABLES)
    place.environment |= {ACCESS_VARIABLE: place.bucket.access_key_id, SECRET_VARIABLE: place.bucket.secret_access_key}
    yield Wizardry(place)


def create_hostile_tables(place: Workplace) -> None:
    for number, name in enumerate(HOSTILE_TABLES):
        quoted = name.replace('"', '""')
        place.database.execute(
            f'CREATE TABLE "{quoted}" (id int PRIMARY KEY, "the ""time"": {number}" timestamptz NOT NULL DEFAULT now())'
        )
        place.database.execute(
            f"INSERT INTO \"{quoted}\" SELECT n, now() - interval '400 days' FROM generate_series(1, 9) n"
        )
