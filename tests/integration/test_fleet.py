"""Several daemons of one group on a real mosquitto: who gets what, and what becomes of it when one is gone."""

import json
import os
import queue
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from edged.client import Client
from edged.contract.topics import shard_of
from edged.errors import ExitCode
from edged.settings.schema import Settings
from tests.support import packets
from tests.support.broker import Broker
from tests.support.daemon import SCRIPTED, Daemon, Watcher
from tests.support.peer import Peer
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import TIMEOUT, eventually

TEAM = "edged/team"


@dataclass
class Fleet:
    """Daemons with an engine by rule, of one group."""

    folder: Path
    broker: Broker
    boxes: dict[str, Daemon] = field(default_factory=dict)

    def start(self, node: str, *options: str, **more: str) -> Daemon:
        folder = self.folder / node
        folder.mkdir(exist_ok=True)
        settings = {"EDGED_MQTT__SHARE_GROUP": "team", "EDGED_HEALTH__INTERVAL": "1", "EDGED_MQTT__KEEPALIVE": "5"}
        more = {name: value for name, value in (settings | more).items() if value}
        box = Daemon(folder=folder, broker=self.broker, node=node, program=(*SCRIPTED, *options), more=more)
        self.boxes[node] = box
        box.start()
        return box

    def wait_ready(self) -> None:
        for box in self.boxes.values():
            box.wait_ready()
        # Ready is told before the subscription is granted.
        for node in self.boxes:
            self.wait_shares(node)

    def wait_shares(self, node: str) -> None:
        eventually(lambda: f"edged-edged-{node} 1 $share/team/" in self.broker.log(), f"{node} shares")

    def client(self, **options: Any) -> Client:
        settings = Settings.model_validate(
            {"node": "nobody", "mqtt": {"host": "127.0.0.1", "port": self.broker.port, "keepalive": 5}}
        )
        return Client(settings, group="team", **options)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with TemporaryDirectory(prefix="edged-") as root:
        broker = Broker(folder=Path(root))
        broker.start()
        fleet = Fleet(Path(root), broker)
        yield fleet
        for box in fleet.boxes.values():
            box.kill()
        broker.stop()


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    server = RedisServer(folder=tmp_path)
    server.start()
    yield server.url
    server.stop()


def answers(peer: Peer, number: int, timeout: float = TIMEOUT) -> list[dict[str, Any]]:
    deadline = time.monotonic() + timeout
    found: list[dict[str, Any]] = []
    while len(found) < number:
        message = peer.received.get(timeout=max(0.1, deadline - time.monotonic()))
        found.append(json.loads(message.payload))
    return found


def ask(peer: Peer, request_id: str, *, tail: str = "reply", **fields: Any) -> None:
    peer.publish(f"{TEAM}/in/{tail}", json.dumps({"text": "hi", "id": request_id, **fields}).encode())


def test_work_is_shared_and_each_request_is_answered_once(fleet: Fleet) -> None:
    for node in ("a", "b", "c"):
        fleet.start(node)
    fleet.wait_ready()
    with Peer(fleet.broker.port) as peer:
        peer.subscribe(f"{TEAM}/out/#")
        for number in range(60):
            ask(peer, str(number))
        told = answers(peer, 60)
        assert Counter(each["id"] for each in told) == Counter(map(str, range(60)))
        by_node = Counter(each["node"] for each in told)
        assert set(by_node) == {"a", "b", "c"}
        assert min(by_node.values()) >= 10
        with pytest.raises(queue.Empty):
            peer.received.get(timeout=0.5)
    watcher = Watcher(fleet.broker, "edged/+/health")
    shares = 0
    nodes: set[str] = set()
    while nodes != {"a", "b", "c"}:
        arrival = watcher.next()
        node, report = arrival.topic.split("/")[1], arrival.json
        if node not in nodes and report["requests"]["shared"] == by_node[node]:
            nodes.add(node)
            shares += report["requests"]["shared"]
            assert report["group"]["name"] == "team"
    assert shares == 60
    watcher.stop()
    # Each is still asked by its own name too.
    with Peer(fleet.broker.port) as peer:
        peer.subscribe("edged/b/out/#")
        peer.publish("edged/b/in/reply", b"you alone")
        assert answers(peer, 1)[0]["node"] == "b"


