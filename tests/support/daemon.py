"""The real daemon as a process, and mosquitto's clients to speak with it."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support import assets
from tests.support.broker import Broker
from tests.support.brokers import AnyBroker
from tests.support.waiting import TIMEOUT

READY_S = 300.0  # the model loads, on a busy box


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A message as mosquitto_sub printed it."""

    topic: str
    payload: str
    correlation: str = ""

    @property
    def json(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.payload)
        return body


class Watcher:
    """A running mosquitto_sub."""

    def __init__(self, broker: AnyBroker, *topics: str, version: str = "5") -> None:
        command = [str(assets.mosquitto_client("mosquitto_sub")), "-h", "127.0.0.1", "-p", str(broker.port)]
        command += ["-V", version, "-q", "1", "-F", "%t\t%D\t%p" if version == "5" else "%t\t\t%p"]
        for topic in topics:
            command += ["-t", topic]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace")
        self._arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            topic, correlation, payload = line.rstrip("\n").split("\t", 2)
            self._arrivals.put(Arrival(topic=topic, correlation=correlation, payload=payload))

    def next(self, timeout: float = TIMEOUT) -> Arrival:
        return self._arrivals.get(timeout=timeout)

    def next_json(self) -> dict[str, Any]:
        return self.next().json

    def until(self, **fields: Any) -> dict[str, Any]:
        """The next message whose JSON has these fields."""
        while True:
            body = self.next(READY_S).json
            if all(body.get(name) == value for name, value in fields.items()):
                return body

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        assert self._process.stdout is not None
        self._process.stdout.close()


def publish(
    broker: AnyBroker, topic: str, payload: str | bytes, *options: str, version: str = "5", qos: int = 1
) -> None:
    """Publish a message with mosquitto_pub; with the option `-l`, each line as one."""
    command = [str(assets.mosquitto_client("mosquitto_pub")), "-h", "127.0.0.1", "-p", str(broker.port), "-t", topic]
    raw = payload.encode() if isinstance(payload, str) else payload
    body = [] if "-l" in options else ["-s"] if raw else ["-n"]
    subprocess.run([*command, "-V", version, "-q", str(qos), *body, *options], input=raw, check=True, timeout=TIMEOUT)


_ROOT = Path(__file__).parents[2]


@dataclass(slots=True, kw_only=True)
class Daemon:
    """A daemon process: `edged run` on the small real model, or another program.

    Attributes:
        port: the port that the daemon is told, if that is a proxy's and not the broker's.
        python: the interpreter.
        program: its arguments.
        more: further settings, as environment variables.
    """

    folder: Path
    broker: AnyBroker
    node: str = "box"
    port: int | None = None
    python: str = sys.executable
    program: Sequence[str] = ("-m", "edged", "run")
    more: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> str:
        return f"edged/{self.node}"

    @property
    def environment(self) -> dict[str, str]:
        settings = {
            "EDGED_NODE": self.node,
            "EDGED_STATE_DIR": str(self.folder / "state"),
            "EDGED_MQTT__HOST": "127.0.0.1",
            "EDGED_MQTT__PORT": str(self.port or self.broker.port),
            "EDGED_MODEL__ID": str(assets.small_model()) if "edged" in self.program else "scripted",
            "EDGED_LOG__LEVEL": "debug",
        }
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        return {**os.environ, "PYTHONPATH": path, **settings, **self.more}

    @property
    def log(self) -> str:
        return (self.folder / "daemon.log").read_text()

    def start(self) -> None:
        with (self.folder / "daemon.log").open("ab") as log:
            self._process = subprocess.Popen([self.python, *self.program], env=self.environment, stdout=log, stderr=log)

    def wait_ready(self) -> None:
        watcher = Watcher(self.broker, f"{self.root}/status")
        try:
            watcher.until(state="ready")
        finally:
            watcher.stop()

    def stop(self) -> int:
        """End the daemon with SIGTERM; give its exit code."""
        return self.end(signal.SIGTERM)

    def kill(self) -> None:
        """End the daemon with SIGKILL, as a power cut would."""
        self.end(signal.SIGKILL)

    def reload(self) -> None:
        """Have the daemon read its settings again, as `systemctl reload` does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait until the process has ended; give its exit code."""
        assert self._process is not None
        return self._process.wait(TIMEOUT)

    @property
    def process(self) -> psutil.Process:
        """The process, for tests that measure or suspend it."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    @property
    def rss(self) -> int:
        rss: int = self.process.memory_info().rss
        return rss

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def command(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run another command of edged to its end, with the daemon's settings."""
        return run_edged(arguments, self.environment, text=text)


def run_edged(
    arguments: Sequence[str], environment: Mapping[str, str], *, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command of edged to its end, however long that takes: the test has a time limit of its own."""
    return subprocess.run(
        [sys.executable, "-m", "edged", *arguments],
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


SCRIPTED = ("-m", "tests.support.scripted_daemon")


@contextlib.contextmanager
def daemon_on_a_broker(
    *, program: Sequence[str] = SCRIPTED, more: Mapping[str, str] | None = None, settings: str = ""
) -> Iterator[Daemon]:
    """A broker, and a daemon on it that is not started yet; both end with the block.

    Args:
        program: see `Daemon`.
        more: see `Daemon`.
        settings: the text of its settings file.
    """
    with tempfile.TemporaryDirectory(prefix="edged-") as root:  # short: a Unix socket's path must be
        folder = Path(root)
        more = dict(more or {})
        if settings:
            (folder / "edged.toml").write_text(settings)
            more["EDGED_CONFIG"] = str(folder / "edged.toml")
        broker = Broker(folder=folder)
        broker.start()
        daemon = Daemon(folder=folder, broker=broker, program=program, more=more)
        try:
            yield daemon
        finally:
            daemon.kill()
            broker.stop()
