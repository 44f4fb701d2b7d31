"""Hooks on assets that tell people of a run's start, success and failure, under every way to launch it.

A failure hook is on every op, success hooks are on one op each: else they would tell of every op. Hooks do not fire
when the process is killed or the run fails before its first op: `untold.py` finds those.
"""

from collections.abc import Callable
from typing import Any

import dagster as dg

from archiver_pipeline.config.effective import DatabaseSettings, TableSettings
from archiver_pipeline.config.enums import VacuumStrategy
from archiver_pipeline.domain.alert import Activity, AlertKind
from archiver_pipeline.domain.batch import Plan
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.backlog import measure_backlog
from archiver_pipeline.engine.report import ArchiveReport
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.orchestration import alert_messages as messages
from archiver_pipeline.orchestration.alert_messages import RunPlace
from archiver_pipeline.orchestration.alert_state import read_memories, write_memory
from archiver_pipeline.orchestration.alert_thresholds import MOST_COUNTED_ROWS, read_past, unusual_of
from archiver_pipeline.orchestration.alerting import Alerts, this_host
from archiver_pipeline.orchestration.history import Failure
from archiver_pipeline.orchestration.names import asset_name, plain_name
from archiver_pipeline.orchestration.runtime import RESOURCE_KEY, ArchiverRuntime
from archiver_pipeline.orchestration.untold import place_of_run, tell_of_run
from archiver_pipeline.postgres.catalog import table_name

Hooks = frozenset[dg.HookDefinition]
_Body = Callable[[dg.HookContext], None]


def table_failure_hooks(alerts: Alerts, settings: TableSettings) -> Hooks:
    """For all ops of a table's asset."""

    def tell(context: dg.HookContext) -> None:
        _tell_of_failure(context, alerts, Activity.archive, table_name(settings))

    return _hooks(alerts, dg.failure_hook, f"alert_of_failure__{asset_name(settings)}", tell)


def table_start_hooks(alerts: Alerts, settings: TableSettings) -> Hooks:
    """For the plan op: the start, with what the run will do. Only where it is wanted: most people do not."""

    def tell(context: dg.HookContext) -> None:
        plan = context.op_output_values["result"]
        if isinstance(plan, Plan):
            alerts.tell(context.instance, messages.started(plan, _place(context, alerts)), log=context.log)

    if AlertKind.started not in alerts.settings.policy.wanted:
        return frozenset()
    return _hooks(alerts, dg.success_hook, f"alert_of_start__{asset_name(settings)}", tell)


def table_success_hooks(alerts: Alerts, settings: TableSettings) -> Hooks:
    """For the report op."""

    def tell(context: dg.HookContext) -> None:
        report, place = _runtime(context).reports.get(settings), _place(context, alerts)
        if report is None:
            return
        alerts.tell(context.instance, messages.archived(report, place), log=context.log)
        if AlertKind.threshold in alerts.settings.policy.wanted:
            _tell_of_unusual(context, alerts, settings, report, place)

    return _hooks(alerts, dg.success_hook, f"alert_of_success__{asset_name(settings)}", tell)


def restore_failure_hooks(alerts: Alerts, database: DatabaseSettings) -> Hooks:
    """For all ops of a database's restores."""

    def tell(context: dg.HookContext) -> None:
        target, failure = _runtime(context).restore_target, _failure(context)
        alert = messages.restore_failed(database.id, target, failure, _place(context, alerts))
        tell_of_run(context.instance, context.run_id, alerts, alert, context.log)

    return _hooks(alerts, dg.failure_hook, f"alert_of_failure__{plain_name(database.id)}__restored", tell)


def restore_success_hooks(alerts: Alerts, database: DatabaseSettings) -> Hooks:
    """For the report op of a database's restores."""

    def tell(context: dg.HookContext) -> None:
        report, place = _runtime(context).restored, _place(context, alerts)
        if report is not None:
            alerts.tell(context.instance, messages.restored(report, place), log=context.log)

    return _hooks(alerts, dg.success_hook, f"alert_of_success__{plain_name(database.id)}__restored", tell)


def validation_hooks(alerts: Alerts, settings: TableSettings) -> Hooks:
    """For the check of a table's archives: what it found, or that it could not look."""

    def tell_of_failure(context: dg.HookContext) -> None:
        _tell_of_failure(context, alerts, Activity.validate, table_name(settings))

    def tell_of_report(context: dg.HookContext) -> None:
        report, place = _runtime(context).validations.get(settings), _place(context, alerts)
        if report is not None:
            alerts.tell(context.instance, messages.validated(report, place), log=context.log)

    own = f"{asset_name(settings)}__archives"
    return _hooks(alerts, dg.failure_hook, f"alert_of_failure__{own}", tell_of_failure) | _hooks(
        alerts, dg.success_hook, f"alert_of_findings__{own}", tell_of_report
    )


def _hooks(alerts: Alerts, decorate: Any, name: str, tell: _Body) -> Hooks:
    """One hook, or none when alerts are off."""
    if not alerts.enabled:
        return frozenset()
    return frozenset({decorate(name=name, required_resource_keys={RESOURCE_KEY})(tell)})


def _tell_of_failure(context: dg.HookContext, alerts: Alerts, activity: Activity, table: TableName) -> None:
    alert = messages.failed(activity, table, _failure(context), _place(context, alerts))
    tell_of_run(context.instance, context.run_id, alerts, alert, context.log)


def _tell_of_unusual(
    context: dg.HookContext, alerts: Alerts, settings: TableSettings, report: ArchiveReport, place: RunPlace
) -> None:
    """Compare the run with the table's own past, and remember its backlog."""
    instance, name = context.instance, report.table
    most_rows = alerts.settings.threshold_rows or MOST_COUNTED_ROWS
    backlog = measure_backlog(_runtime(context).session(settings), most_rows=most_rows)
    memory = read_memories(instance, [str(name)])[str(name)]
    past = read_past(instance, settings, report, memory.backlogs)
    write_memory(instance, str(name), memory.measuring(backlog.eligible_rows))
    found = unusual_of(report, past, backlog, VacuumStrategy(settings.vacuum_strategy), alerts.settings)
    if found:
        topics = tuple(dict.fromkeys(one.topic for one in found))
        alert = messages.far_from_usual(name, topics, [one.line for one in found], place)
        alerts.tell(instance, alert, log=context.log)


def _failure(context: dg.HookContext) -> Failure:
    """Our own errors in words; others by name only, for they may quote rows."""
    raised, step = context.op_exception, (context.step_key or "").rpartition(".")[2]
    cause = raised
    while cause is not None and not isinstance(cause, ArchiverError):
        cause = cause.__cause__
    if cause is not None:
        return Failure(type(cause).__name__, str(cause), step)
    if isinstance(raised, dg.Failure):
        return Failure("Failure", raised.description or "", step)
    return Failure(type(raised).__name__, "its text may quote rows, and is only in the run's log", step)


def _place(context: dg.HookContext, alerts: Alerts) -> RunPlace:
    run = context.instance.get_run_by_id(context.run_id)
    return place_of_run(alerts, run, host=this_host()) if run else RunPlace(context.run_id)


def _runtime(context: dg.HookContext) -> ArchiverRuntime:
    runtime: ArchiverRuntime = getattr(context.resources, RESOURCE_KEY)
    return runtime
