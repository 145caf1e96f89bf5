"""Home Assistant's own schemas and templates, on what a real daemon publishes through a real broker."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edged.contract.health import HealthReport
from edged.contract.results import encode
from edged.contract.topics import Topics
from edged.monitoring.home_assistant import describe
from edged.monitoring.home_assistant_entities import task_ids
from tests.support import assets
from tests.support.daemon import Daemon, Watcher, daemon_on_a_broker, publish
from tests.support.odd_tasks import ODD_LABELS, ODD_NAMES, odd_tasks
from tests.support.report import REPORT

VIEW = Path(__file__).parents[1] / "support" / "homeassistant_view.py"
CONFIG = "homeassistant/device/edged-box/config"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    more = {"EDGED_HOMEASSISTANT__DISCOVERY": "true", "EDGED_HEALTH__INTERVAL": "1"}
    with daemon_on_a_broker(more=more) as daemon:
        daemon.start()
        daemon.wait_ready()
        yield daemon


@pytest.fixture
def everything(daemon: Daemon) -> Iterator[Watcher]:
    watcher = Watcher(daemon.broker, "homeassistant/#", "edged/#")
    yield watcher
    watcher.stop()


def seen_by_home_assistant(config: dict[str, Any], messages: list[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [str(assets.homeassistant()), str(VIEW)],
        input=json.dumps({"config": config, "messages": messages}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return seen


def take_until(watcher: Watcher, topic: str, **fields: Any) -> list[tuple[str, str]]:
    """The messages up to the one on `topic` that has these fields."""
    taken: list[tuple[str, str]] = []
    while True:
        each = watcher.next()
        taken.append((each.topic, each.payload))
        if each.topic == topic and all(each.json.get(name) == value for name, value in fields.items()):
            return taken


def test_every_entity_shows_what_it_should(daemon: Daemon, everything: Watcher) -> None:
    messages = take_until(everything, "edged/box/health")
    config = json.loads(dict(messages)[CONFIG])
    talk = config["components"]["talk"]["command_topic"]
    seen = seen_by_home_assistant(config, messages)
    assert seen["state"]["state"] == "ready"
    assert seen["problem"]["state"] == "OFF"
    assert seen["latency_p50"]["state"] == "unknown"  # nobody has asked anything
    assert all(each["available"] for each in seen.values())

    publish(daemon.broker, talk, "I love this" + " very" * 60)
    messages += take_until(everything, "edged/box/out/message/homeassistant", status="ok")
    publish(daemon.broker, "edged/box/in/sentiment", '{"text": "what a bad day"}')
    messages += take_until(everything, "edged/box/out/sentiment", status="ok")
    # Neither an error nor a chunk of a stream is a verdict.
    publish(daemon.broker, "edged/box/in/sentiment", '{"text": 5}')
    messages += take_until(everything, "edged/box/out/sentiment", status="error")
    publish(daemon.broker, "edged/box/in/reply/one", '{"text": "go on", "stream": true}')
    messages += take_until(everything, "edged/box/out/reply/one", status="ok")
    messages += take_until(everything, "edged/box/health")
    messages += take_until(everything, "edged/box/health")  # the one before may have been on its way already

    seen = seen_by_home_assistant(config, messages)
    results = [json.loads(payload) for topic, payload in messages if topic.startswith("edged/box/out/")]
    verdicts = [each["sentiment"]["label"] for each in results if "sentiment" in each]
    assert seen["sentiment"]["state"] == "negative" == verdicts[-1]
    (reply,) = (each["reply"]["text"] for each in results if each.get("session") == "homeassistant")
    assert seen["reply"]["state"] == reply[:255]
    assert seen["reply"]["attributes"]["text"] == reply
    numbers = ("latency_p50", "latency_p95", "first_token_p50", "tokens_per_second", "memory", "disk_free", "cpu")
    assert all(float(seen[name]["state"]) >= 0 for name in numbers)
    assert (seen["answered"]["state"], seen["errors"]["state"], seen["queue"]["state"]) == ("3", "1", "0")

    assert daemon.stop() == 0
    messages += take_until(everything, "edged/box/status", state="stopped")
    seen = seen_by_home_assistant(config, messages)
    assert seen.pop("state") == {
        "state": "stopped",
        "attributes": json.loads(messages[-1][1]),
        "available": True,
    }
    assert not any(each["available"] for each in seen.values())


def test_it_is_told_again_at_its_birth_and_forgets_what_is_turned_off(daemon: Daemon, everything: Watcher) -> None:
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


def test_tasks_of_any_name_and_label_are_shown() -> None:
    topics = Topics(prefix="edged", node="box")
    report = HealthReport.model_validate(REPORT)
    config = describe(topics=topics, tasks=odd_tasks(), model="tiny", version="1", report=report)
    labels = {name: ODD_LABELS[i % len(ODD_LABELS)] for i, name in enumerate(ODD_NAMES)}
    messages = [(topics.status, '{"state":"ready","boot_id":"b"}'), (topics.health, encode(report.body()).decode())]
    messages += [
        (f"{topics.root}/out/{name}", encode({"status": "ok", name: {"label": label}}).decode())
        for name, label in labels.items()
    ]
    seen = seen_by_home_assistant(config, messages)
    ids = task_ids(ODD_NAMES)
    assert {name: seen[key]["state"] for name, key in ids.items()} == {k: v[:255] for k, v in labels.items()}
    assert all(seen[key]["available"] for key in ids.values())
    assert (seen["state"]["state"], seen["problem"]["state"], seen["queue"]["state"]) == ("ready", "OFF", "3")
