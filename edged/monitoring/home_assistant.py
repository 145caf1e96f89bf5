"""Home Assistant's MQTT discovery: what it is told, when, and how it is taken back.

One retained message describes a device with its entities, which all read the topics of the contract.
Source: home-assistant.io/integrations/mqtt, "Device discovery payload" (Home Assistant 2024.12 and later).
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edged.contract.results import encode
from edged.contract.status import State
from edged.contract.topics import Topics
from edged.ports.box import Readings
from edged.ports.link import Link, Outcome, Publication, Sent
from edged.settings.schema import HomeAssistantSettings
from edged.state_files import StateFile
from edged.tasks.specs import ClassifySpec, Tasks

_BIRTH = b"online"
_LONGEST_STATE = 255  # characters; Home Assistant takes no longer state
_SESSION = "homeassistant"  # what is typed into the text entity is a conversation of its own
_SUPPORT = "https://github.com/edged/edged"
_ALIVE = (State.READY, State.DEGRADED, State.DRAINING)

Component = dict[str, Any]


def births(settings: HomeAssistantSettings) -> tuple[str, ...]:
    """Where Home Assistant says that it has started; nowhere, while it is not told of us."""
    return (f"{settings.prefix}/status",) if settings.discovery else ()


def object_id(topics: Topics) -> str:
    """The id of this daemon at Home Assistant, which takes only A-Z, a-z, 0-9, `_` and `-` in it."""
    plain = re.sub(r"[^a-zA-Z0-9_-]", "-", topics.root)
    # Two roots that differ only in what was replaced are two devices.
    is_unique = plain == topics.root.replace("/", "-") and "-" not in topics.root
    return plain if is_unique else f"{plain}-{hashlib.sha256(topics.root.encode()).hexdigest()[:8]}"


def describe(*, topics: Topics, tasks: Tasks, model: str, version: str, readings: Readings) -> dict[str, Any]:
    """The device's configuration, JSON-ready. What this box cannot read (`readings`) is no entity."""
    own = object_id(topics)
    components = dict(_components(topics, tasks, readings))
    for name, component in components.items():
        component |= {"unique_id": f"{own}_{name}", "qos": 1}
    return {
        "device": {
            "identifiers": [own],
            "name": f"edged {topics.node}",
            "manufacturer": "edged",
            "model": model,
            "sw_version": version,
        },
        "origin": {"name": "edged", "sw_version": version, "support_url": _SUPPORT},
        # No expire_after: it would count from Home Assistant's start, when a retained report looks new.
        "availability": [
            {
                "topic": topics.status,
                "value_template": f"{{{{ 'online' if value_json.state in {[*map(str, _ALIVE)]} else 'offline' }}}}",
            }
        ],
        "components": components,
    }


def _components(topics: Topics, tasks: Tasks, readings: Readings) -> Iterator[tuple[str, Component]]:
    yield (
        "state",
        {
            "platform": "sensor",
            "name": "State",
            "icon": "mdi:brain",
            "device_class": "enum",
            "options": [str(each) for each in State],
            "state_topic": topics.status,
            "value_template": "{{ value_json.state }}",
            "json_attributes_topic": topics.status,  # the reasons, in words
            # "offline" is a state to show, not a reason to show none.
            "availability": [{"topic": topics.status, "value_template": "online"}],
        },
    )
    yield (
        "problem",
        {
            "platform": "binary_sensor",
            "name": "Problem",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": topics.status,
            "value_template": f"{{{{ 'ON' if value_json.state == '{State.DEGRADED}' else 'OFF' }}}}",
        },
    )
    yield from _conversation(topics, tasks)

    def of_health(name: str, value: str, **more: str | None) -> tuple[str, Component]:
        figure = {
            "platform": "sensor",
            "name": name,
            "state_class": "measurement",
            "entity_category": "diagnostic",
            "state_topic": topics.health,
            "value_template": f"{{{{ {value} }}}}",
        } | more
        return _identifier(name), {key: each for key, each in figure.items() if each is not None}

    latency = {"unit_of_measurement": "ms", "device_class": "duration"}
    size = {"unit_of_measurement": "MiB", "device_class": "data_size"}
    yield of_health("Latency p50", "value_json.latency_ms.total.p50", **latency)
    yield of_health("Latency p95", "value_json.latency_ms.total.p95", **latency)
    yield of_health("First token p50", "value_json.latency_ms.first_token.p50", **latency)
    yield of_health("Tokens per second", "value_json.tokens.completion_per_s", unit_of_measurement="tokens/s")
    yield of_health("Queue", "value_json.queue.depth", unit_of_measurement="requests")
    yield of_health("Answered", "value_json.requests.answered", state_class="total_increasing")
    yield of_health("Errors", "value_json.requests.errors.values() | sum", state_class="total_increasing")
    yield of_health("Reconnects", "value_json.mqtt.reconnects", state_class="total_increasing")
    # Home Assistant takes a time for a time of its own, so this is not the age.
    yield of_health("Last report", "value_json.time", device_class="timestamp", state_class=None)
    yield of_health("Memory", "value_json.system.memory_rss_mb", **size)
    yield of_health("Disk free", "value_json.system.disk_free_mb", **size)
    yield of_health("CPU", "value_json.system.cpu_percent", unit_of_measurement="%")
    if readings.temperature_c is not None:
        degrees = {"unit_of_measurement": "°C", "device_class": "temperature"}
        yield of_health("Temperature", "value_json.system.temperature_c", **degrees)
    if readings.throttled is not None:
        throttled = "'ON' if value_json.system.throttled else 'OFF'"
        yield of_health("Throttled", throttled, platform="binary_sensor", device_class="problem", state_class=None)


