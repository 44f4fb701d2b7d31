"""What an archive costs the database's other work: pgbench, and inserts into the archived table itself, with and
without an archive running, in turn within one run. See README.md."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psycopg
import yaml
from archive import count, exit_code_of, machine, output, print_machine, progress
from bed import TABLE, Bed, running_bed
from contenders import BenchmarkError, Contender, Setup, archiver, warm_up, write_config
from figures import table_of

from archiver_pipeline.domain.windows import WindowUnit

CLIENTS = 4
INSERTS = "\\set n random(1, 1000)\nINSERT INTO {table} SELECT nextval('live_id'), now(), {rest} FROM live_template;\n"
CAPACITY_SECONDS = 6
SETTLE_SECONDS = 2
_TIME_US, _EPOCH_S, _EPOCH_US = 2, 4, 5

Document = dict[str, Any]


@dataclass(frozen=True)
class Slice:
    """A stretch of one pgbench run: transactions per second, latencies in milliseconds."""

    seconds: float
    tps: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Run:
    """One archive and the quiet stretch before it. `rows_per_second` is over the whole process of the archiver."""

    way: str
    round: int
    quiet: Slice
    busy: Slice
    rows: int
    rows_per_second: float
    cpu_seconds: float
    paused_seconds: float
    step_p99_ms: dict[str, float]


def _as_shipped(document: Document) -> None:
    """Every setting as a user has it who writes none."""
    for key in ("sleep_between_batches", "vacuum_strategy", "batch_size"):
        document["defaults"].pop(key)


def _no_sleep(document: Document) -> None:
    _as_shipped(document)
    document["defaults"]["sleep_between_batches"] = 0


def _one_worker(document: Document) -> None:
    _as_shipped(document)
    document["defaults"]["workers"] = 1


def _throttled(document: Document) -> None:
    _as_shipped(document)
    document["defaults"]["throttle"] = {
        "wal_bytes_per_second": "16MB",
        "query_ms": 5,
        "blocked_sessions": 0,
        "poll_seconds": 0.5,
    }


WAYS = {"defaults": _as_shipped, "sleep 0": _no_sleep, "workers 1": _one_worker, "throttle": _throttled}


def benchmark(options: argparse.Namespace) -> None:
    """Start the servers, measure the capacity, then every way in turn under a part of it."""
    facts = machine()
    with running_bed(durable=options.durable) as bed:
        facts["postgresql"] = bed.postgres_version()
        print_machine(facts)
        setup = Setup(10_000, WindowUnit.week)
        work = bed.create_table(options.rows, setup.window)
        script = _prepare(bed)
        warm_up(bed, setup)
        bed.refill()
        capacity = _capacity(bed, script)
        rate = None if options.load >= 100 else capacity * options.load / 100
        output.print(
            f"{CLIENTS} clients: {capacity:,.0f} transactions/s at full load; offered: "
            + (f"{rate:,.0f} ({options.load} %)" if rate else "as many as go")
        )
        runs = list(_rounds(bed, options, script, rate, min(options.limit, work.eligible_rows)))
    output.print(_table(runs))
    output.print(_steps_table(runs))
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": facts, "runs": [asdict(run) for run in runs]}, indent=2))


def _prepare(bed: Bed) -> Path:
    """pgbench's tables, and a script that inserts a row into the archived table."""
    _pgbench(bed, "-i", "-s", "10", "-q").wait()
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 2 AND NOT attisdropped"
    with psycopg.connect(bed.dsn, autocommit=True) as connection:
        names = [name for (name,) in connection.execute(f"{columns} ORDER BY attnum", [TABLE])]
        connection.execute(f"CREATE TABLE live_template AS SELECT * FROM {TABLE}_pristine LIMIT 1")  # type: ignore[arg-type]
        connection.execute("CREATE SEQUENCE live_id START 1000000000")
    script = bed.folder / "insert.sql"
    script.write_text(INSERTS.format(table=TABLE, rest=", ".join(names)))
    return script


