"""A figure is one field of the report: it shows up in the JSON, its schema, at Prometheus and at Home Assistant."""

from typing import Annotated, Any, get_origin

import jsonschema
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel

from edged.contract.asyncapi import document
from edged.contract.figures import PERCENT, Entity, Figure, counter, gauge, places
from edged.contract.health import HealthReport, SystemFigures
from edged.contract.topics import Topics
from edged.monitoring import prometheus
from edged.monitoring.home_assistant import describe
from edged.tasks.built_in import BUILT_IN
from tests.support.report import REPORT

FAN = Figure("Speed of the fan.", unit=PERCENT, metric=gauge("edged_fan_ratio"), entities=(Entity("Fan"),))
LIGHTS = Figure("Lights, by colour.", metric=counter("edged_lights", label="colour"), entities=(Entity("Lights"),))
DOOR = Figure("Whether the door is open.", metric=gauge("edged_door"), entities=(Entity("Door", is_optional=True),))


class WithFan(SystemFigures):
    fan_percent: Annotated[float, FAN]
    lights: Annotated[dict[str, int], LIGHTS]
    door: Annotated[bool | None, DOOR]


class Report(HealthReport):
    system: WithFan


MADE_UP = {"fan_percent": 40.0, "lights": {"red": 1, "green": 2}, "door": True}
TOLD = Report.model_validate(REPORT | {"system": REPORT["system"] | MADE_UP})


def test_it_is_in_the_json_and_its_schema() -> None:
    payload = document(report=Report)["components"]["messages"]["health"]["payload"]
    assert TOLD.body() == REPORT | {"system": REPORT["system"] | MADE_UP}
    assert jsonschema.Draft202012Validator(payload).is_valid(TOLD.body())
    assert not jsonschema.Draft202012Validator(payload).is_valid(REPORT)
    fan = payload["properties"]["system"]["properties"]["fan_percent"]
    assert fan == {"type": "number", "description": "Speed of the fan. Unit: %."}


def test_prometheus_is_told() -> None:
    registry = CollectorRegistry()
    registry.register(prometheus._Reports(lambda: TOLD, "box"))
    text = generate_latest(registry).decode()
    assert "# HELP edged_fan_ratio Speed of the fan.\n# TYPE edged_fan_ratio gauge\nedged_fan_ratio 0.4\n" in text
    assert 'edged_lights_total{colour="red"} 1.0\nedged_lights_total{colour="green"} 2.0\n' in text
    assert "edged_door 1.0\n" in text


def described(report: HealthReport) -> dict[str, Any]:
    made = describe(topics=Topics(prefix="edged", node="box"), tasks=BUILT_IN, model="tiny", version="1", report=report)
    components: dict[str, Any] = made["components"]
    return components


def test_home_assistant_is_told() -> None:
    entities = described(TOLD)
    assert entities["fan"] == {
        "platform": "sensor",
        "name": "Fan",
        "state_class": "measurement",
        "entity_category": "diagnostic",
        "state_topic": "edged/box/health",
        "value_template": "{{ value_json.system.fan_percent }}",
        "unit_of_measurement": "%",
        "unique_id": "edged-box_fan",
        "qos": 1,
    }
    assert entities["lights"]["value_template"] == "{{ value_json.system.lights.values() | sum }}"
    assert entities["lights"]["state_class"] == "total_increasing"
    assert entities["door"]["platform"] == "binary_sensor"
    assert entities["door"]["value_template"] == "{{ 'ON' if value_json.system.door else 'OFF' }}"
    shut_away = TOLD.model_copy(update={"system": TOLD.system.model_copy(update={"door": None})})
    assert {*entities} - {*described(shut_away)} == {"door"}


def test_every_field_of_the_report_is_a_figure() -> None:
    found = {each.path for each in places(HealthReport)}
    fields = {each[:-1] if each[-1] in {"p50", "p95", "p99"} else each for each in leaves(HealthReport)}
    assert found == fields


def leaves(model: type[BaseModel]) -> set[tuple[str, ...]]:
    """The names of all fields of a model and of the models in it, from the top."""
    found: set[tuple[str, ...]] = set()
    for name, field in model.model_fields.items():
        kinds = [each for each in (field.annotation, *getattr(field.annotation, "__args__", ())) if inspectable(each)]
        found |= {(name, *path) for kind in kinds for path in leaves(kind)} or {(name,)}
    return found


def inspectable(kind: Any) -> bool:
    return get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, BaseModel)


@pytest.mark.parametrize("key", ["metric", "entity"])
def test_no_two_figures_have_one_name(key: str) -> None:
    names: list[str] = []
    for each in places(HealthReport):
        if key == "entity":
            names += [entity.name for entity in each.figure.entities]
        elif each.figure.metric is not None and each.figure.metric.kind != "info":
            names.append(each.figure.metric.name)
    assert len({*names}) == len(names) > 10
