"""How each table stands: whether archiving gets on, and if not, what is known of why.

A table is judged by what it still holds and by what its stored runs did. "Nothing to do" is ok; "could not look" is
unknown, and neither is the other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import takewhile

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorStatus

from archiver_pipeline.config.effective import DatabaseSettings, TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.pace import Pace, drained_per_day
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.windows import WindowUnit, eligible_since, window_containing
from archiver_pipeline.engine.backlog import Backlog, TableLook, look_at_tables
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.orchestration.history import PastRun, TableHistory, archived_rows_of, table_history
from archiver_pipeline.orchestration.metadata import BACKLOG_COUNTED_ROWS
from archiver_pipeline.orchestration.sensors import due_sensor_name, nightly_schedule_name
from archiver_pipeline.postgres.catalog import table_name

_RUNS_IN_A_ROW = 3
_RUNS_READ = 50
_LONG_LOCK = timedelta(hours=6)
_SILENT_DAEMON = timedelta(minutes=5)


class Verdict(StrEnum):
    """`behind`: older rows wait than should, and runs get on with them. `unknown`: it could not be looked at."""

    ok = "ok"
    behind = "behind"
    stuck = "stuck"
    never_ran = "never ran"
    unknown = "unknown"


@dataclass(frozen=True, slots=True)
class TableStatus:
    """One table's line. Times are aware, UTC; `backlog` and `pace` are None when it could not be looked at."""

    table: TableName
    verdict: Verdict
    reason: str
    last_success: datetime | None
    backlog: Backlog | None
    pace: Pace | None
    error: ArchiverError | None = None

    @property
    def needs_attention(self) -> bool:
        return self.verdict in (Verdict.stuck, Verdict.never_ran, Verdict.unknown)


def table_statuses(
    config: LoadedConfig, instance: dg.DagsterInstance | None, tables: Sequence[TableSettings], now: datetime
) -> Iterator[TableStatus]:
    """The standing of these tables, database by database. Without an instance no run is known. Changes nothing."""
    stuck_after = timedelta(days=config.config.monitoring.stuck_after_days)
    for database in config.databases:
        own = [table for table in tables if table.database == database.id]
        automation = (
            describe_automation(instance, database, now) if own and instance else "there is no Dagster instance"
        )
        for look in look_at_tables(database, config.store, own, most_rows=BACKLOG_COUNTED_ROWS) if own else ():
            history = (
                table_history(instance, look.settings, limit=_RUNS_READ) if instance else _no_history(look.settings)
            )
            yield judge(look, history, now, stuck_after=stuck_after, automation=automation)


def judge(
    look: TableLook, history: TableHistory, now: datetime, *, stuck_after: timedelta, automation: str = ""
) -> TableStatus:
    """The verdict on one table. `automation` says what should have started runs, for tables that nobody looked at."""
    backlog, name = look.backlog, table_name(look.settings)
    last = history.last_success
    last_success = (last.ended_at or last.created_at) if last else None
    if backlog is None:
        return TableStatus(name, Verdict.unknown, str(look.error), last_success, None, None, look.error)
    drained = drained_per_day(archived_rows_of(history), now)
    pace = Pace(backlog.eligible_rows, drained, look.intake_rows_per_day)
    verdict, reason = _verdict(look, backlog, history, pace, now, stuck_after, automation)
    return TableStatus(name, verdict, reason, last_success, backlog, pace)


def describe_automation(instance: dg.DagsterInstance, database: DatabaseSettings, now: datetime) -> str:
    """Whether anything in Dagster would start runs of this database."""
    running = {
        state.instigator_name for state in instance.all_instigator_state(instigator_statuses={InstigatorStatus.RUNNING})
    }
    names = (due_sensor_name(database.id), nightly_schedule_name(database.id))
    started = [name for name in names if name in running]
    if not started:
        return f"{names[0]} and {names[1]} are stopped"
    beats = [status.last_heartbeat for status in instance.get_daemon_statuses().values() if status.last_heartbeat]
    last = max((datetime.fromtimestamp(beat.timestamp, UTC) for beat in beats), default=None)
    if last is None or now - last > _SILENT_DAEMON:
        return f"{' and '.join(started)} started, but Dagster's daemon is down"
    return f"{' and '.join(started)} started"