def _pgbench(bed: Bed, *options: str) -> "subprocess.Popen[bytes]":
    program = bed.postgres.bin_dir / "pgbench"
    return subprocess.Popen(
        [program, *options], env=bed.environment(), cwd=bed.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _load(bed: Bed, script: Path, seconds: float, rate: float | None, prefix: str) -> "subprocess.Popen[bytes]":
    """Three parts of TPC-B-like transactions, one part of inserts into the archived table; each one logged."""
    offered = ["-R", f"{rate:.0f}"] if rate else []
    mix = ["-b", "tpcb-like@3", "-f", f"{script}@1"]
    return _pgbench(
        bed, "-n", "-c", str(CLIENTS), "-T", str(round(seconds)), *mix, *offered, "-l", "--log-prefix", prefix
    )


def _capacity(bed: Bed, script: Path) -> float:
    with progress.status("capacity"):
        _load(bed, script, CAPACITY_SECONDS, None, "capacity").wait()
    times, _ = _logged(bed, "capacity")
    return _slice(times, _, times.min() + 1, times.max()).tps


def _rounds(bed: Bed, options: argparse.Namespace, script: Path, rate: float | None, limit: int) -> Iterator[Run]:
    """Every way in turn, each after a quiet stretch of its own."""
    for number in range(1, options.runs + 1):
        for way in options.only or WAYS:
            with progress.status(f"round {number} of {options.runs}: {way}"):
                run = _run(bed, way, number, script, rate, limit, options.seconds)
            progress.print(f"round {number}: {way}: p99 {run.quiet.p99_ms:.1f} -> {run.busy.p99_ms:.1f} ms")
            yield run


def _run(bed: Bed, way: str, number: int, script: Path, rate: float | None, limit: int, quiet_seconds: float) -> Run:
    bed.refill()
    name = f"{way.replace(' ', '-')}-{number}"
    folder = bed.folder / name
    folder.mkdir()
    config = write_config(bed, folder, Contender.dagster, Setup(10_000, WindowUnit.week), prefix=name)
    document = yaml.safe_load(config.read_text())
    WAYS[way](document)
    config.write_text(yaml.safe_dump(document))
    load = _load(bed, script, 600, rate, name)
    try:
        time.sleep(SETTLE_SECONDS)
        quiet_from = time.time()
        time.sleep(quiet_seconds)
        busy_from = time.time()
        figures = archiver(bed, "run", config, "--limit", str(limit), environment={"DAGSTER_HOME": str(_home(folder))})
        busy_to = time.time()
    finally:
        load.terminate()
        load.wait()
    times, latencies = _logged(bed, name)
    reports = figures["output"]["reports"]
    rows = sum(report["rows"] for report in reports)
    if not rows:
        raise BenchmarkError(f"{way}: nothing was archived")
    return Run(
        way,
        number,
        _slice(times, latencies, quiet_from, busy_from),
        _slice(times, latencies, busy_from, busy_to),
        rows,
        rows / figures["wall_seconds"],
        figures["cpu_seconds"],
        sum(report["pauses"]["seconds"] for report in reports),
        _by_step(times, latencies, reports, busy_to),
    )


def _home(folder: Path) -> Path:
    home = folder / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return home


def _logged(bed: Bed, prefix: str) -> tuple[Any, Any]:
    """When each transaction of a pgbench run ended, and how long it took, counted from when it was due."""
    lines = [line.split() for path in bed.folder.glob(f"{prefix}.[0-9]*") for line in path.read_text().splitlines()]
    whole = [line for line in lines if len(line) > _EPOCH_US and line[_TIME_US].isdigit()]
    times = np.array([int(line[_EPOCH_S]) + int(line[_EPOCH_US]) / 1e6 for line in whole])
    return times, np.array([int(line[_TIME_US]) / 1000 for line in whole])


def _slice(times: Any, latencies: Any, start: float, end: float) -> Slice:
    own = latencies[(times >= start) & (times < end)]
    if not len(own):
        raise BenchmarkError("pgbench logged nothing")
    p50, p99 = np.percentile(own, [50, 99])
    return Slice(end - start, len(own) / (end - start), float(p50), float(p99))


def _by_step(times: Any, latencies: Any, reports: Sequence[Document], ended: float) -> dict[str, float]:
    """The p99 while each step ran, and before the first one. Steps follow each other, so their seconds are counted back
    from the end of the process, which comes a moment later."""
    told: dict[str, Any] = {}
    for report in reversed(reports):
        for step, seconds in reversed(report["seconds"].items()):
            own = latencies[(times >= ended - seconds) & (times < ended)]
            told.setdefault(step, []).append(own)
            ended -= seconds
    told["start"] = [latencies[(times >= ended - 1) & (times < ended)]]
    whole = {step: np.concatenate(parts) for step, parts in reversed(told.items())}
    return {step: float(np.percentile(own, 99)) for step, own in whole.items() if len(own)}


def _steps_table(runs: Sequence[Run]) -> Any:
    """Where an archive is felt: p99 in milliseconds while each step ran."""
    steps = list(dict.fromkeys(step for run in runs for step in run.step_p99_ms))
    table = table_of("p99 ms while a step ran", "settings", "quiet", *steps)
    for way in dict.fromkeys(run.way for run in runs):
        own = [run for run in runs if run.way == way]
        felt = [[run.step_p99_ms[step] for run in own if step in run.step_p99_ms] for step in steps]
        quiet = median(run.quiet.p99_ms for run in own)
        table.add_row(way, f"{quiet:.1f}", *(f"{median(values):.1f}" if values else "" for values in felt))
    return table


def _table(runs: Sequence[Run]) -> Any:
    """Medians over the rounds; ratios are taken within a round."""
    columns = ("tps quiet", "busy", "ratio", "p50 ms", "busy", "p99 ms", "busy", "ratio", "rows/s", "CPU s", "paused s")
    table = table_of("an archive beside pgbench", "settings", *columns)
    for way in dict.fromkeys(run.way for run in runs):
        own = [run for run in runs if run.way == way]
        table.add_row(
            way,
            f"{median(run.quiet.tps for run in own):,.0f}",
            f"{median(run.busy.tps for run in own):,.0f}",
            f"{median(run.busy.tps / run.quiet.tps for run in own):.3f}",
            f"{median(run.quiet.p50_ms for run in own):.2f}",
            f"{median(run.busy.p50_ms for run in own):.2f}",
            f"{median(run.quiet.p99_ms for run in own):.1f}",
            f"{median(run.busy.p99_ms for run in own):.1f}",
            f"{median(run.busy.p99_ms / run.quiet.p99_ms for run in own):.2f}",
            f"{median(run.rows_per_second for run in own):,.0f}",
            f"{median(run.cpu_seconds for run in own):.1f}",
            f"{median(run.paused_seconds for run in own):.1f}",
        )
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=count, default=300_000, help="rows of the archived table")
    parser.add_argument("--limit", type=count, default=200_000, help="rows that each archive takes at most")
    parser.add_argument("--runs", type=count, default=2, help="rounds; every way runs once in each")
    parser.add_argument("--load", type=count, default=40, help="percent of the capacity that is offered; 100: no limit")
    parser.add_argument(
        "--durable", action="store_true", help="PostgreSQL with fsync, on the disk that store and staging write to"
    )
    parser.add_argument("--seconds", type=count, default=15, help="quiet seconds before each archive")
    parser.add_argument("--only", choices=list(WAYS), nargs="+", help="only these settings")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures there as well")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: benchmark(_options())))
