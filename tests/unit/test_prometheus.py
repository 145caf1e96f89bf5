"""The report of health as Prometheus reads it, and the dashboards that are made of it."""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from edged.contract.status import State
from edged.errors import SettingsError
from edged.monitoring import prometheus
from edged.monitoring.prometheus import Exporter
from tests.support.report import REPORT

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
# Before there is a model, and on a box that tells nothing of itself.
BARE: dict[str, Any] = REPORT | {
    "state": "loading",
    "model": None,
    "probe": None,
    "system": dict.fromkeys(REPORT["system"]),
    "mqtt": REPORT["mqtt"] | {"connected_since": None, "protocol": None},
    "queue": REPORT["queue"] | {"oldest_age_s": None},
    "tokens": REPORT["tokens"] | {"batch_mean": None},
}


def exposed(report: dict[str, Any]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample that Prometheus would keep, by name and labels."""
    registry = CollectorRegistry()
    registry.register(prometheus._Reports(lambda: report, "box"))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def sample(report: dict[str, Any], name: str, **labels: str) -> float | None:
    return exposed(report).get((name, frozenset(labels.items())))


def leaves(report: Any, path: str = "") -> Iterator[str]:
    if path in prometheus.ELSEWHERE or not isinstance(report, dict):
        yield path
        return
    for name, value in report.items():
        yield from leaves(value, f"{path}.{name}" if path else name)


def test_every_figure_of_the_report_is_told() -> None:
    told = {each.path for each in (*prometheus._COUNTERS, *prometheus._GAUGES)}
    assert {*leaves(REPORT)} == told | {*prometheus.ELSEWHERE}


def test_units_are_base_units() -> None:
    assert sample(REPORT, "edged_request_duration_seconds", quantile="0.95") == pytest.approx(0.9)
    assert sample(REPORT, "edged_process_resident_memory_bytes") == 2 * 2**20
    assert sample(REPORT, "edged_system_cpu_ratio") == 0.5
    assert sample(REPORT, "edged_requests_answered_total") == 7
    assert sample(REPORT, "edged_requests_failed_total", code="bad_request") == 2


@pytest.mark.parametrize("report", [REPORT, BARE])
def test_one_state_is_in_force(report: dict[str, Any]) -> None:
    states = {str(each): sample(report, "edged_state", state=str(each)) for each in State}
    assert states == {str(each): float(each == report["state"]) for each in State}


def test_what_is_not_told_is_left_out() -> None:
    names = {name for name, _ in exposed(BARE)}
    assert not [each for each in names if "system" in each or "edged_model" in each or "probe" in each]
    assert sample(BARE, "edged_mqtt_connected") == 0
    assert not [labels for name, labels in exposed(REPORT) if name == "edged_request_sentiment_seconds"]


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(SettingsError, match=r"pip install 'edged\[metrics\]'"):
        Exporter(host="127.0.0.1", port=1, node="box", snapshot=lambda: REPORT)


# ------------------------------------------------------------------------------------------------- deploy/monitoring

OF_PROMETHEUS = {"up", "instance", "job"}


def expressions(dashboard: dict[str, Any]) -> list[str]:
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return asked + [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]


def test_grafana_asks_only_for_what_is_served() -> None:
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    panels = dashboard["panels"]
    assert len({each["id"] for each in panels}) == len(panels) > 10
    served = {name for name, _ in exposed(REPORT)} | {"edged_request_sentiment_seconds"}
    labels = {label for _, pairs in exposed(REPORT) for label, _ in pairs}
    for expression in expressions(dashboard):
        assert {*re.findall(r"\bedged_\w+", expression)} <= served, expression
        assert {*re.findall(r"(\w+)=~?\"", expression)} <= labels | OF_PROMETHEUS, expression
        assert expression.count("(") == expression.count(")")
    asked = " ".join(expressions(dashboard))
    assert {name for name in served if name in asked} >= {
        "edged_state",
        "edged_request_duration_seconds",
        "edged_completion_tokens_total",
        "edged_requests_failed_total",
        "edged_process_resident_memory_bytes",
    }


def test_telegraf_reads_what_is_in_the_report() -> None:
    recipe = tomllib.loads((MONITORING / "telegraf.conf").read_text())
    (health, status) = recipe["inputs"]["mqtt_consumer"]
    assert health["topics"] == ["edged/+/health"]
    assert status["topics"] == ["edged/+/status"]
    (parser,) = health["json_v2"]
    for each in [*parser["field"], *parser.get("tag", [])]:
        assert prometheus.at(REPORT, each["path"]) is not None, each["path"]
    for each in parser["object"]:
        assert isinstance(prometheus.at(REPORT, each["path"]), dict), each["path"]
