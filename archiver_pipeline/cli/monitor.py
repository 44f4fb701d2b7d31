"""`archiver monitor`: serve /health and /metrics."""

import os
import signal
import sys
import threading

from archiver_pipeline.cli.console import errors
from archiver_pipeline.cli.options import ConfigOption, open_config
from archiver_pipeline.errors import ConfigError
from archiver_pipeline.monitoring.monitor import Monitor
from archiver_pipeline.monitoring.serving import HEALTH_PATH, METRICS_PATH, serve_health, serve_metrics


def monitor(config: ConfigOption = None) -> None:
    """Serve `/health` and `/metrics`, as the section `monitoring` of the configuration says, until it is stopped.

    It looks at databases, store and Dagster in the background, changes nothing, and keeps nothing: what it tells comes
    from Dagster's stored runs and from the receipts in the store, and is the same after a restart.

    Exit codes: 0 stopped by a signal, 3 configuration, or an address that is taken.

    Examples:

        archiver monitor

        archiver monitor --config audit.yaml

        curl --fail http://127.0.0.1:8001/health
    """
    loaded = open_config(config)
    settings = loaded.config.monitoring
    if not (settings.metrics_enabled or settings.health_check_enabled):
        raise ConfigError(
            "there is nothing to serve", hint="set monitoring.health_check_enabled or monitoring.metrics_enabled"
        )
    stopped = threading.Event()
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: stopped.set())
    watching = Monitor(loaded)
    if settings.health_check_enabled:
        serve_health(watching, settings.bind_address, settings.health_check_port)
        _tell(settings.bind_address, settings.health_check_port, HEALTH_PATH)
    if settings.metrics_enabled:
        serve_metrics(watching, settings.bind_address, settings.metrics_port)
        _tell(settings.bind_address, settings.metrics_port, METRICS_PATH)
    watching.start()
    stopped.wait()
    _leave()


def _tell(address: str, port: int, path: str) -> None:
    place = f"[{address}]" if ":" in address else address
    errors.print(f"serving http://{place}:{port}{path}", markup=False, highlight=False, soft_wrap=True)


def _leave() -> None:
    """End at once, whatever a look is waiting for: nothing of what it does must be brought to an end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(os.EX_OK)
