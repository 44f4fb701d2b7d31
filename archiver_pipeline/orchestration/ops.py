"""The ops of a table's graph, one per step of the engine, in order. Each hands on references, never rows.

There is no retry policy: with one, terminating an in-process run would be taken for a failure and retried. Transient
errors ask for a retry themselves; everything else fails the run and says why.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

import dagster as dg

from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.domain.batch import Deletion, Encoding, Extraction, Plan, Upload, Verification
from archiver_pipeline.domain.pace import Pace, drained_per_day
from archiver_pipeline.domain.table import TableName, TableShape
from archiver_pipeline.domain.windows import Window, WindowUnit, window_of_key
from archiver_pipeline.engine.audit import AuditTrail
from archiver_pipeline.engine.backlog import measure_backlog, measure_intake
from archiver_pipeline.engine.compress import compress_batches
from archiver_pipeline.engine.delete import delete_batches
from archiver_pipeline.engine.extract import extract_batches
from archiver_pipeline.engine.plan import plan_archive
from archiver_pipeline.engine.progress import Progress
from archiver_pipeline.engine.recording import record_refusal
from archiver_pipeline.engine.report import report_archive
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.upload import upload_batches
from archiver_pipeline.engine.verify import verify_batches
from archiver_pipeline.errors import ArchiverError, LockHeldError
from archiver_pipeline.orchestration.history import archived_rows_of, last_pace, table_history
from archiver_pipeline.orchestration.metadata import (
    BACKLOG_COUNTED_ROWS,
    archive_checks,
    audit_metadata,
    backlog_metadata,
    report_metadata,
    window_metadata,
)
from archiver_pipeline.orchestration.names import asset_key, asset_name, pool_of, process_of
from archiver_pipeline.orchestration.runtime import RESOURCE_KEY, ArchiverRuntime

CHECK_VERIFIED = "verified"
CHECK_NOTHING_LEFT = "nothing_left_behind"
STEPS = ("plan", "extract", "compress", "upload", "verify", "delete", "report")
_MAX_RETRIES = 3
_FIRST_RETRY_SECONDS = 5
_LOCK_TRIES = 60
_LOCK_WAIT_SECONDS = 60


class PlanConfig(dg.Config):
    """`limit_rows`: take no more than this many rows, rounded up to whole batches; unset takes all.

    `ignore_hours`: begin batches outside of the table's allowed_hours as well; the audit trail is told.
    """

    limit_rows: int | None = None
    ignore_hours: bool = False


class StepOps:
    """The seven ops of one table."""

    def __init__(self, settings: TableSettings) -> None:
        self._settings = settings
        self._prefix = asset_name(settings)

    def plan(self) -> dg.OpDefinition:
        """Plan needs its run's partitions and config, so it stands apart from the steps that only hand on."""
        settings = self._settings

        def plan(context: dg.AssetExecutionContext, config: PlanConfig) -> Plan:
            session = _session(context, settings)
            if settings.adaptive_batch_size:
                session.known_pace = last_pace(context.instance, settings)
            with engine_errors(context, session):
                plan = plan_archive(
                    session,
                    run_windows(context, settings),
                    limit_rows=config.limit_rows,
                    ignore_hours=config.ignore_hours,
                )
            context.log.info(f"{len(plan.batches)} batches, {plan.eligible_rows} eligible rows, cutoff {plan.cutoff}")
            for warning in filter(None, (plan.stopped, *plan.shape.warnings, *plan.warnings)):
                context.log.warning(warning)
            return plan

        return self._op("plan", plan, {}, dg.Out(Plan, io_manager_key="io_manager"))

    def extract(self) -> dg.OpDefinition:
        return self._step("extract", extract_batches, Plan, Extraction)

    def compress(self) -> dg.OpDefinition:
        return self._step("compress", compress_batches, Extraction, Encoding)

    def upload(self) -> dg.OpDefinition:
        return self._step("upload", upload_batches, Encoding, Upload)

    def verify(self) -> dg.OpDefinition:
        return self._step("verify", verify_batches, Upload, Verification)

    def delete(self) -> dg.OpDefinition:
        return self._step("delete", delete_batches, Verification, Deletion)

    def report(self) -> dg.OpDefinition:
        """Vacuum, report, materialization metadata per partition, asset checks."""
        settings = self._settings
        key = asset_key(settings)

        def report(context: dg.AssetExecutionContext, before: Deletion) -> Iterator[Any]:
            session = _session(context, settings)
            with engine_errors(context, session):
                report = report_archive(session, before)
                shape = before.verification.upload.encoding.extraction.plan.shape
                left = _left(context.instance, session, shape, report.rows)
            left = {**left, **audit_metadata(session.audit.head)}
            _runtime(context).reports[settings] = report
            for kept in (*report.kept, *report.kept_before):
                context.log.warning(str(kept))
            override = settings.below_floor
            below_floor = {"retention_floor_override": override.reason} if override else {}
            context.log.info(f"report: {report.rows} rows archived, {report.left_behind_rows} left behind")
            for window in report.windows:
                # In one call, in the order in which people read it: the window first, then the run.
                shown = {**window_metadata(report, window), **report_metadata(report, shape), **left, **below_floor}
                context.add_asset_metadata(shown, key, window.window_key)
            yield from archive_checks(report, key)
            yield dg.Output(None, output_name="result")

        out = {"result": dg.Out(dg.Nothing)}
        out |= {f"{self._prefix}_{check}": dg.Out(dg.Nothing) for check in (CHECK_VERIFIED, CHECK_NOTHING_LEFT)}
        return self._op("report", report, {"before": dg.In(Deletion)}, out)

    def _step(self, step: str, run: Callable[[ArchiveSession, Any], Any], takes: type, gives: type) -> dg.OpDefinition:
        settings = self._settings

        def body(context: dg.AssetExecutionContext, before: Any) -> Any:
            session = _session(context, settings)
            with engine_errors(context, session):
                after = run(session, before)
            context.log.info(f"{step}: {len(after.batches)} batches in {after.seconds:.2f} s")
            return after

        return self._op(step, body, {"before": dg.In(takes)}, dg.Out(gives))

    def _op(self, step: str, body: Callable[..., Any], ins: dict[str, dg.In], out: Any) -> dg.OpDefinition:
        decorate = dg.op(
            name=f"{self._prefix}__{step}",
            description=STEP_DESCRIPTIONS[step],
            ins=ins,
            out=out,
            required_resource_keys={RESOURCE_KEY},
            pool=pool_of(self._settings.database),
        )
        return decorate(body)


