"""deploy/mosquitto: the broker as operators set it up, with real certificates, and what each role may do there."""

import re
import time
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.hardened import ALL, HardenedBroker
from tests.support.peer import Peer
from tests.support.waiting import TIMEOUT, eventually, take

SCRIPTED = ("-m", "tests.support.scripted_daemon")

TOPICS = (
    "edged/box/in/message",
    "edged/box/in/message/ada",
    "edged/box/in/message/bob",
    "edged/box/in/message/homeassistant",
    "edged/team/in/0/message/ada",
    "edged/team/in/0/message/bob",
    "edged/team/in/0/message/homeassistant",
    "edged/box/out/message",
    "edged/team/out/0/message/ada",
    "edged/team/out/0/message/bob",
    "edged/box/out/message/ada",
    "edged/box/out/message/ada/stream",
    "edged/box/out/message/bob",
    "edged/box/reply/ada/1",
    "edged/box/reply/bob/1",
    "edged/box/request/ping",
    "edged/box/response/ping",
    "edged/box/status",
    "edged/box/health",
    "edged/box/info",
    "edged/box/probe",
    "homeassistant/device/edged_box/config",
    "homeassistant/status",
    "elsewhere",
)
MAY_WRITE = {
    "ada": {"edged/box/in/message/ada", "edged/team/in/0/message/ada"},
    "dashboard": set(),
    "operator": {"edged/box/request/ping"},
    "homeassistant": {
        "edged/box/in/message/homeassistant",
        "edged/team/in/0/message/homeassistant",
        "homeassistant/device/edged_box/config",
        "homeassistant/status",
    },
    "edged": {each for each in TOPICS if not re.search(r"/request/|homeassistant/status|elsewhere", each)},
}
ANYBODY = {"edged/box/status", "edged/box/info"}
MAY_READ = {
    "ada": ANYBODY
    | {
        "edged/box/out/message/ada",
        "edged/box/out/message/ada/stream",
        "edged/team/out/0/message/ada",
        "edged/box/reply/ada/1",
    },
    "dashboard": ANYBODY | {"edged/box/health"},
    "operator": ANYBODY | {"edged/box/health", "edged/box/response/ping"},
    "homeassistant": ANYBODY | {each for each in TOPICS if re.search("/health|/out/|homeassistant/[ds]", each)},
    "edged": ANYBODY
    | {each for each in TOPICS if re.search("/in/|/request/|/reply/|/health|/probe|homeassistant/st", each)},
}


@pytest.mark.parametrize("user", MAY_WRITE)
def test_a_role_writes_what_it_should_and_nothing_else(hardened: HardenedBroker, user: str) -> None:
    with hardened.peer(user) as peer:
        assert {topic for topic in TOPICS if peer.may_publish(topic)} == MAY_WRITE[user]


@pytest.mark.parametrize("user", MAY_READ)
def test_a_role_reads_what_it_should_and_nothing_else(hardened: HardenedBroker, user: str) -> None:
    with hardened.peer(user) as peer, hardened.peer(ALL) as sender:
        peer.subscribe("#")
        for topic in TOPICS:
            sender.publish(topic, b"x")
        sender.publish("edged/box/status", b"last")  # which all may read
        seen = set()
        while (message := peer.received.get(timeout=TIMEOUT)).payload != b"last":
            seen.add(message.topic)
    assert seen == MAY_READ[user]


def test_a_user_called_like_a_wildcard_reads_nothing_of_others(hardened: HardenedBroker) -> None:
    with pytest.raises(ConnectionRefusedError), hardened.peer("+", "whatever"):
        pass


@pytest.mark.parametrize("websockets", [False, True])
def test_nobody_comes_in_without_the_password(hardened: HardenedBroker, websockets: bool) -> None:
    with hardened.peer("ada", websockets=websockets):
        pass
    with pytest.raises(ConnectionRefusedError), hardened.peer("ada", "guessed", websockets=websockets):
        pass
    with pytest.raises(ConnectionRefusedError), Peer(hardened.port):
        pass


def test_no_secret_of_the_setup_can_be_read_by_others(hardened: HardenedBroker) -> None:
    readable = {str(each.relative_to(hardened.etc)) for each in hardened.etc.rglob("*") if each.stat().st_mode & 0o004}
    assert {each for each in readable if not (hardened.etc / each).is_dir()} == {
        "mosquitto/conf.d/edged.conf",
        "mosquitto/edged/ca.crt",
        "mosquitto/edged/server.crt",
    }
    assert not [each for each in readable if each.endswith(("credentials", "authority"))]


def test_a_power_cut_of_the_broker_loses_no_request(tmp_path: Path) -> None:
    broker = HardenedBroker(folder=tmp_path)
    broker.set_up()
    broker.start()
    try:
        login = ("edged", broker.passwords["edged"])
        with Peer(broker.port, client_id="daemon", login=login, session_expiry=600) as daemon:
            daemon.subscribe("edged/box/in/#")
        with broker.peer("ada") as device:
            for number in range(1500):  # more than a broker keeps by default
                device.publish("edged/box/in/message/ada", b"%d" % number)
        time.sleep(1)  # what came in the last moment may not be on the disk yet: its sender asks again
        broker.kill()
        broker.start()
        with Peer(broker.port, client_id="daemon", login=login, session_expiry=600) as daemon:
            seen = {int(each.payload) for each in take(daemon.received, 1500)}
    finally:
        broker.stop()
    assert seen == set(range(1500))


def test_a_daemon_answers_a_device_through_it(hardened: HardenedBroker, tmp_path: Path) -> None:
    credentials = hardened.etc / "edged/credentials"
    served = tmp_path / "credentials"  # as systemd shows them to the service
    served.mkdir()
    for name in ("username", "password"):
        (served / f"mqtt_{name}").write_bytes((credentials / name).read_bytes())
    more = {
        "CREDENTIALS_DIRECTORY": str(served),
        "EDGED_MQTT__TLS__CA": str(hardened.ca),
        "EDGED_MQTT__SHARE_GROUP": "team",
    }
    daemon = Daemon(folder=tmp_path, broker=hardened, port=hardened.tls_port, program=SCRIPTED, more=more)
    daemon.start()
    try:
        with hardened.peer("ada", websockets=True) as device:
            device.subscribe("edged/box/status")
            while b'"ready"' not in device.received.get(timeout=TIMEOUT).payload:
                pass
            device.subscribe("edged/box/out/+/ada")
            device.publish("edged/box/in/message/ada", b"I love this phone")
            message = device.received.get(timeout=TIMEOUT)
            while message.topic == "edged/box/status":
                message = device.received.get(timeout=TIMEOUT)
            assert message.topic == "edged/box/out/message/ada"
            assert b'"status":"ok"' in message.payload
        for whom in ((), ("--group", "team")):
            asked = daemon.command("ask", "I love this phone", *whom)
            assert asked.returncode == 0, asked.stderr
        eventually(lambda: "group_probe_returned" in daemon.log, "the probe")
    finally:
        daemon.kill()
    assert hardened.passwords["edged"] not in daemon.log