def test_a_box_that_was_not_there_says_so_and_a_caller_may_bring_the_history(fleet: Fleet) -> None:
    fleet.start("a")
    fleet.wait_ready()
    with fleet.client(timeout=TIMEOUT) as client:
        assert "history" not in client.ask("hi", task="reply", session="s", turn=1)
        assert "history" not in client.ask("and?", task="reply", session="s", turn=2)
        fleet.start("b")
        fleet.wait_ready()
        assert fleet.boxes["a"].stop() == ExitCode.DONE
        assert client.ask("and now?", task="reply", session="s", turn=3)["history"] == "missing"
        turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
        told = client.ask("and now?", task="reply", history=turns)
        assert (told["node"], told.get("history")) == ("b", None)


def test_a_shard_keeps_its_conversations_on_its_box(fleet: Fleet) -> None:
    fleet.start("a", EDGED_MQTT__SHARDS="0,1")
    fleet.start("b", EDGED_MQTT__SHARDS="2,3")
    fleet.wait_ready()
    owners = {"0": "a", "1": "a", "2": "b", "3": "b"}
    sessions = [f"s{number}" for number in range(12)]
    shards = {session: shard_of(session, tuple(owners)) for session in sessions}
    assert set(shards.values()) == set(owners)
    with Peer(fleet.broker.port) as peer:
        peer.subscribe(f"{TEAM}/out/#")
        for turn in (1, 2, 3):
            for session in sessions:
                ask(peer, f"{session}.{turn}", tail=f"{shards[session]}/reply/{session}", turn=turn)
            for told in answers(peer, len(sessions)):
                assert told["node"] == owners[shards[told["session"]]]
                assert "history" not in told


def test_with_a_shared_journal_any_box_continues_and_repeats(fleet: Fleet, redis_url: str) -> None:
    for node in ("a", "b"):
        fleet.start(node, EDGED_JOURNAL__URL=redis_url)
    fleet.wait_ready()
    with Peer(fleet.broker.port) as peer:
        peer.subscribe(f"{TEAM}/out/#")
        nodes = set()
        for turn in range(1, 9):
            ask(peer, f"t{turn}", tail="reply/s", turn=turn, text=f"turn {turn}")
            [told] = answers(peer, 1)
            assert "history" not in told
            nodes.add(told["node"])
        assert nodes == {"a", "b"}
        recorded: dict[str, Any] = {}
        for _ in range(4):  # whichever box is asked again, the answer is the recorded one
            ask(peer, "same", attempt=2)
            [told] = answers(peer, 1)
            recorded = recorded or told
            assert told == recorded
        peer.subscribe("edged/b/response/session")
        peer.publish("edged/b/request/session", b'{"session":"s"}')
        [session] = answers(peer, 1)
        said = [turn["content"] for turn in session["data"]["turns"] if turn["role"] == "user"]
        assert said == [f"turn {turn}" for turn in range(1, 9)]


@dataclass
class Tally:
    """What came for each request."""

    contents: dict[str, set[bytes]] = field(default_factory=dict)
    flagged: set[str] = field(default_factory=set)

    def take(self, peer: Peer) -> None:
        while not peer.received.empty():
            payload = bytes(peer.received.get().payload)
            body = json.loads(payload)
            assert body["status"] == "ok"
            self.contents.setdefault(body["id"], set()).add(payload)
            if body.get("duplicate") == "possible":
                self.flagged.add(body["id"])

    def ask_again(self, peer: Peer, asked: list[str]) -> None:
        """Under the same ids, until each has an answer."""
        for attempt in range(2, 12):
            until = time.monotonic() + 4.0
            while time.monotonic() < until and len(self.contents) < len(asked):
                self.take(peer)
                time.sleep(0.05)
            for request_id in asked:
                if request_id not in self.contents:
                    ask(peer, request_id, attempt=attempt)
        self.take(peer)


