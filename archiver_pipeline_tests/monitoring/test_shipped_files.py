"""The dashboard, the alert rules and the page on monitoring name only what the exporter exports."""

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from archiver_pipeline_tests.docs.reading import ROOT
from archiver_pipeline_tests.monitoring.exported import EXPORTED

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
RULES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
PROMETHEUS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
TABLE_ROW = re.compile(r"^\| `(archiver_\w+)` \| ([^|]*) \| ([^|]*) \| ([^|]+) \|$", re.MULTILINE)
# Prometheus makes this one itself, for every target.
OF_PROMETHEUS = {"up": ("job", "instance")}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def dashboard_expressions() -> list[str]:
    """Of panels, with Grafana's variables filled in, and of the variables themselves."""
    of_panels = [target["expr"] for panel in panels() for target in panel["targets"]]
    queries = [one["definition"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    of_variables = [re.fullmatch(r"label_values\((.+), (\w+)\)", query) for query in queries]
    return [
        expression.replace("$__rate_interval", "5m")
        for expression in [*of_panels, *(f"count by ({found[2]}) ({found[1]})" for found in of_variables if found)]
    ]


def selectors(expression: str) -> Iterator[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return iter(found)


def labels_of(expression: str) -> set[str]:
    """Labels that every metric of the expression has."""
    return set.intersection(*(set((EXPORTED | OF_PROMETHEUS)[one.name]) for one in selectors(expression)))


def require_exported(expression: str) -> None:
    known = EXPORTED | OF_PROMETHEUS
    found = list(selectors(expression))
    assert found, expression
    for one in found:
        assert one.name in known, expression
        assert {matcher.name for matcher in one.matchers.matchers} <= set(known[one.name]), expression
    for grouped in re.findall(r"(?:by|on) \(([^)]*)\)", expression):
        assert set(grouped.split(", ")) <= labels_of(expression), expression


@pytest.mark.parametrize("expression", dashboard_expressions())
def test_the_dashboard_asks_for_what_is_exported(expression):
    require_exported(expression)


def test_the_dashboard_is_whole():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert used <= labels_of(target["expr"].replace("$__rate_interval", "5m")), panel["title"]
    shown = " ".join(dashboard_expressions())
    for name in ("records_archived_total", "records_eligible", "errors_total", "duration_seconds_sum", "up", "overdue"):
        assert re.search(rf"archiver_{name}\b", shown), name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_asks_for_what_is_exported(rule):
    require_exported(rule["expr"])
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert used <= labels_of(rule["expr"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description"}


def test_prometheus_loads_the_rules_and_calls_the_job_as_they_do():
    assert PROMETHEUS["rule_files"] == ["alerts.yml"]
    [job] = [scrape["job_name"] for scrape in PROMETHEUS["scrape_configs"]]
    assert f'up{{job="{job}"}}' in RULES[0]["expr"]


def test_the_page_lists_every_metric_with_its_labels():
    page = (ROOT / "docs" / "monitoring.md").read_text()
    listed = {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels, _, _ in TABLE_ROW.findall(page)}
    assert listed == EXPORTED


def test_the_page_lists_every_rule():
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert [rule["alert"] for rule in RULES] == re.findall(r"^\| `(Archiver\w+)` \|", page, re.MULTILINE)
