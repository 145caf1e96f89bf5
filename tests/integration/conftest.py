"""Fixtures of the integration tests."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.commands.demo import amqtt_command
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
    """The port of an amqtt broker: it speaks MQTT 3.1.1 alone, and grants shared subscriptions but delivers nothing."""
    port = free_port()
    command = amqtt_command(tmp_path, port)
    with (tmp_path / "amqtt.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until_listening(port)
            yield port
        finally:
            process.terminate()
