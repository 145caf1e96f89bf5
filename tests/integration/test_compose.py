"""deploy/compose: the project is whole, and its broker and daemon work together, here as plain processes."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from edged.settings.load import load
from edged.settings.text import names, variable
from tests.support import assets
from tests.support.broker import Broker, free_port
from tests.support.daemon import SCRIPTED, Daemon
from tests.support.waiting import TIMEOUT, eventually

DEPLOY = Path(__file__).parents[2] / "deploy"
PROJECT: dict[str, Any] = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = PROJECT["services"]


class ComposedBroker(Broker):
    """mosquitto with the project's settings, on free ports and below a folder."""

    def _lines(self) -> list[str]:
        config = (DEPLOY / "compose/mosquitto.conf").read_text()
        for there, here in {
            "/tmp/passwd": f"{self.folder}/passwd",  # noqa: S108 - the container's
            "/mosquitto/config/acl": str(DEPLOY / "mosquitto/acl"),
            "/mosquitto/data/": f"{self.folder}/",
            "listener 1883": f"listener {self.port} 127.0.0.1",
            "listener 9001": f"listener {self.websocket_port} 127.0.0.1",
        }.items():
            assert there in config
            config = config.replace(there, here)
        return ["user root", *config.splitlines()]


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The secrets as setup.sh makes them in a copy of the project."""
    (tmp_path / "compose").mkdir()
    shutil.copy(DEPLOY / "compose/setup.sh", tmp_path / "compose")
    command = ["sh", str(tmp_path / "compose/setup.sh")]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
    folder = tmp_path / "compose/secrets"
    before = {each.name: each.read_text() for each in folder.iterdir()}
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
    assert before == {each.name: each.read_text() for each in folder.iterdir()}
    return folder


def environment(**given: str) -> dict[str, str]:
    """The environment of the daemon, as compose fills it in."""

    def filled(value: str) -> str:
        return re.sub(r"\$\{(\w+):-(.*?)\}", lambda found: given.get(found[1], found[2]), value)

    return {name: filled(value) for name, value in SERVICES["edged"]["environment"].items()}


def test_all_that_the_project_names_is_there(secrets: Path) -> None:
    assert {name: Path(each["file"]).name for name, each in PROJECT["secrets"].items()} == {
        each.name: each.name for each in secrets.iterdir()
    }
    for name, service in SERVICES.items():
        assert set(service.get("secrets", ())) <= set(PROJECT["secrets"]), name
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert source in PROJECT["volumes"] or (DEPLOY / "compose" / source).exists(), mount
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert name == "edged" or re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
    assert (DEPLOY / "compose" / SERVICES["edged"]["build"]["context"]).resolve() == DEPLOY.parent
    given = {each for each in environment() if each.startswith("EDGED_")}
    assert given <= {variable(name) for name in names()}


def test_the_settings_are_valid_and_have_the_secrets(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**environment(EDGED_NODE="attic"), "CREDENTIALS_DIRECTORY": str(secrets)}.items():
        monkeypatch.setenv(name, value)
    settings = load(flags={}, config_file=None)
    assert (settings.node, settings.mqtt.host, settings.mqtt.username) == ("attic", "mosquitto", "edged")
    assert settings.http.token is not None
    assert settings.mqtt.password is not None
    assert f"edged:{settings.mqtt.password.get_secret_value()}" in (secrets / "mosquitto_users").read_text()
    targets = yaml.safe_load((DEPLOY / "compose/prometheus.yml").read_text())["scrape_configs"][0]["static_configs"]
    # The port is the image's: deploy/Containerfile sets it.
    assert targets[0]["targets"] == ["edged:9464"]
    assert "EDGED_METRICS__PORT=9464" in (DEPLOY / "Containerfile").read_text()


def test_a_device_and_a_program_are_answered_and_strangers_are_not(secrets: Path, tmp_path: Path) -> None:
    tools = assets.mosquitto_client("mosquitto_passwd").parent
    passwd = tmp_path / "passwd"
    shutil.copy(secrets / "mosquitto_users", passwd)
    subprocess.run([str(tools / "mosquitto_passwd"), "-U", str(passwd)], check=True, timeout=TIMEOUT)
    users = dict(line.split(":") for line in (secrets / "mosquitto_users").read_text().split())
    broker = ComposedBroker(folder=tmp_path)
    broker.start()
    more = {name: value for name, value in environment().items() if value}
    more |= {"CREDENTIALS_DIRECTORY": str(secrets), "EDGED_HTTP__PORT": str(free_port())}
    more |= {"EDGED_MQTT__HOST": "127.0.0.1", "EDGED_HTTP__HOST": "127.0.0.1"}
    daemon = Daemon(folder=tmp_path, broker=broker, program=SCRIPTED, more=more)
    daemon.start()
    try:
        eventually(lambda: '"event": "broker_connected"' in daemon.log)
        asked = daemon.command("ask", "I love this phone", "--json")
        assert '"positive"' in asked.stdout, asked.stderr
        device = ("-u", "device", "-P", users["device"])
        answer = request(broker, *device, "-t", "edged/box/in/sentiment/device", "-e", "edged/box/reply/device/1")
        assert '"status":"ok"' in answer.stdout
        assert request(broker, "-t", "edged/box/in/sentiment/device", "-e", "edged/box/reply/device/1").returncode
        url = f"http://127.0.0.1:{more['EDGED_HTTP__PORT']}/v1"
        with openai.OpenAI(base_url=url, api_key=(secrets / "http_token").read_text(), timeout=TIMEOUT) as client:
            assert client.completions.create(model="edged/sentiment", prompt="I love it").choices[0].text == "positive"
        assert daemon.stop() == 0
    finally:
        daemon.kill()
        broker.stop()


def request(broker: Broker, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(assets.mosquitto_client("mosquitto_rr")), "-h", "127.0.0.1", "-p", str(broker.port), "-V", "5"]
    command += ["-q", "1", "-W", "20", "-m", "I love it", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT, env=os.environ)
