"""An MQTT client that is not ours: what devices, services and dashboards see. It uses paho in the ordinary way."""

import queue
import threading
import uuid
from types import TracebackType
from typing import Any, Literal, Self

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.support.waiting import TIMEOUT


class Peer:
    """One client on a broker of 127.0.0.1. A context manager; `received` has what came for its subscriptions."""

    def __init__(self, port: int, *, version: Literal["5", "3.1.1"] = "5", client_id: str | None = None) -> None:
        self.received: queue.SimpleQueue[MQTTMessage] = queue.SimpleQueue()
        self._port = port
        self._version = version
        protocol = MQTTProtocolVersion.MQTTv5 if version == "5" else MQTTProtocolVersion.MQTTv311
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id=client_id or f"peer-{uuid.uuid4().hex[:8]}", protocol=protocol
        )
        self._connected = threading.Event()
        self._subscribed = threading.Event()
        self._client.on_connect = lambda *_: self._connected.set()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _client, _data, message: self.received.put(message)

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert self._connected.wait(TIMEOUT)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, topic_filter: str) -> None:
        self._subscribed.clear()
        self._client.subscribe(topic_filter, qos=1)
        assert self._subscribed.wait(TIMEOUT)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, **properties: Any) -> None:
        """Publish; at QoS 1 wait until the broker has it. `properties` are named as paho names them."""
        described = None
        if properties:
            described = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            for name, value in properties.items():
                setattr(described, name, value)
        info = self._client.publish(topic, payload, qos=qos, retain=retain, properties=described)
        info.wait_for_publish(TIMEOUT)
        assert info.is_published()
