"""What the log reads like, for machines and for people, and what never gets into it."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from edged import logs

SECRET = "the user's own words"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    own, structured = logging.getLogger("edged").level, structlog.get_config()
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = handlers, level
    logging.getLogger("edged").setLevel(own)
    structlog.configure(**structured)


@pytest.fixture
def out() -> io.StringIO:
    stream = io.StringIO()
    logs.configure("info", "auto", stream)
    return stream


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def fail_on(text: str) -> None:
    held = [text]
    raise ValueError(f"{len(held)} text failed")


def test_an_event_is_one_line_of_json_with_time_level_and_logger(out: io.StringIO) -> None:
    structlog.get_logger("edged.part").info("request_answered", request_id="1", text="今天\n好", at=object())
    (line,) = lines(out)
    assert line["event"] == "request_answered"
    assert line["level"] == "info"
    assert line["logger"] == "edged.part"
    assert line["request_id"] == "1"
    assert line["text"] == "今天\n好"
    assert datetime.fromisoformat(line["timestamp"]).tzinfo == UTC
    assert "今天" in out.getvalue()


def test_a_terminal_gets_colour_and_no_json() -> None:
    out = Terminal()
    logs.configure("info", "auto", out)
    structlog.get_logger("edged").info("ready", seconds=1.5)
    assert "\x1b[" in out.getvalue()
    assert "ready" in out.getvalue()
    assert not out.getvalue().startswith("{")


@pytest.mark.parametrize(("form", "is_json"), [("json", True), ("console", False)])
def test_a_form_that_is_asked_for_is_given(form: Any, is_json: bool) -> None:
    out = Terminal() if is_json else io.StringIO()
    logs.configure("info", form, out)
    structlog.get_logger("edged").info("ready")
    assert out.getvalue().startswith("{") is is_json


def test_the_level_can_change_while_running(out: io.StringIO) -> None:
    log = structlog.get_logger("edged.part")
    log.debug("one")
    logs.set_level("debug")
    log.debug("two")
    logs.set_level("error")
    log.warning("three")
    assert [line["event"] for line in lines(out)] == ["two"]


def test_a_level_that_there_is_not_is_refused_and_changes_nothing(out: io.StringIO) -> None:
    with pytest.raises(ValueError, match="debug, info, warning, error"):
        logs.set_level("loud")
    structlog.get_logger("edged").info("still")
    assert [line["event"] for line in lines(out)] == ["still"]


def test_libraries_are_heard_from_warning_on_whatever_our_level(out: io.StringIO) -> None:
    logs.set_level("debug")
    logging.getLogger("paho").info("hidden")
    logging.getLogger("paho").warning("socket %s", "gone")
    (line,) = lines(out)
    assert (line["event"], line["level"], line["logger"]) == ("socket gone", "warning", "paho")


def test_a_library_with_a_stream_of_its_own_speaks_through_ours() -> None:
    library = logging.getLogger("transformers.some.part")
    own = io.StringIO()
    library.addHandler(logging.StreamHandler(own))
    library.propagate = False
    out = io.StringIO()
    logs.configure("info", "json", out)
    library.warning("look here")
    assert own.getvalue() == ""
    assert [line["event"] for line in lines(out)] == ["look here"]


def test_python_warnings_are_logged(out: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("old ways", UserWarning, stacklevel=1)
    (line,) = lines(out)
    assert "old ways" in line["event"]
    assert line["level"] == "warning"


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_the_way_and_no_variable(form: Any) -> None:
    out = io.StringIO()
    logs.configure("info", form, out)
    try:
        fail_on(SECRET)
    except ValueError:
        structlog.get_logger("edged").exception("worker_died")
        logging.getLogger("paho").exception("callback")
    assert out.getvalue().count("fail_on") >= 2
    assert SECRET not in out.getvalue()


def test_configuring_again_moves_the_log_and_doubles_nothing(out: io.StringIO) -> None:
    second = io.StringIO()
    logs.configure("info", "json", second)
    structlog.get_logger("edged").info("once")
    assert out.getvalue() == ""
    assert len(lines(second)) == 1
