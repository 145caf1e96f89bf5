"""Tells systemd the state of the service: sd_notify(3), over a datagram socket. Without a socket it does nothing.

An error of that socket never stops the daemon.
"""

import socket

import structlog

log = structlog.get_logger(__name__)

_SEND_S = 1.0


class Notifier:
    """Sends the states of sd_notify(3)."""

    def __init__(self, address: str | None) -> None:
        """`address` is $NOTIFY_SOCKET: a path, or `@` and an abstract name; None outside systemd."""
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        self._said = ""
        self._complained = False

    def ready(self) -> None:
        """The service has started."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows; it is sent when it has changed."""
        line = " ".join(text.split())
        if line != self._said:
            self._said = line
            self._send(f"STATUS={line}")

    def watchdog(self) -> None:
        """The service is alive: the watchdog starts to count anew."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for this many more seconds to start or to stop."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def stopping(self) -> None:
        """The service has begun to stop."""
        self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to_systemd:
                to_systemd.settimeout(_SEND_S)
                # A path in a status line may have bytes that are not text.
                to_systemd.sendto(state.encode(errors="replace"), self._address)
        except OSError as error:
            if not self._complained:
                log.debug("notify_failed", state=state, reason=str(error))
            self._complained = True
