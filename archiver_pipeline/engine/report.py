"""Report: give the space back, and say what happened in numbers."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from archiver_pipeline.config.enums import ReclaimStrategy, VacuumStrategy
from archiver_pipeline.domain.batch import Deletion, Outcome, SettledBatch
from archiver_pipeline.domain.batch_size import DeletePace
from archiver_pipeline.domain.disk import DiskReport, Reclaim
from archiver_pipeline.domain.fallback import KeptBatch
from archiver_pipeline.domain.partitions import LeafEnd
from archiver_pipeline.domain.protection import longest_protection
from archiver_pipeline.domain.table import TableName, TableShape
from archiver_pipeline.domain.throttle import NO_PAUSES, Pauses
from archiver_pipeline.domain.windows import Window
from archiver_pipeline.engine.holds import with_holds
from archiver_pipeline.engine.reclaim import FAILURES, give_back
from archiver_pipeline.engine.recording import record_report
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.steps import timed_step
from archiver_pipeline.errors import HoldsError, NetworkError, PermissionDeniedError, PreflightError, SourceError
from archiver_pipeline.postgres.connection import RowsLockedError
from archiver_pipeline.postgres.eligible import count_held, count_up_to
from archiver_pipeline.postgres.maintenance import table_bytes, vacuum_table

REMAINING_COUNTED_ROWS = 1_000_000
_REASONS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class WindowReport:
    """What happened to one window. `remaining_rows` counts no further than REMAINING_COUNTED_ROWS, and so does
    `held_rows`: those that are old enough and stay because of a legal hold. No row is in both.

    `protected_until` is when the last protection of the window ends, UTC, ISO 8601; None when it has none.
    """

    window_key: str
    rows: int
    rows_bytes: int
    object_bytes: int
    batches: int
    superseded_batches: int
    changed_rows: int
    locked_rows: int
    reasons: tuple[str, ...]
    remaining_rows: int
    keys: tuple[str, ...]
    protected_until: str | None = None
    held_rows: int = 0


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """What one attempt did. Seconds per step are wall time; sizes are bytes on disk of the table with its indexes.

    `kept` batches could not be uploaded and are on the local disk; `kept_before` are there since earlier runs.
    """

    table: TableName
    run_id: str
    attempt_id: str
    cutoff: datetime
    windows: tuple[WindowReport, ...]
    settled_before: tuple[SettledBatch, ...]
    seconds: dict[str, float]
    table_bytes_before: int
    table_bytes_after: int
    vacuum: str
    truncated: bool
    sampled_rows: int
    warnings: tuple[str, ...]
    kept: tuple[KeptBatch, ...] = ()
    kept_before: tuple[KeptBatch, ...] = ()
    held_reason: str = ""
    """The legal holds on the table in a line for people; empty when there is none."""
    stopped: str = ""
    """Why the attempt ended before its time by the throttle or the allowed hours; empty when it did not."""
    pauses: Pauses = NO_PAUSES
    leaves: tuple[LeafEnd, ...] = ()
    """Native partitions that might have been dropped as a whole."""
    batch_rows: int = 0
    """Rows of a full batch, and why so many."""
    batch_size_reason: str = ""
    pace: DeletePace | None = None
    """What the deletes took; None when nothing was deleted."""
    disk: DiskReport | None = None
    """What is free inside the table's files, and what was given back; None when nothing was archived and no reclaim is
    configured."""

    @property
    def reclaim(self) -> Reclaim | None:
        """How the table was written anew, or why not; None when that is not configured."""
        return self.disk.reclaim if self.disk else None

    @property
    def rows(self) -> int:
        """Rows this attempt archived, those settled for an earlier crash included."""
        return sum(window.rows for window in self.windows) + sum(b.archived_rows for b in self.settled_before)

    @property
    def rows_bytes(self) -> int:
        return sum(window.rows_bytes for window in self.windows)

    @property
    def object_bytes(self) -> int:
        return sum(window.object_bytes for window in self.windows)

    @property
    def dropped_leaves(self) -> tuple[LeafEnd, ...]:
        return tuple(end for end in self.leaves if end.dropped)

    @property
    def dropped_bytes(self) -> int:
        """Bytes on disk that dropped partitions gave back at once."""
        return sum(end.dropped_bytes for end in self.leaves)

    @property
    def left_behind_rows(self) -> int:
        """Rows that are still eligible although this attempt saw or could have seen them, without protected ones."""
        return sum(window.remaining_rows for window in self.windows if window.protected_until is None)

    @property
    def protected_rows(self) -> int:
        """Rows that are old enough and stay on purpose: they are in windows that a restore protected."""
        return sum(window.remaining_rows for window in self.windows if window.protected_until is not None)

    @property
    def held_rows(self) -> int:
        """Rows of the windows that are old enough and stay because of a legal hold."""
        return sum(window.held_rows for window in self.windows)

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def stopped_reason(self) -> str:
        """Why old rows remain, protected and held ones included; empty when none does."""
        held_reason = self.held_reason if self.held_rows else ""
        return "; ".join(filter(None, (self.left_behind_reason, self.protected_reason, held_reason)))

    @property
    def left_behind_reason(self) -> str:
        """Why rows were left behind; empty when none was."""
        if not self.left_behind_rows:
            return ""
        if self.stopped:
            return self.stopped
        if self.kept:
            return f"upload failed, {len(self.kept)} batches kept on the local disk"
        if self.truncated:
            return "staging or row limit reached"
        return _reasons(window for window in self.windows if window.protected_until is None) or "rows arrived late"

    @property
    def protected_reason(self) -> str:
        """Until when rows are protected; empty when none is."""
        return _reasons(window for window in self.windows if window.protected_until and window.remaining_rows)


def report_archive(session: ArchiveSession, deletion: Deletion) -> ArchiveReport:
    """VACUUM if rows were deleted, then report. Removes the attempt's staged files. Safe to repeat."""
    extraction = deletion.verification.upload.encoding.extraction
    plan = extraction.plan
    with timed_step(session, "report", 1, 0) as watch:
        vacuum = _vacuum(session, deletion)
        shape, warnings = _shape_of_now(session, plan.shape)
        windows = tuple(_window_report(session, deletion, window, shape) for window in plan.windows)
        disk, untold = _give_back(session, deletion, shape)
        after = table_bytes(session.connection, plan.shape.name)
        session.remove_other_staging(None)
    report = ArchiveReport(
        table=plan.shape.name,
        run_id=session.run_id,
        attempt_id=plan.attempt_id,
        cutoff=plan.cutoff,
        windows=windows,
        settled_before=plan.settled,
        seconds=_seconds(deletion) | {"report": watch.seconds},
        table_bytes_before=plan.table_bytes_before,
        table_bytes_after=after,
        vacuum=vacuum,
        truncated=extraction.truncated,
        sampled_rows=sum(batch.sampled_rows for batch in deletion.verification.batches),
        warnings=(*plan.shape.warnings, *plan.warnings, *warnings, *untold),
        kept=(*deletion.verification.upload.kept, *deletion.verification.kept),
        kept_before=plan.kept_before,
        held_reason=shape.holds.reason,
        stopped=deletion.stopped or extraction.stopped,
        pauses=plan.pauses + extraction.pauses + deletion.pauses,
        leaves=deletion.leaves,
        batch_rows=plan.batch_size.rows,
        batch_size_reason=plan.batch_size.reason,
        pace=deletion.pace,
        disk=disk,
    )
    report = _recorded(session, report, deletion)
    session.progress.archive_reported(report)
    return report


