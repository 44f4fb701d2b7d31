"""One tick of the due-sensor over many tables of one database. See README.md."""

import argparse
import os
import sys
from time import perf_counter, process_time

import dagster as dg
import psutil
from archive import count
from bed import DATABASE, Bed, running_bed
from rich.console import Console
from rich.table import Table

from archiver_pipeline.orchestration.build import build_definitions

DAYS = 60

output = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
progress = Console(stderr=True, highlight=False)

CREATE_TABLES = """
DO $$ BEGIN FOR n IN {first}..{last} LOOP
    EXECUTE format('CREATE TABLE t%s (id bigint PRIMARY KEY, occurred_at timestamptz NOT NULL)', n);
    EXECUTE format('CREATE INDEX ON t%s (occurred_at)', n);
    EXECUTE format('INSERT INTO t%s SELECT h, now() - h * interval ''1 hour'' FROM generate_series(1, %s) AS h',
        n, {hours});
END LOOP; END $$"""


def benchmark(tables: int, ticks: int) -> None:
    """Fill a database, then let its sensor tick; nothing is archived in between."""
    output.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f} at start")
    with running_bed() as bed:
        with progress.status(f"creating {tables:,} tables"):
            for first in range(1, tables + 1, 100):
                _create(bed, first, min(first + 99, tables))
        loaded = bed.configuration(f"t{n}" for n in range(1, tables + 1))
        sensor = next(one for one in build_definitions(loaded).sensors if one.name == f"due_{DATABASE}")
        table = Table("tick", "windows", "seconds", "CPU s", "ms per table", "MiB", title=f"{tables:,} tables")
        with dg.DagsterInstance.local_temp(str(bed.folder)) as instance:
            _tick(sensor, instance, ticks, tables, table)
        output.print(table)


def _tick(sensor: dg.SensorDefinition, instance: dg.DagsterInstance, ticks: int, tables: int, table: Table) -> None:
    cursor = None
    for number in range(1, ticks + 1):
        started, cpu_started = perf_counter(), process_time()
        answer = sensor(dg.build_sensor_context(instance=instance, cursor=cursor))
        seconds, cpu_seconds = perf_counter() - started, process_time() - cpu_started
        assert isinstance(answer, dg.SensorResult)
        cursor = answer.cursor
        windows = len(answer.run_requests or ())
        assert windows > 0
        figures = (f"{seconds:.2f}", f"{cpu_seconds:.2f}", f"{1000 * seconds / tables:.2f}")
        table.add_row(str(number), str(windows), *figures, f"{psutil.Process().memory_info().rss >> 20}")


def _create(bed: Bed, first: int, last: int) -> None:
    bed.run(CREATE_TABLES.format(first=first, last=last, hours=24 * DAYS))


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--tables", type=count, default=1000, help="tables of the database, each with rows to archive")
    parser.add_argument("--ticks", type=count, default=3, help="how often the sensor is asked")
    options = parser.parse_args()
    benchmark(options.tables, options.ticks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
