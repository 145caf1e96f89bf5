"""Links that run on real brokers, for tests."""

import queue
import random
from typing import Any, Protocol, Self

from edged.mqtt.link import Link
from edged.mqtt.reconnect import Backoff
from edged.ports.link import Delivery, LinkState
from edged.settings.schema import MqttSettings
from tests.support.link_contract import RECEIVE_MAXIMUM, REQUESTS, RESULTS, Bench, Ending, result
from tests.support.peer import Peer
from tests.support.proxy import Proxy
from tests.support.waiting import eventually, take


class HasSettings(Protocol):
    """The part of a broker that a link needs."""

    def settings(self, **more: object) -> MqttSettings: ...


class Running:
    """A link that runs for a test."""

    def __init__(self, settings: MqttSettings, **more: Any) -> None:
        self.deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self.changes: queue.SimpleQueue[LinkState] = queue.SimpleQueue()
        arguments: dict[str, Any] = {
            "settings": settings,
            "client_id": "bench",
            "subscriptions": (REQUESTS,),
            "will": None,
            "receive_maximum": 100,
            "on_delivery": self.deliveries.put,
            "on_change": self.changes.put,
            "backoff": Backoff(first=0.01, ceiling=0.2, random=random.Random(1)),
        }
        self.link = Link(**(arguments | more))

    def __enter__(self) -> Self:
        self.link.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.link.stop(None, 1.0)

    def wait_connected(self) -> LinkState:
        return eventually(lambda: state if (state := self.link.state()).connected_since is not None else None, "up")

    def wait_lost(self) -> None:
        eventually(lambda: self.link.state().connected_since is None, "the loss of the connection")

    def wait_fault(self, words: str) -> None:
        eventually(lambda: words in (self.link.state().fault or ""), f"the fault {words!r}")

    def publish(self, payload: bytes, **more: Any) -> Ending:
        ending = Ending()
        self.link.publish(result(payload, **more), ending)
        return ending


class RealBench(Bench):
    """A link on a real broker. A context manager.

    Args:
        broker: whose settings the link uses.
        cable: leads from the link to the broker.
        peer: publishes the requests and sees the results.
        version: of MQTT, as the setting has it.
        client_id: the link's.
    """

    def __init__(
        self, broker: HasSettings, cable: Proxy, peer: Peer, *, version: str, client_id: str = "bench"
    ) -> None:
        super().__init__()
        self._cable = cable
        self._peer = peer
        peer.subscribe(RESULTS)
        self._running = Running(
            broker.settings(port=cable.port, protocol=version),
            client_id=client_id,
            receive_maximum=RECEIVE_MAXIMUM,
            on_delivery=self.on_delivery,
            on_change=self.changes.put,
        )
        self.link = self._running.link

    def __enter__(self) -> Self:
        self._running.link.start()
        self._running.wait_connected()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.link.stop(None, 1.0)

    def send(self, payload: bytes, *, qos: int = 1) -> None:
        self._peer.publish(REQUESTS, payload, qos=qos)

    def results(self, number: int) -> list[bytes]:
        return [bytes(each.payload) for each in take(self._peer.received, number)]

    def drop(self) -> None:
        self._cable.cut()
        self._running.wait_lost()

    def restore(self) -> None:
        self._cable.restore()
        self._running.wait_connected()
