"""Restore beside raw `gunzip | psql COPY`, validation beside `sha256sum` and `gunzip -t`, in one run. See README.md."""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any

from archive import count, exit_code_of, machine, output, print_machine, progress
from bed import TABLE, Bed, Work, running_bed
from contenders import BenchmarkError, Contender, Setup, archiver, cost, measure, server_cpu, warm_up, write_config
from figures import table_of
from rich.table import Table

from archiver_pipeline.cli.console import size
from archiver_pipeline.domain.windows import WindowUnit

_MIB = 1 << 20
_PLAIN = "audit_log_plain"
_TARGET = "audit_log_restored"

# The rows as COPY writes them: nothing to convert, nothing to verify, one transaction.
_PACK = 'set -euo pipefail; psql -X -q -v ON_ERROR_STOP=1 -c "COPY {source} TO STDOUT" | gzip -6 > {file}'
_LOAD = 'set -euo pipefail; gunzip -c {file} | psql -X -q -v ON_ERROR_STOP=1 -c "COPY {table} FROM STDIN"'
_CHECK = "set -euo pipefail; sha256sum {folder}/*.gz > /dev/null; gunzip -t {folder}/*.gz"


class Way(StrEnum):
    """Names as `--only` takes them."""

    copy_plain = "copy-plain"
    copy_same = "copy-same"
    restore = "restore"
    direct = "direct"
    parquet = "parquet"
    sha_gunzip = "sha-gunzip"
    validate = "validate"
    validate_direct = "validate-direct"


TITLES = {
    Way.copy_plain: "gunzip | COPY, no index",
    Way.copy_same: "gunzip | COPY, same table",
    Way.restore: "archiver restore",
    Way.direct: "archiver restore --direct",
    Way.parquet: "archiver restore --direct, parquet",
    Way.sha_gunzip: "sha256sum, gunzip -t (local files)",
    Way.validate: "archiver validate",
    Way.validate_direct: "archiver validate --direct",
}
BASELINES = {
    Way.copy_plain: Way.copy_plain,
    Way.copy_same: Way.copy_plain,
    Way.restore: Way.copy_plain,
    Way.direct: Way.copy_plain,
    Way.parquet: Way.copy_plain,
    Way.sha_gunzip: Way.sha_gunzip,
    Way.validate: Way.sha_gunzip,
    Way.validate_direct: Way.sha_gunzip,
}


@dataclass(frozen=True)
class Trip:
    """What one run took. `engine_seconds` is the command's own account of its work, without Python's start."""

    way: Way
    round: int
    rows: int
    wall_seconds: float
    engine_seconds: float
    cpu_seconds: float
    postgres_cpu_seconds: float
    s3_cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Ground:
    """What every way starts from: archives in both formats, the same rows as COPY text, the objects as local files."""

    configs: dict[Contender, Path]
    copied: Path
    objects: Path
    rows: int


def benchmark(options: argparse.Namespace) -> None:
    """Start the servers, archive once in each format, then bring the rows back in every way, in turn."""
    facts = machine()
    with running_bed() as bed:
        facts["postgresql"] = bed.postgres_version()
        print_machine(facts)
        setup = Setup(options.batch_size, options.window)
        work = bed.create_table(options.rows, setup.window)
        warm_up(bed, setup)
        ground = _prepare(bed, work, setup)
        ways = options.only or list(Way)
        trips = list(_rounds(bed, ground, options.runs, ways))
        output.print(
            f"{ground.rows:,} rows, {size(work.eligible_bytes)} as JSON lines, batches of {setup.batch_size:,},"
            f" {setup.window} windows, {options.runs} rounds"
        )
        for title, chosen in (("restore", set(Way) - _VALIDATING), ("validate", _VALIDATING)):
            if own := [trip for trip in trips if trip.way in chosen]:
                output.print(_table(title, own))
    if options.json is not None:
        figures = {"machine": facts, "setup": asdict(setup), "trips": [asdict(trip) for trip in trips]}
        options.json.write_text(json.dumps(figures, indent=2, default=str))


_VALIDATING = {Way.sha_gunzip, Way.validate, Way.validate_direct}


def _prepare(bed: Bed, work: Work, setup: Setup) -> Ground:
    """Archive the same rows as JSON lines and as Parquet, and pack them as COPY text."""
    configs: dict[Contender, Path] = {}
    for contender in (Contender.parquet, Contender.direct):
        bed.refill()
        folder = bed.folder / f"archive-{contender}"
        folder.mkdir()
        configs[contender] = write_config(bed, folder, contender, setup, prefix=folder.name)
        with progress.status(f"archiving {work.eligible_rows:,} rows ({contender})"):
            archiver(bed, "run", configs[contender], "--direct")
    copied = bed.folder / "rows.copy.gz"
    source = f"(SELECT * FROM {TABLE}_pristine WHERE occurred_at < '{work.cutoff.isoformat()}Z')"
    measure(bed, ["bash", "-c", _PACK.format(source=source, file=copied)], {})
    bed.run(
        f"CREATE UNLOGGED TABLE {_PLAIN} (LIKE {TABLE}_pristine)",
        f"CREATE TABLE {_TARGET} (LIKE {TABLE}_pristine INCLUDING ALL)",
    )
    objects = bed.folder / "objects"
    objects.mkdir()
    prefix = f"archive-{Contender.direct}/"
    for number, key in enumerate(key for key in bed.stored(prefix) if key.endswith(".jsonl.gz")):
        bed.s3.client().download_file(bed.s3.bucket, key, str(objects / f"{number}.gz"))
    return Ground(configs, copied, objects, work.eligible_rows)


