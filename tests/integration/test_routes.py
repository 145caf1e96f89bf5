"""Routes with a real broker: devices that know nothing of edged are answered in their own topics and forms."""

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import Broker
from tests.support.daemon import Daemon
from tests.support.peer import Peer
from tests.support.waiting import TIMEOUT, eventually

SETTINGS = """
[tasks.category]
kind = "classify"
labels = ["delivery", "visitor"]
role = "You judge who is at the door."

[routes.remark]
subscribe = "zigbee2mqtt/bridge/logging"
text = "/message"
task = "sentiment"
publish = "home/zigbee/mood"

[routes.review]
subscribe = "frigate/reviews"
when = [{ value = "/type", equals = "end" }, { value = "/after/data/metadata/scene", exists = true }]
text = "/after/data/metadata/scene"
task = "category"
publish = "home/{/after/camera}/category"
payload = "/category/label"

[routes.ask]
subscribe = "home/ask/set"
task = "reply"
publish = "home/ask/answer"
payload = "/reply/text"
retain = true

[routes.mesh]
subscribe = "msh/EU_868/2/json/LongFast/+"
when = { value = "/type", equals = "text" }
text = "/payload/text"
session = "{/from}"
task = "reply"
publish = "msh/EU_868/2/json/mqtt/"
payload.from = 1
payload.to = "{request/from}"
payload.channel = "{request/channel}"
payload.type = "sendtext"
payload.payload = "{/reply/text}"
max_bytes = 200

[routes.load]
subscribe = "load/+"
task = "reply"
publish = "done/{topic[1]}"
payload = "/reply/text"
"""

NEW_ROUTE = '[routes.new]\nsubscribe = "n"\ntask = "new"\npublish = "m"\n'

Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path, broker: Broker) -> Iterator[Start]:
    """Start a daemon with these routes and the scripted engine; `options` go to the engine."""
    daemons: list[Daemon] = []
    file = tmp_path / "edged.toml"
    file.write_text(SETTINGS)

    def begin(*options: str) -> Daemon:
        program = ("-m", "tests.support.scripted_daemon", *options)
        daemon = Daemon(folder=tmp_path, broker=broker, program=program, more={"EDGED_CONFIG": str(file)})
        daemons.append(daemon)
        daemon.start()
        daemon.wait_ready()
        return daemon

    yield begin
    for each in daemons:
        each.kill()


def test_devices_are_answered_in_their_own_form(start: Start, broker: Broker) -> None:
    start()
    with Peer(broker.port) as peer:
        for each in ("home/#", "msh/+/2/json/mqtt/#"):
            peer.subscribe(each)

        def ask(topic: str, payload: object) -> tuple[str, str]:
            raw = payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
            peer.publish(topic, raw)
            while (message := peer.received.get(timeout=TIMEOUT)).topic == topic:
                pass
            return message.topic, message.payload.decode()

        logged = {"level": "error", "message": "z2m: a bad device left", "namespace": "z2m:controller"}
        topic, answer = ask("zigbee2mqtt/bridge/logging", logged)
        assert (topic, json.loads(answer)["sentiment"]["label"]) == ("home/zigbee/mood", "negative")

        review = {"after": {"camera": "door", "data": {"metadata": {"scene": "A van stops and a man brings a box."}}}}
        peer.publish("frigate/reviews", json.dumps({"type": "new", **review}).encode())
        assert ask("frigate/reviews", {"type": "end", **review}) == ("home/door/category", "delivery")

        assert ask("home/ask/set", "When is tea?") == ("home/ask/answer", "You said: When is tea?")

        text = {"channel": 2, "from": 305419896, "type": "text", "payload": {"text": "Anyone there?"}}
        topic, answer = ask("msh/EU_868/2/json/LongFast/!12345678", text)
        assert json.loads(answer) == {
            "from": 1,
            "to": 305419896,
            "channel": 2,
            "type": "sendtext",
            "payload": "You said: Anyone there?",
        }
        _, answer = ask("msh/EU_868/2/json/LongFast/!12345678", text | {"payload": {"text": "Hello, 你好. " * 40}})
        assert 100 < len(json.loads(answer)["payload"].encode()) <= 200


