"""One listener that writes what the engine tells as log lines: names, numbers and reasons, never a row."""

import threading
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

from archiver_pipeline.domain.batch import Outcome, SettledBatch
from archiver_pipeline.domain.fallback import KeptBatch
from archiver_pipeline.domain.restore import RestoreOutcome, RestoreReport
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.validation import Finding, ValidationReport
from archiver_pipeline.engine.progress import BatchStep, Progress, SilentProgress
from archiver_pipeline.engine.report import ArchiveReport
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.logs.lines import Logger, error_fields


@dataclass
class _Running:
    """A step under way: what it will see, as far as it is known, and what it has seen."""

    batches: int
    rows: int
    started_at: float
    told_at: float
    done_batches: int = 0
    done_rows: int = 0
    done_bytes: int = 0
    has_told: bool = False

    def figures(self, now: float) -> dict[str, Any]:
        """Rate and time left by what was done since the step began; percent by rows, where they are known."""
        elapsed = max(now - self.started_at, 1e-6)
        done, total = (self.done_rows, self.rows) if self.rows else (self.done_batches, self.batches)
        left_seconds = (total - done) * elapsed / done if done and total >= done else None
        return {
            "rows": self.done_rows,
            "total_rows": self.rows or None,
            "batches": self.done_batches,
            "total_batches": self.batches or None,
            "bytes": self.done_bytes,
            "percent": round(100 * done / total, 1) if total else None,
            "rows_per_second": round(self.done_rows / elapsed, 1),
            "eta_seconds": round(left_seconds, 1) if left_seconds is not None else None,
            "seconds": round(elapsed, 3),
        }