def _rounds(bed: Bed, ground: Ground, rounds: int, ways: list[Way]) -> Iterator[Trip]:
    """Every way in turn, so that a slow minute of the machine hits them alike."""
    for number in range(1, rounds + 1):
        for way in ways:
            bed.run(f"TRUNCATE {_PLAIN}", f"TRUNCATE {_TARGET}", "CHECKPOINT")
            with progress.status(f"round {number} of {rounds}: {TITLES[way]}"):
                trip = _trip(bed, ground, way, number)
            progress.print(f"round {number} of {rounds}: {TITLES[way]}: {trip.wall_seconds:.2f} s")
            yield trip


def _trip(bed: Bed, ground: Ground, way: Way, number: int) -> Trip:
    home = bed.folder / "home-of-trip"
    shutil.copytree(bed.folder / "dagster-home", home)
    try:
        with server_cpu(bed) as server:
            figures = _travel(bed, ground, way, home)
    finally:
        shutil.rmtree(home)
    _check(bed, ground, way)
    engine = figures.get("engine_seconds", figures["wall_seconds"])
    return Trip(way, number, ground.rows, engine_seconds=engine, **server, **cost(figures))


def _travel(bed: Bed, ground: Ground, way: Way, home: Path) -> dict[str, Any]:
    environment = {"DAGSTER_HOME": str(home)}
    if way in (Way.copy_plain, Way.copy_same):
        table = _PLAIN if way is Way.copy_plain else _TARGET
        return measure(bed, ["bash", "-c", _LOAD.format(file=ground.copied, table=table)], {})
    if way is Way.sha_gunzip:
        return measure(bed, ["bash", "-c", _CHECK.format(folder=ground.objects)], {})
    direct = [] if way in (Way.restore, Way.validate) else ["--direct"]
    config = ground.configs[Contender.parquet if way is Way.parquet else Contender.direct]
    if way in _VALIDATING:
        figures = archiver(bed, "validate", config, *direct, environment=environment)
        reports = figures["output"]["reports"]
    else:
        options = ["--table", TABLE, "--restore-all", "--to-table", _TARGET, "--ignore-watermark"]
        figures = archiver(bed, "restore", config, *options, *direct, environment=environment)
        reports = figures["output"]["reports"]
    return figures | {"engine_seconds": sum(report["seconds"] for report in reports)}


def _check(bed: Bed, ground: Ground, way: Way) -> None:
    """Every way that restores must have brought every row back."""
    if way in _VALIDATING:
        return
    table = _PLAIN if way is Way.copy_plain else _TARGET
    rows = bed.count_rows(table)
    if rows != ground.rows:
        raise BenchmarkError(f"{way} restored {rows:,} of {ground.rows:,} rows")


def _table(title: str, trips: list[Trip]) -> Table:
    base = BASELINES[trips[0].way]
    columns = ("process", "rows/s", f"to {base}", "engine", f"to {base}", "CPU s", "PostgreSQL CPU s", "peak MiB")
    table = table_of(f"{title}: seconds", "way", *columns)
    for way in Way:
        own = [trip for trip in trips if trip.way is way]
        if not own:
            continue
        wall = median(trip.wall_seconds for trip in own)
        table.add_row(
            TITLES[way],
            f"{wall:.2f}",
            f"{own[0].rows / wall:,.0f}",
            _ratio(own, trips, base, "wall_seconds"),
            f"{median(trip.engine_seconds for trip in own):.2f}",
            _ratio(own, trips, base, "engine_seconds"),
            f"{median(trip.cpu_seconds for trip in own):.2f}",
            f"{median(trip.postgres_cpu_seconds for trip in own):.2f}",
            f"{median(trip.peak_bytes for trip in own) / _MIB:,.0f}",
        )
    return table


def _ratio(own: list[Trip], trips: list[Trip], base: Way, figure: str) -> str:
    """The median of the ratios within each round; a script's whole time is its work."""
    bases = {trip.round: trip.wall_seconds for trip in trips if trip.way is base}
    pairs = [(getattr(trip, figure), bases[trip.round]) for trip in own if trip.round in bases]
    return f"{median(ours / theirs for ours, theirs in pairs):.2f}" if pairs else ""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=count, default=550_000, help="rows of the table")
    parser.add_argument("--runs", type=count, default=3, help="rounds; every way runs once in each")
    parser.add_argument("--batch-size", type=count, default=10_000, help="rows per archived batch")
    parser.add_argument("--window", type=WindowUnit, choices=list(WindowUnit), default="week", help="length of windows")
    parser.add_argument("--only", type=Way, choices=list(Way), nargs="+", help="only these ways")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures there as well")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: benchmark(_options())))
