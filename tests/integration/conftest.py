"""Fixtures of the integration tests."""

from collections.abc import Iterator

import pytest

from tests.support.hardened import HardenedBroker


@pytest.fixture(scope="session")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HardenedBroker]:
    broker = HardenedBroker(folder=tmp_path_factory.mktemp("hardened"))
    broker.set_up()
    broker.start()
    yield broker
    broker.stop()
