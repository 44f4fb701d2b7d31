"""The same rows of a partitioned table, deleted batch by batch or dropped with their partitions. See README.md."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import psycopg
from archive import count, exit_code_of, machine, print_machine
from bed import DATABASE, DAYS, Bed, running_bed
from figures import table_of
from rich.console import Console

from archiver_pipeline.cli.console import size
from archiver_pipeline.config.enums import PartitionStrategy, VacuumStrategy, WindowSize
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.inventory import DateRange, eligible_windows
from archiver_pipeline.engine.progress import SilentProgress
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline.sandbox.sample_data import create_audit_table

TABLE = "events"
_PRISTINE = "events_pristine"
_CREATE = f"""
DO $$
DECLARE month timestamptz := date_trunc('month', now() - interval '{DAYS} days');
BEGIN
    DROP TABLE IF EXISTS {TABLE};
    CREATE TABLE {TABLE} (LIKE {_PRISTINE} INCLUDING DEFAULTS) PARTITION BY RANGE (occurred_at);
    ALTER TABLE {TABLE} ADD PRIMARY KEY (id, occurred_at);
    CREATE INDEX ON {TABLE} (occurred_at);
    WHILE month <= now() LOOP
        EXECUTE format('CREATE TABLE {TABLE}_%s PARTITION OF {TABLE} FOR VALUES FROM (%L) TO (%L)',
            to_char(month, 'YYYY_MM'), month, month + interval '1 month');
        month := month + interval '1 month';
    END LOOP;
END $$"""

output = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
progress = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Measured:
    """One run. WAL and PostgreSQL's CPU are of the delete step alone; sizes are of the table with its indexes."""

    strategy: PartitionStrategy
    rows: int
    dropped: int
    delete_seconds: float
    delete_cpu_seconds: float
    delete_wal_bytes: int
    freed_bytes: int
    freed_after_vacuum_bytes: int
    vacuum_seconds: float


class _DeleteStep(SilentProgress):
    """Looks at the server's WAL and CPU where the delete step begins and ends."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self.wal_bytes = 0
        self.cpu_seconds = 0.0

    def step_started(self, table: TableName, step: str, batches: int, rows: int) -> None:
        if step == "delete":
            self.wal_bytes -= _wal_position(self._bed)
            self.cpu_seconds -= self._bed.server_cpu_seconds()["postgres"]

    def step_finished(self, table: TableName, step: str, seconds: float) -> None:
        if step == "delete":
            self.wal_bytes += _wal_position(self._bed)
            self.cpu_seconds += self._bed.server_cpu_seconds()["postgres"]


def benchmark(rows: int, rounds: int) -> None:
    """Archive the same table with either setting, in turn."""
    facts = machine()
    with running_bed() as bed:
        print_machine(facts | {"postgresql": bed.postgres_version()})
        create_audit_table(bed.dsn, rows=rows, days=DAYS, table=_PRISTINE)
        found = []
        for number in range(1, rounds + 1):
            for strategy in PartitionStrategy:
                with progress.status(f"round {number} of {rounds}: {strategy}"):
                    found.append(_measure(bed, strategy))
        _print(found)


def _measure(bed: Bed, strategy: PartitionStrategy) -> Measured:
    bed.run(_CREATE, f"INSERT INTO {TABLE} SELECT * FROM {_PRISTINE} ORDER BY id", f"VACUUM ANALYZE {TABLE}")
    bed.run("CHECKPOINT")
    bed.remove("")
    loaded, listener = bed.configuration([TABLE]), _DeleteStep(bed)
    settings = replace(
        loaded.tables[0],
        partitions=strategy,
        window=WindowSize.MONTH,
        vacuum_strategy=VacuumStrategy.NONE,
        sleep_between_batches_seconds=0,
    )
    session = ArchiveSession(settings, loaded.database(DATABASE), loaded.store, run_id="bench", progress=listener)
    try:
        shape = inspect_table(session.connection, settings)
        report = archive_windows(session, list(eligible_windows(session, shape, DateRange())))
    finally:
        session.close()
    vacuum_seconds, after_bytes = _vacuum(bed)
    return Measured(
        strategy,
        report.rows,
        len(report.dropped_leaves),
        report.seconds["delete"],
        listener.cpu_seconds,
        listener.wal_bytes,
        report.table_bytes_before - report.table_bytes_after,
        report.table_bytes_before - after_bytes,
        vacuum_seconds,
    )


def _vacuum(bed: Bed) -> tuple[float, int]:
    """Seconds that VACUUM takes after the run, and the bytes of the table then."""
    with psycopg.connect(bed.dsn, autocommit=True) as connection:
        [(before,)] = connection.execute("SELECT clock_timestamp()").fetchall()
        connection.execute(f"VACUUM {TABLE}".encode())
        [(after,)] = connection.execute("SELECT clock_timestamp()").fetchall()
        [(left,)] = connection.execute(
            "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = %s::regclass", [TABLE]
        ).fetchall()
    return (after - before).total_seconds(), int(left)


def _wal_position(bed: Bed) -> int:
    with psycopg.connect(bed.dsn, autocommit=True) as connection:
        [(position,)] = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchall()
    return int(position)


def _print(found: Sequence[Measured]) -> None:
    columns = ("partitions dropped", "delete step s", "PostgreSQL CPU s", "WAL", "disk back at once", "after VACUUM")
    table = table_of(f"{found[0].rows:,} rows", "partitions", *columns, "VACUUM s")
    medians = {}
    for strategy in PartitionStrategy:
        own = [one for one in found if one.strategy is strategy]
        figures = {
            name: median(getattr(one, name) for one in own)
            for name in ("delete_seconds", "delete_cpu_seconds", "delete_wal_bytes", "vacuum_seconds")
        }
        medians[strategy] = figures
        table.add_row(
            strategy.value,
            str(own[0].dropped),
            f"{figures['delete_seconds']:.2f}",
            f"{figures['delete_cpu_seconds']:.2f}",
            size(int(figures["delete_wal_bytes"])),
            size(own[0].freed_bytes),
            size(own[0].freed_after_vacuum_bytes),
            f"{figures['vacuum_seconds']:.2f}",
        )
    rows, drop = medians[PartitionStrategy.ROWS], medians[PartitionStrategy.DROP]
    ratios = [f"{drop[name] / max(rows[name], 1e-9):.3f}" for name in rows]
    table.add_row("drop / rows", "", ratios[0], ratios[1], ratios[2], "", "", ratios[3])
    output.print(table)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=count, default=550_000, help="rows of the table, in monthly partitions")
    parser.add_argument("--runs", type=count, default=3, help="rounds; either way runs once in each")
    options = parser.parse_args()
    os.environ.setdefault("TZ", "UTC")
    return exit_code_of(lambda: benchmark(options.rows, options.runs))


if __name__ == "__main__":
    sys.exit(main())
