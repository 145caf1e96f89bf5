"""The report of health as Prometheus reads it, and the dashboards that are made of it."""

import functools
import json
import operator
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, get_origin

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from edged.contract.figures import places
from edged.contract.health import HealthReport
from edged.contract.status import State
from edged.errors import SettingsError
from edged.monitoring import prometheus
from edged.monitoring.prometheus import Exporter
from tests.support.report import REPORT

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
# What dashboards and alerts of other people ask for: a name that is changed or gone breaks them.
NAMES = """
    edged_batch_rows_mean edged_build_info edged_cached_tokens_total edged_completion_tokens_per_second
    edged_model_duty_ratio
    edged_completion_tokens_total edged_model_info edged_model_load_seconds edged_model_parameters edged_model_threads
    edged_model_weight_bytes edged_mqtt_connected edged_mqtt_outbox_messages edged_mqtt_reconnects_total
    edged_mqtt_unacked_messages edged_prefix_cache_bytes edged_prefix_cache_capacity_bytes
    edged_prefix_cache_hits_total edged_prefix_cache_misses_total edged_probe_age_seconds edged_probe_duration_seconds
    edged_process_disk_written_bytes_total edged_process_disk_written_per_day_bytes
    edged_probe_success edged_process_resident_memory_bytes edged_prompt_tokens_per_second edged_prompt_tokens_total
    edged_queue_capacity edged_queue_oldest_age_seconds edged_request_duration_seconds
    edged_request_first_token_seconds edged_request_queue_seconds edged_requests_answered_total
    edged_requests_duplicate_total edged_requests_failed_total edged_requests_received_total
    edged_requests_redelivered_total edged_requests_routed_total edged_requests_shared_total
    edged_requests_skipped_total edged_route_requests_failed_total edged_requests_waiting_or_running
    edged_sender_requests_in_hand edged_sender_requests_refused_total edged_sender_requests_total
    edged_sender_tokens_total edged_sequences_running edged_state
    edged_system_cpu_ratio edged_system_disk_free_bytes edged_system_load1
    edged_system_memory_available_bytes edged_system_temperature_celsius edged_system_throttled edged_uptime_seconds
"""
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
    registry.register(prometheus._Reports(lambda: HealthReport.model_validate(report), "box"))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def sample(report: dict[str, Any], name: str, **labels: str) -> float | None:
    return exposed(report).get((name, frozenset(labels.items())))


def test_every_number_of_the_report_is_told() -> None:
    numbers = {".".join(each.path) for each in places(HealthReport) if not issubclass(kind_of(each.kind), str | tuple)}
    told = {".".join(each.path) for each in places(HealthReport) if each.figure.metric is not None}
    by_the_code_of_an_error = {"requests.expired", "requests.cancelled"}
    of_a_group = {each for each in numbers if each.startswith("group.")}
    assert numbers - told == by_the_code_of_an_error | of_a_group


def kind_of(annotation: Any) -> type:
    kind: type = get_origin(annotation) or annotation
    return kind


def test_metrics_keep_their_names() -> None:
    names = {name for name, _ in exposed(REPORT)}
    assert names == {*NAMES.split()}


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
        Exporter(host="127.0.0.1", port=1, node="box", snapshot=lambda: HealthReport.model_validate(REPORT))


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


def at(report: dict[str, Any], path: str) -> Any:
    return functools.reduce(operator.getitem, path.split("."), report)


def test_telegraf_reads_what_is_in_the_report() -> None:
    recipe = tomllib.loads((MONITORING / "telegraf.conf").read_text())
    (health, status) = recipe["inputs"]["mqtt_consumer"]
    assert health["topics"] == ["edged/+/health"]
    assert status["topics"] == ["edged/+/status"]
    (parser,) = health["json_v2"]
    for each in [*parser["field"], *parser.get("tag", [])]:
        assert at(REPORT, each["path"]) is not None, each["path"]
    for each in parser["object"]:
        assert isinstance(at(REPORT, each["path"]), dict), each["path"]
