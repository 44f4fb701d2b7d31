"""What Dagster has stored of a table's archive runs, however they were launched: by the command, the UI, a backfill, a
sensor or a schedule.

Runs are found by what they planned to materialize, because only some of the ways to launch one tag it with its table.
A run over several windows writes one materialization for each and repeats what belongs to the whole run: here it is one
run. Runs that were deleted in the UI are gone; only the store knows what they archived.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.domain.batch_size import DeletePace
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.orchestration.names import asset_key, asset_name
from archiver_pipeline.postgres.catalog import table_name

RUN_DIED = "RunDied"
"""The error of a run that ended without saying why: its process was killed, or it never started."""

RESTORE_STEP = "restore"

_PAGE = 100
_PACE_RUNS = 5
_STEP_SECONDS = "_seconds"
_NOT_STEPS = frozenset({"run", "paused"})
_SEE_LOG = "its error is in the run's log in Dagster"


@dataclass(frozen=True, slots=True)
class RunFigures:
    """What one attempt reported. `seconds` is wall time, `step_seconds` its parts; `space_reclaimed_bytes` is below 0
    when the table grew; `rows_still_eligible` counts those of the run's windows, the `protected_rows` of them included;
    `backlog_rows` those of the whole table after the run, None when it was not measured.

    A run that only repeats the last step of an earlier one reports the same `attempt_id` again.
    """

    attempt_id: str
    rows: int
    batches: int
    superseded_batches: int
    rows_bytes: int
    object_bytes: int
    rows_still_eligible: int
    protected_rows: int
    seconds: float
    step_seconds: Mapping[str, float]
    space_reclaimed_bytes: int
    table_bytes_after: int
    vacuum: str
    stopped_reason: str
    backlog_rows: int | None = None
    paused_seconds: float = 0.0
    batch_rows: int = 0
    deleted_rows_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class PastRun:
    """One stored run. Times are aware, UTC. `figures` are there when it reported about the table."""

    run_id: str
    status: dg.DagsterRunStatus
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    is_reexecution: bool
    will_be_retried: bool
    figures: RunFigures | None

    @property
    def succeeded(self) -> bool:
        """A run of several tables may have failed at another one after this one was reported."""
        return self.figures is not None or self.status is dg.DagsterRunStatus.SUCCESS

    @property
    def failed(self) -> bool:
        return self.status is dg.DagsterRunStatus.FAILURE and not self.succeeded

    @property
    def is_finished(self) -> bool:
        return self.status in _FINISHED


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run failed. `error` is the name of a class of errors.py, or of the foreign error, or RUN_DIED; `message` is
    ours: that of a foreign error may quote rows and is left out. `step` is None when no step said it."""

    error: str
    message: str
    step: str | None


@dataclass(frozen=True, slots=True)
class FailedRun:
    """A run that failed, and why."""

    run: PastRun
    failure: Failure


@dataclass(frozen=True, slots=True)
class RestoredRows:
    """What one restore brought back; `source` and `target` are tables as text."""

    source: str
    target: str
    rows: int


@dataclass(frozen=True, slots=True)
class TableHistory:
    """A table's last runs, newest first. `last_success` and `last_failure` may be older than all of them: the last
    success is searched for without limit, the last failure only among `runs`."""

    table: TableName
    runs: tuple[PastRun, ...]
    last_success: PastRun | None
    last_failure: FailedRun | None

    @property
    def last_run(self) -> PastRun | None:
        return self.runs[0] if self.runs else None

    @property
    def reported(self) -> tuple[RunFigures, ...]:
        """The figures of `runs`, newest first, each attempt once."""
        attempts: dict[str, RunFigures] = {}
        for run in self.runs:
            if run.figures is not None:
                attempts.setdefault(run.figures.attempt_id, run.figures)
        return tuple(attempts.values())


def table_history(instance: dg.DagsterInstance, settings: TableSettings, *, limit: int = 20) -> TableHistory:
    """The last `limit` runs of a table and what became of them: a handful of indexed look-ups, whatever lies behind."""
    key = asset_key(settings)
    latest = _latest_run_ids(instance, key, limit)
    figures = _latest_figures(instance, key, limit)
    stored = read_runs(instance, dict.fromkeys([*latest, *list(figures)[:1]]))
    runs = {run.run_id: replace(run, figures=figures.get(run.run_id)) for run in stored}
    shown = tuple(runs[run_id] for run_id in latest if run_id in runs)
    failed = next((run for run in shown if run.failed), None)
    return TableHistory(
        table=table_name(settings),
        runs=shown,
        last_success=next((run for run in runs.values() if run.succeeded), None),
        last_failure=FailedRun(failed, read_failure(instance, settings, failed.run_id)) if failed else None,
    )


