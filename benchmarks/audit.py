"""How long a long audit trail takes to verify and to read. What writing it costs: compliance.py."""

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from archive import count
from bed import DATABASE, TABLE, running_bed
from rich.console import Console
from rich.table import Table

from archiver_pipeline.codec.audit import encode_link
from archiver_pipeline.codec.hashing import sha256_hex
from archiver_pipeline.domain.audit import Actor, AuditEntry, AuditKind, AuditLink
from archiver_pipeline.domain.layout import audit_key
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.audit import find_head
from archiver_pipeline.engine.audit_verify import verify_trail
from archiver_pipeline.engine.trail import READERS, Chain
from archiver_pipeline.storage.s3 import S3Store

LONG = TableName(DATABASE, "public", "long")
output = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
progress = Console(stderr=True, highlight=False)


def benchmark(links: int) -> None:
    """Write a long chain, then read it in every way."""
    output.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f} at start")
    with running_bed() as bed:
        _long_chain(S3Store(bed.configuration([TABLE]).store, connections=READERS), links)


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


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--links", type=count, default=10_000, help="length of the chain")
    options = parser.parse_args()
    benchmark(options.links)
    return 0


if __name__ == "__main__":
    sys.exit(main())