def test_nothing_that_came_by_a_route_is_lost_or_answered_in_two_ways_when_the_daemon_is_killed(
    start: Start, broker: Broker
) -> None:
    daemon = start("--work-ms", "300", "--slots", "4")
    asked = {f"done/{i}": f"You said: number {i}" for i in range(60)}
    answers: dict[str, set[str]] = {}
    with Peer(broker.port) as peer:
        peer.subscribe("done/#")

        def take() -> None:
            message = peer.received.get(timeout=TIMEOUT)
            answers.setdefault(message.topic, set()).add(message.payload.decode())

        for i in range(60):
            peer.publish(f"load/{i}", f"number {i}".encode())
        for kill_after in (5, 25):
            while len(answers) < kill_after:
                take()
            daemon.kill()
            daemon = start("--work-ms", "300", "--slots", "4")
        while len(answers) < len(asked):
            take()
    assert answers == {topic: {answer} for topic, answer in asked.items()}


def test_what_a_device_retains_is_answered_once(start: Start, broker: Broker) -> None:
    daemon = start()
    with Peer(broker.port) as peer:
        peer.subscribe("done/#")
        peer.publish("load/a", b"kept", retain=True)
        assert peer.received.get(timeout=TIMEOUT).payload == b"You said: kept"
        daemon.stop()
        start()
        peer.publish("load/b", b"next")
        assert peer.received.get(timeout=TIMEOUT).payload == b"You said: next"


def test_a_reload_changes_routes_and_limits_at_once_or_nothing(start: Start, broker: Broker, tmp_path: Path) -> None:
    daemon = start("--work-ms", "200", "--slots", "4")
    file = tmp_path / "edged.toml"
    with Peer(broker.port) as peer:
        for each in ("done/#", "other/#", "edged/box/response/#", "edged/box/out/#"):
            peer.subscribe(each)

        def reload(settings: str) -> dict[str, Any]:
            file.write_text(settings)
            peer.publish("edged/box/request/reload", b"")
            while (message := peer.received.get(timeout=TIMEOUT)).topic != "edged/box/response/reload":
                answers[message.topic] = answers.get(message.topic, 0) + 1
            answer: dict[str, Any] = json.loads(message.payload)
            return answer

        def ask(topic: str, text: bytes) -> tuple[str, bytes]:
            peer.publish(topic, text)
            message = peer.received.get(timeout=TIMEOUT)
            return message.topic, bytes(message.payload)

        answers: dict[str, int] = {}
        for i in range(50):
            peer.publish(f"load/{i}", b"in hand")
        moved = SETTINGS.replace('"load/+"', '"burden/+"').replace('"done/{', '"other/{')
        limits = "[limits]\ntext_chars = 20\n[engine]\nthreads = 1\n"
        assert reload(moved + limits)["data"] == {
            "changed": ["limits.text_chars", "routes.load"],
            "restart_required": ["engine.threads"],
        }
        while sum(answers.values()) < 50:
            topic = peer.received.get(timeout=TIMEOUT).topic
            answers[topic] = answers.get(topic, 0) + 1
        assert answers == {f"done/{i}": 1 for i in range(50)}
        assert ask("burden/a", b"hi") == ("other/a", b"You said: hi")
        peer.publish("load/a", b"nobody listens")
        topic, payload = ask("burden/a", b"x" * 21)
        assert (topic, json.loads(payload)["error"]["code"]) == ("edged/box/out/reply", "too_large")

        for wrong, words in (
            (moved.replace('"other/{', '"burden/{'), "could come in again"),
            (moved + NEW_ROUTE, "there is no task new"),
            ("[limits", "not valid TOML"),
        ):
            refused = reload(wrong)
            assert refused["status"] == "error"
            assert words in refused["error"]["message"]
            assert ask("burden/b", b"hi") == ("other/b", b"You said: hi")

        file.write_text(moved + limits)
        both = {"tasks": {"new": {"kind": "generate", "system": "x"}}, "routes": tomllib.loads(NEW_ROUTE)["routes"]}
        peer.publish("edged/box/request/options", json.dumps({"options": both}).encode())
        answer = json.loads(peer.received.get(timeout=TIMEOUT).payload)
        assert answer["data"]["changed"] == ["tasks.new", "routes.new"]
        assert tomllib.loads((daemon.folder / "state" / "options.toml").read_text()) == both
        peer.subscribe("m")
        assert json.loads(ask("n", b"hi")[1])["new"]["text"] == "You said: hi"
        peer.publish("edged/box/request/options", b'{"options": {"routes": null, "tasks": null}}')
        assert json.loads(peer.received.get(timeout=TIMEOUT).payload)["data"]["options"] == {}

        file.write_text(SETTINGS)
        daemon.reload()
        eventually(lambda: daemon.log.count('"event": "reloaded"') == 2)
        assert ask("load/c", b"x" * 21) == ("done/c", b"You said: " + b"x" * 21)
    assert daemon.stop() == 0