def _recorded(session: ArchiveSession, report: ArchiveReport, deletion: Deletion) -> ArchiveReport:
    """The report, told to the audit trail. While batches are kept because the store is out, and none was settled since,
    the trail is out of reach as well: that is a warning, and the run that uploads them tells of it."""
    if report.kept and not deletion.batches:
        untold = "the audit trail, which is in the store, was not told of this run's end"
        return replace(report, warnings=(*report.warnings, untold)) if session.audit.enabled else report
    record_report(session, _facts(report), report.kept)
    return report


def _facts(report: ArchiveReport) -> dict[str, object]:
    return {
        "attempt_id": report.attempt_id,
        "cutoff": report.cutoff.isoformat(),
        "windows": [window.window_key for window in report.windows],
        "rows": report.rows,
        "rows_bytes": report.rows_bytes,
        "object_bytes": report.object_bytes,
        "batches": sum(window.batches for window in report.windows),
        "superseded_batches": sum(window.superseded_batches for window in report.windows),
        "settled_before": len(report.settled_before),
        "left_behind_rows": report.left_behind_rows,
        "protected_rows": report.protected_rows,
        "held_rows": report.held_rows,
        "held_reason": report.held_reason,
        "stopped_reason": report.stopped_reason,
        "truncated": report.truncated,
        "paused_seconds": round(report.pauses.seconds, 3),
        "batch_rows": report.batch_rows,
        "vacuum": report.vacuum,
        "partitions_dropped": [str(end.leaf) for end in report.dropped_leaves],
        "partitions_dropped_bytes": report.dropped_bytes,
        "partitions_kept": [str(end) for end in report.leaves if not end.dropped],
        "reclaim": str(report.reclaim) if report.reclaim else "none",
        "seconds": round(report.total_seconds, 3),
        "warnings": list(report.warnings),
    }


