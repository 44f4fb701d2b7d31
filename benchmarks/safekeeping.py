"""What it costs a batch to have encryption and locks read back: the same table, four ways, in turn. See README.md."""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bed import DATABASE, TABLE, Bed, running_bed
from rich.console import Console
from rich.table import Table

from archiver_pipeline.config.enums import Encryption, ObjectLockMode
from archiver_pipeline.config.loading import parse_config
from archiver_pipeline.domain.windows import WindowUnit
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.inventory import DateRange, eligible_windows
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.postgres.catalog import inspect_table

LOCK_BUCKET = "bench-lock"
_SSE = {"encryption": Encryption.SSE_S3}
_MARKED = {"must_encrypt": True}
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing asked": ({}, {}),
    "SSE-S3, not read back": (_SSE, {}),
    "SSE-S3, read back": (_SSE, _MARKED),
    "SSE-S3 and a lock, read back": (
        _SSE | {"object_lock": ObjectLockMode.GOVERNANCE},
        _MARKED | {"lock_days": 1},
    ),
}
"""Settings of the store and of the table that each way adds."""
CONFIG = """\
version: "1"
s3: {{bucket: {bucket}, endpoint: "{endpoint}", access_key_id: {key}, secret_access_key: "{secret}",
  storage_class: STANDARD}}
defaults: {{retention_days: 30, batch_size: {batch_size}, sleep_between_batches: 0, vacuum_strategy: none,
  window: month}}
compliance: {{audit_trail: false}}
databases:
  - {{name: {database}, host: {host}, port: {port}, user: {user}, password: "{password}",
      tables: [{{name: {table}, timestamp_column: occurred_at}}]}}
"""

output = Console(highlight=False)


def benchmark(rows: int, batch_size: int, rounds: int) -> None:
    """Start the servers, archive the table every way in every round, print milliseconds per batch."""
    with running_bed() as bed:
        bed.s3.create_bucket(LOCK_BUCKET, object_lock=True)
        bed.create_table(rows, WindowUnit.month)
        session_of(bed, batch_size, "warm up", {}, {}).close()
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(rounds):
            for way, (store, table) in WAYS.items():
                bed.refill()
                found[way].append(ms_per_batch(session_of(bed, batch_size, f"{number}-{len(store)}", store, table)))
        output.print(_shown(found))


def session_of(bed: Bed, batch_size: int, name: str, store: dict[str, Any], table: dict[str, Any]) -> ArchiveSession:
    """A session with one worker, so that what one batch costs is not hidden behind another."""
    text = CONFIG.format(
        bucket=LOCK_BUCKET,
        endpoint=bed.s3.endpoint,
        key=bed.s3.access_key_id,
        secret=bed.s3.secret_access_key,
        batch_size=batch_size,
        database=DATABASE,
        host=bed.postgres.host,
        port=bed.postgres.port,
        user=bed.postgres.user,
        password=bed.postgres.password,
        table=TABLE,
    )
    loaded = parse_config(text.encode(), Path(bed.folder) / "archiver.yaml", {})
    settings = replace(loaded.tables[0], workers=1, staging_dir=bed.folder / "staging", **table)
    where = replace(loaded.store, prefix=f"bench-{name}".replace(" ", "-"), **store)
    return ArchiveSession(settings, loaded.databases[0], where, run_id=name)


def ms_per_batch(session: ArchiveSession) -> float:
    """Wall time of a whole run, by its batches."""
    try:
        windows = list(eligible_windows(session, inspect_table(session.connection, session.settings), DateRange()))
        begin = time.perf_counter()
        report = archive_windows(session, windows)
        seconds = time.perf_counter() - begin
    finally:
        session.close()
    return 1000 * seconds / sum(window.batches for window in report.windows)


def _shown(found: dict[str, list[float]]) -> Table:
    first = median(next(iter(found.values())))
    table = Table("way", "ms per batch", "more than the first", "of each round")
    for way, figures in found.items():
        each = " ".join(f"{figure:.1f}" for figure in figures)
        table.add_row(way, f"{median(figures):.1f}", f"{median(figures) - first:+.1f}", each)
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    benchmark(options.rows, options.batch_size, options.rounds)
