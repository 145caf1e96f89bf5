"""A client that sends thousands of requests and counts the answers to each."""

import hashlib
import json
import re
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.support import packets
from tests.support.packets import Packet
from tests.support.waiting import TIMEOUT

_IN_FLIGHT = 200
_REQUEST_ID = re.compile(rb'"id": ?"([^"]+)"')


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A request with an id of its own."""

    id: str
    text: str
    task: str = "message"
    session: str | None = None

    @property
    def payload(self) -> bytes:
        body: dict[str, Any] = {"id": self.id, "text": self.text}
        if self.session is not None:
            body["session"] = self.session
        return json.dumps(body).encode()


@dataclass(slots=True)
class Answers:
    """What came back for one id: how often each payload, and the different things that they say."""

    payloads: Counter[bytes] = field(default_factory=Counter)
    contents: set[str] = field(default_factory=set)


class Asker:
    """A client that asks at QoS 1 with a persistent session, as a careful service does. A context manager.

    It speaks MQTT 3.1.1, where paho keeps every rule. It sends unanswered requests again only when `ask_again` is
    called: after a broker lost requests that it had acknowledged.
    """

    def __init__(self, port: int, root: str) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._pending: dict[str, Ask] = {}
        self.answers: dict[str, Answers] = {}
        self.last_answer = time.monotonic()
        self.sent = 0
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id="asker", clean_session=False, protocol=MQTTProtocolVersion.MQTTv311
        )
        self._client.max_inflight_messages_set(_IN_FLIGHT)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_socket_open = _no_delay
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect_async("127.0.0.1", port)

    def __enter__(self) -> Self:
        self._client.loop_start()
        assert self._subscribed.wait(TIMEOUT)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def ask(self, ask: Ask) -> None:
        """Send a request, or send it again under the same id."""
        with self._lock:
            if ask.id not in self.answers:
                self._pending[ask.id] = ask
        self._publish(ask)

    def ask_again(self) -> None:
        """Send every unanswered request again."""
        with self._lock:
            pending = list(self._pending.values())
        for each in pending:
            self._publish(each)

    @property
    def pending(self) -> int:
        with self._lock:
            return len(self._pending)

    @property
    def unanswered(self) -> list[str]:
        with self._lock:
            return sorted(self._pending)

    def _publish(self, ask: Ask) -> None:
        self.sent += 1
        self._client.publish(f"{self._root}/in/{ask.task}", ask.payload, qos=1)

    def _on_connect(self, client: Client, *_: Any) -> None:
        client.subscribe(f"{self._root}/out/#", qos=1)

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        body = json.loads(message.payload)
        said = {name: body.get(name) for name in ("status", "sentiment", "reply", "error")}
        with self._lock:
            self._pending.pop(body["id"], None)
            answers = self.answers.setdefault(body["id"], Answers())
            answers.payloads[hashlib.blake2b(message.payload, digest_size=8).digest()] += 1
            answers.contents.add(json.dumps(said, sort_keys=True))
            self.last_answer = time.monotonic()


def _no_delay(_client: Client, _data: Any, sock: Any) -> None:
    """Send each request at once: with Nagle's algorithm they would go in bursts of 40 ms."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Observer:
    """Watches the packets between daemon and broker: acks, and when the daemon says that it is ready.

    Attributes:
        out_of_order: requests that the daemon acknowledged before one that came earlier.
        unanswered: ids of requests that the daemon acknowledged before the broker had acknowledged an answer to them.
    """

    def __init__(self) -> None:
        self.out_of_order = 0
        self.deliveries = 0
        self.ready_at: list[float] = []
        self.unanswered: set[bytes] = set()
        self._lock = threading.Lock()
        self._requests: dict[int, list[tuple[int, bytes]]] = {}  # by connection: packet id and request id
        self._answers: dict[tuple[int, int], bytes] = {}  # by connection and packet id
        self._confirmed: set[bytes] = set()

    def __call__(self, connection: int, packet: Packet) -> None:
        with self._lock:
            if packet.kind == packets.PUBLISH and packet.flags & 0x06:
                self._published(connection, packet)
            elif packet.kind == packets.PUBACK:
                self._acknowledged(connection, packet)
        if packet.to_broker and b"/status" in packet.body[:80] and b'"state":"ready"' in packet.body:
            self.ready_at.append(time.monotonic())

    def _published(self, connection: int, packet: Packet) -> None:
        found = _REQUEST_ID.search(packet.body)
        request_id = found[1] if found else b""
        if not packet.to_broker:
            self.deliveries += 1
            self._requests.setdefault(connection, []).append((packet.packet_id, request_id))
        elif b"/out/" in packet.body[:80]:
            self._answers[connection, packet.packet_id] = request_id

    def _acknowledged(self, connection: int, packet: Packet) -> None:
        if not packet.to_broker:
            self._confirmed.add(self._answers.pop((connection, packet.packet_id), b""))
            return
        requests = self._requests.get(connection, [])
        if not requests or requests[0][0] != packet.packet_id:
            self.out_of_order += 1
            return
        _, request_id = requests.pop(0)
        if request_id and request_id not in self._confirmed:  # other messages, as a status, have no id
            self.unanswered.add(request_id)
