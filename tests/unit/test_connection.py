"""A PUBLISH whose properties paho cannot read is parsed here, and private methods of paho are overridden."""

import contextlib
import inspect

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.exception import MalformedPacket

from edged.mqtt.connection import without_properties


def variable_byte_integer(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


@given(
    topic=st.text(max_size=20),
    packet_id=st.none() | st.integers(1, 65535),
    length=st.integers(0, 20000),
    payload=st.binary(),
)
def test_only_the_properties_go(topic: str, packet_id: int | None, length: int, payload: bytes) -> None:
    head = len(topic.encode()).to_bytes(2) + topic.encode() + (b"" if packet_id is None else packet_id.to_bytes(2))
    publish = head + variable_byte_integer(length) + b"\xff" * length + payload
    assert without_properties(publish, has_packet_id=packet_id is not None) == head + b"\0" + payload


@given(publish=st.binary(max_size=30), has_packet_id=st.booleans())
def test_rubbish_is_called_so(publish: bytes, has_packet_id: bool) -> None:
    with contextlib.suppress(MalformedPacket):
        without_properties(publish, has_packet_id=has_packet_id)


@pytest.mark.parametrize("publish", [b"", b"\0", b"\0\5abc", b"\0\1a", b"\0\1a\0", b"\0\1a\0\1", b"\0\1a\0\1\x80"])
def test_what_ends_too_early_is_malformed(publish: bytes) -> None:
    with pytest.raises(MalformedPacket):
        without_properties(publish, has_packet_id=True)


@pytest.mark.parametrize(
    ("name", "parameters", "gives"),
    [
        ("_sock_send", ("self", "buf"), "int"),
        ("_sock_recv", ("self", "bufsize"), "bytes"),
        ("_create_unix_socket_connection", ("self",), "_socket.socket"),
        ("_handle_publish", ("self",), "MQTTErrorCode"),
    ],
)
def test_paho_has_the_private_methods_that_are_overridden(name: str, parameters: tuple[str, ...], gives: str) -> None:
    signature = inspect.signature(getattr(paho.Client, name))
    assert (tuple(signature.parameters), signature.return_annotation) == (parameters, gives)
    calls = f"self.{name}("
    assert calls in inspect.getsource(paho), "the method is there, but paho does not call it any more"


def test_paho_has_the_private_attributes_that_are_read() -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.host = "broker.lan"
    assert client._host == "broker.lan"
    assert {"command", "packet"} <= client._in_packet.keys()
