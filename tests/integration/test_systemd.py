"""sd_notify against a real datagram socket, by path and by abstract name."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edged.monitoring.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@edged-test-{os.getpid()}"


@pytest.fixture
def systemd(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0" + address[1:] if address.startswith("@") else address)
        server.setblocking(False)
        yield server


def heard(systemd: socket.socket) -> list[str]:
    """All that was sent so far; a datagram on a Unix socket is there as soon as it is sent."""
    messages: list[str] = []
    while True:
        try:
            messages.append(systemd.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_the_life_of_a_service(systemd: socket.socket, address: str) -> None:
    notifier = Notifier(address)
    notifier.extend_timeout(30.5)
    notifier.ready()
    notifier.watchdog()
    notifier.watchdog()
    notifier.stopping()
    assert heard(systemd) == ["EXTEND_TIMEOUT_USEC=30500000", "READY=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]


def test_a_status_is_one_line_and_sent_when_it_changes(systemd: socket.socket, address: str) -> None:
    notifier = Notifier(address)
    notifier.status("degraded: broker\nREADY=1")
    notifier.status("degraded: broker READY=1")
    notifier.status("就绪")
    notifier.status("/models/\udcff")
    assert heard(systemd) == ["STATUS=degraded: broker READY=1", "STATUS=就绪", "STATUS=/models/?"]


@pytest.mark.parametrize("address", [None, "", "/nowhere/notify", "@", "@nobody-listens-here", "x" * 200, "vsock:2:1"])
def test_nobody_there_is_no_fault_and_told_at_most_once(address: str | None) -> None:
    notifier = Notifier(address)
    with capture_logs() as logged:
        notifier.ready()
        notifier.status("a")
        notifier.watchdog()
    assert [each["log_level"] for each in logged] == ["debug"] * bool(address)


def test_a_socket_that_comes_back_is_used_again(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    notifier = Notifier(address)
    notifier.ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        server.setblocking(False)
        notifier.watchdog()
        assert heard(server) == ["WATCHDOG=1"]
