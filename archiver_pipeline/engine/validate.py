"""Validate: prove that the archives of a table are all there, whole, without contradiction, and not in the table."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from archiver_pipeline.domain.drift import compare_columns
from archiver_pipeline.domain.fallback import KeptState
from archiver_pipeline.domain.layout import (
    BatchState,
    StoredBatch,
    StoredObject,
    batch_stem_of,
    group_batches,
    listing_prefix,
)
from archiver_pipeline.domain.manifest import ManifestColumn
from archiver_pipeline.domain.validation import (
    UNFINISHED_GRACE,
    Finding,
    FindingKind,
    Severity,
    ValidationReport,
    ValidationRequest,
    buckets_of,
    start_of_window,
)
from archiver_pipeline.domain.windows import WindowUnit, next_start, start_of_day
from archiver_pipeline.engine.duplicates import DuplicateSearch
from archiver_pipeline.engine.examination import NEXT_STEPS, Examined, Validation, examine_batch
from archiver_pipeline.engine.kept_files import list_kept, list_strangers
from archiver_pipeline.engine.progress import BatchStep
from archiver_pipeline.engine.recording import record_validation
from archiver_pipeline.engine.repair import Repairs, repair_table
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.steps import timed_step
from archiver_pipeline.errors import ArchiverError, ConfigError
from archiver_pipeline.postgres.audit import LiveTable, look_at_table
from archiver_pipeline.postgres.connection import source_errors

STEP = "validate"
_BATCHES_PER_WORKER = 16
_DATE_KEY = len("2026-01-31")
_FALLBACK_STEPS = {
    KeptState.waiting: "`archiver upload-pending` or `archiver run` uploads it; look why none did",
    KeptState.stale: "it is never uploaded; if its rows are archived or in the table, remove its files by hand",
    KeptState.damaged: "it is never uploaded; its rows were not deleted by it. Look at the disk, then remove its files",
    KeptState.unfinished: "its rows were not deleted by it; remove its files by hand",
}
_DRIFT_STEP = "nothing for the archive; restoring such objects needs a schema strategy"


def validate_table(session: ArchiveSession, request: ValidationRequest) -> ValidationReport:
    """Validate the table's archives that the request takes. Changes nothing, unless `repair` is asked for, and writes
    nothing but its entry in the audit trail: without that it fails.

    What is wrong with an archive is a finding; whatever keeps us from looking is raised: a part that could not be
    looked at is never valid. Raises ConfigError for a request that makes no sense, NetworkError, PermissionDeniedError,
    StoreError, SourceError, PreflightError; with `repair` also LockHeldError.
    """
    require_possible(session, request)
    repairs = repair_table(session) if request.repair else Repairs()
    live = None if request.offline else _live_table(session)
    listed = _list_archives(session, request)
    seen = _Seen(list(repairs.findings))
    with timed_step(session, STEP, len(listed.batches), 0) as watch:
        _examine_all(Validation(session, request, live), listed.batches, seen)
        seen.found += _repeated_batch_ids(listed.batches)
        seen.found += _strays(listed.strays, request.now)
        seen.found += _stale_fallbacks(session, request.now)
        seen.found += _drift(seen.shapes, live)
    report = _report(session, request, seen, repairs, audited=live is not None, seconds=watch.seconds)
    record_validation(session, request, report)
    session.progress.validation_reported(report)
    return report


def require_possible(session: ArchiveSession, request: ValidationRequest) -> None:
    """Raises ConfigError for a request that contradicts itself or names another table's object."""
    try:
        buckets_of(request.sample_percent)
    except ValueError as error:
        raise ConfigError(str(error), hint="give a percentage such as 5") from error
    if request.offline and request.repair:
        raise ConfigError("a repair needs the database", hint="leave out either offline or repair")
    if request.start and request.end and request.end < request.start:
        raise ConfigError(f"the last day {request.end} is before the first day {request.start}", hint="swap them")
    if request.data_key is not None:
        _stem_within(session, request.data_key)


def _live_table(session: ArchiveSession) -> LiveTable:
    try:
        with source_errors(session.primary):
            return look_at_table(session.connection, session.name)
    except ArchiverError as error:
        offline = "what is in the store alone can be validated offline"
        error.hint = f"{error.hint}; {offline}" if error.hint else offline
        raise


@dataclass(frozen=True, slots=True)
class _Listing:
    """What the store holds of the table: batches in key order, and objects that belong to no batch."""

    batches: tuple[StoredBatch, ...]
    strays: tuple[StoredObject, ...]


