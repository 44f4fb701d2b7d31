"""A run in a process of its own that may write no larger files, or use no more memory, than it is told: reads its
orders, pickled, from standard input. Exit codes are those of the errors; 0 means that nothing was short."""

import pickle
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from archiver_pipeline.config.effective import DatabaseSettings, StoreSettings, TableSettings
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.inventory import DateRange, eligible_windows
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.postgres.catalog import inspect_table


@dataclass(frozen=True)
class Orders:
    """What to archive, and how little of what there is. `memory_bytes` is beyond what the process has at its start."""

    settings: TableSettings
    database: DatabaseSettings
    store: StoreSettings
    file_bytes: int | None = None
    memory_bytes: int | None = None


def main() -> None:
    orders = pickle.loads(sys.stdin.buffer.read())
    session = ArchiveSession(orders.settings, orders.database, orders.store, run_id="limited-run")
    windows = list(eligible_windows(session, inspect_table(session.connection, orders.settings), DateRange()))
    if orders.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (orders.file_bytes, orders.file_bytes))
    if orders.memory_bytes is not None:
        limit = _address_space_bytes() + orders.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        archive_windows(session, windows)
    except ArchiverError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def _address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
