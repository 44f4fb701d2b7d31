"""Those who are compared: the script a DBA would write, and this archiver in three ways."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from bed import DATABASE, RETENTION_DAYS, TABLE, Bed, Work

from archiver_pipeline.domain.windows import WindowUnit

_HERE = Path(__file__).parent
_STOP_SECONDS = 20
_FOLDER_SETTINGS = ("storage", "local_artifact_storage", "compute_logs")

# What is compared with: no manifest, no checksum, no reading back. CSV with characters that JSON text never holds,
# because COPY's text format doubles backslashes.
SCRIPT = r"""
set -euo pipefail
psql -X -q -v ON_ERROR_STOP=1 -c "COPY (SELECT row_to_json(t) FROM $TABLE t WHERE occurred_at < '$CUTOFF')
    TO STDOUT WITH (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')" \
    | gzip -"$LEVEL" | "$PYTHON" "$UPLOAD" "$BUCKET" "$KEY"
psql -X -q -v ON_ERROR_STOP=1 -c "DELETE FROM $TABLE WHERE occurred_at < '$CUTOFF'"
"""


class Contender(StrEnum):
    """Names as `--only` takes them."""

    gzip_6 = "gzip-6"
    gzip_1 = "gzip-1"
    dagster = "dagster"
    parquet = "parquet"
    direct = "direct"


BASELINE = Contender.gzip_6
SCRIPTS = {Contender.gzip_6: 6, Contender.gzip_1: 1}
TITLES = {
    Contender.gzip_6: "script, gzip -6 (unverified)",
    Contender.gzip_1: "script, gzip -1 (unverified)",
    Contender.dagster: "archiver run",
    Contender.parquet: "archiver run, parquet",
    Contender.direct: "archiver run --direct",
}


@dataclass(frozen=True)
class Setup:
    """How the archiver is configured, beside what every run shares. `first_window` is a date or the default."""

    batch_size: int
    window: WindowUnit
    first_window: str | None = None


@dataclass(frozen=True)
class Run:
    """What one run of a contender took and left.

    `span_seconds` is from the start of the first step to the end of the last one, without the process around them;
    a script has nothing around. `peak_bytes` is of the largest process. `data_bytes` counts the rows' objects,
    `stored_bytes` all of the run's `objects`, such as manifests.
    """

    contender: Contender
    round: int
    wall_seconds: float
    span_seconds: float
    cpu_seconds: float
    postgres_cpu_seconds: float
    s3_cpu_seconds: float
    peak_bytes: int
    data_bytes: int
    stored_bytes: int
    objects: int
    rows: int
    steps: dict[str, float] = field(default_factory=dict)


class BenchmarkError(Exception):
    """A contender failed, or did not do the same work as the others."""


def run_contender(bed: Bed, work: Work, contender: Contender, setup: Setup, *, round_number: int) -> Run:
    """Refill the table, run, check that exactly the eligible rows moved, and clean up.

    Raises BenchmarkError when the contender fails or archives other rows.
    """
    bed.refill()
    folder = bed.folder / f"{round_number}-{contender}"
    folder.mkdir()
    prefix = folder.name
    try:
        runner = _run_script if contender in SCRIPTS else _run_archiver
        run = runner(bed, work, contender, setup, folder, round_number)
        _check(work, run.rows, bed.rows_left(), contender)
        return run
    finally:
        bed.remove(f"{prefix}/")
        shutil.rmtree(folder)


def start_seconds(bed: Bed, module: str) -> float:
    """Wall seconds of starting Python and importing one module."""
    return float(measure(bed, [sys.executable, "-c", f"import {module}"], {})["wall_seconds"])


def warm_up(bed: Bed, setup: Setup) -> None:
    """Run the archiver on the empty table: fills the file cache and lays out a DAGSTER_HOME to copy.

    It has the settings that the project ships, and SQLite.
    """
    home = _home_template(bed)
    home.mkdir()
    shipped = yaml.safe_load((_HERE.parent / "dagster.yaml").read_text())
    # Without those that name folders: they are below DAGSTER_HOME then, as each run's copy needs.
    settings = {name: value for name, value in shipped.items() if name not in _FOLDER_SETTINGS}
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    config = write_config(bed, bed.folder, Contender.dagster, setup, prefix="warm-up")
    archiver(bed, "run", config, environment={"DAGSTER_HOME": str(home)})


def _run_script(bed: Bed, work: Work, contender: Contender, setup: Setup, folder: Path, round_number: int) -> Run:
    key = f"{folder.name}/rows.jsonl.gz"
    program = bed.postgres.bin_dir / "psql"
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}" if program.exists() else os.environ["PATH"]
    variables = {
        "PATH": path,
        "TABLE": TABLE,
        "CUTOFF": f"{work.cutoff.isoformat()}Z",
        "LEVEL": str(SCRIPTS[contender]),
        "PYTHON": sys.executable,
        "UPLOAD": str(_HERE / "upload_stdin.py"),
        "BUCKET": bed.s3.bucket,
        "KEY": key,
    }
    with server_cpu(bed) as server:
        figures = measure(bed, ["bash", "-c", SCRIPT], variables)
    stored = bed.stored(f"{folder.name}/")
    return Run(
        contender,
        round_number,
        span_seconds=figures["wall_seconds"],
        data_bytes=stored[key],
        stored_bytes=sum(stored.values()),
        objects=len(stored),
        rows=bed.count_lines(key),
        **server,
        **cost(figures),
    )


def _run_archiver(bed: Bed, work: Work, contender: Contender, setup: Setup, folder: Path, round_number: int) -> Run:
    home = folder / "dagster"
    shutil.copytree(_home_template(bed), home)
    config = write_config(bed, folder, contender, setup, prefix=folder.name)
    options = ["--direct"] if contender is Contender.direct else []
    with server_cpu(bed) as server:
        figures = archiver(bed, "run", config, *options, environment={"DAGSTER_HOME": str(home)})
    reports = figures["output"]["reports"]
    steps = {step: sum(report["seconds"][step] for report in reports) for step in reports[0]["seconds"]}
    [table] = archiver(bed, "list", config)["output"]
    listed = [batch for batch in table["batches"] if batch["state"] == "receipted"]
    stored = bed.stored(f"{folder.name}/")
    return Run(
        contender,
        round_number,
        span_seconds=sum(steps.values()) if contender is Contender.direct else _span_seconds(home),
        data_bytes=sum(batch["object_bytes"] for batch in listed),
        stored_bytes=sum(stored.values()),
        objects=len(stored),
        rows=sum(batch["receipt"]["rows"] for batch in listed),
        steps=steps,
        **server,
        **cost(figures),
    )


def _check(work: Work, archived: int, left: int, contender: Contender) -> None:
    if (archived, left) != (work.eligible_rows, work.rows - work.eligible_rows):
        raise BenchmarkError(
            f"{contender} archived {archived:,} rows and left {left:,};"
            f" expected were {work.eligible_rows:,} and {work.rows - work.eligible_rows:,}"
        )


def _span_seconds(home: Path) -> float:
    """From the first step's start to the last one's end, as Dagster recorded them."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        steps = [step for run in instance.get_runs() for step in instance.get_run_step_stats(run.run_id)]
    started = [step.start_time for step in steps if step.start_time is not None]
    ended = [step.end_time for step in steps if step.end_time is not None]
    return max(ended) - min(started)


def archiver(
    bed: Bed, command: str, config: Path, *options: str, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run the installed `archiver` command; its figures, and its JSON under "output"."""
    program = Path(sysconfig.get_path("scripts")) / "archiver"
    return measure(
        bed, [str(program), command, "--config", str(config), "--json", *options], environment or {}, parse=True
    )


def write_config(bed: Bed, folder: Path, contender: Contender, setup: Setup, *, prefix: str) -> Path:
    path = folder / "archiver.yaml"
    path.write_text(yaml.safe_dump(_config(bed, folder, contender, setup, prefix)))
    return path


def _config(bed: Bed, folder: Path, contender: Contender, setup: Setup, prefix: str) -> dict[str, object]:
    first = {"first_window": setup.first_window} if setup.first_window else {}
    return {
        "version": "1",
        "s3": {
            "bucket": bed.s3.bucket,
            "endpoint": bed.s3.endpoint,
            "prefix": prefix,
            "storage_class": "STANDARD",
            "access_key_id_env": "AWS_ACCESS_KEY_ID",
            "secret_access_key_env": "AWS_SECRET_ACCESS_KEY",
        },
        "defaults": {
            "retention_days": RETENTION_DAYS,
            "batch_size": setup.batch_size,
            "sleep_between_batches": 0,
            "vacuum_strategy": "none",
            "format": "parquet" if contender is Contender.parquet else "jsonl.gz",
            "window": setup.window.value,
            "staging_dir": str(folder / "staging"),
            **first,
        },
        "databases": [
            {
                "name": DATABASE,
                "host": bed.postgres.host,
                "port": bed.postgres.port,
                "user": bed.postgres.user,
                "password_env": "PGPASSWORD",
                "tables": [{"name": TABLE, "timestamp_column": "occurred_at"}],
            }
        ],
    }


def measure(bed: Bed, command: Sequence[str], environment: Mapping[str, str], *, parse: bool = False) -> dict[str, Any]:
    """Run a command through measured.py, in a process group that goes away with this call.

    Raises BenchmarkError, quoting what the command said, when it fails.
    """
    report = bed.folder / "measured.json"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_HERE / "measured.py"), str(report), *command],
        env=bed.environment() | dict(environment),
        cwd=bed.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        output, said = process.communicate()
    finally:
        _stop_group(process)
    if process.returncode != 0:
        raise BenchmarkError(f"{Path(command[0]).name} ended with {process.returncode}:\n{output}\n{said}")
    figures: dict[str, Any] = json.loads(report.read_text())
    return figures | ({"output": json.loads(output)} if parse else {})


def _stop_group(process: subprocess.Popen[str]) -> None:
    """End a command that was interrupted with everything below it."""
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def server_cpu(bed: Bed) -> Iterator[dict[str, Any]]:
    """CPU seconds that the servers use meanwhile, filled in at the end."""
    used: dict[str, Any] = {}
    before = bed.server_cpu_seconds()
    yield used
    after = bed.server_cpu_seconds()
    used |= {f"{server}_cpu_seconds": after[server] - before[server] for server in before}


def cost(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: figures[name] for name in ("wall_seconds", "cpu_seconds", "peak_bytes")}


def _home_template(bed: Bed) -> Path:
    return bed.folder / "dagster-home"