def _list_archives(session: ArchiveSession, request: ValidationRequest) -> _Listing:
    prefix = listing_prefix(session.store_settings.prefix, session.name)
    if request.data_key is not None:
        stem = _stem_within(session, request.data_key)
        beside = group_batches(session.store.list_objects(f"{stem}."))
        return _Listing(tuple(batch for batch in beside if batch.stem == stem), ())
    objects = list(session.store.list_objects(prefix))
    batches = group_batches(objects)
    if not request.takes_all:
        unit = WindowUnit(session.settings.window)
        return _Listing(tuple(batch for batch in batches if _overlaps(batch, unit, request)), ())
    return _Listing(tuple(batches), tuple(_without_batch(objects, batches)))


def _is_batch_key(key: str) -> bool:
    """Whether a key is that of a batch's data or of one of its documents."""
    try:
        batch_stem_of(key)
    except ValueError:
        return False
    return True


def _stem_within(session: ArchiveSession, key: str) -> str:
    """The stem of a key of this table. Raises ConfigError for any other key."""
    try:
        stem = batch_stem_of(key)
    except ValueError as error:
        raise ConfigError(
            f"{key} is not the key of an archive's object", hint="`archiver list --json` shows keys"
        ) from error
    if not stem.startswith(listing_prefix(session.store_settings.prefix, session.name)):
        raise ConfigError(f"{key} is not an object of {session.name}", hint="check database, schema and table")
    return stem


def _overlaps(batch: StoredBatch, configured: WindowUnit, request: ValidationRequest) -> bool:
    """Whether the batch's window may hold a row of the days asked for."""
    try:
        start = start_of_window(batch.window_key)
    except ValueError:
        return True
    unit = _unit_of(batch.window_key, configured)
    begins_in_time = request.end is None or start < start_of_day(request.end) + timedelta(days=1)
    return begins_in_time and (request.start is None or start_of_day(request.start) < next_start(unit, start))


def _unit_of(window_key: str, configured: WindowUnit) -> WindowUnit:
    """The unit of a window that may have been made under another configuration."""
    if len(window_key) > _DATE_KEY:
        return WindowUnit.hour
    return WindowUnit.day if configured is WindowUnit.hour else configured


def _without_batch(objects: list[StoredObject], batches: list[StoredBatch]) -> Iterator[StoredObject]:
    """Objects among the archives that are part of no batch; folders that a console made are none."""
    data_keys = {batch.data_key for batch in batches}
    for found in objects:
        if found.key.endswith("/") and found.size_bytes == 0:
            continue
        if not _is_batch_key(found.key) or (not found.key.endswith(".json") and found.key not in data_keys):
            yield found


@dataclass
class _Seen:
    """What was found and counted so far."""

    found: list[Finding]
    batches: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    shapes: dict[tuple[tuple[str, str], ...], "_Shape"] = field(default_factory=dict)
    not_audited: Counter[str] = field(default_factory=Counter)

    def add(self, examined: Examined) -> None:
        stored = examined.stored
        self.found += examined.found
        self.batches[stored.state.value] += 1
        self.counts["rows"] += examined.rows
        self.counts["object_bytes"] += stored.object_bytes if stored.is_archive else 0
        self.counts["readable_objects"] += examined.is_readable
        self.counts["read_objects"] += examined.read_rows > 0
        self.counts["read_rows"] += examined.read_rows
        self.counts["read_bytes"] += examined.read_bytes
        self.counts["audited_rows"] += examined.audited_rows
        if examined.not_audited:
            self.not_audited[examined.not_audited] += 1
        if examined.columns and stored.state is not BatchState.superseded:
            self._add_shape(examined)

    def _add_shape(self, examined: Examined) -> None:
        columns = tuple(sorted((column.name, column.type) for column in examined.columns))
        window = examined.stored.window_key
        shape = self.shapes.setdefault(columns, _Shape(examined.columns, window, window))
        shape.batches += 1
        shape.first, shape.last = min(shape.first, window), max(shape.last, window)


@dataclass
class _Shape:
    """One set of columns, and the windows in which archives have it."""

    columns: tuple[ManifestColumn, ...]
    first: str
    last: str
    batches: int = 0


def _examine_all(validation: Validation, batches: tuple[StoredBatch, ...], seen: _Seen) -> None:
    """Examine every batch with the session's workers, a few at a time, so that memory stays flat."""
    session = validation.session
    duplicates = DuplicateSearch()

    def examine(batch: StoredBatch) -> Examined:
        examined = examine_batch(validation, batch)
        session.progress.batch_finished(
            session.name,
            STEP,
            BatchStep(examined.read_rows, examined.read_bytes, batch.window_key, batch.batch_id, batch.data_key),
        )
        return examined

    at_once = session.workers * _BATCHES_PER_WORKER
    for first in range(0, len(batches), at_once):
        for examined in session.for_each(batches[first : first + at_once], examine):
            seen.add(examined)
            if examined.versions is not None:
                seen.found += duplicates.add(examined.versions)
    seen.found += duplicates.finish()


