"""Every way not to be connected has words that help."""

import errno
import socket
import ssl

import pytest

from edged.mqtt.faults import address_of, in_words, login_in_words, other_protocol_in_words, unanswered_in_words
from edged.mqtt.tls import TlsFileError
from edged.settings.schema import MqttSettings, TlsSettings

TCP = MqttSettings(host="broker.lan")
UNIX = MqttSettings(host="/run/mqtt.sock", transport="unix")
TLS = MqttSettings(host="broker.lan", tls=TlsSettings(enabled=True))
WEBSOCKET = MqttSettings(host="b", transport="websockets", websocket_path="/ws")
UNTRUSTED = "the certificate of broker.lan:1883 is not trusted: "


def untrusted(code: int = 18, message: str = "self-signed certificate") -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, message
    return error


def tls_error(reason: str | None, kind: type[ssl.SSLError] = ssl.SSLError) -> ssl.SSLError:
    error = kind(1, "wrong version number")
    error.reason = reason  # type: ignore[assignment]  # OpenSSL has none for some errors
    return error


@pytest.mark.parametrize(
    ("error", "settings", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), TCP, "the name 'broker.lan' cannot be resolved: Name or"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), TCP, "nothing listens at broker.lan:1883"),
        (untrusted(), TCP, "the certificate of broker.lan:1883 is not trusted: self-signed certificate"),
        (
            untrusted(92, "CA cert does not include key usage extension"),
            TCP,
            UNTRUSTED + "CA cert does not",
        ),
        (tls_error(None), TCP, "TLS with broker.lan:1883 failed: "),
        (
            tls_error("WRONG_VERSION_NUMBER"),
            TCP,
            "broker.lan:1883 does not speak TLS: set mqtt.port to its port",
        ),
        (tls_error(None, ssl.SSLEOFError), TCP, "broker.lan:1883 closed the connection during the TLS handshake"),
        (
            tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
            TCP,
            "broker.lan:1883 wants a client certificate: set",
        ),
        (TlsFileError("ca.crt (mqtt.tls.ca) is empty"), TCP, "ca.crt (mqtt.tls.ca) is empty"),
        (
            TimeoutError("The handshake operation timed out"),
            TCP,
            "broker.lan:1883 did not answer in time: The",
        ),
        (ConnectionResetError(errno.ECONNRESET, "reset"), TCP, "broker.lan:1883 cannot be reached: reset"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), TLS, "broker.lan:8883 closed the connection during the TLS"),
        (ConnectionError("WebSocket handshake error"), WEBSOCKET, "b:9001/ws does not take the WebSocket handshake"),
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
        (WEBSOCKET, "b:9001/ws"),
        (UNIX, "/run/mqtt.sock"),
    ],
)
def test_an_address_is_written_as_an_operator_would(settings: MqttSettings, where: str) -> None:
    assert address_of(settings) == where


@pytest.mark.parametrize(
    ("code", "tls", "remedy"),
    [
        (92, TlsSettings(), "mqtt.tls.strict = false"),
        (85, TlsSettings(), "mqtt.tls.strict = false"),
        (18, TlsSettings(), "set mqtt.tls.ca"),
        (20, TlsSettings(), "set mqtt.tls.ca"),
        (10, TlsSettings(), "is the clock of this box right?"),
        (62, TlsSettings(), ""),  # the name does not match: the message says so
        (79, TlsSettings(), ""),  # not an authority at all: found with strict = false too
    ],
)
def test_a_certificate_that_is_not_trusted_has_a_remedy(code: int, tls: TlsSettings, remedy: str) -> None:
    said = in_words(untrusted(code, "why"), TCP.model_copy(update={"tls": tls}))
    assert remedy in said
    assert said.endswith("why") == (not remedy)


@pytest.mark.parametrize(
    ("first_bytes", "words"),
    [
        (b"", None),
        (b" ", None),  # 0x20, a CONNACK
        (b"\x15", "broker.lan:1883 speaks TLS: set mqtt.tls.ca"),
        (b"H", "broker.lan:1883 speaks HTTP: for MQTT over WebSocket set mqtt.transport"),
        (b"S", "what listens at broker.lan:1883 is not an MQTT broker"),  # SSH-2.0-...
    ],
)
def test_another_protocol_is_known_by_its_first_bytes(first_bytes: bytes, words: str | None) -> None:
    said = other_protocol_in_words(first_bytes, TCP)
    assert (said or "").startswith(words or "")
    assert (said is None) == (words is None)


@pytest.mark.parametrize(
    ("settings", "words", "not_said"),
    [
        (TCP, "it wants TLS", "client certificate"),
        (TLS, "it wants a client certificate", "it wants TLS"),
        (WEBSOCKET, "it wants TLS", "over WebSocket"),
        (UNIX, "is /run/mqtt.sock the socket of an MQTT broker?", "TLS"),
    ],
)
def test_what_may_be_wrong_when_the_broker_does_not_answer(settings: MqttSettings, words: str, not_said: str) -> None:
    said = unanswered_in_words(settings)
    assert words in said
    assert not_said not in said


@pytest.mark.parametrize(
    ("login", "words"),
    [
        ({}, "it wants a user name and a password: set mqtt.username and mqtt.password"),
        ({"username": "ada"}, "mqtt.username is set without mqtt.password"),
        ({"username": "ada", "password": "secret"}, "check mqtt.username and mqtt.password"),
    ],
)
def test_a_refused_user_is_told_what_to_set_and_where(login: dict[str, str], words: str) -> None:
    said = login_in_words(MqttSettings.model_validate(login))
    assert said.startswith(words)
    assert "EDGED_MQTT__PASSWORD" in said
    assert "mqtt_password" in said
    assert "ada" not in said
    assert "secret" not in said
