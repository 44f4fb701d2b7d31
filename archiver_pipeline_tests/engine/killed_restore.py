"""A restore in a process of its own that kills itself at a named point: reads its orders, pickled, from standard input.

Exit code 0 means that the point was never reached.
"""

import importlib
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass

from archiver_pipeline.config.effective import DatabaseSettings, StoreSettings, TableSettings, WatermarkSettings
from archiver_pipeline.domain.restore import RestoreRequest
from archiver_pipeline.engine.restore import restore_archives
from archiver_pipeline.engine.restore_session import RestoreSession
from archiver_pipeline_tests.engine.faults import Point, Setter, place

KILLED_SECONDS = 120
POINTS = {
    "before the protection": Point("archiver_pipeline.engine.restore", "record_protection", before=True),
    "after the protection": Point("archiver_pipeline.engine.restore", "record_protection"),
    "after an object is staged": Point("archiver_pipeline.engine.restore", "_stage", nth=2),
    "before an object is copied": Point("archiver_pipeline.engine.restore", "copy_rows", nth=2, before=True),
    "after an object is copied": Point("archiver_pipeline.engine.restore", "copy_rows", nth=3),
    "after an object is merged": Point("archiver_pipeline.engine.restore", "merge_rows", nth=3),
    "after an object is committed": Point("archiver_pipeline.engine.restore:_Work", "_restore_rows", nth=3),
    "after the last object": Point("archiver_pipeline.engine.restore:RestoreSession", "for_each"),
    "before the sequences": Point("archiver_pipeline.engine.restore", "advance_sequences", before=True),
    "before the report": Point("archiver_pipeline.engine.restore", "report_restore", before=True),
}

STAGED = ("after an object is staged", "after an object is merged")
"""Points that no row passes that is copied straight into the table."""


@dataclass(frozen=True)
class Orders:
    """What to restore, and where to die."""

    request: RestoreRequest
    database: DatabaseSettings
    settings: TableSettings | None
    store: StoreSettings
    watermark: WatermarkSettings
    point: str


def go_by_way_of_a_stage(setter: Setter) -> None:
    """As rows do of which some are in the table already."""
    setter(importlib.import_module("archiver_pipeline.engine.restore"), "seem_new", lambda *_: False)


def killed(session: RestoreSession, point: str) -> None:
    """Do in another process what the session would, until it dies by SIGKILL at the point."""
    orders = Orders(
        session.request,
        session.database,
        session.settings,
        session.store_settings,
        session.watermark_settings,
        point,
    )
    died = subprocess.run(
        [sys.executable, "-m", "archiver_pipeline_tests.engine.killed_restore"],
        input=pickle.dumps(orders),
        capture_output=True,
        check=False,
        timeout=KILLED_SECONDS,
    )
    assert died.returncode == -signal.SIGKILL, f"{died.returncode}: {died.stderr.decode()}"


def main() -> None:
    orders = pickle.loads(sys.stdin.buffer.read())
    session = RestoreSession(
        orders.request, orders.database, orders.settings, orders.store, orders.watermark, run_id="killed-restore"
    )
    if orders.point in STAGED:
        go_by_way_of_a_stage(setattr)
    place(POINTS[orders.point], lambda: os.kill(os.getpid(), signal.SIGKILL))
    restore_archives(session)


if __name__ == "__main__":
    main()
