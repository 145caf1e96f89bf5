"""A broker that answers by a test's script, also what no real broker would."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.support import packets
from tests.support.packets import Packet, encode

HANG_UP = None
SAY_NOTHING = b""


def welcome(*, version: int = 5, properties: bytes = b"", code: int = 0, session_present: bool = False) -> bytes:
    """A CONNACK."""
    return encode(
        packets.CONNACK,
        bytes((session_present, code)) + (bytes((len(properties),)) + properties if version == 5 else b""),
    )


def suback(subscribe: Packet, *codes: int) -> bytes:
    """The answer to SUBSCRIBE, on MQTT 5."""
    return encode(packets.SUBACK, subscribe.body[:2] + b"\0" + bytes(codes))


def puback(publish: Packet, code: int = 0) -> bytes:
    """The answer to PUBLISH at QoS 1, on MQTT 5."""
    return encode(packets.PUBACK, publish.packet_id.to_bytes(2) + bytes((code, 0)))


def publish(topic: str, payload: bytes) -> bytes:
    """A message at QoS 0, on MQTT 5."""
    return packets.encode(packets.PUBLISH, len(topic).to_bytes(2) + topic.encode() + b"\0" + payload)


def well_behaved(packet: Packet) -> bytes | None:
    """The answer of a correct MQTT 5 broker: scripts call it for what they do not change."""
    match packet.kind:
        case packets.CONNECT:
            return welcome()
        case packets.SUBSCRIBE:
            return suback(packet, 1)
        case packets.PUBLISH if packet.flags & 0x06:
            return puback(packet)
        case packets.PINGREQ:
            return bytes((0xD0, 0))
    return SAY_NOTHING


class ScriptedBroker:
    """Listens on a free port of 127.0.0.1 and answers each packet by the script. A context manager.

    Attributes:
        script: gives the bytes to send in answer to a packet, or HANG_UP; may be changed at any time.
        packets: what came, over all connections.
    """

    def __init__(self, script: Callable[[Packet], bytes | None], *, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self._tls = tls
        self.packets: list[Packet] = []
        self.port = 0
        self._listener = socket.socket()
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port = self._listener.getsockname()[1]
        self._spawn(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for each in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def received(self, kind: int) -> list[Packet]:
        return [each for each in list(self.packets) if each.kind == kind]

    def send(self, data: bytes) -> None:
        """Send bytes on the newest connection, not in answer to a packet."""
        self._connections[-1].sendall(data)

    def hang_up(self) -> None:
        """Close the newest connection without an MQTT DISCONNECT."""
        self._connections[-1].shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                self._connections.append(connection)
                self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        buffer = bytearray()
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(65536):
                buffer += data
                for kind, flags, body in packets.split(buffer):
                    packet = Packet(True, kind, flags, body)
                    self.packets.append(packet)
                    answer = self.script(packet)
                    if answer is HANG_UP:
                        return
                    connection.sendall(answer)

    def _spawn(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
