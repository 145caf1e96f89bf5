"""What Home Assistant is told, when it is told, and that it is taken back. Its own schemas: integration tests."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from edged.contract.health import HealthReport, SystemFigures
from edged.contract.topics import Topics
from edged.monitoring.home_assistant import Discovery, births, describe, object_id
from edged.settings.schema import HomeAssistantSettings
from edged.tasks.built_in import BUILT_IN, SENTIMENT
from edged.tasks.specs import Tasks
from edged.testing import FakeLink
from tests.support.report import REPORT

TOPICS = Topics(prefix="edged", node="box1")
TOLD = HealthReport.model_validate(REPORT)
ON = HomeAssistantSettings(discovery=True)
OFF = HomeAssistantSettings()
TOPIC = "homeassistant/device/edged-box1/config"


def described(tasks: Tasks = BUILT_IN, report: HealthReport = TOLD) -> dict[str, Any]:
    return describe(topics=TOPICS, tasks=tasks, model="tiny", version="1.2.3", report=report)


# What people have on their dashboards: an id that is changed is another entity, without the old one's past.
ENTITIES = {
    ("state", "sensor", "State", ""),
    ("problem", "binary_sensor", "Problem", ""),
    ("model", "update", "Model", ""),
    ("sentiment", "sensor", "Sentiment", ""),
    ("talk", "text", "Talk", ""),
    ("reply", "sensor", "Reply", ""),
    ("latency_p50", "sensor", "Latency p50", "ms"),
    ("latency_p95", "sensor", "Latency p95", "ms"),
    ("first_token_p50", "sensor", "First token p50", "ms"),
    ("tokens_per_second", "sensor", "Tokens per second", "tokens/s"),
    ("queue", "sensor", "Queue", "requests"),
    ("answered", "sensor", "Answered", ""),
    ("errors", "sensor", "Errors", ""),
    ("reconnects", "sensor", "Reconnects", ""),
    ("last_report", "sensor", "Last report", ""),
    ("memory", "sensor", "Memory", "MiB"),
    ("disk_free", "sensor", "Disk free", "MiB"),
    ("cpu", "sensor", "CPU", "%"),
    ("temperature", "sensor", "Temperature", "°C"),
    ("throttled", "binary_sensor", "Throttled", ""),
}


def discovery(
    folder: Path, settings: HomeAssistantSettings, topics: Topics = TOPICS, *, auto: bool = True
) -> tuple[Discovery, FakeLink]:
    link = FakeLink(auto=auto)
    made = Discovery(settings=settings, topics=topics, link=link, record=folder / "record", describe=described)
    return made, link


def sent(link: FakeLink) -> list[tuple[str, bytes]]:
    return [(each.topic, each.payload) for each in link.published]


@pytest.mark.parametrize(
    ("one", "other"),
    [("a/b", "a-b"), ("a b", "a-b"), ("ä", "ö"), ("a/b-c", "a-b/c")],
)
def test_no_two_roots_have_one_id(one: str, other: str) -> None:
    ids = [object_id(Topics(prefix=prefix, node="n")) for prefix in (one, other)]
    assert ids[0] != ids[1]
    assert all(each.replace("-", "").isalnum() and each.isascii() for each in ids)


def test_a_plain_name_is_its_own_id() -> None:
    assert object_id(TOPICS) == "edged-box1"


def test_entities_keep_their_ids_names_and_units() -> None:
    entities = described()["components"]
    shown = {
        (key, each["platform"], each["name"], each.get("unit_of_measurement", "")) for key, each in entities.items()
    }
    assert shown == ENTITIES
    assert all(each["unique_id"] == f"edged-box1_{key}" for key, each in entities.items())


def test_what_the_box_cannot_read_is_no_entity() -> None:
    system = SystemFigures.model_validate(REPORT["system"] | {"temperature_c": None, "throttled": None})
    bare = described(report=TOLD.model_copy(update={"system": system}))
    assert {*described()["components"]} - {*bare["components"]} == {"temperature", "throttled"}


def test_tasks_that_are_not_there_are_no_entities() -> None:
    alone = described(tasks=Tasks((SENTIMENT,)))["components"]
    assert "sentiment" in alone
    assert not {"talk", "reply"} & {*alone}


def test_off_it_says_nothing_and_hears_nothing(tmp_path: Path) -> None:
    made, link = discovery(tmp_path, OFF)
    made.start()
    assert births(OFF) == ()
    assert not made.hear("homeassistant/status", b"online")
    made.tick()
    assert sent(link) == []


def test_it_tells_once_and_again_when_home_assistant_is_born(tmp_path: Path) -> None:
    made, link = discovery(tmp_path, ON)
    assert made.hear("homeassistant/status", b"online")  # before there is a model
    assert sent(link) == []
    made.start()
    made.tick()
    assert [topic for topic, _ in sent(link)] == [TOPIC]
    assert made.hear("homeassistant/status", b"offline")
    made.tick()
    assert len(sent(link)) == 1
    made.hear("homeassistant/status", b"online")
    made.tick()
    assert [topic for topic, _ in sent(link)] == [TOPIC, TOPIC]
    assert all(each.retain and each.qos == 1 and json.loads(each.payload) for each in link.published)


def test_entities_that_are_gone_are_removed_there(tmp_path: Path) -> None:
    told = iter(
        ({"components": {"a": {"platform": "sensor", "name": "A"}, "b": {"platform": "text", "name": "B"}}},) * 1
        + ({"components": {"a": {"platform": "sensor", "name": "A2"}}},) * 2
    )
    link = FakeLink()
    made = Discovery(settings=ON, topics=TOPICS, link=link, record=tmp_path / "record", describe=lambda: next(told))
    made.start()
    for _ in range(2):
        made.announce()
        made.tick()
    components = [json.loads(each.payload)["components"] for each in link.published]
    assert components[1] == {"a": {"platform": "sensor", "name": "A2"}, "b": {"platform": "text"}}
    assert components[2] == {"a": {"platform": "sensor", "name": "A2"}}


def tell_and_forget(folder: Path, topics: Topics = TOPICS, settings: HomeAssistantSettings = ON) -> None:
    made, _ = discovery(folder, settings, topics)
    made.start()


def test_what_was_told_is_taken_back_when_it_is_turned_off(tmp_path: Path) -> None:
    tell_and_forget(tmp_path)
    made, link = discovery(tmp_path, OFF, auto=False)
    made.start()
    assert sent(link) == [(TOPIC, b"")]
    # Until the broker has confirmed it, it is not forgotten.
    again, link = discovery(tmp_path, OFF)
    again.start()
    assert sent(link) == [(TOPIC, b"")]
    last, link = discovery(tmp_path, OFF)
    last.start()
    assert sent(link) == []


@pytest.mark.parametrize(
    ("topics", "settings", "told"),
    [
        (Topics(prefix="edged", node="new"), ON, "homeassistant/device/edged-new/config"),
        (TOPICS, HomeAssistantSettings(discovery=True, prefix="ha"), "ha/device/edged-box1/config"),
    ],
)
def test_another_name_takes_the_old_one_back(
    tmp_path: Path, topics: Topics, settings: HomeAssistantSettings, told: str
) -> None:
    tell_and_forget(tmp_path)
    made, link = discovery(tmp_path, settings, topics)
    made.start()
    assert [(topic, bool(payload)) for topic, payload in sent(link)] == [(TOPIC, False), (told, True)]


def test_a_record_that_cannot_be_kept_keeps_nobody_from_telling(tmp_path: Path) -> None:
    made, link = discovery(tmp_path / "is not there", ON)
    made.start()
    assert [topic for topic, _ in sent(link)] == [TOPIC]


def filters(config: Iterable[dict[str, Any]]) -> set[str]:
    return {value for each in config for key, value in each.items() if key.endswith("_topic")}


def test_entities_know_no_topic_outside_the_contract() -> None:
    config = described()
    assert filters(config["components"].values()) == {
        "edged/box1/status",
        "edged/box1/model",
        "edged/box1/request/model",
        "edged/box1/health",
        "edged/box1/out/#",
        "edged/box1/out/message/homeassistant",
        "edged/box1/in/message/homeassistant",
    }
