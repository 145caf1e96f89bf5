"""A plain paho client in the role of a device, a service or a dashboard; it shares no code with edged."""

import queue
import threading
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tests.support.waiting import TIMEOUT


class Peer:
    """One client on a broker of 127.0.0.1. A context manager; `received` has what came for its subscriptions."""

    def __init__(
        self,
        port: int,
        *,
        version: Literal["5", "3.1.1"] = "5",
        client_id: str | None = None,
        login: tuple[str, str] | None = None,
        ca: Path | None = None,
        websockets: bool = False,
        session_expiry: int = 0,
    ) -> None:
        self.received: queue.SimpleQueue[MQTTMessage] = queue.SimpleQueue()
        self._port = port
        self._version = version
        self._properties: Properties | None = None
        if version == "5":
            self._properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            self._properties.SessionExpiryInterval = session_expiry
        protocol = MQTTProtocolVersion.MQTTv5 if version == "5" else MQTTProtocolVersion.MQTTv311
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id or f"peer-{uuid.uuid4().hex[:8]}",
            protocol=protocol,
            transport="websockets" if websockets else "tcp",
        )
        if login is not None:
            self._client.username_pw_set(*login)
        if ca is not None:
            self._client.tls_set(str(ca))
        self.refused: str | None = None
        self._connected = threading.Event()
        self._subscribed = threading.Event()
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _client, _data, message: self.received.put(message)

    def __enter__(self) -> Self:
        if self._version == "5":
            self._client.connect("127.0.0.1", self._port, clean_start=False, properties=self._properties)
        else:
            self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert self._connected.wait(TIMEOUT)
        if self.refused is not None:
            self._client.loop_stop()
            raise ConnectionRefusedError(self.refused)
        return self

    def _on_connect(self, _client: Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        self.refused = str(reason) if reason.is_failure else None
        self._connected.set()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, topic_filter: str) -> None:
        self._subscribed.clear()
        self._client.subscribe(topic_filter, qos=1)
        assert self._subscribed.wait(TIMEOUT)

    def may_publish(self, topic: str) -> bool:
        """Publish something at QoS 1; gives whether the broker took it (MQTT 5 alone says so)."""
        answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._client.on_publish = lambda _client, _data, _mid, reason, _properties: answers.put(not reason.is_failure)
        self._client.publish(topic, b"x", qos=1)
        return answers.get(timeout=TIMEOUT)

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
