"""A trial of the images: the one of deploy/Containerfile, whole and for serving, and that of the Home Assistant add-on.

usage: sudo python3 -m tests.trials.images MODEL.gguf MOSQUITTO [-v SOURCE:TARGET ...] [--without-addon]

MODEL.gguf is a small real model, MOSQUITTO the broker's program with its clients beside it. Each -v is given to the
build, for package servers on this disk. Needs root, and `apt install buildah podman runc debootstrap`. Prints what it
saw.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from tests.trials.box import CACHE, NotAsExpected, expect, say, until

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/debian:12-slim"
MOST_MB, MOST_MB_SERVING = 700, 350
TEXT = "I love this phone, the camera is amazing!"
KEY = "0123456789abcdef"
# podman would raise the limits, which root may not do everywhere; and leave the health check to a timer of systemd.
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--no-healthcheck")
START = ("podman", "--runtime", "runc", "run", "--network", "host", *_LIMITS)
READ_ONLY = ("--read-only", "--tmpfs", "/tmp")  # noqa: S108 - the container's
# What Debian's own slim image leaves out.
_SLIM = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache/apt", "var/lib/apt/lists")
_EXCLUDES = "".join(f"path-exclude /{each}/*\n" for each in _SLIM[:4])


def output(*command: str, check: bool = True, timeout_s: float = 600) -> str:
    """What a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    if check and done.returncode:
        raise NotAsExpected(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    return done.stdout.strip()


def make_base() -> None:
    """Debian's slim image, made by debootstrap where no registry is in reach."""
    if output("podman", "images", "-q", BASE):
        return
    root = CACHE / "slim"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    output("debootstrap", "--variant=minbase", "bookworm", str(root), timeout_s=1800)
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(_EXCLUDES)
    for each in _SLIM:
        shutil.rmtree(root / each, ignore_errors=True)
        (root / each).mkdir(parents=True)
    (root / "var/cache/apt/archives/partial").mkdir(parents=True)
    tar = CACHE / "slim.tar"
    output("tar", "-C", str(root), "-cf", str(tar), ".")
    output("podman", "import", str(tar), BASE)
    tar.unlink()


def build(name: str, folder: Path, file: Path, *more: str) -> int:
    """Build an image; gives its size in MB."""
    command = [
        "buildah",
        "bud",
        "--isolation",
        "chroot",
        "--network",
        "host",
        "--pull-never",
        "--layers",
        "--format",
        "docker",
    ]
    output(*command, *more, "-t", name, "-f", str(file), str(folder), timeout_s=3600)
    return int(output("podman", "image", "inspect", "--format", "{{.Size}}", name)) // 1_000_000


class Running:
    """A container that runs by itself."""

    def __init__(self, name: str) -> None:
        self.name = name

    def log(self) -> str:
        done = subprocess.run(["podman", "logs", self.name], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def run(self, *command: str, check: bool = True) -> str:
        return output("podman", "exec", self.name, *command, check=check)

    def is_up(self) -> bool:
        state = output("podman", "inspect", "--format", "{{.State.Running}}", self.name)
        if state != "true":
            raise NotAsExpected(f"{self.name} has ended:\n{self.log()[-3000:]}")
        return True

    def stop(self) -> tuple[float, int]:
        """SIGTERM; gives seconds and exit code."""
        began = time.monotonic()
        output("podman", "stop", "-t", "60", self.name)
        code = int(output("podman", "inspect", "--format", "{{.State.ExitCode}}", self.name))
        return time.monotonic() - began, code


@contextmanager
def running(image: str, *options: str) -> Iterator[Running]:
    """Start a container beside the broker; it is removed in the end."""
    name = "edged-trial"
    output("podman", "rm", "-f", "-i", name)
    command = [*START, "-d", "--name", name]
    output(*command, *options, image)
    try:
        yield Running(name)
    finally:
        output("podman", "rm", "-f", "-i", "-t", "5", name)


def once(image: str, *command: str, options: tuple[str, ...] = ()) -> str:
    """Run one command in a new container."""
    start = [*START, "--rm", *READ_ONLY]
    return output(*start, *options, image, *command, timeout_s=1800)


class Broker:
    """mosquitto on a port of its own, for everybody on this machine."""

    def __init__(self, program: Path, folder: Path, port: int) -> None:
        self.port = port
        self._clients = program.parent
        settings = folder / "mosquitto.conf"
        settings.write_text(f"user root\nlistener {port} 127.0.0.1\nallow_anonymous true\n")
        environment = os.environ | {"LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}
        self.process = subprocess.Popen([str(program), "-c", str(settings)], stderr=subprocess.DEVNULL, env=environment)

    def ask(self, topic: str, text: str) -> dict[str, object]:
        """One request by mosquitto's own client."""
        command = [str(self._clients / "mosquitto_rr"), "-h", "127.0.0.1", "-p", str(self.port), "-V", "5", "-q", "1"]
        told = output(*command, "-W", "120", "-e", "edged/trial/replies", "-t", topic, "-m", text)
        answer: dict[str, object] = json.loads(told)
        return answer

    def read(self, topic: str) -> str:
        """A retained message, or nothing."""
        command = [str(self._clients / "mosquitto_sub"), "-h", "127.0.0.1", "-p", str(self.port), "-W", "2", "-C", "1"]
        return output(*command, "-t", topic, check=False)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def serve(image: str, broker: Broker, *options: str) -> None:
    """A daemon in the image answers over MQTT, says that it is well, and ends in order."""
    given = ("-e", "EDGED_NODE=trial", "-e", f"EDGED_MQTT__PORT={broker.port}", *READ_ONLY)
    began = time.monotonic()
    with running(image, *given, "--cap-drop=all", *options) as box:
        until(lambda: box.is_up() and '"ready"' in broker.read("edged/trial/status"), "it is ready", 1200)
        say("ready", f"after {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.0f}")
        answered(broker, "trial")
        expect("positive" in box.run("edged", "ask", TEXT), "edged ask inside")
        health = json.loads(output("podman", "image", "inspect", "--format", "{{json .HealthCheck}}", image) or "null")
        if health is not None:
            box.run(*health["Test"][1:])
            say("the health check's command ends with 0")
        expect(box.run("id", "-un") == "edged", "it runs as user edged")
        memory = box.run("sh", "-c", "grep VmRSS /proc/1/status")
        say("memory", " ".join(memory.split()))
        took, code = box.stop()
        expect(code == 0, "SIGTERM ends it in order", f"{took:.0f} s, exit {code}")


def answered(broker: Broker, node: str) -> None:
    """One message through MQTT."""
    answer = broker.ask(f"edged/{node}/in/message", TEXT)
    expect(answer["status"] == "ok", "a message is answered", json.dumps(answer["sentiment"]))
    expect("positive" in json.dumps(answer["sentiment"]), "its label is right", json.dumps(answer["reply"])[:80])


def whole_image(broker: Broker, model: Path, work: Path, volumes: list[str]) -> Path:
    """The image with torch: size, preparation, dense formats, a daemon; gives the folder with an exported bundle."""
    size = build("localhost/edged", ROOT, ROOT / "deploy/Containerfile", *volumes)
    expect(size < MOST_MB, "the whole image", f"{size} MB")
    cache = work / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    mounts: tuple[str, ...] = ("-v", f"{cache}:/var/cache/edged", "-v", f"{model.resolve()}:/models/{model.name}:ro")
    mounts += ("-e", f"EDGED_MODEL__ID=/models/{model.name}")
    say("prepared", once("localhost/edged", "edged", "models", "prepare", options=mounts).splitlines()[-1])
    export = ("edged", "models", "export", f"/models/{model.name}", "/var/cache/edged/b.tar")
    once("localhost/edged", *export, options=mounts)
    for form in ("int4", "bf16", "fp32"):
        serve("localhost/edged", broker, *mounts, "-e", f"EDGED_MODEL__FORMAT={form}")
    serve("localhost/edged", broker, *mounts)
    return cache


def serving_image(broker: Broker, bundles: Path, work: Path, volumes: list[str]) -> None:
    """The image without torch, with the bundle that the whole one exported."""
    name = "localhost/edged-serve"
    size = build(name, ROOT, ROOT / "deploy/Containerfile", "--build-arg", "INSTALL=--serve", *volumes)
    expect(size < MOST_MB_SERVING, "the image for serving", f"{size} MB")
    cache = work / "serving"
    cache.mkdir()
    cache.chmod(0o777)
    mounts = ("-v", f"{cache}:/var/cache/edged", "-v", f"{bundles}:/models:ro", "-e", "EDGED_MODEL__ID=small")
    once(name, "edged", "models", "import", "/models/b.tar", "--name", "small", options=mounts)
    serve(name, broker, *mounts)


class Supervisor(BaseHTTPRequestHandler):
    """Home Assistant's supervisor, as far as the add-on asks it."""

    broker_port = 0

    def do_GET(self) -> None:
        known = self.path == "/services/mqtt" and self.headers["Authorization"] == "Bearer token"
        data = {"host": "127.0.0.1", "port": self.broker_port, "ssl": False, "username": None, "password": None}
        body = json.dumps({"result": "ok", "data": data}).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def addon(broker: Broker, bundles: Path, work: Path) -> None:
    """The add-on's image, started as the supervisor starts it: options in /data, the broker by the supervisor.

    Its environment is copied from the whole image, which spares the second installation.
    """
    folder = work / "addon"
    output("sh", str(ROOT / "deploy/homeassistant/make.sh"), str(folder))
    text = (folder / "Dockerfile").read_text()
    head, _, rest = text.partition("FROM debian:12-slim AS build\n")
    rest = rest[rest.index("# The image is built on the box") :]
    (folder / "Dockerfile").write_text(f"{head}FROM localhost/edged AS build\n{rest}")
    say("the add-on's image", f"{build('localhost/edged-addon', folder, folder / 'Dockerfile')} MB")
    data = work / "data"
    (data / "models").mkdir(parents=True)
    shutil.copytree(bundles, data / "models", dirs_exist_ok=True)
    options: dict[str, object] = {
        "node": "homeassistant",
        "model": "/share/model.gguf",
        "format": "int8",
        "language": "en",
    }
    options |= {"discovery": True, "threads": 0, "log_level": "info", "api_key": KEY}
    (data / "options.json").write_text(json.dumps(options))
    Supervisor.broker_port = broker.port
    with HTTPServer(("127.0.0.2", 80), Supervisor) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        model = next(iter(work.glob("*.gguf")))
        given = ("-e", "SUPERVISOR_TOKEN=token", "--add-host", "supervisor:127.0.0.2", "-v", f"{data}:/data")
        with running("localhost/edged-addon", *given, "-v", f"{model}:/share/model.gguf:ro") as box:
            until(lambda: box.is_up() and '"ready"' in broker.read("edged/homeassistant/status"), "it is ready", 1200)
            answered(broker, "homeassistant")
            expect(broker.read("homeassistant/device/+/config") != "", "the device is announced")
            ask = "import urllib.request as u, json; r = u.Request('http://127.0.0.1:8080/v1/completions', json.dumps("
            ask += "{'model': 'edged/sentiment', 'prompt': 'I love it'}).encode(), {'Authorization': 'Bearer "
            ask += f"{KEY}', 'Content-Type': 'application/json'}}); print(u.urlopen(r).read().decode())"
            expect("positive" in box.run("python3", "-c", ask), "OpenAI's API answers with the key")
            page = "import urllib.request as u; u.urlopen('http://127.0.0.1:8099/')"
            done = subprocess.run(
                ["podman", "exec", box.name, "python3", "-c", page], capture_output=True, text=True, check=False
            )
            expect("403" in done.stderr, "the page is for the supervisor's address alone", "403")
            user = box.run("sh", "-c", "stat -c %U /proc/1")
            expect(user == "edged", "it runs as user edged")
            took, code = box.stop()
            expect(code == 0, "SIGTERM ends it in order", f"{took:.0f} s, exit {code}")
        server.shutdown()


def main() -> None:
    arguments = argparse.ArgumentParser(usage=(__doc__ or "").split("\n\n")[1])
    arguments.add_argument("model", type=Path)
    arguments.add_argument("mosquitto", type=Path)
    arguments.add_argument("-v", action="append", default=[])
    arguments.add_argument("--without-addon", action="store_true")
    given = arguments.parse_args()
    volumes = [part for each in given.v for part in ("-v", each)]
    make_base()
    with tempfile.TemporaryDirectory(prefix="edged-images-") as folder:
        work = Path(folder)
        work.chmod(0o755)
        shutil.copy(given.model, work)
        broker = Broker(given.mosquitto, work, 21883)
        try:
            bundles = whole_image(broker, given.model, work, volumes)
            if not given.without_addon:
                addon(broker, bundles, work)
            serving_image(broker, bundles, work, volumes)
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
