"""Fixtures of the integration tests."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import free_port, until_listening
from tests.support.hardened import HardenedBroker


@pytest.fixture(scope="session")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HardenedBroker]:
    broker = HardenedBroker(folder=tmp_path_factory.mktemp("hardened"))
    broker.set_up()
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def amqtt(tmp_path: Path) -> Iterator[int]:
    """The port of a broker that grants shared subscriptions and delivers nothing by them."""
    port = free_port()
    settings = tmp_path / "amqtt.yaml"
    settings.write_text(
        f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{port}\n"
        "plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n"
    )
    command = [sys.executable, "-c", "from amqtt.scripts.broker_script import main; main()", "-c", str(settings)]
    with (tmp_path / "amqtt.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        until_listening(port)
        yield port
        process.terminate()
