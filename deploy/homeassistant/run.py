"""Starts edged in the add-on: options of the page and the broker of the supervisor become settings.

Knows only Python's library: it runs before edged is imported, and its functions are tested without a supervisor.
"""

import json
import os
import pwd
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SETTINGS = {  # option of config.yaml -> setting
    "node": "node",
    "model": "model.id",
    "format": "model.format",
    "language": "language",
    "discovery": "homeassistant.discovery",
    "threads": "engine.threads",
    "log_level": "log.level",
    "api_key": "http.token",
}
EDGED = "/opt/edged/bin/edged"
_DATA = Path("/data")
_OWN_SETTINGS = Path("/config/edged.toml")
_NGINX = Path("/etc/nginx/nginx.conf")
_SERVICES = "http://supervisor/services/mqtt"
_WEBSOCKETS = 1884  # of the Mosquitto add-on
_API_PORT = 8080
_METRICS_PORT = 9464


def variable(setting: str) -> str:
    """The environment variable of a setting."""
    return "EDGED_" + setting.upper().replace(".", "__")


def environment(options: Mapping[str, Any], broker: Mapping[str, Any], *, own_settings: Path | None) -> dict[str, str]:
    """The variables that edged gets.

    Args:
        options: what the user chose, as in /data/options.json.
        broker: host, port, username, password and ssl, as the supervisor tells them.
        own_settings: the user's settings file, for tasks and routes; None if there is none.
    """
    settings: dict[str, Any] = {
        SETTINGS[name]: value for name, value in options.items() if name in SETTINGS and value is not None
    }
    settings |= {
        "state_dir": _DATA / "state",
        "model_dir": _DATA / "models",
        "mqtt.host": broker["host"],
        "mqtt.port": broker["port"],
        "mqtt.username": broker.get("username"),
        "mqtt.password": broker.get("password"),
        "mqtt.tls.enabled": broker.get("ssl") or None,
        "metrics.port": _METRICS_PORT,
        "log.format": "console",
    }
    if settings.get("http.token"):
        settings |= {"http.port": _API_PORT, "http.host": "0.0.0.0"}  # noqa: S104 - the container's; a key is needed
    found = {variable(name): _text(value) for name, value in settings.items() if value not in {None, ""}}
    return found if own_settings is None else found | {"EDGED_CONFIG": str(own_settings)}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def page(nginx: str, broker: Mapping[str, Any]) -> str:
    """The settings of nginx, with the address of the broker's WebSocket."""
    return nginx.replace("BROKER", f"http://{broker['host']}:{_WEBSOCKETS}")


def ask_supervisor(token: str, url: str = _SERVICES) -> dict[str, Any]:
    """The broker, as the supervisor tells it.

    Raises:
        OSError: there is none, or the supervisor does not answer.
    """
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310 - the supervisor's
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
        found: dict[str, Any] = json.loads(answer.read())["data"]
        return found


def main() -> None:
    options = json.loads((_DATA / "options.json").read_text())
    try:
        broker = ask_supervisor(os.environ["SUPERVISOR_TOKEN"])
    except OSError as error:
        sys.exit(f"edged: the supervisor names no broker ({error}); install and start the Mosquitto add-on")
    os.environ |= environment(options, broker, own_settings=_OWN_SETTINGS if _OWN_SETTINGS.exists() else None)
    _NGINX.write_text(page(_NGINX.read_text(), broker))
    subprocess.Popen(["/usr/sbin/nginx", "-g", "daemon off;"])
    user = pwd.getpwnam("edged")
    for folder in (_DATA / "state", _DATA / "models"):
        folder.mkdir(exist_ok=True)
        subprocess.run(["chown", "-R", "edged:edged", str(folder)], check=True)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    del os.environ["SUPERVISOR_TOKEN"]
    if subprocess.run([EDGED, "models", "verify"], capture_output=True, check=False).returncode:
        subprocess.run([EDGED, "models", "pull"], check=False)  # `run` says what is missing
    os.execv(EDGED, [EDGED, "run"])  # noqa: S606 - the daemon takes the place of this process, and its signals


if __name__ == "__main__":
    main()