def _shape_of_now(session: ArchiveSession, shape: TableShape) -> tuple[TableShape, tuple[str, ...]]:
    """The shape with the holds of now, some of which may have been placed during the run. Nothing is deleted any more:
    when they can't be read again, those of the plan are told, with a warning."""
    try:
        return with_holds(session, shape), ()
    except (HoldsError, NetworkError, PermissionDeniedError, PreflightError, SourceError) as error:
        return shape, (f"rows under legal hold are counted as they were when the run began: {error}",)


def _reasons(windows: Iterable[WindowReport]) -> str:
    reasons = dict.fromkeys(reason for window in windows for reason in window.reasons)
    return "; ".join(list(reasons)[:_REASONS_SHOWN])


def _vacuum(session: ArchiveSession, deletion: Deletion) -> str:
    """What was done, in a word."""
    strategy = VacuumStrategy(session.settings.vacuum_strategy)
    plan = deletion.verification.upload.encoding.extraction.plan
    if not any(batch.archived_rows for batch in (*deletion.batches, *plan.settled)):
        return "nothing to vacuum"
    if session.throttle.closed(plan.shape, ignore_hours=plan.ignores_hours):
        return f"{strategy.value}: skipped, outside allowed_hours"
    try:
        vacuum_table(session.primary, session.name, strategy, gently=session.is_unhurried)
    except RowsLockedError:
        return f"{strategy.value}: skipped, the table was locked"
    except PermissionDeniedError as error:
        return f"{strategy.value}: {error}"
    return strategy.value


def _give_back(
    session: ArchiveSession, deletion: Deletion, shape: TableShape
) -> tuple[DiskReport | None, tuple[str, ...]]:
    """What the table's files hold and what of it was given back, with warnings. Nothing of it fails a run: every row is
    where it belongs."""
    plan = deletion.verification.upload.encoding.extraction.plan
    archived = any(batch.archived_rows for batch in (*deletion.batches, *plan.settled))
    if not archived and ReclaimStrategy(session.settings.reclaim) is ReclaimStrategy.NONE:
        return None, ()
    session.close_workers()
    try:
        closed = session.throttle.closed(plan.shape, ignore_hours=plan.ignores_hours)
        disk = give_back(session, shape, closed=str(closed or ""))
    except FAILURES as error:
        return None, (f"the free space of its files could not be measured: {error}",)
    failed = disk.reclaim.failed if disk.reclaim else ""
    return disk, ((f"reclaim failed, and no row is affected: {failed}",) if failed else ())


def _window_report(session: ArchiveSession, deletion: Deletion, window: Window, shape: TableShape) -> WindowReport:
    plan = deletion.verification.upload.encoding.extraction.plan
    own = [batch for batch in deletion.batches if batch.window_key == window.key]
    done = [batch for batch in own if batch.outcome is not Outcome.superseded]
    void = [batch for batch in own if batch.outcome is Outcome.superseded]
    protection = longest_protection(window, deletion.protections)
    reasons = [batch.reason for batch in void] if protection is None else [str(protection)]
    return WindowReport(
        window_key=window.key,
        rows=sum(batch.rows for batch in done),
        rows_bytes=sum(batch.rows_bytes for batch in done),
        object_bytes=sum(batch.object_bytes for batch in done),
        batches=len(done),
        superseded_batches=len(void),
        changed_rows=sum(batch.changed_rows for batch in void),
        locked_rows=sum(batch.locked_rows for batch in void),
        reasons=tuple(dict.fromkeys(reasons)),
        remaining_rows=count_up_to(session.connection, shape, window, plan.cutoff, REMAINING_COUNTED_ROWS),
        keys=tuple(batch.key for batch in done),
        protected_until=protection.ends_at if protection else None,
        held_rows=count_held(session.connection, shape, window, plan.cutoff, REMAINING_COUNTED_ROWS),
    )


def _seconds(deletion: Deletion) -> dict[str, float]:
    verification = deletion.verification
    upload = verification.upload
    extraction = upload.encoding.extraction
    return {
        "plan": extraction.plan.seconds,
        "extract": extraction.seconds,
        "compress": upload.encoding.seconds,
        "upload": upload.seconds,
        "verify": verification.seconds,
        "delete": deletion.seconds,
    }
