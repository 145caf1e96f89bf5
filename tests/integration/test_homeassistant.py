"""A real daemon in a running Home Assistant: its entities appear, show what happens, and answer what is typed there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edged.contract.health import HealthReport
from edged.contract.results import encode
from edged.contract.topics import Topics
from edged.monitoring.home_assistant import describe
from edged.monitoring.home_assistant_entities import task_ids
from tests.support.daemon import Daemon, Watcher, daemon_on_a_broker, publish
from tests.support.homeassistant import HomeAssistant
from tests.support.odd_tasks import ODD_LABELS, ODD_NAMES, odd_tasks
from tests.support.report import REPORT

RECIPE = Path(__file__).parents[2] / "deploy/docs/pages/recipes/home-assistant.md"
CONFIG = "homeassistant/device/edged-box/config"
ODD = Topics(prefix="edged", node="odd")


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    more = {"EDGED_HOMEASSISTANT__DISCOVERY": "true", "EDGED_HEALTH__INTERVAL": "1", "EDGED_MQTT__WILL_DELAY": "0"}
    with daemon_on_a_broker(more=more) as daemon:
        yield daemon


@pytest.fixture
def everything(daemon: Daemon) -> Iterator[Watcher]:
    watcher = Watcher(daemon.broker, "homeassistant/#", "edged/#")
    yield watcher
    watcher.stop()


@pytest.fixture
def home(daemon: Daemon, tmp_path: Path) -> Iterator[HomeAssistant]:
    (more,) = re.findall("```yaml\n(.*?)```", RECIPE.read_text(), re.DOTALL)
    home = HomeAssistant(folder=tmp_path / "home", broker_port=daemon.broker.port, more=more)
    home.start()
    yield home
    home.kill()


def take_until(watcher: Watcher, topic: str, **fields: Any) -> list[tuple[str, str]]:
    """The messages up to the one on `topic` that has these fields."""
    taken: list[tuple[str, str]] = []
    while True:
        each = watcher.next()
        taken.append((each.topic, each.payload))
        if each.topic == topic and all(each.json.get(name) == value for name, value in fields.items()):
            return taken


def states_by_id(home: HomeAssistant, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What Home Assistant shows of a device's components, by their ids; without those that it does not show."""
    names = {f"{config['device']['name']} {each['name']}": key for key, each in config["components"].items()}
    seen = {each["attributes"].get("friendly_name"): each for each in home.states().values()}
    return {key: seen[name] for name, key in names.items() if name in seen}


def test_a_running_home_assistant_shows_the_daemon_and_asks_it(
    daemon: Daemon, everything: Watcher, home: HomeAssistant
) -> None:
    # All in one test: it takes long to start.
    daemon.start()
    config = json.loads(take_until(everything, CONFIG)[-1][1])
    home.wait_running()
    every_entity_appears(home, config)
    what_is_typed_is_answered(home, everything)
    only_verdicts_are_shown_as_such(daemon, home, config)
    tasks_of_any_name_and_label_are_shown(daemon, home)
    daemon.kill()
    home.wait_state("sensor.edged_box_state", "offline")
    is_available = {key: each["state"] != "unavailable" for key, each in states_by_id(home, config).items()}
    assert is_available == {key: key == "state" for key in config["components"]}
    publish(daemon.broker, CONFIG, "", "-r")  # as the daemon does when discovery is turned off: see the test below
    home.wait(lambda: not states_by_id(home, config), "the end of the entities")
    assert home.complaints() == []


def every_entity_appears(home: HomeAssistant, config: dict[str, Any]) -> None:
    home.wait_state("sensor.edged_box_state", "ready")
    home.wait_state("sensor.edged_box_queue", "0")
    assert home.unknown_keys(config) == []
    seen = states_by_id(home, config)
    assert seen.keys() == config["components"].keys()
    assert all(each["state"] != "unavailable" for each in seen.values())
    assert (seen["problem"]["state"], seen["latency_p50"]["state"]) == ("off", "unknown")  # nobody has asked anything
    model = seen["model"]
    assert (model["entity_id"], model["state"]) == ("update.edged_box_model", "off")
    assert (model["attributes"]["installed_version"], model["attributes"]["title"]) == ("scripted", "Model")


