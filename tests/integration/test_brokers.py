"""The link on brokers other than Debian's mosquitto: the contract, and what each broker can do.

The table in deploy/docs/pages/brokers.md says what was seen here.
"""

import functools
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edged.commands import broker_check
from edged.contract.topics import Topics
from edged.ports.link import Sent
from edged.settings.schema import Settings
from tests.support import brokers
from tests.support.brokers import AnyBroker
from tests.support.link_bench import RealBench, Running
from tests.support.link_contract import REQUESTS, Bench, LinkContract, ticket_of
from tests.support.peer import Peer
from tests.support.proxy import Proxy
from tests.support.waiting import TIMEOUT, eventually, take

_numbers = itertools.count()


@pytest.fixture(scope="module", params=brokers.OTHERS)
def name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def broker(name: str) -> Iterator[AnyBroker]:
    with tempfile.TemporaryDirectory(prefix="edged-") as folder:
        broker = brokers.make(name, Path(folder))
        try:
            broker.start()
            yield broker
        finally:
            broker.stop()


@pytest.fixture
def bench(name: str, broker: AnyBroker) -> Iterator[Bench]:
    """A link in the newest version of MQTT that the broker speaks; mosquitto's tests have the older one too."""
    ability = brokers.ABILITIES[name]
    client_id = f"bench-{next(_numbers)}"
    with Proxy(broker.port) as cable, Peer(broker.port, version=ability.version) as peer:
        with RealBench(broker, cable, peer, version=ability.version, client_id=client_id) as made:
            made.marks_redelivery = ability.marks_redelivery
            made.qos_0_overtakes = ability.qos_0_overtakes
            if isinstance(broker, brokers.Aedes):
                made.wait_acked = functools.partial(broker.wait_acked, client_id)
                made.wait_resent = functools.partial(broker.wait_resent, client_id)
            yield made
        with Peer(broker.port, version="3.1.1", client_id=client_id):
            pass  # a clean session: the broker forgets the one of the test


class TestLinkOnOtherBrokers(LinkContract):
    pass


def test_a_node_with_a_dot_in_its_name_gets_its_messages(name: str, broker: AnyBroker) -> None:
    version = brokers.ABILITIES[name].version
    dotted = "bench/box.lan/in/#"
    with (
        Running(broker.settings(), client_id="dotted", subscriptions=(dotted,), ephemeral=True) as running,
        Peer(broker.port, version=version) as peer,
    ):
        running.wait_connected()
        peer.publish("bench/box.lan/in/message", b"hello")
        [delivery] = take(running.deliveries, 1)
    assert delivery.message.topic == "bench/box.lan/in/message"


def test_what_the_broker_cannot_do_is_seen_by_check(name: str, broker: AnyBroker) -> None:
    ability = brokers.ABILITIES[name]
    settings = Settings.model_validate(
        {
            "prefix": f"edged-{name.replace('.', '-')}",
            "node": "box",
            "mqtt": {"host": "127.0.0.1", "port": broker.port},
            "engine": {"max_batch": 16},
        }
    )
    status = Topics(prefix=settings.prefix, node=settings.node).status
    with Peer(broker.port, version=ability.version) as peer:
        peer.publish(status, b"{}", retain=True)
        found = broker_check.features(settings, timeout=TIMEOUT, is_served=True)
        peer.publish(status, b"", retain=True)
    assert found.in_flight == (ability.in_flight or broker_check.IN_FLIGHT)
    told = "; ".join(found.lacks)
    assert ("only MQTT 3.1.1" in told) is (ability.version == "3.1.1")
    assert ("no shared subscriptions" in told) is (not ability.shares and ability.version == "5")
    assert ("no dots in topics" in told) is not ability.keeps_dots
    assert ("no retained messages to subscriptions with a wildcard" in told) is not ability.retained_by_wildcard
    assert ("without an ack" in told) is (ability.in_flight is not None)


def test_how_the_broker_sends_again(name: str, broker: AnyBroker) -> None:
    ability = brokers.ABILITIES[name]
    arguments: dict[str, Any] = {"client_id": "again"}
    with Proxy(broker.port) as cable, Peer(broker.port, version=ability.version) as peer:
        with Running(broker.settings(port=cable.port), **arguments) as running:
            running.wait_connected()
            for number in range(3):
                peer.publish(REQUESTS, b"%d" % number)
            first, *waiting = take(running.deliveries, 3)
            running.link.settle(ticket_of(first))
            assert running.publish(b"the ack went before this").sent() is Sent.CONFIRMED
            if isinstance(broker, brokers.Aedes):
                broker.wait_acked("again", 1)
            cable.cut()
            running.wait_lost()
            cable.restore()
            again = take(running.deliveries, 2)
        with Peer(broker.port, version="3.1.1", client_id="again"):
            pass  # a clean session: the broker forgets this one
    assert [each.message.payload for each in again] == [b"1", b"2"]
    assert {each.redelivered for each in again} == {ability.marks_redelivery}
    kept = [ticket_of(each).packet_id for each in again] == [ticket_of(each).packet_id for each in waiting]
    assert kept is ability.keeps_packet_ids


def test_whether_it_shares(name: str, broker: AnyBroker) -> None:
    ability = brokers.ABILITIES[name]
    with (
        Running(broker.settings(), client_id="one", subscriptions=("$share/team/work",), ephemeral=True) as one,
        Running(broker.settings(), client_id="two", subscriptions=("$share/team/work",), ephemeral=True) as two,
        Peer(broker.port, version=ability.version) as peer,
    ):
        one.wait_connected()
        two.wait_connected()
        if not ability.shares and ability.version == "5":
            one.wait_fault("it has no shared subscriptions")
        for number in range(4):
            peer.publish("work", b"%d" % number)
        if ability.shares:
            eventually(lambda: one.deliveries.qsize() + two.deliveries.qsize() == 4, "each message once")
        else:
            time.sleep(0.5)
            assert one.deliveries.empty()
            assert two.deliveries.empty()
