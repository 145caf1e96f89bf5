"""A mosquitto for one test: on free ports of 127.0.0.1 and on its own Unix socket."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edged.settings.schema import MqttSettings
from tests.support.waiting import TIMEOUT


def find_mosquitto() -> str:
    """The broker's program. If there is none, the test is skipped on a laptop and fails in CI."""
    # Debian puts it where the PATH of a plain user does not look.
    found = os.environ.get("EDGED_MOSQUITTO") or shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is not None:
        return found
    reason = "mosquitto is not installed (apt-get install mosquitto, or name it in EDGED_MOSQUITTO)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


_chance = random.SystemRandom()  # hypothesis seeds the other generator: all tests would get the same ports


def free_port() -> int:
    """A TCP port that nobody listens on now.

    It lies below those that Linux gives to outgoing connections: none of them takes it while its broker is down.
    """
    while True:
        port = _chance.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def until_listening(port: int) -> None:
    """Wait until a server accepts connections at this port."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.02)
    pytest.fail(f"nobody listens on port {port}")


@dataclass(slots=True, kw_only=True)
class Broker:
    """A mosquitto with one listener of each transport.

    Attributes:
        folder: where its files live; a Unix socket's path must be short.
        config: further lines of its configuration, valid for all listeners.
        tls: further lines that make the TCP listener speak TLS.
        program: another mosquitto than the one that `find_mosquitto` finds.
    """

    folder: Path
    config: Sequence[str] = ()
    tls: Sequence[str] = ()
    program: str | None = None
    port: int = field(default_factory=free_port)
    websocket_port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def unix_socket(self) -> Path:
        return self.folder / "mqtt.sock"

    def settings(self, **more: object) -> MqttSettings:
        """The settings of a client of this broker over TCP; `more` overrides them."""
        return MqttSettings.model_validate({"host": "127.0.0.1", "port": self.port, "keepalive": 5} | more)

    def start(self) -> None:
        """Start the broker and wait until it listens. After `kill` it has the same ports and sessions again."""
        program = self.program or find_mosquitto()
        config = self.folder / "mosquitto.conf"
        config.write_text("\n".join(self._lines()) + "\n")
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen([program, "-c", config, "-v"], stdout=log, stderr=log)
        self._wait_until_ready()

    def _lines(self) -> list[str]:
        return [
            "user root",  # if root starts it: stay root, who may write to our folder
            "per_listener_settings false",
            "persistence true",
            f"persistence_location {self.folder}/",
            "autosave_interval 1",
            "autosave_on_changes true",  # a killed broker must find its sessions again
            *(["allow_anonymous true"] if not any("password_file" in line for line in self.config) else []),
            *self.config,
            f"listener {self.port} 127.0.0.1",
            *self.tls,
            f"listener {self.websocket_port} 127.0.0.1",
            "protocol websockets",
            f"listener 0 {self.unix_socket}",
        ]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            try:
                for port in (self.port, self.websocket_port):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        pytest.fail(f"mosquitto does not start:\n{self.log()}")

    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text(errors="replace")

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the broker with SIGKILL, as a power cut would."""
        self._end(signal.SIGKILL)

    def forget(self) -> None:
        """Take away what it would know when it starts again. Only while it does not run."""
        (self.folder / "mosquitto.db").unlink(missing_ok=True)

    def freeze(self) -> None:
        """Stop the process with SIGSTOP: connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def reload(self) -> None:
        """Make the broker read its password and ACL files again."""
        self._signal(signal.SIGHUP)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(signal.SIGCONT)
        self._signal(number)
        if self._process is not None:
            self._process.wait(TIMEOUT)
            self._process = None
        self.unix_socket.unlink(missing_ok=True)
