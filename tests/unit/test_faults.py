"""Every way not to be connected has words that help."""

import errno
import socket
import ssl

import pytest

from edged.mqtt.faults import address_of, in_words
from edged.settings.schema import MqttSettings

TCP = MqttSettings(host="broker.lan")
UNIX = MqttSettings(host="/run/mqtt.sock", transport="unix")


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "settings", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), TCP, "the name 'broker.lan' cannot be resolved: Name or"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), TCP, "nothing listens at broker.lan:1883"),
        (untrusted(), TCP, "the certificate of broker.lan:1883 is not trusted: self-signed certificate"),
        (ssl.SSLError(1, "wrong version number"), TCP, "TLS with broker.lan:1883 failed: "),
        (TimeoutError("timed out"), TCP, "broker.lan:1883 did not answer in time"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), TCP, "broker.lan:1883 cannot be reached: Network is"),
        (FileNotFoundError(errno.ENOENT, "No such file"), UNIX, "there is no socket at /run/mqtt.sock"),
        (PermissionError(errno.EACCES, "Permission denied"), UNIX, "/run/mqtt.sock cannot be reached: Permission"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/etc/ca.crt"), TCP, "/etc/ca.crt: No such file"),
        (ConnectionError("WebSocket handshake error"), TCP, "broker.lan:1883: WebSocket handshake error"),
        (ValueError("what?"), TCP, "unexpected ValueError: what?"),
    ],
)
def test_a_fault_is_said_in_words(error: Exception, settings: MqttSettings, words: str) -> None:
    assert in_words(error, settings).startswith(words)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (TCP, "broker.lan:1883"),
        (MqttSettings(host="::1"), "[::1]:1883"),
        (MqttSettings(host="b", transport="websockets", websocket_path="/ws"), "b:9001/ws"),
        (UNIX, "/run/mqtt.sock"),
    ],
)
def test_an_address_is_written_as_an_operator_would(settings: MqttSettings, where: str) -> None:
    assert address_of(settings) == where
