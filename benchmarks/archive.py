"""This archiver beside the script a DBA would write: same table, same servers, same rows, one run. See README.md."""

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from bed import Bed, Work, running_bed
from contenders import TITLES, BenchmarkError, Contender, Run, Setup, run_contender, start_seconds, warm_up
from figures import MEASURED_IMPORTS, cost_table, memory_table, share_table, speed_table, steps_table
from rich.console import Console

from archiver_pipeline.cli.console import size
from archiver_pipeline.domain.windows import WindowUnit
from archiver_pipeline.errors import ArchiverError

QUIET_LOAD = 0.5
IMPORT_RUNS = 3
DEFAULT_MEMORY_ROWS = "100000,1000000"
MEMORY_BATCH_SIZES = (10_000, 100_000)
INTERRUPTED_EXIT_CODE = 130

output = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
progress = Console(stderr=True, highlight=False)


def benchmark(options: argparse.Namespace) -> None:
    """Start the servers, run what was asked for, print the tables."""
    if options.cores is not None:
        use_cores(options.cores)
    facts = machine()
    with running_bed() as bed:
        facts["postgresql"] = bed.postgres_version()
        print_machine(facts)
        if options.memory:
            figures = _measure_memory(bed, options.memory)
        else:
            setup = Setup(options.batch_size, options.window)
            figures = _measure_speed(bed, options, setup)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": facts} | figures, indent=2, default=str))


def use_cores(count: int) -> None:
    """Keep this process and all that it starts from now on, servers too, to the first so many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def _measure_speed(bed: Bed, options: argparse.Namespace, setup: Setup) -> dict[str, Any]:
    rows, rounds, contenders = options.rows, options.runs, options.only or list(Contender)
    with progress.status(f"filling the table with {rows:,} rows"):
        work = bed.create_table(rows, setup.window, row_bytes=options.row_bytes)
    output.print(
        f"{work.eligible_rows:,} of {rows:,} rows to archive, {size(work.eligible_bytes)} as JSON lines;"
        f" {setup.window} windows, batches of {setup.batch_size:,}, {rounds} rounds"
    )
    warm_up(bed, setup)
    imports = {module: [start_seconds(bed, module) for _ in range(IMPORT_RUNS)] for module in MEASURED_IMPORTS}
    runs = list(_rounds(bed, work, rounds, setup, contenders))
    for table in (
        speed_table(runs),
        cost_table(runs, work.eligible_bytes),
        steps_table(runs),
        share_table(runs, imports),
    ):
        if table is not None:
            output.print(table)
    return {"setup": asdict(setup), "work": asdict(work), "imports": imports, "runs": [asdict(run) for run in runs]}


def _rounds(bed: Bed, work: Work, rounds: int, setup: Setup, contenders: list[Contender]) -> Iterator[Run]:
    """Every contender in turn, so that a slow minute of the machine hits them alike."""
    for number in range(1, rounds + 1):
        for contender in contenders:
            with progress.status(f"round {number} of {rounds}: {TITLES[contender]}"):
                run = run_contender(bed, work, contender, setup, round_number=number)
            progress.print(f"round {number} of {rounds}: {TITLES[contender]}: {run.wall_seconds:.2f} s")
            yield run


def _measure_memory(bed: Bed, row_counts: list[int]) -> dict[str, Any]:
    peaks: list[dict[str, int]] = []
    for rows in row_counts:
        with progress.status(f"filling the table with {rows:,} rows"):
            work = bed.create_table(rows, WindowUnit.day)
        for number, batch_size in enumerate(MEMORY_BATCH_SIZES, 1):
            # The first window takes everything older as well: all rows in one, so that batches are full.
            first_window = (work.cutoff - timedelta(days=1)).date().isoformat()
            setup = Setup(batch_size, WindowUnit.day, first_window)
            if not peaks:
                warm_up(bed, setup)
            with progress.status(f"{work.eligible_rows:,} rows in batches of {batch_size:,}"):
                run = run_contender(bed, work, Contender.dagster, setup, round_number=number)
            peaks.append({"rows": run.rows, "batch_size": batch_size, "peak_bytes": run.peak_bytes})
    output.print(memory_table(peaks))
    return {"memory": peaks}


def machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def print_machine(facts: dict[str, Any]) -> None:
    output.print(
        f"{facts['cores']} cores, {size(facts['memory_bytes'])} memory, Python {facts['python']},"
        f" PostgreSQL {facts['postgresql']}, load {facts['load']:.2f} at start"
    )
    if facts["load"] > QUIET_LOAD:
        progress.print(
            f"warning: load above {QUIET_LOAD}: the machine is busy, don't trust the figures", style="yellow"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=count, default=550_000, help="rows of the table")
    parser.add_argument("--runs", type=count, default=3, help="rounds; every contender runs once in each")
    parser.add_argument(
        "--cores", type=count, help="keep the contenders and both servers to so many cores; default: all"
    )
    parser.add_argument(
        "--row-bytes", type=count, help="pad rows to about this length of JSON text; default: as they are"
    )
    parser.add_argument("--batch-size", type=count, default=10_000, help="rows per batch of the archiver")
    windows = list(WindowUnit)
    parser.add_argument("--window", type=WindowUnit, choices=windows, default="week", help="length of its partitions")
    parser.add_argument("--only", type=Contender, choices=list(Contender), nargs="+", help="only these contenders")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures there as well")
    parser.add_argument(
        "--memory",
        type=lambda text: [count(rows) for rows in text.split(",")],
        nargs="?",
        const=DEFAULT_MEMORY_ROWS,
        metavar="ROWS,ROWS",
        help=f"instead of speed measure peak memory, at these row counts; without a value at {DEFAULT_MEMORY_ROWS}",
    )
    return parser.parse_args()


def count(text: str) -> int:
    """A positive number, or ValueError."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def exit_code_of(run: Callable[[], None]) -> int:
    """Run it; a failure is a line, an interruption leaves nothing behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run()
    except (ArchiverError, BenchmarkError) as error:
        progress.print(f"error: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        progress.print("interrupted; the servers are stopped and their data is gone")
        return INTERRUPTED_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: benchmark(_options())))