def _repeated_batch_ids(batches: tuple[StoredBatch, ...]) -> Iterator[Finding]:
    counted = Counter(batch.batch_id for batch in batches)
    for batch in batches:
        if counted[batch.batch_id] > 1:
            message = f"the batch id {batch.batch_id} is there {counted[batch.batch_id]} times"
            next_step = NEXT_STEPS[FindingKind.contradictory]
            yield Finding(FindingKind.duplicated, Severity.finding, batch.stem, message, next_step)


def _strays(strays: tuple[StoredObject, ...], now: datetime) -> Iterator[Finding]:
    for stray in strays:
        if _is_batch_key(stray.key):
            message, step = "a second data object of one batch", NEXT_STEPS[FindingKind.contradictory]
            yield Finding(FindingKind.contradictory, Severity.finding, stray.key, message, step)
            continue
        severity = Severity.finding if now - stray.modified_at > UNFINISHED_GRACE else Severity.note
        message = "orphaned: it lies among the archives and belongs to no batch"
        yield Finding(FindingKind.orphaned, severity, stray.key, message, "find out what it is, and move it elsewhere")


def _stale_fallbacks(session: ArchiveSession, now: datetime) -> Iterator[Finding]:
    """Batches that are kept for an upload and are stale, or wait since more than a day; and old files of no table.

    Raises ResourcesError when a folder cannot be read.
    """
    settings = session.store_settings
    for kept in list_kept(settings, session.name):
        if kept.state is KeptState.stale or now - kept.since > UNFINISHED_GRACE:
            message = f"{kept.state.value} since {kept.since:%Y-%m-%d %H:%M}: {kept.reason}"
            yield Finding(FindingKind.fallback, Severity.finding, str(kept.path), message, _FALLBACK_STEPS[kept.state])
    for path, since in list_strangers(settings):
        if now - since > UNFINISHED_GRACE:
            message = f"there since {since:%Y-%m-%d %H:%M}, and no file of a kept batch"
            yield Finding(FindingKind.fallback, Severity.finding, str(path), message, "find out what it is")


def _drift(shapes: dict[tuple[tuple[str, str], ...], _Shape], live: LiveTable | None) -> Iterator[Finding]:
    """Where columns differ from the table's; without a table, from those of the newest archives."""
    if not shapes:
        return
    newest = max(shapes.values(), key=lambda shape: shape.last)
    reference = live.columns if live else {column.name: column.type for column in newest.columns}
    of_what = "the table" if live else f"the archives of {newest.last}"
    for shape in shapes.values():
        if drift := compare_columns(shape.columns, reference):
            message = f"{shape.batches} batches, windows {shape.first} to {shape.last}, against {of_what}: {drift}"
            subject = f"windows {shape.first} to {shape.last}"
            yield Finding(FindingKind.drift, Severity.note, subject, message, _DRIFT_STEP)


def _report(
    session: ArchiveSession,
    request: ValidationRequest,
    seen: _Seen,
    repairs: Repairs,
    *,
    audited: bool,
    seconds: float,
) -> ValidationReport:
    kinds = list(FindingKind)
    found = sorted(seen.found, key=lambda finding: (kinds.index(finding.kind), finding.subject))
    counts = seen.counts
    return ValidationReport(
        table=session.name,
        run_id=session.run_id,
        day=request.day,
        sample_percent=request.sample_percent,
        batches={state.value: seen.batches[state.value] for state in BatchState},
        rows=counts["rows"],
        object_bytes=counts["object_bytes"],
        readable_objects=counts["readable_objects"],
        read_objects=counts["read_objects"],
        read_rows=counts["read_rows"],
        read_bytes=counts["read_bytes"],
        audited_rows=counts["audited_rows"] if audited else None,
        findings=tuple(finding for finding in found if finding.severity is Severity.finding),
        notes=tuple(finding for finding in found if finding.severity is Severity.note),
        warnings=tuple(_warnings(seen, audited=audited)),
        repairs=repairs.done,
        seconds=seconds,
    )


def _warnings(seen: _Seen, *, audited: bool) -> Iterator[str]:
    if not audited:
        yield "offline: the table was not asked whether archived rows are in it"
    for reason, batches in seen.not_audited.items():
        yield f"{batches} batches were not looked for in the table: {reason}"
