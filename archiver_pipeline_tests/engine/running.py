"""Running the engine step by step, killing it, and running it again."""

import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from archiver_pipeline.domain.batch import Deletion, Plan, Verification
from archiver_pipeline.engine.compress import compress_batches
from archiver_pipeline.engine.delete import delete_batches
from archiver_pipeline.engine.extract import extract_batches
from archiver_pipeline.engine.plan import plan_archive
from archiver_pipeline.engine.report import ArchiveReport
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.upload import upload_batches
from archiver_pipeline.engine.verify import verify_batches
from archiver_pipeline.errors import LockHeldError
from archiver_pipeline_tests.engine.faults import POINTS, InterruptedRunError, Point, interrupt, place
from archiver_pipeline_tests.engine.killed_run import Orders
from archiver_pipeline_tests.ledger import Ledger, StoredObject
from archiver_pipeline_tests.plugins.archiving import Archiving
from archiver_pipeline_tests.plugins.servers import Bucket

LOCK_RELEASE_SECONDS = 20
KILLED_SECONDS = 120


def planned(archiving: Archiving, session: ArchiveSession) -> Plan:
    return plan_archive(session, archiving.windows(session))


def verified(archiving: Archiving, session: ArchiveSession) -> Verification:
    """Every step before the delete."""
    return verify_plan(session, planned(archiving, session))


def verify_plan(session: ArchiveSession, plan: Plan) -> Verification:
    """Every step from a plan to the delete."""
    encoding = compress_batches(session, extract_batches(session, plan))
    return verify_batches(session, upload_batches(session, encoding))


def run_plan(session: ArchiveSession, plan: Plan) -> Deletion:
    """Every step of a plan, as a re-execution does them."""
    return delete_batches(session, verify_plan(session, plan))


def archive_when_free(archiving: Archiving, **overrides: object) -> ArchiveReport:
    """Archive as soon as the server has noticed that the run before is dead."""
    deadline = time.monotonic() + LOCK_RELEASE_SECONDS
    while True:
        try:
            return archiving.archive(**overrides)
        except LockHeldError:
            assert time.monotonic() < deadline, "the lock of a dead run is still held"
            time.sleep(0.1)


def pending(archiving: Archiving, ledger: Ledger, point: str = "after a manifest", **overrides: object) -> StoredObject:
    """Leave one batch behind that has a manifest and no receipt; returns it as it is stored."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedRunError):
        place(POINTS[point], interrupt, patch.setattr)
        archiving.archive(workers=1, **overrides)
    [found] = [found for found in ledger.objects() if found.manifest and not (found.receipt or found.superseded)]
    return found


def put(bucket: Bucket, key: str, data: bytes) -> None:
    """Replace an object, as a person or a broken store does."""
    bucket.client.put_object(Bucket=bucket.bucket, Key=key, Body=data)


def killed(
    archiving: Archiving, point: str | Point, plan_path: Path, *, outage: Path | None = None, **overrides: object
) -> Plan | None:
    """A run in another process that dies by SIGKILL at the point; returns the plan it had made, if it had.

    With `outage`, the sign of a gate, the store goes away before the first upload.
    """
    session = archiving.session(**overrides)
    orders = Orders(session.settings, session.database, session.store_settings, point, plan_path, outage)
    died = subprocess.run(
        [sys.executable, "-m", "archiver_pipeline_tests.engine.killed_run"],
        input=pickle.dumps(orders),
        capture_output=True,
        check=False,
        timeout=KILLED_SECONDS,
    )
    assert died.returncode == -signal.SIGKILL, f"{died.returncode}: {died.stderr.decode()}"
    return pickle.loads(plan_path.read_bytes()) if plan_path.exists() else None
