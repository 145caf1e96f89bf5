"""Whatever a device sends: one answer or one error, nothing left behind, and the next one is served."""

import itertools
import json
import queue
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged.ports.link import Message
from tests.faults.conftest import MakeDaemon
from tests.support.broker import Broker
from tests.support.daemon import Daemon
from tests.support.messages import messages
from tests.support.peer import Peer
from tests.support.waiting import TIMEOUT

ROOT = "edged/box"
_numbers = itertools.count()


@pytest.fixture
def talk(broker: Broker) -> Iterator[Peer]:
    with Peer(broker.port) as peer:
        for topic_filter in ("edged/#", f"{ROOT}/status"):
            peer.subscribe(topic_filter)
        yield peer


def test_any_messages_are_answered_and_leave_nothing_behind(make_daemon: MakeDaemon, talk: Peer) -> None:
    daemon = make_daemon(EDGED_MQTT__REPLY_TOPICS="#")
    daemon.start()
    until(talk, "status", state="ready")

    @given(st.lists(messages(as_a_broker_lets_through=True), min_size=20, max_size=40))
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    def survives(sent: list[Message]) -> None:
        for message in sent:
            send(talk, message)
        sentinel = f"sentinel-{next(_numbers)}"
        talk.publish(f"{ROOT}/in/reply", json.dumps({"id": sentinel, "text": "hello"}).encode())
        assert until(talk, "out/reply", id=sentinel)["status"] == "ok"

    survives()
    while (health := until(talk, "health"))["mqtt"]["unacked"] or health["queue"]["depth"]:
        pass
    requests: Counter[str] = Counter({name: n for name, n in health["requests"].items() if isinstance(n, int)})
    errors = sum(health["requests"]["errors"].values())
    assert requests["received"] == requests["answered"] + errors + requests["duplicates"]
    assert requests["received"] > 400
    assert health["state"] == "ready"
    check_log(daemon)


def send(peer: Peer, message: Message) -> None:
    properties: dict[str, Any] = {
        "ResponseTopic": message.response_topic,
        "CorrelationData": message.correlation_data,
        "ContentType": message.content_type,
        "MessageExpiryInterval": message.expiry_s,
    }
    given_ones = {name: value for name, value in properties.items() if value is not None}
    peer.publish(message.topic, message.payload, qos=min(message.qos, 1), **given_ones)


def until(peer: Peer, tail: str, **fields: Any) -> dict[str, Any]:
    """The next message of `tail` that has these fields."""
    while True:
        try:
            message = peer.received.get(timeout=TIMEOUT)
        except queue.Empty:
            pytest.fail(f"nothing more came, and no {tail} with {fields}")
        if message.topic == f"{ROOT}/{tail}":
            body: dict[str, Any] = json.loads(message.payload)
            if all(body.get(name) == value for name, value in fields.items()):
                return body


def check_log(daemon: Daemon) -> None:
    """No message may bring out a mistake of ours."""
    assert "Traceback" not in daemon.log
    assert '"level": "error"' not in daemon.log
