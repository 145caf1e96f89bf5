"""A running Home Assistant on loopback, with its MQTT integration on a test's broker, asked over its REST API.

Its configuration folder is written as a finished first start leaves it: one user with a long-lived token, and the entry
of the MQTT integration. It has no web page: that is a package of its own, which no test needs.
"""

import base64
import hashlib
import hmac
import http.client
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.support import assets
from tests.support.broker import free_port
from tests.support.waiting import TIMEOUT, eventually

T = TypeVar("T")

_KEY = "0123456789abcdef" * 8
_KEYS = Path(__file__).parent / "homeassistant_keys"
_DAY_S = 86_400
_BETWEEN_S = 0.25  # each look costs it work, and it has its own to do
_START_S = 400.0  # it compiles all its modules at its first start, and the box may be busy
_CONFIGURATION = """homeassistant:
  name: Home
  latitude: 0
  longitude: 0
  elevation: 0
  country: NL
  currency: EUR
  unit_system: metric
  time_zone: UTC
http:
  server_host: 127.0.0.1
  server_port: {port}
frontend:
  development_repo: {folder}
logger:
  default: warning
known_keys:
"""


@dataclass(slots=True, kw_only=True)
class HomeAssistant:
    """A Home Assistant whose files live in `folder`, with MQTT at the broker's port.

    Attributes:
        more: further lines of its configuration.
    """

    folder: Path
    broker_port: int
    more: str = ""
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process. `wait_running` waits for it."""
        python = assets.homeassistant()
        storage = self.folder / ".storage"
        storage.mkdir(parents=True)
        configuration = _CONFIGURATION.format(port=self.port, folder=self.folder) + self.more
        (self.folder / "configuration.yaml").write_text(configuration)
        shutil.copytree(_KEYS, self.folder / "custom_components/known_keys")
        for name, data in self._stored():
            (storage / name).write_text(json.dumps({"version": 1, "minor_version": 1, "key": name, "data": data}))
        options = ["-c", str(self.folder), "--skip-pip", "--log-no-color"]
        with (self.folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [str(python), "-m", "homeassistant", *options], stdout=output, stderr=output, cwd=self.folder
            )

    def _stored(self) -> list[tuple[str, Any]]:
        user = {"id": "user", "name": "Test", "group_ids": ["system-admin"], "is_owner": True, "is_active": True}
        token: dict[str, Any] = {
            "id": "token",
            "user_id": "user",
            "client_id": None,
            "client_name": "test",
            "token": "refresh",
        }
        token |= {"token_type": "long_lived_access_token", "jwt_key": _KEY, "access_token_expiration": _DAY_S}
        entry = {"entry_id": "mqtt", "domain": "mqtt", "title": "broker", "source": "user", "version": 1}
        return [
            (
                "auth",
                {
                    "users": [user | {"system_generated": False}],
                    "groups": [{"id": "system-admin", "name": "Administrators"}],
                    "credentials": [],
                    "refresh_tokens": [token | {"created_at": "2026-01-01T00:00:00+00:00"}],
                },
            ),
            ("onboarding", {"done": ["user", "core_config", "integration", "analytics"]}),
            (
                "core.config_entries",
                {"entries": [entry | {"data": {"broker": "127.0.0.1", "port": self.broker_port}}]},
            ),
        ]

    def wait_running(self) -> None:
        """Wait until everything that it starts with is set up."""
        self.wait(self._is_running, "a running Home Assistant", timeout=_START_S)

    def _is_running(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        try:
            return bool(self.ask("GET", "/api/config")["state"] == "RUNNING")
        except OSError:
            return False

    @property
    def log(self) -> str:
        return (self.folder / "output").read_text(errors="replace")

    def complaints(self) -> list[str]:
        """Warnings and errors of its log about MQTT, what was announced over it, automations and scripts."""
        lines = (line for line in self.log.splitlines() if " WARNING " in line or " ERROR " in line)
        return [line for line in lines if re.search("mqtt|edged|automation|script", line, re.IGNORECASE)]

    def states(self) -> dict[str, dict[str, Any]]:
        """Every entity by its id, with `state` and `attributes`."""
        return {each["entity_id"]: each for each in self.ask("GET", "/api/states")}

    def wait_state(self, entity: str, state: str) -> dict[str, Any]:
        """Wait until an entity has a state; give the entity."""

        def has_come() -> dict[str, Any] | None:
            seen: dict[str, Any] = self.states().get(entity, {})
            return seen if seen.get("state") == state else None

        return self.wait(has_come, f"{entity} being {state!r}")

    def wait(self, condition: Callable[[], T | None], what: str, *, timeout: float = TIMEOUT) -> T:
        """Ask until a condition of its states is true; give the condition's value."""

        def ask() -> T | None:
            value = condition()
            if not value:
                time.sleep(_BETWEEN_S)
            return value

        return eventually(ask, what, timeout=timeout)

    def call(self, action: str, **data: Any) -> None:
        """Have it carry out an action, as an automation does: `text.set_value`."""
        self.ask("POST", f"/api/services/{action.replace('.', '/')}", data)

    def unknown_keys(self, config: dict[str, Any]) -> list[str]:
        """What it does not know of a device's announcement."""
        answer = self.ask("POST", "/api/services/known_keys/find?return_response", {"config": json.dumps(config)})
        unknown: list[str] = answer["service_response"]["unknown"]
        return unknown

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Raises OSError if nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            headers = {"Authorization": f"Bearer {_token()}", "Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        assert answer.status < http.client.BAD_REQUEST, f"{path}: {answer.status} {text}"
        return json.loads(text)

    def kill(self) -> None:
        """End the process without its own orderly end, which takes it seconds."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(TIMEOUT)


def _token() -> str:
    """The long-lived token, as a JSON Web Token (RFC 7519) signed with HMAC-SHA256."""
    now = int(time.time())
    parts = [{"alg": "HS256", "typ": "JWT"}, {"iss": "token", "iat": now - _DAY_S, "exp": now + _DAY_S}]
    signed = b".".join(_base64(json.dumps(each).encode()) for each in parts)
    return b".".join([signed, _base64(hmac.digest(_KEY.encode(), signed, hashlib.sha256))]).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
