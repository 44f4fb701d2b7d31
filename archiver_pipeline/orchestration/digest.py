"""One message a day about all tables, and what quiet hours held back: by jobs with schedules, or by command."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from rich.filesize import decimal

from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.alert import Activity, Alert, AlertKind, Fact, Severity
from archiver_pipeline.domain.alert_memory import HeldBack
from archiver_pipeline.domain.alert_texts import error_words
from archiver_pipeline.engine.backlog import Backlog, measure_backlog
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.orchestration import alert_messages as messages
from archiver_pipeline.orchestration.alert_state import read_memories, read_moment, write_memory, write_moment
from archiver_pipeline.orchestration.alerting import Alerts, Delivery, Log
from archiver_pipeline.orchestration.history import Failure, PastRun, read_failure, table_history
from archiver_pipeline.postgres.catalog import table_name

_LAST_DIGEST = "digest"
_DAY = timedelta(days=1)
_LONGEST = timedelta(days=7)
_RUNS_READ = 200
_MOST_COUNTED_ROWS = 1_000_000
_QUIET_DAYS = 2


@dataclass(frozen=True, slots=True)
class TableDay:
    """What became of a table since a moment. `backlog` is None when it could not be asked: `backlog_error` says why.
    `runs` counts those that ended; `last_success_at` may be long ago. Times are UTC."""

    table: str
    runs: int
    rows: int
    object_bytes: int
    failed_runs: int
    last_failure: Failure | None
    last_success_at: datetime | None
    backlog: Backlog | None
    backlog_error: str

    @property
    def is_bad(self) -> bool:
        return bool(self.failed_runs or self.backlog_error)

    def is_stuck(self, now: datetime) -> bool:
        """Whether rows wait and nothing has been done about them for days."""
        waits = self.backlog is not None and self.backlog.eligible_rows > 0
        return waits and (self.last_success_at is None or now - self.last_success_at > timedelta(days=_QUIET_DAYS))


def look_at_day(config: LoadedConfig, instance: dg.DagsterInstance, since: datetime) -> tuple[TableDay, ...]:
    """Every table since a moment, by the stored runs, and its backlog now. A table that can't be asked says so."""
    return tuple(_table_day(config, instance, table, since) for table in config.tables)


def digest_of(days: Sequence[TableDay], since: datetime, now: datetime, held: Sequence[HeldBack]) -> Alert:
    """The summary: what is wrong first, then what was done, then what is quiet."""
    bad = [day for day in days if day.is_bad]
    stuck = [day for day in days if not day.is_bad and day.is_stuck(now)]
    rows = sum(day.rows for day in days)
    wrong = [f"{len(bad)} tables with failures" if len(bad) > 1 else f"{bad[0].table} failed"] if bad else []
    wrong += [f"{len(stuck)} stuck"] if stuck else []
    severity = Severity.error if bad else Severity.warning if stuck else Severity.good
    ordered = [*bad, *stuck, *(day for day in days if day not in bad and day not in stuck)]
    return Alert(
        kind=AlertKind.digest,
        severity=severity,
        activity=Activity.alerts,
        subject="digest",
        title=f"Digest: {', '.join([*wrong, f'{rows:,} rows archived'])}",
        happened=f"{len(days)} tables from {since:%Y-%m-%d %H:%M} to {now:%Y-%m-%d %H:%M} UTC.",
        lines=tuple(_line(day, now) for day in ordered),
        next_steps=(*(f"Look at {day.table}: archiver check, then archiver run" for day in [*bad, *stuck][:3]),),
        facts=(
            Fact("Rows archived", f"{rows:,}"),
            Fact("Stored", decimal(sum(day.object_bytes for day in days))),
            Fact("Runs", f"{sum(day.runs for day in days):,}, {sum(day.failed_runs for day in days):,} failed"),
        ),
        notes=tuple(f"Held back by quiet hours at {one.at:%H:%M} UTC: {one.title}" for one in held),
    )


def send_digest(
    config: LoadedConfig, alerts: Alerts, instance: dg.DagsterInstance, now: datetime, *, log: Log
) -> tuple[Alert, tuple[Delivery, ...]]:
    """Send the digest since the last one. What quiet hours held back goes with it. Not sent = since stays."""
    alert = make_digest(config, instance, now)
    deliveries = alerts.deliver(alert, log=log)
    alerts.record(instance, deliveries, now, log=log)
    if any(one.error is None for one in deliveries):
        write_moment(instance, _LAST_DIGEST, now)
        _release(config, instance)
    return alert, deliveries


def make_digest(config: LoadedConfig, instance: dg.DagsterInstance, now: datetime) -> Alert:
    """The digest since the last one, at most a week and usually a day long."""
    since = max(read_moment(instance, _LAST_DIGEST) or now - _DAY, now - _LONGEST)
    return digest_of(look_at_day(config, instance, since), since, now, _held(config, instance))


def send_held(
    config: LoadedConfig, alerts: Alerts, instance: dg.DagsterInstance, now: datetime, *, log: Log
) -> tuple[Delivery, ...]:
    """Tell what quiet hours held back, if anything."""
    held = _held(config, instance)
    if not held:
        return ()
    deliveries = alerts.deliver(messages.held_back(held), log=log)
    alerts.record(instance, deliveries, now, log=log)
    if any(one.error is None for one in deliveries):
        _release(config, instance)
    return deliveries


