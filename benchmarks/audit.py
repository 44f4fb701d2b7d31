"""What the audit trail costs: an archive with it beside one without, and a long chain verified and exported. See
docs/audit-trail.md."""

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

import yaml
from archive import count
from bed import DATABASE, TABLE, Bed, running_bed
from rich.console import Console
from rich.table import Table

from archiver_pipeline.codec.audit import encode_link
from archiver_pipeline.codec.hashing import sha256_hex
from archiver_pipeline.config.effective import AuditSettings
from archiver_pipeline.config.loading import LoadedConfig, load_config
from archiver_pipeline.domain.audit import Actor, AuditEntry, AuditKind, AuditLink
from archiver_pipeline.domain.layout import audit_key
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.windows import WindowUnit
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.audit import find_head
from archiver_pipeline.engine.audit_verify import verify_trail
from archiver_pipeline.engine.inventory import DateRange, eligible_windows
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.trail import READERS, Chain
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline.storage.s3 import S3Store

BATCH_ROWS = 10_000
LONG = TableName(DATABASE, "public", "long")
output = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
progress = Console(stderr=True, highlight=False)


def benchmark(rows: int, rounds: int, links: int) -> None:
    """Both in turn on the same table, then the long chain."""
    output.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f} at start")
    with running_bed() as bed:
        loaded = _configuration(bed)
        with progress.status(f"filling the table with {rows:,} rows"):
            bed.create_table(rows, WindowUnit.month)
        _archive(bed, loaded, audited=True)
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(rounds):
            for audited in (False, True):
                took, batches = _archive(bed, loaded, audited=audited)
                seconds[audited].append(took)
        _print_archive(seconds, batches)
        _long_chain(S3Store(loaded.store, connections=READERS), links)


def _archive(bed: Bed, loaded: LoadedConfig, *, audited: bool) -> tuple[float, int]:
    bed.refill()
    bed.remove("")
    database = replace(loaded.databases[0], audit=AuditSettings(enabled=audited))
    session = ArchiveSession(loaded.tables[0], database, loaded.store, run_id="benchmark")
    with closing(session):
        windows = list(eligible_windows(session, inspect_table(session.connection, session.settings), DateRange()))
        started = perf_counter()
        report = archive_windows(session, windows)
        return perf_counter() - started, sum(window.batches for window in report.windows)


def _print_archive(seconds: dict[bool, list[float]], batches: int) -> None:
    without, audited = median(seconds[False]), median(seconds[True])
    table = Table("", "seconds (median)", "all", title=f"{batches} batches of {BATCH_ROWS:,} rows")
    for name, key in (("without trail", False), ("with trail", True)):
        table.add_row(name, f"{median(seconds[key]):.2f}", " ".join(f"{one:.2f}" for one in seconds[key]))
    output.print(table)
    output.print(f"ratio {audited / without:.3f}, {1000 * (audited - without) / batches:.1f} ms per batch")


def _long_chain(store: S3Store, links: int) -> None:
    with progress.status(f"writing a chain of {links:,} links"), ThreadPoolExecutor(READERS) as threads:
        list(threads.map(lambda one: store.put_document(*one), _chain(store.settings.prefix, links)))
    table = Table("", "seconds", title=f"{links:,} links")
    started = perf_counter()
    assert find_head(store, LONG).sequence == links
    table.add_row("find the head", f"{perf_counter() - started:.2f}")
    report = verify_trail(store, LONG)
    assert report.is_clean, report.findings[:3]
    table.add_row("verify", f"{report.seconds:.2f}")
    started = perf_counter()
    assert sum(len(one.link.entries) for one in Chain(store, LONG).links() if one.link) == links
    table.add_row("read all, as export does", f"{perf_counter() - started:.2f}")
    output.print(table)


def _chain(prefix: str, links: int) -> Iterator[tuple[str, bytes]]:
    previous = "none"
    who = Actor("app", "host", 1, "archiver", "access key AKIA", "run", "archiver run")
    for number in range(1, links + 1):
        facts = {"number": number, "text": "x" * 1200}
        entry = AuditEntry(f"{number:016x}", AuditKind.override, "2026-01-31T00:00:00.000000+00:00", who, "x", facts)
        data = encode_link(
            AuditLink(1, number, previous, LONG.database, LONG.schema, LONG.table, "unknown", 0, [entry])
        )
        previous = sha256_hex(data)
        yield audit_key(prefix, LONG, number), data


def _configuration(bed: Bed) -> LoadedConfig:
    document = {
        "s3": {
            "bucket": bed.s3.bucket,
            "endpoint": bed.s3.endpoint,
            "region": bed.s3.region,
            "storage_class": "STANDARD",
            "access_key_id": bed.s3.access_key_id,
            "secret_access_key_env": "BENCH_S3_SECRET",
        },
        "defaults": {"retention_days": 30, "batch_size": BATCH_ROWS, "sleep_between_batches": 0, "window": "month"},
        "databases": [
            {
                "name": DATABASE,
                "host": bed.postgres.host,
                "port": bed.postgres.port,
                "user": bed.postgres.user,
                "password_env": "BENCH_DB_PASSWORD",
                "tables": [{"name": TABLE, "timestamp_column": "occurred_at"}],
            }
        ],
    }
    path = Path(bed.folder) / "archiver.yaml"
    path.write_text(yaml.safe_dump(document))
    secrets = {"BENCH_S3_SECRET": bed.s3.secret_access_key, "BENCH_DB_PASSWORD": bed.postgres.password}
    return load_config(path, environ=secrets, cwd=path.parent)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=count, default=300_000, help="rows of the table")
    parser.add_argument("--rounds", type=count, default=3, help="how often each is run")
    parser.add_argument("--links", type=count, default=10_000, help="length of the chain")
    options = parser.parse_args()
    benchmark(options.rows, options.rounds, options.links)
    return 0


if __name__ == "__main__":
    sys.exit(main())
