"""The guard of tests/unit/conftest.py: what leaves the process fails, also where the error is swallowed."""

import contextlib
import os
import socket
import subprocess
import sys

import pytest

from tests.unit.conftest import Guard


def test_a_unit_test_opens_no_socket_and_starts_no_program(stay_inside: Guard) -> None:
    with pytest.raises(AssertionError, match=r"socket\.__new__"):
        socket.socket()
    with pytest.raises(AssertionError, match=r"socket\.getaddrinfo"):
        socket.getaddrinfo("localhost", 1883)
    with pytest.raises(AssertionError, match=r"subprocess\.Popen"):
        subprocess.run([sys.executable, "--version"], check=True)
    with pytest.raises(AssertionError, match=r"os\.fork"):
        os.fork()
    assert len(stay_inside.seen) == 4
    stay_inside.seen.clear()


def test_a_swallowed_error_is_remembered(stay_inside: Guard) -> None:
    with contextlib.suppress(AssertionError):
        socket.socket()
    assert [each.partition("(")[0] for each in stay_inside.seen] == ["socket.__new__"]
    stay_inside.seen.clear()
