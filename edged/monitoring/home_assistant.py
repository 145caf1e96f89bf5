"""Home Assistant's MQTT discovery: announces the daemon as a device, and takes old announcements back.

One retained message describes a device with its entities, which all read the topics of the contract.
Source: home-assistant.io/integrations/mqtt, "Device discovery payload" (Home Assistant 2024.12 and later).
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edged.contract.health import HealthReport
from edged.contract.results import encode
from edged.contract.status import State
from edged.contract.topics import Topics
from edged.monitoring.home_assistant_entities import components
from edged.ports.link import Link, Outcome, Publication, Sent
from edged.settings.schema import HomeAssistantSettings
from edged.state_files import StateFile
from edged.tasks.specs import Tasks

_BIRTH = b"online"
_SUPPORT = "https://github.com/edged/edged"
_ALIVE = (State.READY, State.DEGRADED, State.DRAINING)


def births(settings: HomeAssistantSettings) -> tuple[str, ...]:
    """The topics where Home Assistant says that it has started; none while discovery is off."""
    return (f"{settings.prefix}/status",) if settings.discovery else ()


def object_id(topics: Topics) -> str:
    """The id of this daemon at Home Assistant, which takes only A-Z, a-z, 0-9, `_` and `-` in it."""
    plain = re.sub(r"[^a-zA-Z0-9_-]", "-", topics.root)
    # Two roots that differ only in what was replaced are two devices.
    is_unique = plain == topics.root.replace("/", "-") and "-" not in topics.root
    return plain if is_unique else f"{plain}-{hashlib.sha256(topics.root.encode()).hexdigest()[:8]}"


def describe(*, topics: Topics, tasks: Tasks, model: str, version: str, report: HealthReport) -> dict[str, Any]:
    """The device's configuration, ready to be written as JSON. Optional figures that `report` lacks are no entities."""
    own = object_id(topics)
    entities = {
        name: component | {"unique_id": f"{own}_{name}", "qos": 1}
        for name, component in components(topics, tasks, report).items()
    }
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
        "components": entities,
    }


class Discovery:
    """Announces this daemon to Home Assistant, again whenever that starts, and takes old announcements back."""

    def __init__(
        self,
        *,
        settings: HomeAssistantSettings,
        topics: Topics,
        link: Link,
        record: Path,
        describe: Callable[[], dict[str, Any]],
    ) -> None:
        """Assign.

        Args:
            settings: whether to announce, and below which prefix.
            topics: those of this daemon.
            link: publishes the announcement.
            record: a file that keeps the topic of the announcement, so that it can be taken back after the setting,
                the node or the prefix has changed.
            describe: gives the configuration; called when there is a model.
        """
        self._link = link
        self._record = StateFile(record, str, kind="homeassistant", earlier=_earlier_record)
        self._describe = describe
        self._topic = f"{settings.prefix}/device/{object_id(topics)}/config" if settings.discovery else None
        self._births = births(settings)
        self._has_started = False
        self._is_due = False
        self._told: dict[str, str] = {}  # by the id of each entity that was announced, its platform

    def start(self) -> None:
        """Take an old announcement back and send the new one; called when there is a model."""
        told = self._record.read()
        if told not in {None, self._topic}:
            self._link.publish(Publication(topic=str(told), payload=b"", qos=1, retain=True), self._on_taken_back)
        if self._topic is not None:
            self._record.write(self._topic)
        self._has_started = True
        self._is_due = self._topic is not None
        self.tick()

    def hear(self, topic: str, payload: bytes) -> bool:
        """Whether a message came from Home Assistant. That it has started makes an announcement due.

        For the network thread.
        """
        if topic not in self._births:
            return False
        self._is_due |= payload == _BIRTH
        return True

    def announce(self) -> None:
        """Make an announcement due: what it describes has changed. For any thread."""
        self._is_due = True

    def tick(self) -> None:
        """Send the announcement if it is due. For the main thread, about once a second."""
        if self._topic is None or not self._has_started or not self._is_due:
            return
        self._is_due = False
        config = self._describe()
        platforms = {name: each["platform"] for name, each in config["components"].items()}
        # An entity without more than its platform is removed there ("Device discovery payload").
        gone = {name: {"platform": each} for name, each in self._told.items() if name not in platforms}
        config = config | {"components": config["components"] | gone}
        self._told = platforms
        self._link.publish(Publication(topic=self._topic, payload=encode(config), qos=1, retain=True))

    def _on_taken_back(self, outcome: Outcome) -> None:
        if outcome.sent is Sent.CONFIRMED and self._topic is None:
            self._record.delete()


def _earlier_record(written: bytes) -> str:
    """The record as a line of text, as it was without kind and version."""
    topic = re.fullmatch(r"([^\n]+/device/[^/\n]+/config)\n", written.decode())
    if topic is None:
        raise ValueError("it is not the topic of a device's configuration")
    return topic[1]
