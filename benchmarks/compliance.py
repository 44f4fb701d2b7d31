"""What compliance costs per batch: the same archiving without any part of it, with each alone, with all."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from archive import count, exit_code_of, machine, output, print_machine, progress
from bed import DATABASE, TABLE, Bed, Work, running_bed
from contenders import BenchmarkError, Contender, Setup, archiver, warm_up, write_config
from figures import table_of

from archiver_pipeline.domain.windows import WindowUnit

LOCKED_BUCKET = "bench-locked"
RETAIN_DAYS = 1
HOLDS_TABLE = """
CREATE TABLE legal_holds (
    database_name text, schema_name text NOT NULL DEFAULT 'public', table_name text NOT NULL, where_clause text,
    reason text NOT NULL, requestor text NOT NULL, start_date timestamptz NOT NULL DEFAULT now(),
    expiration_date timestamptz
)"""
A_HOLD = f"""
INSERT INTO legal_holds (table_name, where_clause, reason, requestor)
VALUES ('{TABLE}', 'action = ''no such action''', 'bench', 'bench')
"""

Document = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One archiving: seconds of the engine's steps in total and of `delete`, in which most of it happens."""

    part: str
    round: int
    wall_seconds: float
    steps_seconds: float
    delete_seconds: float
    peak_bytes: int
    batches: int


def benchmark(options: argparse.Namespace) -> None:
    """Start the servers, run every part in turn, print the table."""
    # Read by the S3 server: with it, it encrypts what it is asked to, and says so.
    os.environ["WEED_S3_SSE_KEY"] = "00" * 32
    facts = machine()
    with running_bed() as bed:
        facts["postgresql"] = bed.postgres_version()
        print_machine(facts)
        bed.s3.create_bucket(LOCKED_BUCKET, object_lock=True)
        bed.run(HOLDS_TABLE, A_HOLD)
        setup = Setup(options.batch_size, WindowUnit.week)
        work = bed.create_table(options.rows, setup.window)
        warm_up(bed, setup)
        runs = list(_rounds(bed, work, options.runs, setup))
    output.print(
        f"{work.eligible_rows:,} rows in {runs[0].batches} batches of {setup.batch_size:,}, {options.runs} rounds"
    )
    output.print(_table(runs))
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": facts, "runs": [asdict(run) for run in runs]}, indent=2))


def _nothing(document: Document) -> None:
    document["compliance"] = {"audit_trail": False}


def _trail(document: Document) -> None:
    document["compliance"] = {"audit_trail": True}


def _holds(document: Document) -> None:
    _nothing(document)
    document["legal_holds"] = {"enabled": True, "source": "database"}


def _encryption(document: Document) -> None:
    document["compliance"] = {"audit_trail": False, "enforce_encryption": True}
    document["s3"]["encryption"] = "SSE-S3"
    document["databases"][0]["tables"][0]["critical"] = True


def _object_lock(document: Document) -> None:
    _nothing(document)
    document["s3"] |= {"bucket": LOCKED_BUCKET, "object_lock": {"mode": "governance", "retain_days": RETAIN_DAYS}}


def _all(document: Document) -> None:
    for part in (_holds, _encryption, _object_lock):
        part(document)
    document["compliance"] = {"audit_trail": True, "enforce_encryption": True}


PARTS: dict[str, Callable[[Document], None]] = {
    "none of these": _nothing,
    "audit trail": _trail,
    "legal holds from a table": _holds,
    "encryption read back (SSE-S3)": _encryption,
    "Object Lock set and read back": _object_lock,
    "all four": _all,
}
BASELINE = next(iter(PARTS))


def _rounds(bed: Bed, work: Work, rounds: int, setup: Setup) -> Iterator[Run]:
    """Every part in turn, so that a slow minute of the machine hits them alike."""
    for number in range(1, rounds + 1):
        for part in PARTS:
            with progress.status(f"round {number} of {rounds}: {part}"):
                run = _run(bed, work, part, setup, number)
            progress.print(f"round {number} of {rounds}: {part}: {run.steps_seconds:.2f} s")
            yield run


def _run(bed: Bed, work: Work, part: str, setup: Setup, number: int) -> Run:
    bed.refill()
    folder = bed.folder / f"{number}-{list(PARTS).index(part)}"
    folder.mkdir()
    config = write_config(bed, folder, Contender.direct, setup, prefix=folder.name)
    document = yaml.safe_load(config.read_text())
    PARTS[part](document)
    config.write_text(yaml.safe_dump(document))
    figures = archiver(bed, "run", config, "--direct")
    reports = figures["output"]["reports"]
    if bed.rows_left() != work.rows - work.eligible_rows:
        raise BenchmarkError(f"{part}: {bed.rows_left():,} rows are left in {DATABASE}.{TABLE}")
    shutil.rmtree(folder)
    return Run(
        part,
        number,
        wall_seconds=figures["wall_seconds"],
        steps_seconds=sum(sum(report["seconds"].values()) for report in reports),
        delete_seconds=sum(report["seconds"]["delete"] for report in reports),
        peak_bytes=figures["peak_bytes"],
        batches=sum(window["batches"] for report in reports for window in report["windows"]),
    )


def _table(runs: Sequence[Run]) -> Any:
    """Medians over the rounds; what a part costs is taken within a round from the one without."""
    table = table_of("cost of compliance", "part", "steps s", "delete s", "ratio", "more ms per batch", "peak MiB")
    for part in PARTS:
        own = [run for run in runs if run.part == part]
        without = {run.round: run for run in runs if run.part == BASELINE}
        more = median((run.steps_seconds - without[run.round].steps_seconds) / run.batches * 1000 for run in own)
        ratio = median(run.steps_seconds / without[run.round].steps_seconds for run in own)
        table.add_row(
            part,
            f"{median(run.steps_seconds for run in own):.2f}",
            f"{median(run.delete_seconds for run in own):.2f}",
            f"{ratio:.2f}",
            f"{more:+.1f}",
            f"{median(run.peak_bytes for run in own) / (1 << 20):,.0f}",
        )
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=count, default=550_000, help="rows of the table")
    parser.add_argument("--runs", type=count, default=3, help="rounds; every part runs once in each")
    parser.add_argument("--batch-size", type=count, default=10_000, help="rows per batch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures there as well")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: benchmark(_options())))
