"""What is seen while something takes long: a line that changes at a terminal, plain lines elsewhere."""

import io
import time

import pytest
import structlog
from structlog.testing import capture_logs

from edged import progress
from edged.commands import run
from edged.commands.run import _Loading
from edged.errors import ModelUnavailable
from edged.progress import waiting
from edged.testing import ScriptedEngine


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_AT_TERMINAL_S", 0.01)
    monkeypatch.setattr(progress, "_IN_LOG_S", 0.01)
    monkeypatch.setattr(run, "_IN_LOG_S", 0.01)
    monkeypatch.setattr(run, "_AT_TERMINAL_S", 0.01)


def until(text: str, out: io.StringIO) -> None:
    for _ in range(1000):
        if text in out.getvalue():
            return
        time.sleep(0.01)
    raise AssertionError(out.getvalue())


def test_a_terminal_has_one_line_that_is_gone_in_the_end() -> None:
    screen = Screen()
    with waiting("loading", out=screen):
        until("loading: 0 s", screen)
    assert "\n" not in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[K")


def test_elsewhere_there_are_plain_lines_at_once_and_later() -> None:
    out = io.StringIO()
    with waiting("loading", out=out):
        assert out.getvalue().startswith("loading\n")
        until("loading: 0 s\n", out)
    assert "\r" not in out.getvalue()


def test_nothing_is_written_where_it_would_disturb() -> None:
    out, screen = io.StringIO(), Screen()
    with waiting("loading", out=out, lines=False), waiting("loading", out=screen, has_bar=True):
        time.sleep(0.05)
    assert (out.getvalue(), screen.getvalue()) == ("", "")


def test_a_stream_that_is_closed_ends_nothing() -> None:
    out = io.StringIO()
    with waiting("loading", out=out):
        out.close()
        time.sleep(0.05)


class LoadingEngine(ScriptedEngine):
    """Ready, or broken, after a few looks."""

    def __init__(self, *, broken: bool) -> None:
        super().__init__()
        self.looks = 0
        self._broken = broken

    def wait_ready(self, timeout: float | None = None) -> bool:
        assert timeout == 0.0
        self.looks += 1
        if self.looks > 3 and self._broken:
            raise ModelUnavailable("no model")
        return self.looks > 3


@pytest.mark.parametrize("broken", [False, True])
def test_the_daemon_logs_that_it_loads_until_it_is_ready(broken: bool) -> None:
    engine = LoadingEngine(broken=broken)
    loading = _Loading(structlog.get_logger(), "tiny")
    with capture_logs() as told:
        loading.watch(engine)
        loading.tell()
    assert [each["event"] for each in told] == ["loading"] * 3
    assert told[0]["model"] == "tiny"
