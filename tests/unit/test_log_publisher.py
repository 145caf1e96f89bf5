"""R/log: what of the log is told over MQTT, and how much of it."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from edged import logs
from edged.monitoring.log_publisher import LogPublisher
from edged.ports.link import Outcome, Publication
from edged.settings.schema import LogSettings
from edged.testing import FakeLink


class LoggingLink(FakeLink):
    """Logs while it publishes, as a link may."""

    def publish(self, publication: Publication, on_done: Any = None) -> None:
        structlog.get_logger("edged.mqtt").warning("published")
        super().publish(publication, on_done)


class Box:
    def __init__(self) -> None:
        self.now = 0.0
        self.link = LoggingLink()
        self.publisher = LogPublisher(
            self.link, topic="edged/box/log", clock=lambda: self.now, wall_clock=lambda: 1_700_000_000.0
        )
        self.log = structlog.get_logger("edged.serving")

    @property
    def lines(self) -> list[dict[str, Any]]:
        assert {(each.topic, each.qos, each.retain) for each in self.link.published} <= {("edged/box/log", 0, False)}
        return [json.loads(each.payload) for each in self.link.published]


@pytest.fixture
def box() -> Iterator[Box]:
    before = structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure("debug", "json")
    box = Box()
    logs.add_handler(box.publisher)
    yield box
    logs.remove_handler(box.publisher)
    structlog.configure(**before)
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)


def test_it_is_off_by_default(box: Box) -> None:
    box.publisher.use(LogSettings())
    box.log.error("broken")
    assert box.lines == []


def test_a_line_is_told_from_its_level_on(box: Box) -> None:
    box.publisher.use(LogSettings(mqtt="warning"))
    box.log.info("quiet")
    box.log.warning("loud", request_id="r", seconds=1.5, names=("a", "b"))
    assert box.lines == [
        {
            "event": "loud",
            "request_id": "r",
            "seconds": 1.5,
            "names": ["a", "b"],
            "time": "2023-11-14T22:13:20.000Z",
            "level": "warning",
            "logger": "edged.serving",
        }
    ]
    box.publisher.use(LogSettings(mqtt="off"))
    box.log.warning("loud")
    assert len(box.lines) == 1


def test_what_users_wrote_is_not_told(box: Box) -> None:
    box.publisher.use(LogSettings(mqtt="info"))
    box.log.debug("prompt", text="hush")
    try:
        int("hush")
    except ValueError:
        box.log.exception("answer_fault", request_id="r")
    logging.getLogger("transformers").error("hush")
    logging.getLogger("edged.other").error("hush, a line of no event")
    (line,) = box.lines
    assert (line["event"], line["error"], line["level"]) == ("answer_fault", "ValueError", "error")
    assert "hush" not in json.dumps(line)


def test_many_lines_are_counted_and_not_told(box: Box) -> None:
    box.publisher.use(LogSettings(mqtt="info"))
    for n in range(500):
        box.log.info("many", n=n, value="x" * 10_000)
    assert len(box.lines) == 20
    assert max(len(each.payload) for each in box.link.published) < 1000
    box.now += 1.0
    box.log.info("later")
    assert (box.lines[-1]["event"], box.lines[-1]["dropped"]) == ("later", 480)
    box.log.info("last")
    assert "dropped" not in box.lines[-1]


def test_a_link_that_fails_does_not_fail_what_logs(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_publication: Publication, _on_done: Any = None) -> Outcome:
        raise RuntimeError("the link is gone")

    box.publisher.use(LogSettings(mqtt="info"))
    monkeypatch.setattr(box.link, "publish", broken)
    box.log.info("event")
    assert box.lines == []
