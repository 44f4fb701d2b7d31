"""Alerts of looks for due rows: when nobody can ask, no run is made, and no run's hook can tell."""

import logging
from collections.abc import Sequence
from datetime import timedelta

import dagster as dg

from archiver_pipeline.orchestration import alert_messages as messages
from archiver_pipeline.orchestration.alert_state import read_memories
from archiver_pipeline.orchestration.alerting import Alerts

_AT_MOST_EVERY = timedelta(hours=1)
"""A sensor looks every minute, and would tell every minute."""


def tell_of_look(
    alerts: Alerts,
    instance: dg.DagsterInstance,
    database_id: str,
    problems: Sequence[tuple[object, Exception]],
    *,
    log: logging.Logger,
) -> None:
    """Tell which tables could not be asked, each with its error, at most once an hour while it lasts."""
    if alerts.enabled:
        alert = messages.not_looked(database_id, [(str(name), error) for name, error in problems])
        alerts.tell(instance, alert, log=log, at_most_every=_AT_MOST_EVERY)


def tell_of_whole_look(alerts: Alerts, instance: dg.DagsterInstance, database_id: str, *, log: logging.Logger) -> None:
    """After every table could be asked: the all-clear, when there was something to clear."""
    subject = messages.look_subject(database_id)
    if alerts.enabled and read_memories(instance, [subject])[subject].failing:
        alerts.tell(instance, messages.looked_again(database_id), log=log)