class LogListener(SilentProgress):
    """Writes steps, batches, reports and errors to a logger, and progress at most every `interval_seconds`, but for the
    last of a step.

    An interval of None writes no progress. Progress is told when a batch is finished: no row is counted before.
    """

    def __init__(self, logger: Logger, *, interval_seconds: float | None) -> None:
        self._logger = logger
        self._interval_seconds = interval_seconds
        self._lock = threading.Lock()
        self._running: dict[tuple[TableName, str], _Running] = {}

    def of_run(self, run_id: str) -> Progress:
        """The same logger, with the run in every line."""
        return LogListener(self._logger.bind(run_id=run_id), interval_seconds=self._interval_seconds)

    def step_started(self, table: TableName, step: str, batches: int, rows: int) -> None:
        now = monotonic()
        with self._lock:
            self._running[table, step] = _Running(batches, rows, now, now)
        self._logger.debug("step_started", **asdict(table), step=step, batches=batches, rows=rows or None)

    def batch_finished(self, table: TableName, step: str, batch: BatchStep) -> None:
        self._logger.debug(
            "batch_finished",
            **asdict(table),
            window=batch.window_key,
            batch_id=batch.batch_id,
            step=step,
            rows=batch.rows,
            bytes=batch.size_bytes,
            key=batch.key,
        )
        with self._lock:
            # Told one after the other: lines of two threads must not overtake each other.
            if figures := self._counted(table, step, batch):
                self._logger.info("progress", **asdict(table), step=step, **figures)

    def batch_settled(self, table: TableName, batch: SettledBatch) -> None:
        is_void = batch.outcome is Outcome.superseded
        (self._logger.warning if is_void else self._logger.info)(
            "batch_settled",
            **asdict(table),
            window=batch.window_key,
            batch_id=batch.batch_id,
            rows=batch.rows,
            bytes=batch.object_bytes,
            outcome=batch.outcome.value,
            reason=batch.reason or None,
            changed_rows=batch.changed_rows or None,
            locked_rows=batch.locked_rows or None,
            key=batch.key,
        )

    def batch_kept(self, table: TableName, batch: KeptBatch) -> None:
        self._logger.warning("batch_kept", **asdict(table), **_kept(batch))

    def batch_left_kept(self, table: TableName, batch: KeptBatch) -> None:
        self._logger.warning("batch_left_kept", **asdict(table), **_kept(batch))

    def reclaim_told(self, table: TableName, text: str) -> None:
        self._logger.info("reclaim_told", **asdict(table), message=text)

    def step_finished(self, table: TableName, step: str, seconds: float) -> None:
        with self._lock:
            running = self._running.pop((table, step), None)
        done = {"rows": running.done_rows, "bytes": running.done_bytes} if running and running.done_batches else {}
        batches = running.done_batches if running else None
        self._logger.info(
            "step_finished", **asdict(table), step=step, batches=batches or None, **done, seconds=round(seconds, 3)
        )

    def archive_reported(self, report: ArchiveReport) -> None:
        for warning in report.warnings:
            self._logger.warning("table_warning", **asdict(report.table), message=warning)
        self._logger.info(
            "archive_reported",
            **asdict(report.table),
            window=_range(sorted(window.window_key for window in report.windows)),
            rows=report.rows,
            bytes=report.object_bytes,
            rows_bytes=report.rows_bytes,
            seconds=round(report.total_seconds, 3),
            batches=sum(window.batches for window in report.windows),
            settled_before=len(report.settled_before),
            left_behind_rows=report.left_behind_rows,
            protected_rows=report.protected_rows,
            kept=len(report.kept) or None,
            kept_before=len(report.kept_before) or None,
            stopped_reason=report.stopped_reason or None,
            paused_seconds=round(report.pauses.seconds, 3) or None,
            batch_rows=report.batch_rows,
            batch_size_reason=report.batch_size_reason,
            truncated=report.truncated,
            reclaimed_bytes=max(0, report.table_bytes_before - report.table_bytes_after),
            vacuum=report.vacuum,
            free_bytes=report.disk.free_bytes if report.disk else None,
            reclaim=str(report.reclaim) if report.reclaim else None,
            returned_bytes=report.reclaim.returned_bytes if report.reclaim else None,
            cutoff=report.cutoff.isoformat(),
        )

    def restore_reported(self, report: RestoreReport) -> None:
        for warning in report.warnings:
            self._logger.warning("table_warning", **asdict(report.target), message=warning)
        for item in report.objects:
            if item.outcome is RestoreOutcome.failed:
                self._logger.error(
                    "archive_not_restored",
                    **asdict(report.target),
                    window=item.window_key,
                    batch_id=item.batch_id,
                    rows=item.rows,
                    key=item.data_key,
                    reason=item.reason,
                )
        self._logger.info(
            "restore_reported",
            **asdict(report.target),
            source=str(report.source),
            objects=len(report.objects),
            objects_failed=report.count(RestoreOutcome.failed),
            objects_waiting=report.count(RestoreOutcome.waiting),
            rows=report.restored_rows,
            skipped_rows=report.skipped_rows,
            failed_rows=report.failed_rows,
            seconds=round(report.seconds, 3),
        )

    def validation_reported(self, report: ValidationReport) -> None:
        for finding in report.findings:
            self._logger.error("validation_finding", **asdict(report.table), **_finding(finding))
        for note in report.notes:
            self._logger.info("validation_note", **asdict(report.table), **_finding(note))
        for warning in report.warnings:
            self._logger.warning("table_warning", **asdict(report.table), message=warning)
        self._logger.info(
            "validation_reported",
            **asdict(report.table),
            is_clean=report.is_clean,
            is_empty=report.is_empty,
            findings=len(report.findings),
            batches=report.batches,
            rows=report.rows,
            bytes=report.object_bytes,
            read_objects=report.read_objects,
            read_bytes=report.read_bytes,
            seconds=round(report.seconds, 3),
        )

    def archive_paused(self, table: TableName, step: str, reason: str) -> None:
        self._logger.warning("archive_paused", **asdict(table), step=step, reason=reason)

    def archive_resumed(self, table: TableName, step: str, seconds: float) -> None:
        self._logger.info("archive_resumed", **asdict(table), step=step, paused_seconds=round(seconds, 3))

    def outside_hours(self, table: TableName, reason: str) -> None:
        self._logger.warning("outside_hours", **asdict(table), reason=reason)

    def lock_awaited(self, table: TableName, error: ArchiverError, wait_seconds: float) -> None:
        self._logger.warning("lock_awaited", **asdict(table), **error_fields(error), wait_seconds=wait_seconds)

    def step_retrying(self, table: TableName, error: ArchiverError, wait_seconds: float) -> None:
        self._logger.warning("step_retrying", **asdict(table), **error_fields(error), wait_seconds=wait_seconds)

    def archive_failed(self, table: TableName, error: ArchiverError) -> None:
        self._logger.error("failed", **asdict(table), **error_fields(error))

    def _counted(self, table: TableName, step: str, batch: BatchStep) -> dict[str, Any] | None:
        """Count the batch; the step's figures when they are due to be told, or are the last after others were told."""
        running = self._running.get((table, step))
        if running is None:
            return None
        now = monotonic()
        running.done_batches += 1
        running.done_rows += batch.rows
        running.done_bytes += batch.size_bytes
        is_last = running.has_told and running.done_batches == running.batches
        if self._interval_seconds is None or not (is_last or now - running.told_at >= self._interval_seconds):
            return None
        running.told_at, running.has_told = now, True
        return running.figures(now)


def _range(window_keys: list[str]) -> str | None:
    """One window by its key, several by the first and the last."""
    if len(window_keys) < 2:
        return window_keys[0] if window_keys else None
    return f"{window_keys[0]}..{window_keys[-1]}"


def _kept(batch: KeptBatch) -> dict[str, Any]:
    return {
        "window": batch.window_key or None,
        "batch_id": batch.batch_id or None,
        "rows": batch.rows,
        "bytes": batch.size_bytes,
        "state": batch.state.value,
        "reason": batch.reason,
        "since": batch.since.isoformat(),
        "path": str(batch.path),
    }


def _finding(finding: Finding) -> dict[str, str]:
    return {
        "kind": finding.kind.value,
        "subject": finding.subject,
        "message": finding.message,
        "next_step": finding.next_step,
    }
