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
        broker.start()
        yield broker
        broker.stop()


@pytest.fixture(params=["5", "3.1.1"])
def bench(name: str, broker: AnyBroker, request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "5" and not brokers.speaks_mqtt_5(name):
        pytest.skip(f"{name} speaks MQTT 3.1.1 alone")
    client_id = f"bench-{next(_numbers)}"
    with Proxy(broker.port) as cable, Peer(broker.port, version=request.param) as peer:
        with RealBench(broker, cable, peer, version=request.param, client_id=client_id) as made:
            yield made
        with Peer(broker.port, version="3.1.1", client_id=client_id):
            pass  # clean session: the broker forgets the one of the test


class TestLinkOnOtherBrokers(LinkContract):
    pass
