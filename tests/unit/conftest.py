"""Unit tests stay inside their process: no network, no subprocess, no mount. What needs one is an integration test."""

import sys
from collections.abc import Iterator

import pytest

# Audit events of Python (docs: "Audit events table"). A mount needs a program, so it is among these.
_OUTSIDE = (
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pty.spawn",
    "socket.__new__",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "subprocess.Popen",
)


class Guard:
    """Refuses what leaves the process, and remembers it: some code swallows the error."""

    def __init__(self) -> None:
        self.is_on = False
        self.seen: list[str] = []

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.is_on and event in _OUTSIDE:
            self.seen.append(f"{event}{arguments}")
            raise AssertionError(f"a unit test may not use {event}; move the test to tests/integration")


_guard = Guard()
sys.addaudithook(_guard)  # Python has no way to remove it; it does nothing while it is off


@pytest.fixture(autouse=True)
def stay_inside() -> Iterator[Guard]:
    """Fail a test that opens a socket or starts a program."""
    _guard.seen.clear()
    _guard.is_on = True
    yield _guard
    _guard.is_on = False
    assert _guard.seen == [], "a unit test opens no socket and starts no program; move it to tests/integration"