def _left(
    instance: dg.DagsterInstance, session: ArchiveSession, shape: TableShape, archived_rows: int
) -> Mapping[str, Any]:
    """Backlog, drain and intake of the whole table, this run's rows included though Dagster has not stored them yet."""
    now = datetime.now(UTC)
    backlog = measure_backlog(session, most_rows=BACKLOG_COUNTED_ROWS, shape=shape)
    intake = measure_intake(session, shape, backlog.cutoff, most_rows=BACKLOG_COUNTED_ROWS)
    drained = drained_per_day([*archived_rows_of(table_history(instance, session.settings)), (now, archived_rows)], now)
    return backlog_metadata(backlog, Pace(backlog.eligible_rows, drained, intake), now)


STEP_DESCRIPTIONS = {
    "plan": "Locks the table, settles what a crash left open, cuts the windows' eligible rows into batches.",
    "extract": "Copies rows and row versions of each batch out of one snapshot; takes no lock.",
    "compress": "Encodes each batch into the object that will be stored, with its own SHA-256.",
    "upload": "Stores each object under a key no other attempt can share, with its SHA-256 for the store to check.",
    "verify": "Reads each object back: bytes, rows, count, keys, and a random sample against the live rows.",
    "delete": "Writes each manifest, deletes exactly the proved row versions in one transaction, writes the receipt.",
    "report": "Gives the space back and says what happened.",
}


def run_windows(context: dg.AssetExecutionContext, settings: TableSettings) -> list[Window]:
    """The windows of the run's partitions, oldest first."""
    unit = WindowUnit(settings.window)
    return [window_of_key(unit, key, first=settings.first_window) for key in sorted(context.partition_keys)]


class Session(Protocol):
    """What the errors of a step are told with."""

    @property
    def name(self) -> TableName: ...

    @property
    def progress(self) -> Progress: ...

    @property
    def audit(self) -> AuditTrail: ...


@contextmanager
def engine_errors(context: dg.OpExecutionContext | dg.AssetExecutionContext, session: Session) -> Iterator[None]:
    """Transient errors ask for a retry of the step; all others fail the run at once, in words.

    A run of the queue waits for the table lock: a backfill puts several runs of one table side by side. A run of the
    command does not: a person waits for it.
    """
    try:
        yield
    except LockHeldError as error:
        if process_of(context.run) is not None or context.retry_number >= _LOCK_TRIES:
            raise _failure(session, error) from error
        session.progress.lock_awaited(session.name, error, _LOCK_WAIT_SECONDS)
        raise dg.RetryRequested(max_retries=_LOCK_TRIES, seconds_to_wait=_LOCK_WAIT_SECONDS) from error
    except ArchiverError as error:
        if error.transient and context.retry_number < _MAX_RETRIES:
            wait_seconds = _FIRST_RETRY_SECONDS * 2**context.retry_number
            session.progress.step_retrying(session.name, error, wait_seconds)
            raise dg.RetryRequested(max_retries=_MAX_RETRIES, seconds_to_wait=wait_seconds) from error
        raise _failure(session, error) from error


def _failure(session: Session, error: ArchiverError) -> dg.Failure:
    record_refusal(session, error)
    session.progress.archive_failed(session.name, error)
    return dg.Failure(
        description=str(error),
        metadata={"error": type(error).__name__, "exit_code": error.exit_code},
        allow_retries=False,
    )


def _session(context: dg.AssetExecutionContext, settings: TableSettings) -> ArchiveSession:
    return _runtime(context).session(settings)


def _runtime(context: dg.AssetExecutionContext) -> ArchiverRuntime:
    runtime: ArchiverRuntime = getattr(context.resources, RESOURCE_KEY)
    return runtime
