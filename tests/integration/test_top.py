"""`edged top` beside real daemons."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from edged.errors import ExitCode
from tests.support.daemon import Daemon, daemon_on_a_broker, publish, run_edged
from tests.support.waiting import TIMEOUT


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_on_a_broker() as daemon:
        daemon.start()
        daemon.wait_ready()
        yield daemon


@pytest.mark.parametrize("options", [["--once"], []], ids=["once", "no terminal"])
def test_once_prints_every_node_and_ends(daemon: Daemon, options: list[str]) -> None:
    publish(daemon.broker, "edged/other/status", '{"state": "offline"}', "-r")
    publish(daemon.broker, "edged/odd/status", "no JSON", "-r")
    done = daemon.command("top", *options)
    assert done.returncode == 0, done.stderr
    rows = [line.split()[:2] for line in done.stdout.splitlines() if line.strip()][3:]
    assert rows == [["box", "ready"], ["other", "offline"]]


@pytest.mark.parametrize("key", ["Ctrl-C", "q"])
def test_it_shows_until_it_is_told_to_end(daemon: Daemon, key: str) -> None:
    # Python's own terminal: rich draws on one alone.
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "edged", "top"],
        env={**daemon.environment, "TERM": "xterm", "COLUMNS": "120"},
        stdout=side,
        stderr=side,
        stdin=side,
    )
    os.close(side)
    try:
        seen = b""
        deadline = time.monotonic() + TIMEOUT
        while b"ready" not in seen or b"q: quit" not in seen:
            assert time.monotonic() < deadline, seen
            seen += os.read(main, 65536)
        # What it draws must be read, or it waits for ever.
        drain = threading.Thread(target=read_all, args=(main,))
        drain.start()
        if key == "q":
            os.write(main, b"xq")
        else:
            process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0
        drain.join(TIMEOUT)
    finally:
        process.kill()
        process.wait()
        os.close(main)
    assert b"Traceback" not in seen


def read_all(terminal: int) -> None:
    with contextlib.suppress(OSError):  # the other end is closed
        while os.read(terminal, 65536):
            pass


def test_a_broker_that_is_not_there_is_said(daemon: Daemon) -> None:
    done = run_edged(["top", "--once", "--timeout", "5"], {**daemon.environment, "EDGED_MQTT__PORT": "1"})
    assert done.returncode == ExitCode.BROKER
    assert "127.0.0.1:1" in done.stderr
