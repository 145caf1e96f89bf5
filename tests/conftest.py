"""Fixtures that every folder of tests may ask for, and what holds for a run of pytest as a whole."""

import logging
import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from tests.support import seeds
from tests.support.broker import Broker

pytest.register_assert_rewrite("tests.support.journal_contract", "tests.support.link_contract")  # a failure says why

MakeBroker = Callable[..., Broker]

# A time limit for each example would fail on a busy box. A change is tried often, with few examples; CI takes many.
settings.register_profile("edged", deadline=None, max_examples=settings().max_examples if os.environ.get("CI") else 20)
settings.load_profile("edged")

_TIERS = ("faults", "acceptance", "integration", "unit")  # the longest tests are in the first

_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _workers > 1:  # read by torch when it is imported: workers side by side share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))


def pytest_configure() -> None:
    """Choose the random seed once: the workers of pytest-xdist inherit the environment."""
    # A script that runs the tests in the background has SIGINT ignored, and so would every process that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault(seeds.RANDOM, str(random.SystemRandom().randrange(1_000_000)))
    log_to_pytest()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where workers share the tests, begin with the longest ones: then all are busy until the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _TIERS.index(item.path.parent.name))


def pytest_report_header() -> str:
    told = ", ".join(f"{name} {seed}" for name, seed in seeds.chosen().items())
    return f"seeds of the faults: {told} ({seeds.GIVEN}=NUMBER repeats one)"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the fault tests measured: a worker of pytest-xdist has no terminal."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                if name == seeds.REPORT:
                    terminalreporter.write_line(f"{report.nodeid}: {value}")


def log_to_pytest() -> None:
    """Send our logs to the logging module, whose records pytest keeps with the test that runs.

    structlog would print them, and what a thread in the background prints between two tests lands in pytest's dots.
    """
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    ours = logging.getLogger("edged")
    ours.setLevel(logging.DEBUG)
    ours.addHandler(logging.NullHandler())  # else warnings go to standard error while pytest does not listen


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
