"""A run in a process of its own that kills or stops itself at a named point: reads its orders, pickled, from standard
input.

Exit code 0 means that the point was never reached.
"""

import pickle
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from archiver_pipeline.config.effective import DatabaseSettings, StoreSettings, TableSettings
from archiver_pipeline.engine import archive
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.inventory import DateRange, eligible_windows
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline_tests.engine.faults import KEEPING_POINTS, POINTS, UPLOADING_POINTS, Point, place


@dataclass(frozen=True)
class Orders:
    """What to archive, where to die and by which signal, and where to leave the plan, pickled, once it is made."""

    settings: TableSettings
    database: DatabaseSettings
    store: StoreSettings
    point: str | Point
    plan_path: Path
    outage: Path | None = None
    """The sign of a gate to the store, to be shut before the first upload."""
    by: signal.Signals = signal.SIGKILL


def main() -> None:
    orders = pickle.loads(sys.stdin.buffer.read())
    session = ArchiveSession(orders.settings, orders.database, orders.store, run_id="killed-run")
    _keep_plan(orders.plan_path)
    if orders.outage is not None:
        place(POINTS["compress"], orders.outage.touch)
    # To the very thread that is there: another one would let it go on for a moment.
    named = POINTS | KEEPING_POINTS | UPLOADING_POINTS
    point = orders.point if isinstance(orders.point, Point) else named[orders.point]
    place(point, lambda: signal.raise_signal(orders.by))
    windows = eligible_windows(session, inspect_table(session.connection, orders.settings), DateRange())
    archive_windows(session, list(windows))


def _keep_plan(path: Path) -> None:
    original = archive.plan_archive

    def keeping(*args, **options):
        plan = original(*args, **options)
        path.write_bytes(pickle.dumps(plan))
        return plan

    archive.plan_archive = keeping


if __name__ == "__main__":
    main()