def _verdict(
    look: TableLook,
    backlog: Backlog,
    history: TableHistory,
    pace: Pace,
    now: datetime,
    stuck_after: timedelta,
    automation: str,
) -> tuple[Verdict, str]:
    finished = [run for run in history.runs if run.is_finished and not run.will_be_retried]
    if reason := _held_for_long(look, now) or _failing(history, finished):
        return Verdict.stuck, reason
    if backlog.oldest_row is None:
        return Verdict.ok, "nothing to do"
    if history.last_run is None:
        return Verdict.never_ran, f"rows are eligible and no run is recorded; {automation}"
    overdue = now - _eligible_since(look.settings, backlog.oldest_row)
    if overdue <= stuck_after:
        return Verdict.ok, f"drained {pace}" if pace.drained_rows_per_day else "rows wait for the next run"
    reason = (
        _not_looked_at(history, finished, now, stuck_after, automation)
        or _archiving_nothing(history)
        or _not_shrinking(history, backlog, stuck_after)
    )
    waits = f"the oldest row has waited {_days(overdue)}"
    return (Verdict.stuck, f"{reason}; {waits}") if reason else (Verdict.behind, f"{waits}; drained {pace}")


def _held_for_long(look: TableLook, now: datetime) -> str:
    if look.holder is None or now - look.holder.since <= _LONG_LOCK:
        return ""
    return f"its lock is held by {look.holder.description} since {look.holder.since:%Y-%m-%d %H:%M} UTC"


def _failing(history: TableHistory, finished: Sequence[PastRun]) -> str:
    in_a_row = len(list(takewhile(lambda run: run.failed, finished)))
    if in_a_row < _RUNS_IN_A_ROW or history.last_failure is None:
        return ""
    failure = history.last_failure.failure
    return f"the last {in_a_row} runs failed: {failure.error}: {failure.message}"


def _not_looked_at(
    history: TableHistory, finished: Sequence[PastRun], now: datetime, stuck_after: timedelta, automation: str
) -> str:
    ended = max((run.ended_at or run.created_at for run in finished), default=None)
    if ended is None and history.last_run is not None:
        ended = history.last_run.created_at
    if ended is None or now - ended <= stuck_after:
        return ""
    return f"no run has ended since {ended:%Y-%m-%d %H:%M} UTC; {automation}"


def _archiving_nothing(history: TableHistory) -> str:
    last = history.reported[:_RUNS_IN_A_ROW]
    if len(last) < _RUNS_IN_A_ROW or any(figures.rows for figures in last):
        return ""
    return f"the last {len(last)} runs succeeded and archived nothing: {last[0].stopped_reason}"


def _not_shrinking(history: TableHistory, backlog: Backlog, stuck_after: timedelta) -> str:
    """Whether there are as many rows as after the first of the runs of some days, or more."""
    measured = [
        (run.created_at, run.figures.backlog_rows)
        for run in history.runs
        if run.figures is not None and run.figures.backlog_rows is not None
    ]
    if len(measured) < _RUNS_IN_A_ROW or measured[0][0] - measured[-1][0] < stuck_after or backlog.is_capped:
        return ""
    first = measured[-1][1]
    if backlog.eligible_rows < first:
        return ""
    return (
        f"{len(measured)} runs since {measured[-1][0]:%Y-%m-%d} left {first:,} rows and now {backlog.eligible_rows:,}"
    )


def _eligible_since(settings: TableSettings, oldest_row: datetime) -> datetime:
    window = window_containing(WindowUnit(settings.window), oldest_row, first=settings.first_window)
    return eligible_since(window, settings.retention_days)


def _no_history(settings: TableSettings) -> TableHistory:
    return TableHistory(table_name(settings), (), None, None)


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):,.1f} days"
