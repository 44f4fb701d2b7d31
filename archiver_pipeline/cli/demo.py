"""`archiver demo`: the whole product on this machine, on real servers from Python wheels."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.table import Table

from archiver_pipeline.cli.archive import archive_tables
from archiver_pipeline.cli.console import duration, output, size
from archiver_pipeline.cli.progress import RunListener
from archiver_pipeline.cli.run import summary_table
from archiver_pipeline.config.loading import LoadedConfig, load_config
from archiver_pipeline.engine.inventory import DateRange
from archiver_pipeline.engine.report import ArchiveReport
from archiver_pipeline.errors import ResourcesError
from archiver_pipeline.sandbox.postgres_server import PostgresServer
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline.sandbox.s3_server import S3Server
from archiver_pipeline.sandbox.sample_data import create_audit_table

_DATABASE = "shop"
_TABLE = "audit_log"
_DAYS = 200
_RETENTION_DAYS = 90
_UI_START_SECONDS = 60
_KEYS_SHOWN = 4

_DAGSTER_SETTINGS = {
    "concurrency": {
        "pools": {"granularity": "op", "default_limit": 2},
        "runs": {
            "max_concurrent_runs": 2,
            "tag_concurrency_limits": [
                {"key": "archiver/table", "value": {"applyLimitPerUniqueValue": True}, "limit": 1}
            ],
        },
    },
    "run_monitoring": {"enabled": True, "poll_interval_seconds": 10, "free_slots_after_run_end_seconds": 5},
    "run_retries": {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False},
    "telemetry": {"enabled": False},
    "nux": {"enabled": False},
}


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The demo's running servers and the configuration that points at them."""

    folder: Path
    postgres: PostgresServer
    s3: S3Server
    config: LoadedConfig


def demo(
    rows: Annotated[int, typer.Option(min=1_000, help="Rows of the demo's audit table.")] = 300_000,
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its servers' data.")] = Path(".demo"),
    ui: Annotated[bool, typer.Option("--ui", help="Open the Dagster UI on the demo's data until Ctrl-C.")] = False,
    port: Annotated[
        int | None, typer.Option(help="Port of the UI; a free one when not given.", show_default=False)
    ] = None,
) -> None:
    """Start real PostgreSQL and real S3 on loopback, fill an audit table, archive it through Dagster, show the result.

    Needs no Docker, no database, no cloud account. Leaves nothing running; run it again for a fresh table.

    Examples:

        archiver demo

        archiver demo --rows 1000000

        archiver demo --ui
    """
    folder = folder.resolve()
    if ui:
        if not (folder / "archiver.yaml").exists():
            _play(folder, rows)
        _serve_ui(folder, port)
    else:
        _play(folder, rows)


def _play(folder: Path, rows: int) -> None:
    started = time.perf_counter()
    _start_afresh(folder)
    with _sandbox(folder) as sandbox:
        server = f"PostgreSQL {sandbox.postgres.version_major} on 127.0.0.1:{sandbox.postgres.port}"
        output.print(f"{server}, S3 at {sandbox.s3.endpoint}", highlight=False)
        _fill(sandbox, rows)
        listener = RunListener()
        with listener.drawing(quiet=False):
            archive_tables(sandbox.config, sandbox.config.tables, DateRange(), listener)
        for _, error in listener.errors:
            raise error
        if not listener.reports:
            raise ResourcesError("the demo archived nothing", hint="run again with --rows 300000")
        _show(sandbox, listener.reports)
    took = duration(time.perf_counter() - started)
    output.print(f"\nThe whole demo took {took}. Servers are stopped; data is in {_shown(folder)}.", highlight=False)
    output.print("See it in the Dagster UI: [bold]make demo-ui[/] (or archiver demo --ui)", highlight=False)


def _start_afresh(folder: Path) -> None:
    """Remove an earlier demo. Only a folder that a demo made, or an empty one, is touched."""
    marker = folder / "made-by-archiver-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise ResourcesError(f"{folder} is not empty and not a demo's folder", hint="name another one with --folder")
    _remove_data(folder)
    folder.mkdir(parents=True)
    marker.touch()