def _conversation(topics: Topics, tasks: Tasks) -> Iterator[tuple[str, Component]]:
    """The last verdict of each classifying task, a field to write into, and what was answered there."""
    for spec in tasks:
        if not isinstance(spec, ClassifySpec):
            continue
        labels = [each.canonical for each in (*spec.labels, *([spec.neutral] if spec.neutral else []))]
        # Errors and chunks of replies come to the same topics, and leave the state as it is.
        kept = f"(this.state if this.state in {labels} else None)"
        verdict = f"value_json['{spec.name}'].label if '{spec.name}' in value_json else {kept}"
        yield (
            _identifier(spec.name),
            {
                "platform": "sensor",
                "name": spec.name.replace("_", " ").capitalize(),
                "icon": "mdi:emoticon-outline",
                "device_class": "enum",
                "options": labels,
                "state_topic": topics.out("#"),
                "value_template": f"{{{{ {verdict} }}}}",
            },
        )
    if "message" not in tasks.names:
        return
    yield (
        "talk",
        {
            "platform": "text",
            "name": "Talk",
            "icon": "mdi:message-text-outline",
            "command_topic": f"{topics.root}/in/message/{_SESSION}",
            "max": _LONGEST_STATE,
        },
    )
    said = "value_json.reply.text if value_json.reply is defined else value_json.error.message"
    yield (
        "reply",
        {
            "platform": "sensor",
            "name": "Reply",
            "icon": "mdi:message-reply-text-outline",
            "state_topic": topics.out(f"message/{_SESSION}"),
            "value_template": f"{{{{ ({said})[:{_LONGEST_STATE}] }}}}",
            "json_attributes_topic": topics.out(f"message/{_SESSION}"),
            "json_attributes_template": f"{{{{ {{'text': {said}}} | tojson }}}}",  # all of it
        },
    )


def _identifier(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower())


class Discovery:
    """Tells Home Assistant of this daemon, again when it starts anew, and takes back what a daemon here once told.

    Args:
        record: a file that keeps the topic of what was told, to be taken back when the setting, the node or the prefix
            has changed.
        describe: gives the configuration; called when there is a model.
    """

    def __init__(
        self,
        *,
        settings: HomeAssistantSettings,
        topics: Topics,
        link: Link,
        record: Path,
        describe: Callable[[], dict[str, Any]],
    ) -> None:
        self._link = link
        self._record = StateFile(record, str, kind="homeassistant", earlier=_earlier_record)
        self._describe = describe
        self._topic = f"{settings.prefix}/device/{object_id(topics)}/config" if settings.discovery else None
        self._births = births(settings)
        self._has_started = False
        self._is_due = False

    def start(self) -> None:
        """The model is there: take back what is not true any more, and tell what is."""
        told = self._record.read()
        if told not in {None, self._topic}:
            self._link.publish(Publication(topic=str(told), payload=b"", qos=1, retain=True), self._on_taken_back)
        if self._topic is not None:
            self._record.write(self._topic)
        self._has_started = True
        self._is_due = self._topic is not None
        self.tick()

    def hear(self, topic: str, payload: bytes) -> bool:
        """Whether a message was Home Assistant's own; its birth makes a new telling due. For the network thread."""
        if topic not in self._births:
            return False
        self._is_due |= payload == _BIRTH
        return True

    def tick(self) -> None:
        """Tell, if it is due. For the main thread, about once a second."""
        if self._topic is None or not self._has_started or not self._is_due:
            return
        self._is_due = False
        self._link.publish(Publication(topic=self._topic, payload=encode(self._describe()), qos=1, retain=True))

    def _on_taken_back(self, outcome: Outcome) -> None:
        if outcome.sent is Sent.CONFIRMED and self._topic is None:
            self._record.delete()


def _earlier_record(written: bytes) -> str:
    """The record as a line of text, as it was without kind and version."""
    topic = re.fullmatch(r"([^\n]+/device/[^/\n]+/config)\n", written.decode())
    if topic is None:
        raise ValueError("it is not the topic of a device's configuration")
    return topic[1]
