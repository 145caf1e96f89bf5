"""Fixtures that every folder of tests may ask for."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.broker import Broker

MakeBroker = Callable[..., Broker]

if not os.environ.get("CI"):  # a change is tried often, with few examples; before it lands, with many
    settings.register_profile("quick", max_examples=20)
    settings.load_profile("quick")


@pytest.fixture
def make_broker() -> Iterator[MakeBroker]:
    """Start private mosquittos; they end with the test."""
    brokers: list[Broker] = []
    with tempfile.TemporaryDirectory(prefix="edged-") as root:  # short: a Unix socket's path has its limits

        def make(config: Sequence[str] = (), tls: Sequence[str] = ()) -> Broker:
            folder = Path(root) / str(len(brokers))
            folder.mkdir()
            broker = Broker(folder=folder, config=config, tls=tls)
            brokers.append(broker)
            broker.start()
            return broker

        try:
            yield make
        finally:
            for broker in brokers:
                broker.stop()


@pytest.fixture
def broker(make_broker: MakeBroker) -> Broker:
    """A private mosquitto that lets everybody in."""
    return make_broker()
