"""MQTT packets as bytes: enough to watch a connection and to play a broker."""

from collections.abc import Iterator
from dataclasses import dataclass

# Packet types: MQTT 5, section 2.1.2.
CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ, DISCONNECT = 1, 2, 3, 4, 8, 9, 12, 14


@dataclass(frozen=True, slots=True)
class Packet:
    """An MQTT packet on its way; `to_broker` tells which."""

    to_broker: bool
    kind: int
    flags: int
    body: bytes

    @property
    def packet_id(self) -> int:
        """Of a PUBACK, or of a PUBLISH at QoS 1."""
        at = 2 + int.from_bytes(self.body[:2]) if self.kind == PUBLISH else 0
        return int.from_bytes(self.body[at : at + 2])


def receive_maximum(connect: Packet) -> int:
    """What a CONNECT of MQTT 5 announces (section 3.1.2.11.3). Knows the properties that edged sends."""
    sizes = {0x11: 4, 0x21: 2, 0x27: 4}
    at, end = 11, 11 + connect.body[10]
    while at < end:
        kind, at = connect.body[at], at + 1
        if kind == 0x21:
            return int.from_bytes(connect.body[at : at + 2])
        at += sizes[kind]
    raise AssertionError("it announces none")


def split(buffer: bytearray) -> Iterator[tuple[int, int, bytes]]:
    """Take the whole packets out of `buffer`: type, flags, and all that is behind the fixed header."""
    while len(buffer) >= 2:
        length, at = 0, 1
        while at < len(buffer) and buffer[at] & 0x80:
            length |= (buffer[at] & 0x7F) << 7 * (at - 1)
            at += 1
        if at >= len(buffer):
            return
        length |= buffer[at] << 7 * (at - 1)
        end = at + 1 + length
        if len(buffer) < end:
            return
        yield buffer[0] >> 4, buffer[0] & 0x0F, bytes(buffer[at + 1 : end])
        del buffer[:end]


def encode(kind: int, body: bytes) -> bytes:
    """A packet without flags and of less than 128 bytes."""
    return bytes((kind << 4, len(body))) + body
