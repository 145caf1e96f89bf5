"""For Home Assistant: an action that names the keys of a device's announcement that the MQTT integration drops.

Home Assistant drops keys that it does not know without a word. Runs inside it; needs nothing of this project.
"""

import json
import sys
from typing import Any

from homeassistant.components.mqtt.schemas import DEVICE_DISCOVERY_SCHEMA
from homeassistant.core import HomeAssistant, ServiceCall, SupportsResponse

DOMAIN = "known_keys"


def unknown(config: dict[str, Any]) -> list[str]:
    """To be called when the entities are there, in the event loop. Raises what the integration's schemas raise."""
    held = DEVICE_DISCOVERY_SCHEMA(config)
    lost = [f"{part}: {key}" for part in ("device", "origin") for key in {*config[part]} - {*held[part]}]
    for name, component in config["components"].items():
        platform: Any = sys.modules[f"homeassistant.components.mqtt.{component['platform']}"]
        shared = {key: config[key] for key in ("device", "origin", "availability")}
        given = {key: value for key, value in {**shared, **component}.items() if key != "platform"}
        lost += [f"{name}: {key}" for key in {*given} - {*platform.DISCOVERY_SCHEMA(given)}]
    return lost


async def async_setup(hass: HomeAssistant, _: dict[str, Any]) -> bool:
    """Offer the action; Home Assistant calls this."""

    async def find(call: ServiceCall) -> dict[str, Any]:
        return {"unknown": unknown(json.loads(call.data["config"]))}

    hass.services.async_register(DOMAIN, "find", find, supports_response=SupportsResponse.ONLY)
    return True
