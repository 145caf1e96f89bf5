"""Home Assistant's add-on: its folder is whole, and its options and broker become settings of this release.

The supervisor's own schema and the community's linter are in no package registry; deploy/MEASUREMENTS.md has a trial.
"""

import importlib.util
import json
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import yaml

from edged import __version__
from edged.settings.load import load
from edged.settings.schema import ModelSettings, Settings
from edged.settings.text import names
from tests.support.waiting import TIMEOUT

FOLDER = Path(__file__).parents[2] / "deploy/homeassistant"
CONFIG: dict[str, Any] = yaml.safe_load((FOLDER / "config.yaml").read_text())
BROKER = {"host": "core-mosquitto", "port": 1883, "ssl": False, "username": "addons", "password": "secret"}
KEY = "0123456789abcdef"


@pytest.fixture
def run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("addon_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loaded(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load(flags={}, config_file=None)


def test_it_is_of_this_release_and_needs_a_broker() -> None:
    assert (CONFIG["version"], CONFIG["services"]) == (__version__, ["mqtt:need"])
    assert CONFIG["timeout"] > Settings().shutdown_timeout + 10


def test_every_option_is_a_setting_with_words_in_each_language(run: ModuleType) -> None:
    options = set(CONFIG["schema"])
    assert options == set(run.SETTINGS)
    assert set(run.SETTINGS.values()) <= set(names())
    assert {name for name in options if not CONFIG["schema"][name].endswith("?")} == set(CONFIG["options"])
    for language in FOLDER.glob("translations/*.yaml"):
        told = yaml.safe_load(language.read_text())
        assert set(told["configuration"]) == options, language
        assert set(told["network"]) == set(CONFIG["ports"]), language
        assert all(each["name"] and each["description"] for each in told["configuration"].values())
    offered = set(CONFIG["schema"]["format"].removeprefix("list(").removesuffix(")").split("|"))
    assert offered <= {*get_args(ModelSettings.model_fields["format"].annotation)}


def test_what_is_chosen_is_in_force(run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = run.environment(CONFIG["options"], BROKER, own_settings=None)
    settings = loaded(monkeypatch, plain)
    assert (settings.node, settings.model.id) == ("homeassistant", "qwen2.5-0.5b-instruct")
    assert settings.homeassistant.discovery
    assert (settings.mqtt.host, settings.mqtt.port, settings.mqtt.username) == ("core-mosquitto", 1883, "addons")
    assert not settings.mqtt.tls.is_on
    assert settings.http.port == 0
    own = tmp_path / "edged.toml"
    own.write_text('log.level = "error"\n[limits]\ntext_chars = 99\n')
    options = CONFIG["options"] | {"api_key": KEY, "log_level": "debug"}
    settings = loaded(monkeypatch, run.environment(options, BROKER | {"ssl": True}, own_settings=own))
    assert (settings.http.host, settings.http.port) == ("0.0.0.0", 8080)  # noqa: S104 - with a key
    assert f"{settings.http.port}/tcp" in CONFIG["ports"]
    assert (settings.mqtt.tls.is_on, settings.limits.text_chars, settings.log.level) == (True, 99, "debug")


def test_the_broker_is_asked_of_the_supervisor(run: ModuleType) -> None:
    class Supervisor(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = self.headers["Authorization"] == "Bearer token"
            body = json.dumps({"result": "ok", "data": BROKER}).encode()
            self.send_response(200 if is_known else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Supervisor) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/services/mqtt"
        assert run.ask_supervisor("token", url) == BROKER
        with pytest.raises(OSError, match="401"):
            run.ask_supervisor("other", url)
        server.shutdown()
        thread.join(TIMEOUT)
    page = run.page((FOLDER / "nginx.conf").read_text(), BROKER)
    assert "proxy_pass http://core-mosquitto:1884;" in page
    assert "listen 8099;" in page


def test_the_folder_has_all_that_its_image_is_made_of(tmp_path: Path) -> None:
    made = tmp_path / "edged"
    for _ in range(2):  # a second time over the first
        subprocess.run(["sh", FOLDER / "make.sh", made], check=True, capture_output=True, timeout=TIMEOUT)
    text = re.sub(r"\\\n\s*", "", (made / "Dockerfile").read_text())
    sources = [line.split()[1] for line in text.splitlines() if line.startswith("COPY") and "--from" not in line]
    assert "src" in sources
    assert [each for each in sources if not (made / each).exists()] == []
    assert (made / "dashboard/page.js").exists()
    assert [*made.rglob("__pycache__"), *made.rglob("src/edged/edged")] == []
    for picture in ("icon.png", "logo.png"):
        assert (made / picture).read_bytes().startswith(b"\x89PNG")
