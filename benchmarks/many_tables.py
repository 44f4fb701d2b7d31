"""Many databases and tables with nothing to do: what looking costs, and how it grows. See README.md."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil
import psycopg
import yaml
from archive import count
from bed import Bed, running_bed
from rich.console import Console
from rich.table import Table

from archiver_pipeline.sandbox.processes import free_port

TABLES_PER_DATABASE = 10
FIRST_WINDOW = "2019-01-01"
_BIN = Path(sys.executable).parent
_POLL_SECONDS = 0.05
_UP_SECONDS = 240
_SETTLE_SECONDS = 15

output = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
progress = Console(stderr=True, highlight=False)

CREATE_TABLE = """
CREATE TABLE t{n} (id bigint PRIMARY KEY, occurred_at timestamptz NOT NULL);
CREATE INDEX ON t{n} (occurred_at);
INSERT INTO t{n} SELECT h, now() - h * interval '1 hour' FROM generate_series(1, 24) AS h;
"""

LOAD = """
import os, time, json
from pathlib import Path
from archiver_pipeline.config.loading import load_config
from archiver_pipeline.orchestration.build import build_definitions
began = time.process_time()
config = load_config(None, environ=os.environ, cwd=Path.cwd())
loaded = time.process_time()
definitions = build_definitions(config)
built = time.process_time()
definitions.get_repository_def()
print(json.dumps({"configuration": loaded - began, "definitions": built - loaded,
    "repository": time.process_time() - built}))
"""

TICK = """
import os, time, json
from pathlib import Path
import dagster as dg
from archiver_pipeline.config.loading import load_config
from archiver_pipeline.orchestration.build import build_definitions
config = load_config(None, environ=os.environ, cwd=Path.cwd())
sensors = [one for one in build_definitions(config).sensors if one.name.startswith("due_")]
began, cpu = time.perf_counter(), time.process_time()
with dg.DagsterInstance.get() as instance:
    for sensor in sensors:
        assert not sensor(dg.build_sensor_context(instance=instance)).run_requests
seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
print(json.dumps({"ticks": seconds, "ticks CPU": cpu}))
"""


@dataclass(frozen=True)
class Figures:
    """What one thing cost; `peak_bytes` is the largest resident size of the process. None where it is not measured."""

    seconds: float | None
    cpu_seconds: float | None
    peak_bytes: int | None
    parts: dict[str, float] = field(default_factory=dict)


def benchmark(sizes: list[int], *, with_servers: bool, only: set[str]) -> None:
    """Measure everything at each number of databases."""
    output.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f} at start")
    found: list[dict[str, Figures]] = []
    with running_bed() as bed:
        _create_template(bed)
        for databases in sizes:
            with progress.status(f"creating {databases} databases"):
                _create_databases(bed, databases)
            place = Place(bed, databases)
            found.append(dict(_measure(place, with_servers=with_servers, only=only)))
    for table in _tables(sizes, found):
        output.print(table)


class Place:
    """A folder with a configuration of so many databases, and the environment to use it."""

    def __init__(self, bed: Bed, databases: int) -> None:
        self.folder = bed.folder / f"databases{databases}"
        self.home = self.folder / "home"
        self.home.mkdir(parents=True)
        self.databases = databases
        (self.home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        self._write(bed)
        self.environment = bed.environment() | {
            "ARCHIVER_CONFIG": str(self.folder / "archiver.yaml"),
            "DAGSTER_HOME": str(self.home),
            "BENCH_S3_SECRET": bed.s3.secret_access_key,
            "BENCH_DB_PASSWORD": bed.postgres.password,
            "PYTHONPATH": str(Path(__file__).parent.parent),
        }

    def _write(self, bed: Bed) -> None:
        document = {
            "s3": {
                "bucket": bed.s3.bucket,
                "endpoint": bed.s3.endpoint,
                "region": bed.s3.region,
                "access_key_id": bed.s3.access_key_id,
                "secret_access_key_env": "BENCH_S3_SECRET",
            },
            "defaults": {"retention_days": 30, "first_window": FIRST_WINDOW},
            "databases": [self._database(bed, number) for number in range(1, self.databases + 1)],
        }
        (self.folder / "archiver.yaml").write_text(yaml.safe_dump(document))

    @staticmethod
    def _database(bed: Bed, number: int) -> dict[str, Any]:
        tables = [{"name": f"t{n}", "timestamp_column": "occurred_at"} for n in range(1, TABLES_PER_DATABASE + 1)]
        return {
            "name": f"many{number}",
            "host": bed.postgres.host,
            "port": bed.postgres.port,
            "user": bed.postgres.user,
            "password_env": "BENCH_DB_PASSWORD",
            "tables": tables,
        }


def _create_template(bed: Bed) -> None:
    bed.postgres.create_database("many_template")
    with psycopg.connect(bed.postgres.dsn("many_template"), autocommit=True) as connection:
        for n in range(1, TABLES_PER_DATABASE + 1):
            connection.execute(CREATE_TABLE.format(n=n).encode())


def _create_databases(bed: Bed, databases: int) -> None:
    with psycopg.connect(bed.postgres.dsn(), autocommit=True) as connection:
        known = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
        for number in range(1, databases + 1):
            if f"many{number}" not in known:
                connection.execute(f"CREATE DATABASE many{number} TEMPLATE many_template".encode())


def _measure(place: Place, *, with_servers: bool, only: set[str]) -> Iterator[tuple[str, Figures]]:
    archiver = [str(_BIN / "archiver")]
    commands: dict[str, list[str]] = {
        "load": [sys.executable, "-c", LOAD],
        "definitions validate": [
            str(_BIN / "dagster"),
            "definitions",
            "validate",
            "-m",
            "archiver_pipeline.definitions",
        ],
        "due ticks": [sys.executable, "-c", TICK],
        "archiver check": [*archiver, "check"],
        "archiver run": [*archiver, "run"],
        "archiver run --dry-run": [*archiver, "run", "--dry-run"],
        "archiver status": [*archiver, "status"],
        "archiver list": [*archiver, "list"],
    }
    for name, command in commands.items():
        if not only or name in only:
            with progress.status(f"{place.databases} databases: {name}"):
                yield name, _run(command, place)
    if with_servers:
        with progress.status(f"{place.databases} databases: dagster dev"):
            yield from _servers(place)


def _run(command: list[str], place: Place) -> Figures:
    """Wall, CPU and peak memory of a command, its children included in CPU."""
    log = place.folder / "command.log"
    began = monotonic()
    with log.open("w") as sink:
        process = subprocess.Popen(
            command, cwd=place.folder, env=place.environment, stdout=sink, stderr=subprocess.STDOUT
        )
        peak = 0
        while True:
            with contextlib.suppress(psutil.Error):
                peak = max(peak, _largest(process.pid))
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            sleep(_POLL_SECONDS)
    seconds = monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    text = log.read_text()
    if process.returncode:
        progress.print(f"{' '.join(command[:3])} ended with {process.returncode}:\n{text[-2000:]}", markup=False)
    last = text.strip().splitlines()[-1] if text.strip() else ""
    parts = json.loads(last) if last.startswith("{") and '"' in last else {}
    return Figures(seconds, used.ru_utime + used.ru_stime, max(peak, used.ru_maxrss << 10), parts)


def _largest(pid: int) -> int:
    root = psutil.Process(pid)
    return max(one.memory_info().rss for one in (root, *root.children(recursive=True)))


def _servers(place: Place) -> Iterator[tuple[str, Figures]]:
    """`dagster dev`, until the UI knows all assets, and after a query for all of them."""
    port = free_port()
    command = [str(_BIN / "dagster"), "dev", "-m", "archiver_pipeline.definitions", "-p", str(port)]
    began = monotonic()
    with (place.folder / "dev.log").open("w") as sink:
        process = subprocess.Popen(
            command,
            cwd=place.folder,
            env=place.environment,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(lambda: _assets(port) == place.databases * (2 * TABLES_PER_DATABASE + 1), process)
        up = monotonic() - began
        sleep(_SETTLE_SECONDS)
        yield "dagster dev until the UI has all assets", Figures(up, _cpu(process.pid), None)
        for name, size in _sizes(process.pid).items():
            yield f"memory of {name}", Figures(None, None, size)
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        _, alive = psutil.wait_procs([psutil.Process(process.pid), *children], timeout=30)
        for one in alive:
            one.kill()
        process.wait()


def _assets(port: int) -> int:
    query = json.dumps({"query": "{ assetNodes { id partitionDefinition { type } } }"}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", query, {"Content-Type": "application/json"})
    with (
        contextlib.suppress(OSError, ValueError, KeyError, TypeError),
        urllib.request.urlopen(request, timeout=60) as answer,
    ):
        return len(json.load(answer)["data"]["assetNodes"])
    return 0


def _wait(is_ready: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = monotonic() + _UP_SECONDS
    while not is_ready():
        if process.poll() is not None or monotonic() > deadline:
            raise SystemExit("dagster dev did not come up; its log is dev.log")
        sleep(_POLL_SECONDS)


def _sizes(pid: int) -> dict[str, int]:
    """Resident bytes of the processes of `dagster dev`, by what they are."""
    sizes: dict[str, int] = {}
    for one in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = " ".join(one.cmdline())
            kinds = {
                "webserver": "webserver",
                "daemon": "daemon",
                "api grpc": "code server",
                "code-server": "code server",
            }
            kind = next((name for word, name in kinds.items() if word in line), "")
            if kind:
                sizes[kind] = max(sizes.get(kind, 0), one.memory_info().rss)
    return sizes


def _cpu(pid: int) -> float:
    root = psutil.Process(pid)
    total = 0.0
    for one in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += one.cpu_times().user + one.cpu_times().system
    return total


def _tables(sizes: list[int], found: list[dict[str, Figures]]) -> Iterator[Table]:
    numbers = [f"{size}/{size * TABLES_PER_DATABASE:,}" for size in sizes]
    table = Table(title="databases/tables", title_justify="left")
    table.add_column("what")
    for number in numbers:
        for name in ("s", "CPU s", "MiB"):
            table.add_column(f"{number}\n{name}", justify="right")
    table.add_column("growth\nCPU", justify="right")
    table.add_column("more per table\nCPU ms", justify="right")
    for name in found[0]:
        cells = [cell for figures in found for cell in _cells(figures.get(name))]
        table.add_row(name, *cells, *_growth(sizes, [figures.get(name) for figures in found]))
        for part in found[0][name].parts:
            values = [f"{figures[name].parts[part]:.2f}" for figures in found if name in figures]
            table.add_row(f"  {part}", *(cell for value in values for cell in (value, "", "")))
    yield table


def _cells(figures: Figures | None) -> tuple[str, str, str]:
    if figures is None:
        return "", "", ""
    return (
        "" if figures.seconds is None else f"{figures.seconds:.1f}",
        "" if figures.cpu_seconds is None else f"{figures.cpu_seconds:.1f}",
        "" if figures.peak_bytes is None else f"{figures.peak_bytes / (1 << 20):.0f}",
    )


def _growth(sizes: list[int], figures: list[Figures | None]) -> tuple[str, str]:
    first, last = figures[0], figures[-1]
    if len(sizes) < 2 or first is None or last is None or not (first.cpu_seconds and last.cpu_seconds):
        return "", ""
    more = (last.cpu_seconds - first.cpu_seconds) / ((sizes[-1] - sizes[0]) * TABLES_PER_DATABASE)
    return f"{last.cpu_seconds / first.cpu_seconds:.1f}", f"{1000 * more:.1f}"


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--databases", type=count, nargs="+", default=[10, 100], help=f"each with {TABLES_PER_DATABASE} tables"
    )
    parser.add_argument(
        "--no-servers", action="store_true", help="leave out dagster dev and the memory of its processes"
    )
    parser.add_argument("--only", nargs="+", default=[], help="only these commands, named as in the table")
    options = parser.parse_args()
    benchmark(options.databases, with_servers=not options.no_servers, only=set(options.only))
    return 0


if __name__ == "__main__":
    sys.exit(main())