@pytest.mark.parametrize("is_shared", [True, False], ids=["shared journal", "own journals"])
def test_boxes_that_die_or_leave_lose_nothing(fleet: Fleet, redis_url: str, is_shared: bool) -> None:
    """One killed, one drained, under load; a client that asks again under the same id gets every answer."""
    more = {"EDGED_JOURNAL__URL": redis_url} if is_shared else {}
    for node in ("a", "b", "c"):
        fleet.start(node, "--work-ms", "40", EDGED_MQTT__SESSION_EXPIRY="5", **more)
    fleet.wait_ready()
    tally = Tally()
    asked = [uuid.uuid4().hex for _ in range(300)]
    with Peer(fleet.broker.port) as peer:
        peer.subscribe(f"{TEAM}/out/#")
        for number, request_id in enumerate(asked):
            ask(peer, request_id)
            if number == 100:
                fleet.boxes["a"].kill()
            if number == 200:
                fleet.boxes["b"].end(signal.SIGTERM)
            time.sleep(0.005)
        tally.ask_again(peer, asked)
    assert set(tally.contents) == set(asked)
    twice = {request_id for request_id, each in tally.contents.items() if len(each) > 1}
    if is_shared:
        assert not twice
        assert not tally.flagged
    else:
        assert twice <= tally.flagged


def test_a_slow_box_that_has_enough_leaves_work_to_the_fast_one(fleet: Fleet) -> None:
    fleet.start("quick", "--work-ms", "4", "--slots", "2", EDGED_ENGINE__MAX_BATCH="2")
    fleet.start("slow", "--work-ms", "1000", "--slots", "2", EDGED_ENGINE__MAX_BATCH="2")
    fleet.wait_ready()
    with Peer(fleet.broker.port) as peer:
        peer.subscribe(f"{TEAM}/out/#")
        for number in range(30):  # they learn how fast they are, and tell
            ask(peer, f"first {number}")
        answers(peer, 30)
        time.sleep(2.5)
        for number in range(200):
            ask(peer, f"then {number}")
            time.sleep(0.04)
        by_node = Counter(each["node"] for each in answers(peer, 200, 90.0))
    assert by_node["quick"] > 3 * by_node["slow"]
    watcher = Watcher(fleet.broker, "edged/slow/health")
    report = watcher.next_json()
    watcher.stop()
    assert report["group"]["pauses"] >= 1
    assert report["group"]["members"] == ["quick"]


def test_a_slow_box_tells_the_broker_so_when_it_comes_again(fleet: Fleet) -> None:
    """Also after a power cut: brokers that heed it leave the rest to others."""
    with Proxy(fleet.broker.port) as cable:
        slow = {"EDGED_ENGINE__MAX_BATCH": "2", "EDGED_MQTT__PORT": str(cable.port)}
        box = fleet.start("slow", "--work-ms", "4000", "--slots", "2", **slow)
        fleet.wait_ready()
        watcher = Watcher(fleet.broker, "edged/slow/health")
        with Peer(fleet.broker.port) as peer:
            for number in range(3):
                ask(peer, str(number), text="hi [slow:1500]")
            while "speed" not in (group := watcher.next_json()["group"]):
                pass
        assert group["receive_maximum"] == 64  # so soon it does not know how many answers wait for an ack
        box.kill()
        pace = box.folder / "state" / "pace"
        noted = json.loads(pace.read_text())
        assert noted["content"]["requests"] == 64
        noted["content"]["requests"] = 6  # as some hours of work would have it
        pace.write_text(json.dumps(noted))
        box.start()
        while (group := watcher.next_json()["group"])["receive_maximum"] == 64:
            pass
        watcher.stop()
        assert group["receive_maximum"] == 6
        connects = cable.sent(packets.CONNECT, to_broker=True)
        # At each start another client looks whether a daemon of this name lives.
        told = [packets.receive_maximum(each) for each in connects if b"edged-lookout" not in each.body]
        assert told == [64, 6]


