"""A trial of Assist: Home Assistant's llama.cpp integration asks a daemon with a small real model.

usage: python -m tests.trials.homeassistant_assist

Needs what `tests/run.sh` fetches, and beside Home Assistant's packages those of `openai` in the version that
`homeassistant/components/llama_cpp/manifest.json` names. Prints what it saw.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.broker import free_port
from tests.support.daemon import daemon_on_a_broker
from tests.support.homeassistant import HomeAssistant
from tests.trials.box import expect, say

KEY = "a-key-of-many-characters"
FLOW = "/api/config/config_entries/flow"


def set_up(home: HomeAssistant, url: str) -> str:
    """Add the integration; give the entity of its agent."""
    before = {*home.states()}
    flow: dict[str, Any] = home.ask("POST", FLOW, {"handler": "llama_cpp"})
    wrong = home.ask("POST", f"{FLOW}/{flow['flow_id']}", {"base_url": url, "api_key": "wrong"})
    expect(wrong["errors"] == {"base": "invalid_auth"}, "a wrong key is told", str(wrong["errors"]))
    form = home.ask("POST", f"{FLOW}/{flow['flow_id']}", {"base_url": url, "api_key": KEY})
    models = form["data_schema"][0]["selector"]["select"]["options"]
    say("models offered", ", ".join(models))
    entry = home.ask("POST", f"{FLOW}/{flow['flow_id']}", {"chat_model": "edged"})
    expect(entry["type"] == "create_entry", "the integration is set up", str(entry.get("errors")))
    is_streaming = entry["result"].get("state")
    say("state of the entry", str(is_streaming))
    (agent,) = home.wait(
        lambda: [each for each in {*home.states()} - before if each.startswith("conversation.")], "agent"
    )
    return agent


def main() -> None:
    port = free_port()
    more = {"EDGED_HTTP__PORT": str(port), "EDGED_HTTP__TOKEN": KEY, "EDGED_HOMEASSISTANT__DISCOVERY": "true"}
    with (
        tempfile.TemporaryDirectory(prefix="edged-home-") as folder,
        daemon_on_a_broker(program=("-m", "edged", "run"), more=more) as daemon,
    ):
        daemon.start()
        home = HomeAssistant(folder=Path(folder) / "home", broker_port=daemon.broker.port)
        home.start()
        try:
            daemon.wait_ready()
            home.wait_running()
            agent = set_up(home, f"http://127.0.0.1:{port}/v1")
            for text in ("Hello, who are you?", "Tell me something nice about the sea."):
                began = time.monotonic()
                asked = {"agent_id": agent, "text": text, "language": "en"}
                answer = home.ask("POST", "/api/services/conversation/process?return_response", asked)
                said = answer["service_response"]["response"]["speech"]["plain"]["speech"]
                expect(bool(said), text, f"{time.monotonic() - began:.1f} s: {said}")
        finally:
            print(*home.complaints(), sep="\n")
            print(*[line for line in home.log.splitlines() if "llama" in line or "openai" in line], sep="\n")
            home.kill()


if __name__ == "__main__":
    main()
