"""`edged demo`: a private broker, the real daemon with a small real model, and messages by an independent client.

The demo starts broker and daemon as processes on loopback, in a temporary folder, and stops them at its end.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edged import extras, progress
from edged.commands.options import add_command
from edged.errors import BrokerUnavailable, ExitCode, ModelUnavailable, SettingsError
from edged.models.languages import languages_of

MESSAGES = (
    "I love this phone, the camera is amazing!",
    "The parcel came late, broken, and nobody answers my calls.",
    "My cat learned to open the door today.",
)
_CHINESE = ("今天心情很好！", "这个产品太差了，我非常失望。")
_NODE = "demo"
_READY_S = 900.0  # a first start on a slow or busy box: the weights are rounded
_ANSWER_S = 120.0


def add(commands: Any) -> None:
    """Add the command to the parser."""
    demo = add_command(
        commands,
        "demo",
        _demo,
        "run broker, daemon and sample messages on this machine",
        "edged demo",
        with_settings=False,
    )
    demo.add_argument("--model", default="smollm2-135m-instruct", help="preset, folder or GGUF file (%(default)s)")


def _demo(options: argparse.Namespace) -> ExitCode:
    if extras.is_missing("demo"):
        raise SettingsError(f"edged demo needs the library amqtt: {extras.how_to_install('demo')}")
    from edged.models.store import Store
    from edged.settings import load

    model_dir = load.load(flags={}, config_file=None).model_dir
    with progress.waiting(f"fetching {options.model}", has_bar=True):
        Store(model_dir).pull(options.model)
    return run(model=options.model, model_dir=model_dir)


def run(*, model: str, model_dir: Path) -> ExitCode:
    """Run the demo; gives the exit code.

    Raises:
        BrokerUnavailable: no broker can be started.
        ModelUnavailable: the daemon could not load the model.
    """
    import asyncio

    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="edged-demo-") as folder, contextlib.ExitStack() as stack:
        name, protocol = stack.enter_context(_broker(Path(folder), port))
        print(f"broker   {name}, 127.0.0.1:{port}")
        daemon = stack.enter_context(_daemon(Path(folder), port, protocol, model, model_dir))
        reads = languages_of(model)
        messages = MESSAGES if reads and "zh" not in reads else MESSAGES + _CHINESE
        seconds = asyncio.run(_converse(port, daemon, messages))
        code = _stop(daemon)
        print(f"stopped  exit {code}; {len(messages)} messages in {seconds:.1f} s")
    return ExitCode.DONE if code == 0 else ExitCode.BUG


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def amqtt_command(folder: Path, port: int) -> list[str]:
    """Write the settings of an amqtt broker that accepts every client of 127.0.0.1; gives its command."""
    settings = folder / "amqtt.yaml"
    settings.write_text(
        f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{port}\n"
        "plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n"
    )
    return [sys.executable, "-c", "from amqtt.scripts.broker_script import main; main()", "-c", str(settings)]


@contextlib.contextmanager
def _broker(folder: Path, port: int) -> Iterator[tuple[str, str]]:
    """Start a private broker: mosquitto if installed, else amqtt. Gives its name and the MQTT version to use."""
    mosquitto = shutil.which("mosquitto", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin")
    if mosquitto is not None:
        settings = folder / "mosquitto.conf"
        settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
        command = [mosquitto, "-c", str(settings)]
    else:
        command = amqtt_command(folder, port)
    with _process(command, folder / "broker.log") as broker:
        _wait_listening(broker, port, folder / "broker.log")
        # amqtt speaks MQTT 3.1.1 only, and does not answer a client that connects with version 5.
        yield ("mosquitto", "auto") if mosquitto is not None else ("amqtt", "3.1.1")


@contextlib.contextmanager
def _daemon(folder: Path, port: int, protocol: str, model: str, model_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start the daemon as systemd would."""
    print(f"daemon   loading {model}")
    command = [sys.executable, "-m", "edged", "run"]
    command += ["--set", f"node={_NODE}", "--set", "mqtt.host=127.0.0.1", "--set", f"mqtt.port={port}"]
    command += ["--set", f"mqtt.protocol={protocol}"]
    command += ["--set", f"model.id={model}", "--set", f"state_dir={folder}", "--set", f"model_dir={model_dir}"]
    with _process(command, folder / "daemon.log") as daemon:
        yield daemon
        if daemon.returncode not in {0, None}:
            sys.stderr.write((folder / "daemon.log").read_text()[-4000:])


@contextlib.contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Stop a process by SIGTERM; gives its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _wait_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise BrokerUnavailable(f"the demo's broker did not start:\n{log.read_text()[-2000:]}")


async def _converse(port: int, daemon: subprocess.Popen[bytes], messages: tuple[str, ...]) -> float:
    """Publish the messages one by one and print what comes back; gives the seconds that took."""
    from amqtt.client import MQTTClient
    from amqtt.mqtt.constants import QOS_1

    root = f"edged/{_NODE}"
    client = MQTTClient(client_id="demo-device")
    await client.connect(f"mqtt://127.0.0.1:{port}/")
    try:
        await client.subscribe([(f"{root}/status", QOS_1), (f"{root}/out/#", QOS_1)])
        begin = time.monotonic()
        with progress.waiting("loading the model"):
            while (await _next(client, daemon, _READY_S, begin)).get("state") != "ready":
                pass
        print(f"ready    in {time.monotonic() - begin:.1f} s; publishing to {root}/in/message\n")
        begin = time.monotonic()
        for text in messages:
            await client.publish(f"{root}/in/message", text.encode(), qos=QOS_1)
            with progress.waiting("waiting for the answer", lines=False):
                answer = await _next(client, daemon, _ANSWER_S, time.monotonic())
                while "state" in answer:
                    answer = await _next(client, daemon, _ANSWER_S, time.monotonic())
            _show(text, answer)
        return time.monotonic() - begin
    finally:
        await client.disconnect()


async def _next(client: Any, daemon: subprocess.Popen[bytes], patience: float, begin: float) -> Mapping[str, Any]:
    """The next message as JSON. A daemon that ended says why in its log."""
    while time.monotonic() - begin < patience:
        try:
            message = await client.deliver_message(timeout_duration=1.0)
        except TimeoutError:
            message = None
        if message is not None:
            body: Mapping[str, Any] = json.loads(bytes(message.data))
            return body
        if daemon.poll() is not None:
            raise ModelUnavailable(f"the daemon ended with exit code {daemon.returncode}; its log is above")
    raise BrokerUnavailable(f"nothing came for {patience:.0f} s")


def _show(text: str, answer: Mapping[str, Any]) -> None:
    print(f">  {text}")
    if answer["status"] == "error":
        print(f"   error {answer['error']['code']}: {answer['error']['message']}\n")
        return
    sentiment, timings = answer["sentiment"], answer["timings"]
    print(f"   {sentiment['emoji']} {sentiment['label']} ({sentiment['name']}) {sentiment['score']:.2f}")
    print(f"   {answer['reply']['text']}")
    print(f"   {timings['total_ms']:.0f} ms, {timings['tokens_per_second']:.0f} tokens/s\n")