def test_a_box_on_which_others_rely_goes_when_another_has_its_work(fleet: Fleet) -> None:
    """Nobody subscribes to a queue that all have left, and the broker throws away what comes there."""
    fleet.start("slow", "--work-ms", "4000", "--slots", "2", EDGED_ENGINE__MAX_BATCH="2")
    fleet.start("quick", "--work-ms", "40", "--slots", "2", EDGED_ENGINE__MAX_BATCH="2")
    fleet.wait_ready()
    reasons: Counter[str] = Counter()
    watcher = Watcher(fleet.broker, "edged/slow/health")
    with Peer(fleet.broker.port) as peer:
        peer._client.on_publish = lambda _client, _data, _mid, reason, _properties: reasons.update([str(reason)])
        for number in range(40):
            ask(peer, f"first {number}")
        while watcher.next_json()["group"]["takes"]:
            pass
        fleet.boxes["quick"].process.send_signal(signal.SIGTERM)
        number = 0
        while fleet.boxes["quick"].is_alive:
            number += 1
            ask(peer, f"then {number}")
            time.sleep(0.02)
    watcher.stop()
    assert number > 20
    assert set(reasons) == {"Success"}


def test_a_paused_box_takes_work_again_when_the_broker_comes_back_without_the_others(fleet: Fleet) -> None:
    fleet.start("slow", "--work-ms", "2000", "--slots", "2", EDGED_ENGINE__MAX_BATCH="2", EDGED_QUEUE__CAPACITY="4")
    fleet.start("quick", "--work-ms", "40", "--slots", "2", EDGED_ENGINE__MAX_BATCH="2")
    fleet.wait_ready()
    watcher = Watcher(fleet.broker, "edged/slow/health")
    with Peer(fleet.broker.port) as peer:
        for number in range(60):
            ask(peer, f"first {number}")
        while watcher.next_json()["group"]["takes"]:
            pass
    watcher.stop()
    fleet.broker.kill()
    fleet.boxes["quick"].kill()  # its last will is not there any more to be told
    for each in fleet.folder.glob("mosquitto.db*"):
        each.unlink()
    fleet.broker.start()
    watcher = Watcher(fleet.broker, "edged/slow/health")
    while not (group := watcher.next_json()["group"])["takes"]:
        pass
    watcher.stop()
    assert group["keeps"]
    assert group["members"] == []


def test_what_comes_while_the_only_box_restarts_is_answered_after(fleet: Fleet) -> None:
    fleet.start("a")
    fleet.start("b")
    fleet.wait_ready()
    assert fleet.boxes["b"].stop() == ExitCode.DONE
    assert fleet.boxes["a"].stop() == ExitCode.DONE
    reasons: Counter[str] = Counter()
    with Peer(fleet.broker.port) as peer:
        peer._client.on_publish = lambda _client, _data, _mid, reason, _properties: reasons.update([str(reason)])
        peer.subscribe(f"{TEAM}/out/#")
        for number in range(6):
            ask(peer, str(number))
        eventually(lambda: reasons.total() == 6, "the broker has them")
        fleet.boxes["a"].start()
        told = answers(peer, 6)
        assert Counter((each["id"], each["node"]) for each in told) == Counter((str(n), "a") for n in range(6))
    assert set(reasons) == {"Success"}


@pytest.mark.parametrize("group", ["", "other"])
def test_who_has_left_its_group_gets_no_more_of_its_work(fleet: Fleet, group: str) -> None:
    """What it had been dealt is answered, and what comes later is for others alone."""
    fleet.start("a")
    fleet.wait_ready()
    fleet.boxes["a"].kill()
    with Peer(fleet.broker.port) as peer:
        peer.subscribe(f"{TEAM}/out/#")
        for number in range(3):
            ask(peer, f"before {number}")
        box = fleet.start("a", EDGED_MQTT__SHARE_GROUP=group)
        told = answers(peer, 3)
        assert {each["error"]["code"] for each in told} == {"busy"}
        box.wait_ready()
        fleet.start("b")
        fleet.boxes["b"].wait_ready()
        fleet.wait_shares("b")
        for number in range(6):
            ask(peer, f"after {number}")
        assert [each["node"] for each in answers(peer, 6)] == ["b"] * 6


