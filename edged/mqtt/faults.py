"""Why there is no connection, in words for an operator: what happened, and which setting to look at. Pure."""

import socket
import ssl

from edged.mqtt.tls import TlsFileError
from edged.settings.schema import MqttSettings
from edged.settings.text import variable

_CLOCK = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED
_UNKNOWN_AUTHORITY = (18, 19, 20, 21)  # self-signed, or without the certificate of the authority
_STRICT = range(80, 95)  # reported only with VERIFY_X509_STRICT: X509_V_ERR_PATHLEN_INVALID_FOR_NON_CA and higher codes
_NO_TLS = {"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"}
_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "wants a client certificate: set mqtt.tls.cert and mqtt.tls.key",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "refuses the handshake; if it wants a client certificate, set mqtt.tls.cert and "
    "mqtt.tls.key",
    "TLSV1_ALERT_UNKNOWN_CA": "does not trust the authority of our certificate (mqtt.tls.cert)",
    "SSLV3_ALERT_BAD_CERTIFICATE": "refuses our certificate (mqtt.tls.cert)",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "says that our certificate (mqtt.tls.cert) has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "says that our certificate (mqtt.tls.cert) is revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "refuses our certificate (mqtt.tls.cert)",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "refuses the kind of our certificate (mqtt.tls.cert)",
}
_TLS_PORT = "set mqtt.port to its port for TLS (8883 is usual), or leave out mqtt.tls"
_ALERT_RECORD = b"\x15"  # the type of a TLS record (RFC 8446, section 5.1)
_CONNACK = b"\x20"


def in_words(error: Exception, settings: MqttSettings) -> str:
    """What `error`, raised while connecting or connected, means, and what to check."""
    where = address_of(settings)
    # The order matters: the first ones are special cases of the later ones.
    match error:
        case TlsFileError():
            return str(error)
        case socket.gaierror():
            return f"the name {settings.host!r} cannot be resolved: {error.strerror}"
        case ssl.SSLError():
            return _tls_in_words(error, settings)
        case TimeoutError():
            return _timeout_in_words(error, where)
        case ConnectionError():
            return _connection_in_words(error, settings)
        case FileNotFoundError() if error.filename is None:  # connect() names no file, open() does
            return f"there is no socket at {where}"
        case OSError(filename=str(filename)):
            return f"{filename}: {error.strerror}"
        case OSError(errno=int()):
            return f"{where} cannot be reached: {error.strerror or error}"
    return f"unexpected {type(error).__name__}: {error}"


def unanswered_in_words(settings: MqttSettings) -> str:
    """What to check if the broker closes the connection instead of answering CONNECT."""
    where = address_of(settings)
    if settings.transport == "unix":
        return f"is {where} the socket of an MQTT broker?"
    causes = []
    if not settings.tls.is_on:
        causes.append("it wants TLS (set mqtt.tls.ca or mqtt.tls.enabled)")
    elif settings.tls.cert is None:
        causes.append("it wants a client certificate (set mqtt.tls.cert and mqtt.tls.key)")
    if settings.transport == "tcp":
        causes.append("it speaks MQTT over WebSocket (set mqtt.transport)")
    return f"perhaps {where} is not the port of the broker (mqtt.port), or {', or '.join(causes)}"


def other_protocol_in_words(first_bytes: bytes, settings: MqttSettings) -> str | None:
    """The protocol at the broker's address, judged by its first bytes; None if that may be MQTT."""
    where = address_of(settings)
    if not first_bytes or first_bytes.startswith(_CONNACK):
        return None
    if first_bytes.startswith(_ALERT_RECORD):
        return f"{where} speaks TLS: set mqtt.tls.ca to the file of its certificate authority, or mqtt.tls.enabled"
    if first_bytes.startswith(b"H"):  # HTTP/1.1 400, of a WebSocket listener too
        return (
            f'{where} speaks HTTP: for MQTT over WebSocket set mqtt.transport to "websockets"; else set mqtt.port to '
            "the port of the broker"
        )
    return f"what listens at {where} is not an MQTT broker: check mqtt.host and mqtt.port"


def login_in_words(settings: MqttSettings) -> str:
    """What to set if the broker does not accept the user."""
    names = f"{variable('mqtt.username')} and {variable('mqtt.password')}"
    places = f"also as {names}, or as the credentials mqtt_username and mqtt_password"
    if settings.username is None and settings.password is None:
        return f"it wants a user name and a password: set mqtt.username and mqtt.password ({places})"
    if settings.password is None:
        return f"mqtt.username is set without mqtt.password ({places})"
    return f"check mqtt.username and mqtt.password ({places}), and that the broker knows this user"


def address_of(settings: MqttSettings) -> str:
    """The broker's address as an operator would write it."""
    if settings.transport == "unix":
        return settings.host
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    path = settings.websocket_path if settings.transport == "websockets" else ""
    return f"{host}:{settings.resolved_port}{path}"


def _timeout_in_words(error: TimeoutError, where: str) -> str:
    reason = f": {error}" if str(error) else ""
    tls = "; does this port speak TLS?" if "handshake" in reason else ""
    return f"{where} did not answer in time{reason}{tls}"


def _connection_in_words(error: ConnectionError, settings: MqttSettings) -> str:
    where = address_of(settings)
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {where}"
    if isinstance(error, ConnectionResetError) and settings.tls.is_on:
        return f"{where} closed the connection during the TLS handshake; if it does not speak TLS, {_TLS_PORT}"
    if settings.transport == "websockets":
        tls = "" if settings.tls.is_on else ", and whether it wants TLS (mqtt.tls)"
        return (
            f"{where} does not take the WebSocket handshake: check mqtt.port (its port for WebSocket; 9001 is usual) "
            f'and mqtt.websocket_path{tls}; for MQTT without WebSocket set mqtt.transport to "tcp"'
        )
    return f"{where}: {error}" if error.errno is None else f"{where} cannot be reached: {error.strerror or error}"


def _tls_in_words(error: ssl.SSLError, settings: MqttSettings) -> str:
    where = address_of(settings)
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = _certificate_remedy(error.verify_code, settings)
        return f"the certificate of {where} is not trusted: {error.verify_message}{remedy}"
    if error.reason in _NO_TLS:
        return f"{where} does not speak TLS: {_TLS_PORT}"
    if isinstance(error, ssl.SSLEOFError):
        return f"{where} closed the connection during the TLS handshake; if it does not speak TLS, {_TLS_PORT}"
    if error.reason in _ALERTS:
        return f"{where} {_ALERTS[error.reason]}"
    return f"TLS with {where} failed: {error.strerror or error}"


def _certificate_remedy(verify_code: int, settings: MqttSettings) -> str:
    if verify_code in _STRICT and settings.tls.strict:
        return (
            "; make the authority again with basicConstraints = critical, CA:TRUE and keyUsage = critical, "
            "keyCertSign, or accept it as it is with mqtt.tls.strict = false"
        )
    if verify_code in _CLOCK:
        return "; is the clock of this box right?"
    if verify_code in _UNKNOWN_AUTHORITY:
        return "; set mqtt.tls.ca to the certificate of the authority that signed it"
    return ""
