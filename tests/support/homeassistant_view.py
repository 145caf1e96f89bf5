"""What Home Assistant shows of a device: its schemas and templates, applied to messages that a daemon sent.

Run by the Python of an environment that has the package `homeassistant`, as a program: reads
`{"config": …, "messages": {topic: [payload, …]}}`, writes `{component: {"state": …, "attributes": …, "available": …}}`.
Needs nothing of this project.
"""

import asyncio
import importlib
import json
import sys
from typing import Any

from homeassistant.components.mqtt import mixins
from homeassistant.components.mqtt.models import MqttValueTemplate
from homeassistant.core import HomeAssistant

try:  # Home Assistant 2024.12 moved them
    from homeassistant.components.mqtt import schemas
except ImportError:
    schemas = mixins

# discovery.py of the integration: these alone pass from the device to its components.
SHARED = (
    "availability",
    "availability_mode",
    "availability_template",
    "availability_topic",
    "command_topic",
    "payload_available",
    "payload_not_available",
    "state_topic",
)

# Device discovery is of 2024.12; what its sensors know since then, the last release for Python 3.11 does not.
NEWER = {"options"} if schemas is mixins else set()


def validate(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The components as the integration holds them; raises voluptuous.Invalid."""
    device = schemas.MQTT_ENTITY_DEVICE_INFO_SCHEMA(config["device"])
    origin = schemas.MQTT_ORIGIN_INFO_SCHEMA(config["origin"])
    assert {*device} >= {*config["device"]}
    assert {*origin} >= {*config["origin"]}
    if whole := getattr(schemas, "DEVICE_DISCOVERY_SCHEMA", None):
        whole(json.loads(json.dumps(config)))
    components = {}
    for name, given in config["components"].items():
        platform = given["platform"]
        component = {**{key: config[key] for key in SHARED if key in config}, **given}
        component |= {"device": config["device"], "origin": config["origin"]}
        del component["platform"]
        module = importlib.import_module(f"homeassistant.components.mqtt.{platform}")
        held = module.DISCOVERY_SCHEMA(json.loads(json.dumps(component)))
        lost = {*component} - {*held} - NEWER  # the schema drops what it does not know
        assert not lost, f"{name}: {platform} does not know {lost}"
        components[name] = held | {"platform": platform}
    return components


class View:
    """One entity: its state is what its template makes of the messages, in order."""

    def __init__(self, hass: HomeAssistant, config: dict[str, Any]) -> None:
        self._hass = hass
        self._config = config
        self.state = "unknown"
        self.attributes: dict[str, Any] = {}
        self.available = False

    def hear(self, topic: str, payload: str) -> None:
        if matches(self._config.get("state_topic"), topic):
            state = self._render(self._config["value_template"], payload)
            self.state = "unknown" if state == "None" else state
            options = self._config.get("options", [])
            assert not options or self.state in [*options, "unknown"], self.state
        if matches(self._config.get("json_attributes_topic"), topic):
            template = self._config.get("json_attributes_template")
            self.attributes = json.loads(self._render(template, payload) if template else payload)
        for each in self._config["availability"]:
            if matches(each["topic"], topic):
                verdict = self._render(each["value_template"], payload)
                if verdict in {each["payload_available"], each["payload_not_available"]}:
                    self.available = verdict == each["payload_available"]

    def _render(self, template: Any, payload: str) -> str:
        template.hass = self._hass
        value = MqttValueTemplate(template, hass=self._hass).async_render_with_possible_json_value(
            payload, variables={"this": {"state": self.state}}
        )
        return str(value)


def matches(topic_filter: str | None, topic: str) -> bool:
    if topic_filter is None:
        return False
    return topic == topic_filter or (topic_filter.endswith("/#") and topic.startswith(topic_filter[:-1]))


async def main() -> None:
    given = json.load(sys.stdin)
    hass = HomeAssistant("/nonexistent")
    views = {name: View(hass, config) for name, config in validate(given["config"]).items()}
    for topic, payload in given["messages"]:
        for view in views.values():
            view.hear(topic, payload)
    seen = {
        name: {"state": each.state, "attributes": each.attributes, "available": each.available}
        for name, each in views.items()
    }
    json.dump(seen, sys.stdout)


asyncio.run(main())
