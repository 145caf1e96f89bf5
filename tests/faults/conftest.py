"""Daemons with the scripted engine, on a broker of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.broker import Broker
from tests.support.daemon import Daemon

MakeDaemon = Callable[..., Daemon]
SCRIPTED = ("-m", "tests.support.scripted_daemon")


@pytest.fixture
def make_daemon(tmp_path: Path, broker: Broker) -> Iterator[MakeDaemon]:
    """Make a daemon, not yet started; `options` go to the scripted engine, and `more` are settings."""
    daemons: list[Daemon] = []

    def make(*options: str, port: int | None = None, **more: str) -> Daemon:
        settings = {"EDGED_HEALTH__INTERVAL": "1", **more}
        daemon = Daemon(folder=tmp_path, broker=broker, port=port, program=(*SCRIPTED, *options), more=settings)
        daemons.append(daemon)
        return daemon

    yield make
    for daemon in daemons:
        daemon.kill()
