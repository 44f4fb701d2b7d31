"""`archiver list` over many small batches: by the listing alone, and with every receipt. See README.md."""

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from time import perf_counter, process_time

import yaml
from archive import count
from rich.console import Console
from rich.table import Table

from archiver_pipeline.codec.documents import encode_mark
from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig, load_config
from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.domain.layout import MANIFEST_SUFFIX, RECEIPT_SUFFIX, DataFormat, batch_stem, data_key
from archiver_pipeline.domain.manifest import FORMAT_VERSION, Receipt
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.windows import WindowUnit, window_of_key
from archiver_pipeline.engine.inventory import DateRange, find_archives, read_receipts
from archiver_pipeline.sandbox.s3_server import S3Server
from archiver_pipeline.storage.document_cache import DocumentCache
from archiver_pipeline.storage.s3 import S3Store

DATABASE, TABLE = "bench", "audit_log"
FIRST = date(2020, 1, 1)
BATCHES_PER_WINDOW = 10
WRITERS = 16
SMALL = b"{}\n" * 100

output = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
progress = Console(stderr=True, highlight=False)


def benchmark(batches: int, threads: list[int], rounds: int) -> None:
    """Fill a server with batches, then list them in every way."""
    output.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f} at start")
    with S3Server(bucket="bench") as server:
        loaded = _configuration(server)
        with progress.status(f"writing {batches:,} batches"):
            _fill(loaded, batches)
        table = Table("way", "seconds", "CPU s", "batches/s", title=f"{batches:,} batches, {3 * batches:,} objects")
        for _ in range(rounds):
            cache = DocumentCache.of(loaded.store, Path(server.data_dir) / "cache")
            ways = [("--quick: the listing alone", 0, None)]
            ways += [(f"receipts with {number} threads", number, None) for number in threads]
            ways += [("first list: receipts read and kept", max(threads), cache)]
            ways += [("every later list: receipts kept before", max(threads), cache)]
            for name, readers, kept in ways:
                seconds, cpu_seconds = _seconds(loaded, batches, readers, kept)
                table.add_row(name, f"{seconds:.2f}", f"{cpu_seconds:.2f}", f"{batches / seconds:,.0f}")
                progress.print(f"{name}: {seconds:.2f} s")
            cache.path.unlink()
        output.print(table)


def _seconds(loaded: LoadedConfig, batches: int, threads: int, cache: DocumentCache | None) -> tuple[float, float]:
    """Wall and CPU of what the command does between configuration and output; no thread: no receipt."""
    store = S3Store(loaded.store, connections=max(threads, 1))
    started, cpu_started = perf_counter(), process_time()
    found = find_archives(store, loaded.tables[0], DateRange(), None, datetime.now(UTC))
    if threads:
        found = read_receipts(store, found, threads, cache=cache)
    seconds = perf_counter() - started, process_time() - cpu_started
    rows = sum(batch.receipt.rows for batch in found if batch.receipt)
    assert len(found) == batches
    assert rows == (batches if threads else 0)
    return seconds


def _fill(loaded: LoadedConfig, batches: int) -> None:
    store = S3Store(loaded.store, connections=WRITERS)
    with ThreadPoolExecutor(WRITERS) as writers:
        for _ in writers.map(lambda item: store.put_unchecked(*item), _objects(loaded.tables[0], batches)):
            pass


def _objects(settings: TableSettings, batches: int) -> Iterator[tuple[str, bytes]]:
    name = TableName(settings.database, settings.schema, settings.table)
    for number in range(batches):
        day = FIRST + timedelta(days=number // BATCHES_PER_WINDOW)
        window = window_of_key(WindowUnit.day, day.isoformat(), first=FIRST)
        batch_id = f"{number:020x}"
        stem = batch_stem("archives", name, window, batch_id)
        key = data_key(stem, DataFormat.jsonl_gz)
        yield key, SMALL
        yield stem + MANIFEST_SUFFIX, SMALL
        yield stem + RECEIPT_SUFFIX, encode_mark(_receipt(batch_id, key, f"{day} 12:00:00+00"))


def _receipt(batch_id: str, key: str, moment: str) -> Receipt:
    return Receipt(
        format_version=FORMAT_VERSION,
        batch_id=batch_id,
        data_key=key,
        manifest_sha256="0" * 64,
        object_sha256="0" * 64,
        rows=1,
        rows_bytes=400,
        object_bytes=len(SMALL),
        first_row_time=moment,
        last_row_time=moment,
        outcome=Outcome.deleted,
        settled_by="run",
        run_id="bench",
        settled_at="2026-01-01T00:00:00+00:00",
    )


def _configuration(server: S3Server) -> LoadedConfig:
    document = {
        "s3": {
            "bucket": server.bucket,
            "endpoint": server.endpoint,
            "region": server.region,
            "access_key_id": server.access_key_id,
            "secret_access_key_env": "BENCH_S3_SECRET",
        },
        "databases": [
            {
                "name": DATABASE,
                "host": "nowhere",
                "user": "nobody",
                "tables": [{"name": TABLE, "timestamp_column": "occurred_at", "retention_days": 30}],
            }
        ],
    }
    path = Path(server.data_dir) / "archiver.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_config(path, environ={"BENCH_S3_SECRET": server.secret_access_key}, cwd=path.parent)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--batches", type=count, default=10_000, help="batches of the table, three objects each")
    parser.add_argument("--threads", type=count, nargs="+", default=[16], help="threads that read receipts")
    parser.add_argument("--runs", type=count, default=3, help="rounds; every way once in each")
    options = parser.parse_args()
    benchmark(options.batches, options.threads, options.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
