"""The link on brokers other than Debian's mosquitto: the contract, and what each broker can do.

README's table of brokers says what was seen here.
"""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import brokers
from tests.support.brokers import AnyBroker
from tests.support.link_bench import RealBench
from tests.support.link_contract import Bench, LinkContract
from tests.support.peer import Peer
from tests.support.proxy import Proxy

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
            made.resends_in_s = 0.0 if ability.resends_first else 0.5
            made.qos_0_overtakes = ability.qos_0_overtakes
            yield made
        with Peer(broker.port, version="3.1.1", client_id=client_id):
            pass  # a clean session: the broker forgets the one of the test


class TestLinkOnOtherBrokers(LinkContract):
    pass
