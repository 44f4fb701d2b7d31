"""A command tells of its own runs that could not tell themselves; there may be no daemon whose sensor would."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.orchestration.alerting import Alerts
from archiver_pipeline.orchestration.launch import failed_runs_of_this_process
from archiver_pipeline.orchestration.untold import leave_untold, tell_untold

_LOG = logging.getLogger(__name__)


def tell_of_dead_run(loaded: LoadedConfig, instance: dg.DagsterInstance, run_id: str) -> None:
    """Tell of a run whose process was killed before."""
    alerts, run = Alerts(loaded.notifications), instance.get_run_by_id(run_id)
    if alerts.enabled and run is not None:
        tell_untold(loaded, alerts, instance, run, log=_LOG)


@contextmanager
def telling_of_failed_runs(loaded: LoadedConfig, instance: dg.DagsterInstance) -> Iterator[None]:
    """At the end, tell of this process's failed runs that no hook told of. Who interrupts the command knows."""
    alerts = Alerts(loaded.notifications)
    try:
        yield
    except KeyboardInterrupt:
        for run in failed_runs_of_this_process(instance) if alerts.enabled else ():
            leave_untold(instance, run.run_id)
        raise
    for run in failed_runs_of_this_process(instance) if alerts.enabled else ():
        tell_untold(loaded, alerts, instance, run, log=_LOG)
