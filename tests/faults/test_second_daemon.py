"""A second daemon of a name that runs already is refused, and the first goes on. A crash is no reason to refuse."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from edged.errors import ExitCode
from tests.faults.conftest import SCRIPTED, MakeDaemon
from tests.support.broker import Broker
from tests.support.daemon import Daemon
from tests.support.peer import Peer
from tests.support.waiting import TIMEOUT, eventually

ROOT = "edged/box"


def answer(broker: Broker) -> dict[str, Any]:
    """What the daemon says to a request now."""
    with Peer(broker.port) as peer:
        peer.subscribe(f"{ROOT}/out/reply")
        peer.publish(f"{ROOT}/in/reply", b"still there?")
        body: dict[str, Any] = json.loads(peer.received.get(timeout=TIMEOUT).payload)
        return body


def status_now(broker: Broker) -> dict[str, Any]:
    """The status that the broker keeps."""
    with Peer(broker.port) as peer:
        peer.subscribe(f"{ROOT}/status")
        body: dict[str, Any] = json.loads(peer.received.get(timeout=TIMEOUT).payload)
        return body


def elsewhere(folder: Path, broker: Broker, *options: str, **more: str) -> Daemon:
    """A daemon of the same name with another state folder, as on another box."""
    folder.mkdir()
    return Daemon(folder=folder, broker=broker, program=(*SCRIPTED, *options), more=more)


def test_a_second_run_with_the_same_state_folder_is_refused(make_daemon: MakeDaemon, broker: Broker) -> None:
    first, second = make_daemon(), make_daemon()
    first.start()
    first.wait_ready()
    boot_id = status_now(broker)["boot_id"]
    begin = time.monotonic()
    second.start()
    assert second.wait() == ExitCode.BROKER
    assert time.monotonic() - begin < TIMEOUT / 2
    assert f"edged/box runs already: process {first.process.pid}" in first.log  # they write to one file
    assert first.is_alive
    assert answer(broker)["status"] == "ok"
    status = status_now(broker)
    assert (status["state"], status["boot_id"]) == ("ready", boot_id)
    assert first.stop() == ExitCode.DONE


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("more", [{}, {"EDGED_MQTT__CLIENT_ID": "another"}], ids=["one client id", "two client ids"])
def test_a_second_run_on_another_box_is_refused(
    make_daemon: MakeDaemon, broker: Broker, tmp_path: Path, more: dict[str, str], protocol: str
) -> None:
    first = make_daemon(EDGED_HEALTH__INTERVAL="30", EDGED_MQTT__PROTOCOL=protocol)
    first.start()
    first.wait_ready()
    second = elsewhere(tmp_path / "other", broker, EDGED_MQTT__PROTOCOL=protocol, **more)
    second.start()
    try:
        assert second.wait() == ExitCode.BROKER
        assert "runs already with this broker" in second.log
        assert first.is_alive
        assert "broker_lost" not in first.log  # its session was never taken
        assert answer(broker)["status"] == "ok"
        assert status_now(broker)["state"] == "ready"
    finally:
        second.kill()


def test_a_second_run_is_refused_while_the_first_loads(make_daemon: MakeDaemon, broker: Broker, tmp_path: Path) -> None:
    first = make_daemon("--load-s", "20")
    first.start()
    with Peer(broker.port) as peer:
        peer.subscribe(f"{ROOT}/status")
        assert json.loads(peer.received.get(timeout=TIMEOUT).payload)["state"] == "loading"
    second = elsewhere(tmp_path / "other", broker)
    second.start()
    try:
        assert second.wait() == ExitCode.BROKER
        assert first.is_alive
    finally:
        second.kill()


def test_after_a_crash_it_starts_at_once_and_says_what_came_again(make_daemon: MakeDaemon, broker: Broker) -> None:
    daemon = make_daemon("--work-ms", "100000")
    daemon.start()
    daemon.wait_ready()
    with Peer(broker.port) as peer:
        for number in range(3):
            peer.publish(f"{ROOT}/in/reply", f"text {number}".encode())
    eventually(lambda: daemon.log.count("request_received") == 3, "three requests in hand")
    before = status_now(broker)
    daemon.kill()
    assert status_now(broker) == before  # the last will is delayed: as if it lived
    begin = time.monotonic()
    daemon.start()
    eventually(lambda: status_now(broker)["boot_id"] != before["boot_id"], "another process")
    assert time.monotonic() - begin < 5.0 + TIMEOUT / 10
    eventually(lambda: "requests_came_again" in daemon.log, "the number of requests")
    lines = [json.loads(line) for line in daemon.log.splitlines()]
    told = {each["event"]: each for each in lines if each["event"] in {"unclean_end", "requests_came_again"}}
    assert told["unclean_end"]["started"][:16] == before["started"][:16]
    assert told["requests_came_again"]["requests"] == 3


def test_after_an_end_in_order_nothing_is_told(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    for _ in range(2):
        daemon.start()
        daemon.wait_ready()
        assert daemon.stop() == ExitCode.DONE
    assert "unclean_end" not in daemon.log


def test_a_status_of_a_daemon_that_is_no_more_holds_nobody_up_for_long(make_daemon: MakeDaemon, broker: Broker) -> None:
    said = {"state": "ready", "boot_id": "gone", "started": "2100-01-01T00:00:00.000Z"}
    with Peer(broker.port) as peer:
        peer.publish(f"{ROOT}/status", json.dumps(said).encode(), retain=True)
    daemon = make_daemon()
    daemon.start()
    eventually(lambda: status_now(broker)["boot_id"] != "gone", "the daemon's own status")
    assert answer(broker)["status"] == "ok"


def test_a_broker_that_is_not_there_yet_holds_nobody_up(make_daemon: MakeDaemon, broker: Broker) -> None:
    broker.stop()
    daemon = make_daemon()
    daemon.start()
    eventually(lambda: '"event": "ready"' in daemon.log, "a model that is loaded")
    broker.start()
    daemon.wait_ready()
    assert answer(broker)["status"] == "ok"