def _remove_data(folder: Path) -> None:
    """Remove a demo's folder, and data that had to live elsewhere and is only linked from it."""
    for data in (folder / "postgres", folder / "s3"):
        if data.is_symlink():
            shutil.rmtree(data.resolve(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _sandbox(folder: Path) -> Iterator[Sandbox]:
    """Servers on the folder's data, DAGSTER_HOME in it, and a configuration for both."""
    _set_dagster_home(folder)
    secret = folder / "s3-secret"
    known = secret.read_text() if secret.exists() else None
    with (
        PostgresServer(folder / "postgres", durable=False) as postgres,
        S3Server(folder / "s3", bucket="audit-archive", secret_access_key=known) as s3,
    ):
        secret.write_text(s3.secret_access_key)
        secret.chmod(0o600)
        os.environ |= {"DEMO_DB_PASSWORD": postgres.password, "DEMO_S3_SECRET": s3.secret_access_key}
        path = folder / "archiver.yaml"
        path.write_text(yaml.safe_dump(_config(folder, postgres, s3), sort_keys=False))
        yield Sandbox(folder, postgres, s3, load_config(path, environ=os.environ, cwd=folder))


def _set_dagster_home(folder: Path) -> None:
    home = folder / "dagster"
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(yaml.safe_dump(_DAGSTER_SETTINGS))
    os.environ["DAGSTER_HOME"] = str(home)


def _config(folder: Path, postgres: PostgresServer, s3: S3Server) -> dict[str, object]:
    return {
        "version": "1.0",
        "s3": {
            "bucket": s3.bucket,
            "endpoint": s3.endpoint,
            "prefix": "archives",
            "storage_class": "STANDARD",
            "access_key_id": s3.access_key_id,
            "secret_access_key_env": "DEMO_S3_SECRET",
        },
        "defaults": {
            "retention_days": _RETENTION_DAYS,
            "batch_size": 10_000,
            "sleep_between_batches": 0,
            "vacuum_strategy": "full",
            "staging_dir": str(folder / "staging"),
        },
        "databases": [
            {
                "name": _DATABASE,
                "host": postgres.host,
                "port": postgres.port,
                "user": postgres.user,
                "password_env": "DEMO_DB_PASSWORD",
                "tables": [
                    {
                        "name": _TABLE,
                        "timestamp_column": "occurred_at",
                        "window": "week",
                        "first_window": _first_window(),
                    }
                ],
            }
        ],
    }


def _first_window() -> str:
    """The day of the oldest row, so that the UI shows the demo's partitions and not years of empty ones."""
    return (datetime.now(UTC) - timedelta(days=_DAYS)).date().isoformat()


def _fill(sandbox: Sandbox, rows: int) -> None:
    with output.status(f"filling {_TABLE} with {rows:,} rows over {_DAYS} days"):
        sandbox.postgres.create_database(_DATABASE)
        create_audit_table(sandbox.postgres.dsn(_DATABASE), rows=rows, days=_DAYS, table=_TABLE)
    output.print(f"{_DATABASE}.public.{_TABLE}: {rows:,} rows over {_DAYS} days", highlight=False)
    output.print(f"rows older than {_RETENTION_DAYS} days are archived week by week", highlight=False)


def _show(sandbox: Sandbox, reports: list[ArchiveReport]) -> None:
    output.print(summary_table(reports))
    before, after = reports[0].table_bytes_before, reports[-1].table_bytes_after
    stored, raw = sum(r.object_bytes for r in reports), sum(r.rows_bytes for r in reports)
    output.print(f"Table on disk: {size(before)} before, {size(after)} after: {size(before - after)} given back.")
    output.print(f"Rows as JSON: {size(raw)}, stored: {size(stored)}, {raw / stored:.2f} times smaller.")
    _show_steps(reports)
    keys = [key for report in reports for window in report.windows for key in window.keys]
    output.print(
        f"{len(keys)} data objects in bucket {sandbox.s3.bucket}, each with manifest and receipt, for example:"
    )
    for key in keys[:_KEYS_SHOWN]:
        output.print(f"  {key}", highlight=False, soft_wrap=True)


def _show_steps(reports: list[ArchiveReport]) -> None:
    steps = list(reports[0].seconds)
    table = Table(*steps, title="seconds per step")
    table.add_row(*(f"{sum(report.seconds[step] for report in reports):.2f}" for step in steps))
    output.print(table)


def _serve_ui(folder: Path, port: int | None) -> None:
    """`dagster dev` on the demo's data, in its own process group, until Ctrl-C."""
    with _sandbox(folder) as sandbox:
        chosen = port or free_port()
        environment = os.environ | {"ARCHIVER_CONFIG": str(sandbox.config.path)}
        command = [
            sys.executable,
            "-m",
            "dagster",
            "dev",
            "-m",
            "archiver_pipeline.definitions",
            "-p",
            str(chosen),
        ]
        log = folder / "dagster-dev.log"
        with log.open("wb") as sink:
            server = subprocess.Popen(
                command, env=environment, cwd=folder, stdout=sink, stderr=sink, start_new_session=True
            )
        try:
            _announce(server, chosen, log)
            server.wait()
        finally:
            _stop_group(server)


def _announce(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _UI_START_SECONDS
    # It says that it serves a moment before it does.
    while b"Serving dagster-webserver" not in log.read_bytes() or not _accepts(port):
        if server.poll() is not None or time.monotonic() > deadline:
            raise ResourcesError(f"the Dagster UI did not start; see {log}")
        time.sleep(0.2)
    output.print(
        f"Dagster UI: http://127.0.0.1:{port} (assets, partitions, runs; Ctrl-C stops everything)",
        highlight=False,
    )


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _stop_group(server: subprocess.Popen[bytes]) -> None:
    """End `dagster dev` and all it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGINT)
    try:
        server.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)


def _shown(folder: Path) -> str:
    return os.path.relpath(folder)
