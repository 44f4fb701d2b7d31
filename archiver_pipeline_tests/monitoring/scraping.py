"""A running `archiver monitor`, asked as Prometheus and a load balancer ask it."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from subprocess import Popen
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.cli.workplace import Workplace, wait_until

QUICK_SECONDS = 5.0
"""However the world is, an answer takes no longer: far less than anything that the monitor waits for itself, and enough
for a machine that is busy with other tests."""
PATIENT_SECONDS = 120.0

Series = tuple[str, tuple[tuple[str, str], ...]]


@dataclass
class Monitored:
    """`archiver monitor` of a workplace, on ports of its own."""

    workplace: Workplace
    process: "Popen[str]"
    health_port: int
    metrics_port: int

    def health(self) -> tuple[int, dict[str, Any]]:
        """Status and document. Fails when the answer is not quick, or holds a secret."""
        status, body = self._get(self.health_port, "/health")
        return status, json.loads(body)

    def metrics(self) -> dict[Series, float]:
        """Every sample by name and labels."""
        _, body = self._get(self.metrics_port, "/metrics")
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
        }

    def openmetrics(self) -> list[Any]:
        """The families, parsed strictly."""
        _, body = self._get(self.metrics_port, "/metrics", accept="application/openmetrics-text; version=1.0.0")
        return list(parse_openmetrics(body))

    def counters(self) -> dict[Series, float]:
        """What must be the same after a restart."""
        return {
            series: value
            for series, value in self.metrics().items()
            if series[0].endswith(("_total", "_sum", "_count"))
        }

    def value(self, name: str, /, **labels: str) -> float | None:
        return self.metrics().get((name, tuple(sorted(labels.items()))))

    def wait_for(self, happened: Callable[[], object], *, what: str) -> None:
        def and_alive() -> object:
            assert self.process.poll() is None, self.process.communicate()
            return happened()

        wait_until(and_alive, what=what, seconds=PATIENT_SECONDS)

    def wait_for_status(self, status: int) -> dict[str, Any]:
        """The document that comes with this status at last."""
        self.wait_for(lambda: self.health()[0] == status, what=f"/health says {status}")
        return self.health()[1]

    def wait_for_reason(self, start: str) -> dict[str, Any]:
        """The document that says 503 for a reason that begins so."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            status, document = self.health()
            found.append(document)
            assert (status == 503) == bool(document["reasons"])
            return any(reason.startswith(start) for reason in document["reasons"])

        self.wait_for(look, what=f"503 because of {start}")
        return found[-1]

    def _get(self, port: int, path: str, *, accept: str = "text/plain") -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
        began = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        assert time.monotonic() - began < QUICK_SECONDS, "the answer was not quick"
        self.workplace.require_no_secret("an answer of the monitor", body)
        return status, body.decode()


def start_monitor(workplace: Workplace, **settings: Any) -> Monitored:
    """A monitor that looks every moment, and answers."""
    ports = {"metrics_port": free_port(), "health_check_port": free_port()}
    workplace.document["monitoring"] = {
        "metrics_enabled": True,
        "health_check_enabled": True,
        "check_interval_seconds": 0.2,
        "check_timeout_seconds": 1,
        "table_interval_seconds": 0.2,
        **ports,
        **settings,
    }
    workplace.write()
    return again(Monitored(workplace, None, ports["health_check_port"], ports["metrics_port"]))  # type: ignore[arg-type]


def again(stopped: Monitored) -> Monitored:
    """The same monitor once more, as configured, when it answers."""
    process = stopped.workplace.start("monitor")
    started = Monitored(stopped.workplace, process, stopped.health_port, stopped.metrics_port)
    started.wait_for(lambda: _answers(started), what="the monitor answers")
    return started


def _answers(monitored: Monitored) -> bool:
    try:
        return monitored.metrics() is not None and monitored.health() is not None
    except urllib.error.URLError:
        return False