def alert_jobs(config: LoadedConfig, alerts: Alerts) -> list[dg.JobDefinition]:
    """The jobs that the schedules start; a person may, too."""

    @dg.op
    def send_the_digest(context: dg.OpExecutionContext) -> None:
        _, deliveries = send_digest(config, alerts, context.instance, datetime.now(UTC), log=context.log)
        _require_sent(deliveries)

    @dg.op
    def send_what_was_held(context: dg.OpExecutionContext) -> None:
        _require_sent(send_held(config, alerts, context.instance, datetime.now(UTC), log=context.log))

    @dg.job(description="Sends one message about all tables.")
    def alert_digest() -> None:
        send_the_digest()

    @dg.job(description="Tells what quiet hours held back.")
    def alert_after_quiet_hours() -> None:
        send_what_was_held()

    return [alert_digest, alert_after_quiet_hours] if alerts.enabled else []


def alert_schedules(alerts: Alerts) -> list[dg.ScheduleDefinition]:
    """Running as soon as they are configured: a digest that nobody started would be silence."""
    quiet = alerts.settings.policy.quiet_hours
    wanted: dict[str, int] = {}
    if alerts.enabled and alerts.settings.policy.digest_mode:
        wanted["alert_digest"] = alerts.settings.digest_hour
    if alerts.enabled and quiet is not None:
        wanted["alert_after_quiet_hours"] = quiet.end_hour
    return [_daily(job, hour) for job, hour in wanted.items()]


def _daily(job: str, hour: int) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=f"daily_{job}",
        job_name=job,
        cron_schedule=f"0 {hour} * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def _require_sent(deliveries: Sequence[Delivery]) -> None:
    """This run has nothing else to do: when nobody took the message, it failed."""
    if deliveries and all(one.error is not None for one in deliveries):
        raise dg.Failure("; ".join(one.error or "" for one in deliveries), allow_retries=False)


def _table_day(config: LoadedConfig, instance: dg.DagsterInstance, table: TableSettings, since: datetime) -> TableDay:
    history = table_history(instance, table, limit=_RUNS_READ)
    ended = [run for run in history.runs if run.ended_at is not None and run.ended_at >= since]
    failed = [run for run in ended if run.failed and not run.will_be_retried]
    attempts = {run.figures.attempt_id: run.figures for run in ended if run.figures is not None}
    backlog, error = _backlog(config, table)
    return TableDay(
        table=str(table_name(table)),
        runs=len(ended),
        rows=sum(figures.rows for figures in attempts.values()),
        object_bytes=sum(figures.object_bytes for figures in attempts.values()),
        failed_runs=len(failed),
        last_failure=read_failure(instance, table, failed[0].run_id) if failed else None,
        last_success_at=_ended_at(history.last_success),
        backlog=backlog,
        backlog_error=error,
    )


def _ended_at(run: PastRun | None) -> datetime | None:
    return (run.ended_at or run.created_at) if run else None


def _backlog(config: LoadedConfig, table: TableSettings) -> tuple[Backlog | None, str]:
    session = ArchiveSession(table, config.database(table.database), config.store, run_id="digest")
    with contextlib.closing(session):
        try:
            return measure_backlog(session, most_rows=_MOST_COUNTED_ROWS), ""
        except ArchiverError as error:
            return None, f"{error_words(type(error).__name__)}: {error}"


def _line(day: TableDay, now: datetime) -> str:
    mark = "FAILED" if day.is_bad else "STUCK" if day.is_stuck(now) else "ok" if day.rows else "quiet"
    return f"{mark}: {day.table}: {'; '.join(_parts(day))}"


def _parts(day: TableDay) -> Iterator[str]:
    if day.rows:
        yield f"{day.rows:,} rows archived, {decimal(day.object_bytes)} stored"
    if day.failed_runs and day.last_failure:
        yield f"{day.failed_runs} of {day.runs} runs failed, the last because {error_words(day.last_failure.error)}"
    elif not day.runs:
        last = f"{day.last_success_at:%Y-%m-%d}" if day.last_success_at else "never"
        yield f"no run, last success {last}"
    if day.backlog is None:
        yield f"its backlog could not be asked: {day.backlog_error}"
    elif day.backlog.eligible_rows:
        more = "more than " if day.backlog.is_capped else ""
        since = f", the oldest from {day.backlog.oldest_row:%Y-%m-%d}" if day.backlog.oldest_row else ""
        yield f"{more}{day.backlog.eligible_rows:,} rows wait{since}"
    else:
        yield "nothing waits"


def _subjects(config: LoadedConfig) -> list[str]:
    """All that messages can be about."""
    tables = [str(table_name(table)) for table in config.tables]
    return [
        *tables,
        *(messages.restore_subject(database.id) for database in config.databases),
        *(messages.look_subject(database.id) for database in config.databases),
    ]


def _held(config: LoadedConfig, instance: dg.DagsterInstance) -> list[HeldBack]:
    memories: Any = read_memories(instance, _subjects(config)).values()
    return sorted((one for memory in memories for one in memory.held), key=lambda one: one.at)


def _release(config: LoadedConfig, instance: dg.DagsterInstance) -> None:
    for subject, memory in read_memories(instance, _subjects(config)).items():
        if memory.held:
            write_memory(instance, subject, memory.releasing())