def test_a_client_asks_again_where_a_box_has_died(fleet: Fleet) -> None:
    fleet.start("a", EDGED_MQTT__SESSION_EXPIRY="1")
    fleet.wait_ready()
    with fleet.client(timeout=4.0, attempts=5) as client:
        os.kill(fleet.boxes["a"].process.pid, signal.SIGSTOP)
        fleet.start("b")
        box = fleet.boxes["b"]
        box.wait_ready()
        assert client.ask("anybody there?", task="reply")["node"] == "b"
    os.kill(fleet.boxes["a"].process.pid, signal.SIGCONT)


def test_a_stream_that_is_begun_again_repeats_nothing(fleet: Fleet) -> None:
    """A box that dies in the middle of its words, and another that says them all."""
    words = ["It ", "was ", "a ", "fine ", "day."]
    with Peer(fleet.broker.port) as box, fleet.client(timeout=1.0, attempts=2) as client:
        box.subscribe(f"{TEAM}/in/reply")

        def say(number: int) -> None:
            asked = json.loads(box.received.get(timeout=TIMEOUT).payload)
            for seq, word in enumerate(words[:number]):
                chunk = {"id": asked["id"], "seq": seq, "reply": {"delta": word}}
                box.publish(f"{asked['reply_to']}/stream", json.dumps(chunk).encode())
            if number == len(words):
                result = {"id": asked["id"], "status": "ok", "reply": {"text": "".join(words)}}
                box.publish(asked["reply_to"], json.dumps(result).encode())

        def die_and_come_again() -> None:
            say(3)
            say(5)

        thread = threading.Thread(target=die_and_come_again)
        thread.start()
        *chunks, result = client.stream("how was it?", task="reply", stream=True)
        thread.join(TIMEOUT)
    assert [each.body["reply"]["delta"] for each in chunks] == words
    assert result.body["reply"]["text"] == "".join(words)


def test_a_broker_that_grants_shared_subscriptions_and_delivers_nothing_is_refused(fleet: Fleet, amqtt: int) -> None:
    box = fleet.start("a", EDGED_MQTT__PORT=str(amqtt), EDGED_MQTT__PROTOCOL="3.1.1")
    assert box.wait() == ExitCode.BROKER
    assert "shared subscriptions" in box.log


@pytest.mark.parametrize("more", [{}, {"EDGED_MQTT__CLIENT_ID": "another"}], ids=["one client id", "two client ids"])
def test_of_two_boxes_of_one_name_that_could_not_hear_each_other_one_stops(
    fleet: Fleet, tmp_path: Path, more: dict[str, str]
) -> None:
    """The first one stands still while the second one asks whether it lives."""
    first = fleet.start("a")
    fleet.wait_ready()
    os.kill(first.process.pid, signal.SIGSTOP)
    second = Daemon(folder=tmp_path, broker=fleet.broker, node="a", program=SCRIPTED, more={**first.more, **more})
    second.start()
    try:
        eventually(lambda: "broker_connected" in second.log, "its connection")
        os.kill(first.process.pid, signal.SIGCONT)
        assert first.wait() == ExitCode.BROKER
        assert "two daemons have one name" in first.log
        assert second.is_alive
    finally:
        second.kill()


def test_what_an_earlier_life_said_with_a_clock_ahead_is_not_taken_for_another_box(fleet: Fleet) -> None:
    """The broker brings it late: after a fault of its own, from the queue that it keeps for us."""
    box = fleet.start("a")
    fleet.wait_ready()
    fleet.broker.kill()
    fleet.broker.start()
    eventually(lambda: '"reconnects": 1' in box.log, "a second connection")
    said = {"state": "ready", "boot_id": "earlier", "started": "2100-01-01T00:00:00.000Z"}
    with Peer(fleet.broker.port) as peer:
        peer.subscribe("edged/a/status")
        peer.subscribe(f"{TEAM}/out/#")
        peer.publish("edged/a/status", json.dumps(said).encode(), retain=True)
        eventually(lambda: "edged-lookout" in fleet.broker.log(), "a look at who lives there")
        ask(peer, "one")
        while (message := peer.received.get(timeout=TIMEOUT)).topic.endswith("/status"):
            status = json.loads(message.payload)
        assert json.loads(message.payload)["node"] == "a"
        assert status["boot_id"] != "earlier"
    assert box.is_alive


