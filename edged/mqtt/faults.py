"""Why there is no connection, in words for an operator. Pure: turns an exception into a sentence."""

import socket
import ssl

from edged.settings.schema import MqttSettings


def in_words(error: Exception, settings: MqttSettings) -> str:
    """What `error`, raised while connecting or connected, means, and what to check."""
    where = address_of(settings)
    # The order matters: the first ones are special cases of the later ones.
    match error:
        case socket.gaierror():
            return f"the name {settings.host!r} cannot be resolved: {error.strerror}"
        case ssl.SSLCertVerificationError():
            return f"the certificate of {where} is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS with {where} failed: {error.strerror or error}"
        case TimeoutError():
            return f"{where} did not answer in time" + (f": {error}" if str(error) else "")
        case ConnectionRefusedError():
            return f"nothing listens at {where}"
        case FileNotFoundError() if error.filename is None:  # connect() names no file, open() does
            return f"there is no socket at {where}"
        case OSError(filename=str(filename)):
            return f"{filename}: {error.strerror}"
        case OSError(errno=int()):
            return f"{where} cannot be reached: {error.strerror or error}"
        case ConnectionError():
            return f"{where}: {error}"
    return f"unexpected {type(error).__name__}: {error}"


def address_of(settings: MqttSettings) -> str:
    """The broker's address as an operator would write it."""
    if settings.transport == "unix":
        return settings.host
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    path = settings.websocket_path if settings.transport == "websockets" else ""
    return f"{host}:{settings.resolved_port}{path}"
