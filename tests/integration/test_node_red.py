"""deploy/node-red/flow.json in a real Node-RED, with a daemon behind a broker: ask by HTTP, and see the fleet."""

import http.client
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import assets
from tests.support.broker import free_port
from tests.support.daemon import Daemon, daemon_on_a_broker
from tests.support.waiting import TIMEOUT, eventually

FLOW = Path(__file__).parents[2] / "deploy/node-red/flow.json"
_SETTINGS = """module.exports = {{
    uiPort: {port}, uiHost: "127.0.0.1", flowFile: "flows.json", httpAdminRoot: false, credentialSecret: "of a test",
    telemetry: {{ enabled: false }}, diagnostics: {{ enabled: false }}, functionExternalModules: false,
}};
"""


@dataclass(frozen=True, slots=True)
class NodeRed:
    """A running Node-RED with the flow."""

    port: int

    def ask(self, method: str, body: bytes | None = None, kind: str = "text/plain") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            connection.request(method, "/edged", body, {"Content-Type": kind})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def table(self) -> str:
        try:
            return self.ask("GET")[1]
        except OSError:
            return ""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_on_a_broker() as daemon:
        daemon.start()
        yield daemon


@pytest.fixture
def node_red(daemon: Daemon, tmp_path: Path) -> Iterator[NodeRed]:
    program = assets.node_red()
    port = free_port()
    flow: list[dict[str, Any]] = json.loads(FLOW.read_text())
    for node in flow:
        if node["type"] == "mqtt-broker":
            node |= {"broker": "127.0.0.1", "port": str(daemon.broker.port)}
    (tmp_path / "flows.json").write_text(json.dumps(flow))
    settings = tmp_path / "settings.js"
    settings.write_text(_SETTINGS.format(port=port))
    command = ["node", str(program), "-u", str(tmp_path), "-s", str(settings)]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield NodeRed(port)
        finally:
            process.terminate()


def test_a_text_is_answered_and_the_fleet_is_seen(daemon: Daemon, node_red: NodeRed) -> None:
    eventually(lambda: "<td>box</td><td>ready</td>" in node_red.table())
    status, body = node_red.ask("POST", b"I love it")
    assert (status, json.loads(body)["sentiment"]["label"]) == (200, "positive")
    status, body = node_red.ask("POST", b'{"text": "it is bad"}', "application/json")
    assert json.loads(body)["reply"]["text"] == "You said: it is bad"
    status, body = node_red.ask("POST", b" ")
    assert (status, json.loads(body)["error"]["code"]) == (502, "bad_request")
    daemon.kill()
    eventually(lambda: "<td>offline</td>" in node_red.table())


def test_the_flow_has_core_nodes_only_and_no_secret() -> None:
    flow: list[dict[str, Any]] = json.loads(FLOW.read_text())
    kinds = {node["type"] for node in flow} - {"tab", "comment"}
    core = {"mqtt-broker", "mqtt in", "mqtt out", "http in", "http response"}
    assert kinds == core | {"inject", "function", "switch", "debug"}
    assert not any("credentials" in node for node in flow)
    ids = {node["id"] for node in flow}
    assert {each for node in flow for port in node.get("wires", ()) for each in port} <= ids