@pytest.mark.parametrize("group", ["team", ""], ids=["a group", "no group"])
def test_of_two_boxes_with_one_client_id_one_stops(fleet: Fleet, group: str) -> None:
    """mosquitto 2.0.11 does not tell who lost the connection that another client has it now."""
    more = {"EDGED_MQTT__CLIENT_ID": "the same", "EDGED_MQTT__SHARE_GROUP": group}
    older = fleet.start("a", **more)
    older.wait_ready()
    newer = fleet.start("b", **more)
    assert older.wait() == ExitCode.BROKER
    assert "the box b connected to the broker as the same too" in older.log
    assert "EDGED_MQTT__CLIENT_ID" in older.log
    watcher = Watcher(fleet.broker, "edged/a/status")
    assert "the box b" in watcher.until(state="stopped")["reasons"][0]
    watcher.stop()
    newer.wait_ready()
    with Peer(fleet.broker.port) as peer:
        peer.subscribe("edged/b/out/#")
        peer.publish("edged/b/in/reply", b"still there?")
        assert answers(peer, 1)[0]["node"] == "b"
    assert newer.is_alive


def test_a_box_that_is_named_as_the_group_answers_too_and_the_group_says_so(fleet: Fleet) -> None:
    fleet.start("a")
    fleet.wait_ready()
    namesake = fleet.start("team", EDGED_MQTT__SHARE_GROUP="")
    namesake.wait_ready()
    with Peer(fleet.broker.port) as peer:
        peer.subscribe(f"{TEAM}/out/#")
        ask(peer, "one")
        assert {each["node"] for each in answers(peer, 2)} == {"a", "team"}
    eventually(lambda: "a box is named team, as this group is" in fleet.boxes["a"].log, "a warning")


def test_settings_that_make_no_group_are_refused() -> None:
    for wrong, words in (
        ({"node": "team", "mqtt": {"share_group": "team"}}, "a name of its own"),
        ({"mqtt": {"shards": ["0"]}}, "set share_group too"),
        ({"mqtt": {"share_group": "a/b"}}, "pattern"),
        ({"mqtt": {"share_group": "a+"}}, "pattern"),
        ({"mqtt": {"share_group": "te\u0085am"}}, "no control characters"),
        ({"mqtt": {"share_group": "team", "shards": ["0", "\ufffe"]}}, "no control characters"),
        ({"journal": {"url": "redis://localhost"}}, "set mqtt.share_group too"),
    ):
        with pytest.raises(ValueError, match=words):
            Settings.model_validate(wrong)


def test_devices_of_bridged_sites_ask_the_boxes_of_one_broker(fleet: Fleet, tmp_path: Path) -> None:
    """The recipe in deploy/fleet, with two sites."""
    recipe = (Path(__file__).parents[2] / "deploy" / "fleet" / "mosquitto-site.conf").read_text()
    sites = []
    for name in ("kitchen", "garage"):
        lines = recipe.replace("centre.example:1883", f"127.0.0.1:{fleet.broker.port}").replace("kitchen", name)
        config = [line for line in lines.splitlines() if line and not line.startswith(("#", "restart_timeout"))]
        with TemporaryDirectory(prefix="edged-") as short:
            folder = Path(short)
        folder.mkdir()
        # In a file of its own, the bridge stands behind the listeners.
        (folder / "conf.d").mkdir()
        (folder / "conf.d" / "site.conf").write_text("\n".join(config) + "\n")
        sites.append(Broker(folder=folder, config=(f"include_dir {folder}/conf.d",)))
    for node in ("a", "b"):
        fleet.start(node)
    fleet.wait_ready()
    try:
        for site in sites:
            site.start()
        for number, site in enumerate(sites):
            with Peer(site.port) as peer:
                peer.subscribe(f"{TEAM}/out/#")
                asked = [f"{number}.{each}" for each in range(10)]
                for request_id in asked:
                    ask(peer, request_id)
                told = answers(peer, 10)
                mine = [each["id"] for each in told if each["id"] in asked]
                assert Counter(mine) == Counter(asked)
                assert {each["node"] for each in told} == {"a", "b"}
    finally:
        for site in sites:
            site.stop()
