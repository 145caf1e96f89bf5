"""Every message of a real daemon is one that its AsyncAPI document tells of."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from edged.contract.asyncapi import document
from tests.support.daemon import Daemon, Watcher, daemon_on_a_broker, publish

DOCUMENT = document()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_on_a_broker() as daemon:
        yield daemon


def channel_of(topic: str) -> tuple[str, dict[str, Any]]:
    """The one channel with this address."""
    found = [
        (name, channel)
        for name, channel in DOCUMENT["channels"].items()
        if channel["address"] and re.fullmatch(pattern(channel), topic)
    ]
    # "out/<task>/stream" is a session's too, if it is called "stream".
    return min(found, key=lambda each: "stream" not in each[0].lower())


def pattern(channel: dict[str, Any]) -> str:
    address = re.sub(r"\\\{(prefix|node)\\\}", "[^/]+", re.escape(channel["address"]))
    return re.sub(r"\\\{\w+\\\}", "[^/]+", address)


def fits(body: Any, channel: dict[str, Any]) -> list[str]:
    """The messages of the channel that `body` is one of."""
    payloads = {name: DOCUMENT["components"]["messages"][name]["payload"] for name in channel["messages"]}
    return [name for name, schema in payloads.items() if jsonschema.Draft202012Validator(schema).is_valid(body)]


def test_what_it_says_is_in_the_document(daemon: Daemon) -> None:
    watcher = Watcher(daemon.broker, "edged/#")
    daemon.start()
    daemon.wait_ready()
    root = daemon.root
    for topic, payload in (
        ("in/message", "how are you?"),
        ("in/message/ada", '{"text": "how are you?", "stream": true, "id": "1"}'),
        ("in/sentiment", '{"text": "bad", "stream": true}'),
        ("in/sentiment", '{"text": 5}'),
        ("in/nothing", "how are you?"),
        ("in/reply", "[fail] this one"),
        ("request/ping", '{"transaction": 7}'),
        ("request/cancel", '{"id": "1"}'),
        ("request/cancel", "{}"),
        ("request/session", '{"session": "ada"}'),
        ("request/forget", '{"session": "ada"}'),
        ("request/log_level", '{"level": "info"}'),
        ("request/log_level", '{"level": "loud"}'),
        ("request/nothing", ""),
        ("request/drain", ""),
    ):
        publish(daemon.broker, f"{root}/{topic}", payload)
    seen: dict[str, set[str]] = {}
    state = ""
    while state != "stopped":
        arrival = watcher.next()
        if re.match(f"{root}/(in|request)/", arrival.topic):
            continue
        name, channel = channel_of(arrival.topic)
        kinds = fits(arrival.json, channel)
        assert len(kinds) == 1, (arrival, kinds)
        seen.setdefault(name, set()).update(kinds)
        state = arrival.json.get("state", "") if name == "status" else ""
    watcher.stop()
    daemon.kill()
    offline = Watcher(daemon.broker, f"{root}/status")
    daemon.start()
    daemon.wait_ready()
    daemon.kill()
    will = offline.until(state="offline")
    offline.stop()
    assert fits(will, DOCUMENT["channels"]["status"]) == ["status"]
    assert seen == {
        "results": {"result", "error"},
        "sessionResults": {"result"},
        "streams": {"chunk"},
        "sessionStreams": {"chunk"},
        "controlAnswers": {"controlAnswer"},
        "status": {"status"},
        "health": {"health"},
        "info": {"info"},
        "model": {"model"},
    }
