"""The deployment files as data."""

from typing import Any

import yaml

from archiver_pipeline_tests.docs.reading import ROOT

COMPOSE = ROOT / "docker-compose.yml"
DEPLOY = ROOT / "deploy"


def compose_services() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(COMPOSE.read_text())["services"]


def health_command(service: str) -> list[str]:
    """The command of a service's health check."""
    kind, *command = compose_services()[service]["healthcheck"]["test"]
    assert kind == "CMD"
    return command
