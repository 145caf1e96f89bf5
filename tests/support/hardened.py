"""mosquitto as deploy/mosquitto/setup.sh leaves it on a box."""

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import assets
from tests.support.broker import Broker, free_port
from tests.support.peer import Peer

SETUP = Path(__file__).parents[2] / "deploy" / "mosquitto"
ALL = "everything"  # a user of the tests' own


@dataclass(slots=True, kw_only=True)
class HardenedBroker(Broker):
    """mosquitto as deploy/mosquitto/setup.sh leaves it on a box, but on free ports and below a folder."""

    tls_port: int = field(default_factory=free_port)
    plain_websocket_port: int = field(default_factory=free_port)
    passwords: dict[str, str] = field(default_factory=dict)

    @property
    def etc(self) -> Path:
        return self.folder / "etc"

    @property
    def ca(self) -> Path:
        return self.etc / "mosquitto/edged/ca.crt"

    def set_up(self) -> None:
        tools = assets.mosquitto_client("mosquitto_passwd").parent
        done = subprocess.run(
            ["sh", str(SETUP / "setup.sh"), "--root", str(self.folder), "--name", "box.lan"],
            env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        self.passwords |= dict(re.findall(r"password of (\w+): (\w+)", done.stdout))
        self.passwords["edged"] = (self.etc / "edged/credentials/password").read_text().strip()
        for user in ("ada", ALL):
            self.passwords[user] = f"{user}'s password"
            file = self.etc / "mosquitto/edged/passwd"
            command = [str(tools / "mosquitto_passwd"), "-b", str(file), user, self.passwords[user]]
            subprocess.run(command, check=True, timeout=60)
        with (self.etc / "mosquitto/edged/acl").open("a") as acl:
            acl.write(f"\nuser {ALL}\ntopic readwrite #\n")

    def _lines(self) -> list[str]:
        """The lines of Debian's mosquitto.conf, then those of our setup script."""
        config = (self.etc / "mosquitto/conf.d/edged.conf").read_text().replace("/etc/", f"{self.etc}/")
        for shipped, free in ((8883, self.tls_port), (9443, self.websocket_port)):
            config = config.replace(f"listener {shipped}", f"listener {free} 127.0.0.1")
        config = config.replace("listener 1883", f"listener {self.port}")
        config = config.replace("listener 9001", f"listener {self.plain_websocket_port}")
        return ["user root", "persistence true", f"persistence_location {self.folder}/", *config.splitlines()]

    def peer(self, user: str, password: str | None = None, *, websockets: bool = False) -> Peer:
        login = (user, self.passwords[user] if password is None else password)
        return Peer(
            self.websocket_port if websockets else self.tls_port, login=login, ca=self.ca, websockets=websockets
        )
