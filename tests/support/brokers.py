"""Brokers other than Debian's own mosquitto: RabbitMQ, Aedes and a newer mosquitto, each private to a test.

`tests/fetch_broker.sh` unpacks them below EDGED_TEST_BROKERS. Each serves a free port of 127.0.0.1, keeps its files in
a folder of its own and is gone with the test.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from edged.settings.schema import MqttSettings
from tests.support import assets
from tests.support.broker import Broker, free_port, until_listening
from tests.support.waiting import TIMEOUT, eventually


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """What a broker was seen to do; the documentation's table of brokers has the same.

    Attributes:
        version: the newest version of MQTT that it speaks.
        marks_redelivery: it sets DUP when it sends a message again.
        keeps_packet_ids: what it sends again has the packet id that it had.
        qos_0_overtakes: messages at QoS 0 come while those at QoS 1 wait for acks.
        in_flight: QoS 1 messages that it sends without an ack, where more are allowed; None: no end was seen.
        retained_by_wildcard: a subscription with a wildcard gets retained messages.
        keeps_dots: a dot in a topic comes as a dot.
        shares: it deals the messages of a shared subscription.
        stores_first: it acknowledges a message at QoS 1 after it has stored it, so that none is lost when it is killed.
    """

    version: Literal["5", "3.1.1"] = "5"
    marks_redelivery: bool = True
    keeps_packet_ids: bool = True
    qos_0_overtakes: bool = True
    in_flight: int | None = None
    retained_by_wildcard: bool = True
    keeps_dots: bool = True
    shares: bool = True
    stores_first: bool = True


_RABBIT = Ability(
    keeps_packet_ids=False,
    qos_0_overtakes=False,
    in_flight=10,
    retained_by_wildcard=False,
    keeps_dots=False,
    shares=False,
)
ABILITIES = {
    "mosquitto-2.1": Ability(),
    "rabbitmq-3.10": replace(_RABBIT, version="3.1.1"),
    "rabbitmq-4.0": _RABBIT,
    "aedes": Ability(version="3.1.1", marks_redelivery=False, shares=False, stores_first=False),
}
OTHERS = tuple(ABILITIES)


@dataclass(slots=True, kw_only=True)
class OtherBroker(ABC):
    """A broker in processes of its own.

    Attributes:
        program: the folder that `tests/fetch_broker.sh` filled.
        folder: where its files live.
    """

    program: Path
    folder: Path
    port: int = field(default_factory=free_port)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @abstractmethod
    def _commands(self) -> Sequence[tuple[Sequence[str | Path], Path | None]]:
        """What to run, in order, each with the file that is its standard input. The last one is the broker."""

    def _environment(self) -> Mapping[str, str]:
        return {}

    @property
    def _data(self) -> Path:
        """The folder with all that the broker knows when it starts again."""
        return self.folder / "data"

    def settings(self, **more: object) -> MqttSettings:
        """How to reach it, unless `more` says otherwise."""
        return MqttSettings.model_validate({"host": "127.0.0.1", "port": self.port, "keepalive": 5} | more)

    def start(self) -> None:
        """Start, and wait until it listens. After `kill` it comes back on the same port, with the same sessions."""
        for command, script in self._commands():
            with (
                (self.folder / "broker.log").open("ab") as log,
                (script or Path(os.devnull)).open("rb") as standard_input,
            ):
                process = subprocess.Popen(
                    command,
                    cwd=self.program,
                    env={**os.environ, **self._environment()},
                    stdin=standard_input,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # it has children, and all of them are to get our signals
                )
            self._processes.append(process)
        until_listening(self.port)

    def log(self) -> str:
        return (self.folder / "broker.log").read_text(errors="replace")

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def forget(self) -> None:
        """Take away what it would know when it starts again. Only while it does not run."""
        shutil.rmtree(self._data, ignore_errors=True)

    def freeze(self) -> None:
        """Let it stay connected and answer nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for each in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(signal.SIGCONT)
        for each in reversed(self._processes):  # the broker first, then what it needs
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, number)
            each.wait(TIMEOUT)
        self._processes.clear()


class Aedes(OtherBroker):
    """The npm package, with its sessions in a database."""

    def _commands(self) -> Sequence[tuple[Sequence[str | Path], Path | None]]:
        return [(("node", "--input-type=module", "-"), Path(__file__).with_name("aedes_broker.mjs"))]

    def _environment(self) -> Mapping[str, str]:
        return {"PORT": str(self.port), "FOLDER": str(self._data)}

    def wait_acked(self, client_id: str, number: int) -> None:
        """Wait until it has stored this number of acks of a client: it confirms later packets before that."""
        eventually(lambda: self.log().count(f"acked {client_id}\n") >= number, f"{number} acks of {client_id}")

    def wait_resent(self, client_id: str) -> None:
        """Wait until it has sent a connected client again what was not acknowledged: new messages come before that."""
        eventually(lambda: self._is_ready(client_id), f"the end of what {client_id} is sent again")

    def _is_ready(self, client_id: str) -> bool:
        log = self.log()
        return log.rfind(f"ready {client_id}\n") > log.rfind(f"connected {client_id} ")


@dataclass(slots=True, kw_only=True)
class RabbitMq(OtherBroker):
    """RabbitMQ with its MQTT plugin, and the name server (epmd) without which it does not start."""

    _epmd_port: int = field(default_factory=free_port)
    _distribution_port: int = field(default_factory=free_port)

    def _commands(self) -> Sequence[tuple[Sequence[str | Path], Path | None]]:
        (self.folder / "plugins").write_text("[rabbitmq_mqtt].\n")
        (self.folder / "rabbitmq.conf").write_text("\n".join(self._config()) + "\n")
        epmd = (self.program / "bin/epmd", "-address", "127.0.0.1", "-port", str(self._epmd_port))
        return [(epmd, None), ((self.program / "bin/rabbitmq-server",), None)]

    def _config(self) -> list[str]:
        return [
            "listeners.tcp = none",  # no AMQP
            f"mqtt.listeners.tcp.1 = 127.0.0.1:{self.port}",
            "mqtt.allow_anonymous = true",
            "log.file = false",
            "log.console = true",
            "log.console.level = info",
        ]

    def _environment(self) -> Mapping[str, str]:
        folder = self.folder
        return {
            "PATH": f"{self.program / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),  # for its cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RUNNING_UNDER_SYSTEMD": "true",  # no shell between it and us
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self._data),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_NODENAME": "edged@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +SDio 4",
        }


AnyBroker = Broker | OtherBroker


def make(name: str, folder: Path) -> AnyBroker:
    """One of `OTHERS`, not yet started."""
    program = assets.other_broker(name)
    if name.startswith("mosquitto"):
        return Broker(folder=folder, program=str(program / "bin/mosquitto"), config=["max_queued_messages 0"])
    return (Aedes if name == "aedes" else RabbitMq)(program=program, folder=folder)