def what_is_typed_is_answered(home: HomeAssistant, everything: Watcher) -> None:
    home.call("text.set_value", entity_id="text.edged_box_talk", value="I love this")
    home.wait_state("sensor.edged_box_reply", "You said: I love this")
    home.wait_state("sensor.edged_box_sentiment", "positive")
    talk = "edged/box/in/message/homeassistant"
    home.call("mqtt.publish", topic=talk, payload="I love this" + " very" * 60, qos=1)
    out = "edged/box/out/message/homeassistant"
    take_until(everything, out)
    reply = json.loads(take_until(everything, out)[-1][1])["reply"]["text"]
    shown = home.wait_state("sensor.edged_box_reply", reply[:255])
    assert shown["attributes"]["text"] == reply
    assert len(reply) > 255


def only_verdicts_are_shown_as_such(daemon: Daemon, home: HomeAssistant, config: dict[str, Any]) -> None:
    home.call("script.judge", text="what a bad day")
    home.wait_state("sensor.edged_box_sentiment", "negative")
    automation = "automation.mood_of_the_intercom"
    home.wait(lambda: home.states()[automation]["attributes"]["last_triggered"], "the automation of the recipe")
    # Neither an error nor a chunk of a stream is a verdict.
    publish(daemon.broker, "edged/box/in/sentiment", '{"text": 5}')
    publish(daemon.broker, "edged/box/in/reply/one", '{"text": "go on", "stream": true}')
    home.wait_state("sensor.edged_box_errors", "1")
    home.wait_state("sensor.edged_box_answered", "4")
    seen = states_by_id(home, config)
    assert seen["sentiment"]["state"] == "negative"
    numbers = ("latency_p50", "latency_p95", "first_token_p50", "tokens_per_second", "memory", "disk_free", "cpu")
    assert all(float(seen[name]["state"]) >= 0 for name in numbers)


def tasks_of_any_name_and_label_are_shown(daemon: Daemon, home: HomeAssistant) -> None:
    report = HealthReport.model_validate(REPORT)
    config = describe(topics=ODD, tasks=odd_tasks(), model="tiny", version="1", report=report)
    assert home.unknown_keys(config) == []
    publish(daemon.broker, "homeassistant/device/edged-odd/config", encode(config), "-r")
    publish(daemon.broker, ODD.status, '{"state":"ready","boot_id":"b"}', "-r")
    publish(daemon.broker, ODD.health, encode(report.body()), "-r")
    home.wait_state("sensor.edged_odd_queue", "3")
    labels = {name: ODD_LABELS[i % len(ODD_LABELS)] for i, name in enumerate(ODD_NAMES)}
    results = b"\n".join(encode({"status": "ok", name: {"label": label}}) for name, label in labels.items())
    publish(daemon.broker, ODD.out("all"), results, "-l")  # a message a line
    expected = {key: labels[name][:255] for name, key in task_ids(ODD_NAMES).items()}

    def shown() -> dict[str, str]:
        return {key: each["state"] for key, each in states_by_id(home, config).items() if key in expected}

    home.wait(lambda: shown() == expected, "every label")
    seen = states_by_id(home, config)
    assert seen.keys() == config["components"].keys()
    assert (seen["state"]["state"], seen["problem"]["state"]) == ("ready", "off")
    publish(daemon.broker, ODD.status, '{"state":"stopped"}', "-r")
    home.wait_state("sensor.edged_odd_state", "stopped")
    is_available = {key: each["state"] != "unavailable" for key, each in states_by_id(home, config).items()}
    assert is_available == {key: key == "state" for key in config["components"]}


def test_it_is_told_again_at_its_birth_and_forgets_what_is_turned_off(daemon: Daemon, everything: Watcher) -> None:
    daemon.start()
    take_until(everything, CONFIG)
    publish(daemon.broker, "homeassistant/status", "online")
    again = take_until(everything, CONFIG)
    assert json.loads(again[-1][1])["device"]["name"] == "edged box"
    assert daemon.stop() == 0
    take_until(everything, "edged/box/status", state="stopped")
    daemon.more = {}
    daemon.start()
    took_back = False
    for topic, payload in take_until(everything, "edged/box/status", state="ready"):
        took_back |= (topic, payload) == (CONFIG, "")
    assert took_back
    # The broker kept the subscription; a birth is no request.
    publish(daemon.broker, "homeassistant/status", "online")
    publish(daemon.broker, "edged/box/in/sentiment", '{"text": "I love it"}')
    after = take_until(everything, "edged/box/out/sentiment", status="ok")
    assert [topic for topic, _ in after if topic.startswith("edged/box/out/")] == ["edged/box/out/sentiment"]