def archived_rows_of(history: TableHistory) -> list[tuple[datetime, int]]:
    """When the table's runs began, and how many rows each archived; each attempt once."""
    attempts = {run.figures.attempt_id: (run.created_at, run.figures.rows) for run in history.runs if run.figures}
    return list(attempts.values())


def last_pace(instance: dg.DagsterInstance, settings: TableSettings) -> DeletePace | None:
    """What the deletes of the table's last attempt that deleted took; None when none of the latest did."""
    for figures in _latest_figures(instance, asset_key(settings), _PACE_RUNS).values():
        if figures.deleted_rows_per_second > 0:
            return DeletePace(round(figures.deleted_rows_per_second), 1.0, figures.batch_rows)
    return None


def read_runs(instance: dg.DagsterInstance, run_ids: Iterable[str]) -> list[PastRun]:
    """The stored runs with these ids, newest first, without figures; deleted ones are left out."""
    wanted = list(run_ids)
    records: list[dg.RunRecord] = []
    for start in range(0, len(wanted), _PAGE):
        records += instance.get_run_records(dg.RunsFilter(run_ids=wanted[start : start + _PAGE]))
    return [_past_run(record) for record in sorted(records, key=lambda record: -record.storage_id)]


def read_failure(instance: dg.DagsterInstance, settings: TableSettings, run_id: str) -> Failure:
    """Why a run failed: by a step of this table, else by any step, else without a word."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    events = [record.event_log_entry.dagster_event for record in records]
    failures = [event for event in events if event is not None]
    own = f"{asset_name(settings)}."
    for event in sorted(failures, key=lambda event: not (event.step_key or "").startswith(own)):
        return _failure(event)
    return Failure(
        RUN_DIED, "the run ended without an error of its own: its process was killed, or never started", None
    )


@dataclass(frozen=True, slots=True)
class Planned:
    """A run that planned to write the table's asset; `position` orders the plans of all runs."""

    position: int
    run_id: str


def read_planned(
    instance: dg.DagsterInstance, key: dg.AssetKey, *, after: int | None = None, limit: int | None = None
) -> list[Planned]:
    """Plans to materialize an asset: those after a position, oldest first; without one the newest, newest first.

    A run over several windows planned each of them.
    """
    records = instance.event_log_storage.get_event_records(
        dg.EventRecordsFilter(dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, asset_key=key, after_cursor=after),
        limit=limit,
        ascending=after is not None,
    )
    return [Planned(record.storage_id, record.run_id) for record in records]


def read_figures(
    instance: dg.DagsterInstance, key: dg.AssetKey, run_ids: Iterable[str], *, after: int
) -> dict[str, RunFigures]:
    """What these runs reported after a position, by run. Ask for the runs first: one that has ended has reported."""
    wanted, found, cursor = set(run_ids), [], None
    while wanted:
        page = instance.fetch_materializations(
            dg.AssetRecordsFilter(key, after_storage_id=after), limit=_PAGE, cursor=cursor
        )
        found += [record for record in page.records if record.run_id in wanted]
        cursor = page.cursor
        if not page.has_more:
            break
    return _figures_by_run(found)


def read_restored(instance: dg.DagsterInstance, run_id: str) -> RestoredRows | None:
    """What a restore's run brought back, also when it failed at some archives. None when it brought back nothing: it
    did not come to its report, or it only repeated the report of the run that it re-executes."""
    told = {
        dg.DagsterEventType.STEP_START,
        dg.DagsterEventType.STEP_FAILURE,
        dg.DagsterEventType.ASSET_MATERIALIZATION,
    }
    records = instance.get_records_for_run(run_id, of_type=told).records
    events = [record.event_log_entry.dagster_event for record in records if record.event_log_entry.dagster_event]
    if not any((event.step_key or "").endswith(f".{RESTORE_STEP}") for event in events):
        return None
    for event in events:
        metadata = _metadata_of_restore(event)
        if "restored_rows" in metadata:
            plain: dict[str, Any] = {name: entry.value for name, entry in metadata.items()}
            return RestoredRows(plain["source"], plain["target"], plain["restored_rows"])
    return None


