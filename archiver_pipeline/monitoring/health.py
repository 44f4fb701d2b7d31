"""What /health says: 200 or 503, and the reasons, out of what the monitor has seen."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.monitoring.monitor import Monitor
from archiver_pipeline.monitoring.probes import DaemonState
from archiver_pipeline.monitoring.watch import Watch
from archiver_pipeline.orchestration.alert_state import ChannelState
from archiver_pipeline.postgres.catalog import table_name
from archiver_pipeline.version import SOFTWARE


@dataclass(frozen=True, slots=True)
class Health:
    """`reasons` are all there are to call it unhealthy; `document` holds them too, and everything they come from."""

    reasons: tuple[str, ...]
    document: dict[str, Any]

    @property
    def is_healthy(self) -> bool:
        return not self.reasons


def health_of(monitor: Monitor, now: datetime) -> Health:
    """How everything stands at `now`, aware. What was not seen, or not lately, is unhealthy."""
    tables = [_table(monitor, table, now) for table in monitor.config.tables]
    reasons = tuple(_reasons(monitor, tables))
    document = {
        "status": "unhealthy" if reasons else "healthy",
        "reasons": list(reasons),
        "software": SOFTWARE,
        "at": _text(now),
        "databases": {name: _seen(watch) for name, watch in monitor.databases.items()},
        "store": _seen(monitor.store) | {"bucket": monitor.config.store.bucket},
        "dagster": _seen(monitor.dagster) | _daemon(monitor.dagster.value),
        "alerts": {state.name: _channel(state) for state in monitor.channels},
        "tables": [asdict(table) for table in tables],
    }
    return Health(reasons, document)


@dataclass(frozen=True, slots=True)
class TableHealth:
    """One table. `state` is up to date, due, overdue or unknown; times are ISO 8601, UTC."""

    table: str
    state: str
    problems: tuple[str, ...]
    eligible_rows: int | None
    more_rows_than_counted: bool | None
    oldest_eligible: str | None
    due_since: str | None
    last_success: str | None
    last_archived: str | None
    last_run: str | None
    last_failure: dict[str, str | None] | None


def is_overdue(monitor: Monitor, settings: TableSettings, now: datetime) -> bool:
    """Whether a table has rows to archive, and for too long nothing came of it."""
    return _why_overdue(monitor, settings, now) is not None


def _table(monitor: Monitor, settings: TableSettings, now: datetime) -> TableHealth:
    state = monitor.table_state(settings)
    runs, archived = monitor.runs[settings].published, monitor.archives[settings].published
    overdue = _why_overdue(monitor, settings, now)
    problems = (*monitor.table_problems(settings), *([overdue] if overdue else []))
    failed = runs.last_failure if runs else None
    return TableHealth(
        table=str(table_name(settings)),
        state=_state(monitor, settings, is_overdue=overdue is not None),
        problems=problems,
        eligible_rows=state.backlog.eligible_rows if state else None,
        more_rows_than_counted=state.backlog.is_capped if state else None,
        oldest_eligible=_text(state.backlog.oldest_row) if state else None,
        due_since=_text(state.due_since) if state else None,
        last_success=_text(runs.last_success_at) if runs else None,
        last_archived=_text(archived.last_at) if archived else None,
        last_run=_text(runs.last_run_at) if runs else None,
        last_failure={"at": _text(failed.run.ended_at), **asdict(failed.failure)} if failed else None,
    )


def _why_overdue(monitor: Monitor, settings: TableSettings, now: datetime) -> str | None:
    """None when it is not. An archived batch counts as well as a run: runs may have been deleted, or done without
    Dagster."""
    state = monitor.table_state(settings)
    due_since, worked = state.due_since if state else None, _worked_at(monitor, settings)
    hours = monitor.config.config.monitoring.max_success_age_hours
    if due_since is None or now - max(due_since, worked or due_since) <= timedelta(hours=hours):
        return None
    since = f"the last success was at {_text(worked)}" if worked else "nothing of it was ever archived"
    return f"rows are due since {_text(due_since)} and {since}"


def _worked_at(monitor: Monitor, settings: TableSettings) -> datetime | None:
    runs, archived = monitor.runs[settings].published, monitor.archives[settings].published
    moments = [runs.last_success_at if runs else None, archived.last_at if archived else None]
    return max(filter(None, moments), default=None)


def _state(monitor: Monitor, settings: TableSettings, *, is_overdue: bool) -> str:
    state = monitor.table_state(settings)
    if state is None or monitor.tables[settings.database].problem:
        return "unknown"
    if is_overdue:
        return "overdue"
    return "due" if state.backlog.eligible_rows else "up to date"


def _reasons(monitor: Monitor, tables: list[TableHealth]) -> Iterator[str]:
    for watch in monitor.watches:
        if watch.problem:
            yield f"{watch.subject}: {watch.problem}"
    daemon = monitor.dagster.value
    if daemon and daemon.is_expected and daemon.silent:
        yield f"Dagster's daemon gives no sign of life ({', '.join(daemon.silent)}), and a sensor or schedule needs it"
    for table in tables:
        for problem in table.problems:
            yield problem if table.table in problem else f"{table.table}: {problem}"


def _seen(watch: Watch[Any]) -> dict[str, Any]:
    return {
        "status": "down" if watch.problem else "up",
        "problem": watch.problem,
        "looked_at": _text(watch.latest.at) if watch.latest else None,
    }


def _daemon(state: DaemonState | None) -> dict[str, Any]:
    if state is None:
        return {"daemon": "unknown", "daemon_heartbeat": None}
    alive = "silent" if state.silent else "alive"
    return {
        "daemon": alive if state.is_expected or not state.silent else "not needed",
        "daemon_heartbeat": _text(state.last_heartbeat),
    }


def _channel(state: ChannelState) -> dict[str, Any]:
    """A channel that fails is no reason: archives are as well as before."""
    return {
        "status": "down" if state.is_failing else "up",
        "problem": state.error or None,
        "last_sent": _text(state.sent_at),
        "last_failure": _text(state.failed_at),
    }


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None