def _metadata_of_restore(event: dg.DagsterEvent) -> Mapping[str, dg.MetadataValue[Any]]:
    if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION:
        return event.step_materialization_data.materialization.metadata
    if event.event_type is dg.DagsterEventType.STEP_FAILURE and event.step_failure_data.user_failure_data:
        return event.step_failure_data.user_failure_data.metadata
    return {}


def _latest_run_ids(instance: dg.DagsterInstance, key: dg.AssetKey, limit: int) -> list[str]:
    found: dict[str, None] = {}
    before: int | None = None
    while len(found) < limit:
        records = instance.event_log_storage.get_event_records(
            dg.EventRecordsFilter(
                dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, asset_key=key, before_cursor=before
            ),
            limit=_PAGE,
        )
        found |= dict.fromkeys(record.run_id for record in records)
        if len(records) < _PAGE:
            break
        before = records[-1].storage_id
    return list(found)[:limit]


def _latest_figures(instance: dg.DagsterInstance, key: dg.AssetKey, limit: int) -> dict[str, RunFigures]:
    """Of the last `limit` runs that reported, newest first."""
    found: list[dg.EventLogRecord] = []
    cursor = None
    while len({record.run_id for record in found}) <= limit:
        page = instance.fetch_materializations(key, limit=_PAGE, cursor=cursor)
        found += page.records
        cursor = page.cursor
        if not page.has_more:
            break
    return dict(list(_figures_by_run(found).items())[:limit])


def _figures_by_run(records: Sequence[dg.EventLogRecord]) -> dict[str, RunFigures]:
    """One for each run, in the records' order. A person may have reported a materialization that has no figures."""
    by_run: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if record.asset_materialization and "attempt_id" in record.asset_materialization.metadata:
            plain = {name: entry.value for name, entry in record.asset_materialization.metadata.items()}
            by_run.setdefault(record.run_id, []).append(plain)
    return {run_id: _figures(windows) for run_id, windows in by_run.items()}


def _figures(windows: Sequence[Mapping[str, Any]]) -> RunFigures:
    whole = windows[0]
    return RunFigures(
        attempt_id=whole["attempt_id"],
        rows=whole["run_rows"],
        batches=_sum(windows, "batches"),
        superseded_batches=_sum(windows, "superseded_batches"),
        rows_bytes=_sum(windows, "rows_bytes"),
        object_bytes=_sum(windows, "object_bytes"),
        rows_still_eligible=_sum(windows, "rows_still_eligible"),
        protected_rows=whole["protected_rows"],
        seconds=whole["run_seconds"],
        step_seconds=dict(_step_seconds(whole)),
        space_reclaimed_bytes=whole["space_reclaimed_bytes"],
        table_bytes_after=whole["table_bytes_after"],
        vacuum=whole["vacuum"],
        stopped_reason=whole["stopped_reason"],
        backlog_rows=whole.get("backlog_rows"),
        paused_seconds=whole.get("paused_seconds", 0.0),
        batch_rows=whole.get("batch_rows", 0),
        deleted_rows_per_second=whole.get("deleted_rows_per_second", 0.0),
    )


def _sum(windows: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(window[name] for window in windows)


def _step_seconds(whole: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in whole.items():
        step = name.removesuffix(_STEP_SECONDS)
        if name.endswith(_STEP_SECONDS) and step not in _NOT_STEPS:
            yield step, value


_FINISHED = frozenset({dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED})


def _past_run(record: dg.RunRecord) -> PastRun:
    run = record.dagster_run
    return PastRun(
        run_id=run.run_id,
        status=run.status,
        created_at=record.create_timestamp.astimezone(UTC),
        started_at=_moment(record.start_time),
        ended_at=_moment(record.end_time),
        is_reexecution=run.parent_run_id is not None,
        will_be_retried=run.tags.get("dagster/will_retry") == "true",
        figures=None,
    )


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None


def _failure(event: dg.DagsterEvent) -> Failure:
    data = event.step_failure_data
    step = (event.step_key or "").rpartition(".")[2] or None
    told = data.user_failure_data
    if told is not None:
        error = told.metadata.get("error")
        return Failure(str(error.value) if error else "Failure", told.description or _SEE_LOG, step)
    cause = data.error.cause or data.error if data.error else None
    return Failure(cause.cls_name or RUN_DIED if cause else RUN_DIED, _SEE_LOG, step)
