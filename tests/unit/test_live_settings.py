"""Settings that change while the daemon runs: read again, or set over MQTT, and then kept in the state folder."""

import json
import random
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.build import contract_of
from edged.contract.topics import TaskRoute
from edged.errors import EdgedError, RequestError, SettingsError
from edged.monitoring.metrics import Metrics
from edged.ports.link import Delivery, Message
from edged.serving.languages import LanguageRule
from edged.serving.live_settings import LiveSettings
from edged.serving.worker import Worker
from edged.settings.load import load_with_sources
from edged.settings.options import options_file, options_text, patched
from edged.settings.text import show
from edged.tasks.specs import GenerateSpec, Tasks
from edged.testing import FakeLink, MemoryJournal, ScriptedEngine

ROUTE = {"subscribe": "a/+", "task": "sentiment", "publish": "b"}


class Box:
    """The settings of a daemon with a state folder and a settings file, and what commands answer."""

    def __init__(self, folder: Path, file: str = "") -> None:
        self.folder = folder
        self.file = folder / "edged.toml"
        self.file.write_text(file)
        self.flags = {"node": "box", "state_dir": str(folder)}
        self.used: list[LiveSettings] = []
        self.warnings: list[str] = []
        self.is_quick = True
        self.prepared: list[Tasks] = []
        self.preparing: list[Callable[[EdgedError | None], None]] = []
        self.start()

    def start(self) -> None:
        read = partial(load_with_sources, flags=self.flags, config_file=self.file)
        self.live = LiveSettings(
            read(warn=self.warnings.append).settings,
            read=read,
            contract_of=contract_of,
            prepare=self.prepare,
            post=lambda function: function(),
        )
        self.live.parts = (self.used.append,)

    def prepare(self, tasks: Tasks, on_done: Callable[[EdgedError | None], None]) -> None:
        """The engine: ready at once, or when a test calls what is left here."""
        self.prepared.append(tasks)
        if self.is_quick:
            on_done(None)
        else:
            self.preparing.append(on_done)

    def change(self, patch: Mapping[str, Any]) -> dict[str, Any]:
        answers: list[Any] = []
        self.live.change_options(patch, answers.append)
        (answer,) = answers
        if isinstance(answer, RequestError):
            raise answer
        return dict(answer)

    @property
    def kept(self) -> dict[str, Any]:
        return tomllib.loads(options_file(self.folder).read_text())


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path, "[limits]\ntext_chars = 100\n")


def test_an_option_is_used_at_once_kept_and_stronger_than_flags(box: Box) -> None:
    box.flags["limits.text_chars"] = "50"
    answer = box.change({"limits": {"text_chars": 7}, "routes": {"r": ROUTE}, "queue": {"capacity": 9}})
    assert set(answer["changed"]) == {"limits.text_chars", "routes.r"}
    assert answer["restart_required"] == ["queue.capacity"]
    assert answer["options"]["limits"] == {"text_chars": 7}
    assert [live.contract.text_chars for live in box.used] == [7]
    assert [*box.live.settings.routes] == ["r"]
    assert box.live.settings.queue_capacity == 1000
    box.start()
    assert (box.live.settings.limits.text_chars, box.live.settings.queue.capacity) == (7, 9)
    assert box.warnings == []


def test_null_takes_an_option_back_and_an_empty_patch_shows_all(box: Box) -> None:
    box.change({"limits": {"text_chars": 7}, "language": "zh"})
    answer = box.change({"limits": {"text_chars": None}})
    assert answer["options"] == box.kept == {"language": "zh"}
    assert box.live.settings.limits.text_chars == 100
    assert box.change({}) == {"changed": [], "restart_required": [], "options": {"language": "zh"}}


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({"limits": {"text_chars": 0}}, "option limits.text_chars = 0 is not allowed"),
        (
            {"limits": {"text_char": 5}},
            "limits.text_char is no setting of edged; did you mean limits.text_chars?",
        ),
        ({"limits": 5}, "option limits is a group of settings"),
        ({"model": {"api_key": "hush"}}, "option model.api_key is a secret"),
        ({"mqtt": {"password": "hush"}}, "option mqtt.password is a secret"),
        ({"mqtt": {"host": "evil.example"}}, "option mqtt.host is set on the box only"),
        ({"model": {"backend": "remote", "url": "http://evil.example"}}, "option model.url is set on the box only"),
        ({"state_dir": "/elsewhere"}, "option state_dir is set on the box only"),
        ({"routes": {"r": {**ROUTE, "task": "none"}}}, "routes.r: there is no task none"),
        ({"routes": {"r": {**ROUTE, "publish": "a/b"}}}, "could come in again"),
        ({"routes": {"r": {**ROUTE, "payload": {"a": [None]}}}}, "a value that a settings file (TOML) cannot hold"),
        ({"tasks": {"message": {"kind": "compose", "parts": ["message"]}}}, "it is a part of itself"),
    ],
)
def test_what_is_wrong_is_refused_as_one_with_the_reason(box: Box, patch: dict[str, Any], words: str) -> None:
    box.change({"language": "zh"})
    box.used.clear()
    before = (options_file(box.folder).read_bytes(), box.live.settings)
    with pytest.raises(RequestError) as caught:
        box.change({"language": "en", **patch})
    assert words in caught.value.message
    assert "hush" not in caught.value.message
    assert (options_file(box.folder).read_bytes(), box.live.settings) == before
    assert box.used == []


def test_options_that_no_longer_fit_do_not_keep_the_box_from_starting(box: Box) -> None:
    box.file.write_text('[tasks.t]\nkind = "generate"\nsystem = "x"\n')
    box.start()
    options_file(box.folder).write_text('[routes.r]\nsubscribe = "a"\ntask = "t"\npublish = "b"\n')
    box.start()
    assert [*box.live.settings.routes] == ["r"]
    for wrong in ("", "[routes.r"):
        box.file.write_text("")
        if wrong:
            options_file(box.folder).write_text(wrong)
        box.start()
        assert not box.live.settings.routes
        assert "left out" in box.warnings.pop()


def test_a_disk_that_cannot_be_written_changes_nothing(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edged.state_files.replace", full)
    with pytest.raises(RequestError, match="No space left"):
        box.change({"limits": {"text_chars": 7}})
    assert box.live.settings.limits.text_chars == 100


def test_the_file_can_be_read_by_a_person_and_the_source_of_each_value_is_shown(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGED_LANGUAGE", "en")
    box.change({"log": {"level": "debug"}, "routes": {"r b": ROUTE}})
    text = options_file(box.folder).read_text()
    assert '[log]\nlevel = "debug"\n' in text
    assert '[routes."r b"]\nsubscribe = "a/+"\n' in text
    assert "strongest" in text
    found = load_with_sources(flags=box.flags, config_file=box.file)
    shown = show(found.settings, found.given.source)
    assert 'level = "debug"  # set over MQTT' in shown
    assert f"text_chars = 100  # {box.file}" in shown
    assert 'language = "en"  # EDGED_LANGUAGE' in shown
    assert 'node = "box"  # --set' in shown
    assert "payload_bytes = 65536\n" in shown
    assert 'publish = "b"  # set over MQTT' in shown
    tomllib.loads(shown)


JSON = st.recursive(st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(), st.lists, max_leaves=5)
TABLES = st.recursive(
    st.dictionaries(st.text(min_size=1), JSON, max_size=4),
    lambda inner: st.dictionaries(st.text(min_size=1), JSON | inner, max_size=4),
    max_leaves=8,
)


@given(TABLES)
def test_what_is_written_is_read_as_it_was(options: dict[str, Any]) -> None:
    options = patched({}, options)
    assert tomllib.loads(options_text(options)) == options


def test_a_patch_is_a_json_merge_patch() -> None:
    target = json.loads('{"a": {"b": 1, "c": [1]}, "d": 2}')
    assert patched(target, {"a": {"b": None, "c": [2], "e": {"f": None}}, "d": {"g": 3}}) == {
        "a": {"c": [2]},
        "d": {"g": 3},
    }


# ------------------------------------------------------------------------------------------------ tasks and prompts

SUMMARY = {"kind": "generate", "system": "Be brief."}


def test_tasks_change_after_the_engine_is_ready_for_them_and_what_is_asked_meanwhile_waits(box: Box) -> None:
    box.is_quick = False
    answers: list[Any] = []
    box.live.change_options({"tasks": {"summary": SUMMARY}, "limits": {"text_chars": 7}}, answers.append)
    box.live.change_options({"limits": {"text_chars": 8}}, answers.append)
    assert (answers, box.used, options_file(box.folder).exists()) == ([], [], False)
    assert box.live.settings.limits.text_chars == 100
    box.preparing.pop()(None)
    assert [set(each["changed"]) for each in answers] == [{"tasks.summary", "limits.text_chars"}, {"limits.text_chars"}]
    assert "summary" in box.live.contract.tasks
    assert box.live.contract.text_chars == 8
    assert box.kept["tasks"] == {"summary": SUMMARY}


def test_tasks_that_the_model_cannot_run_are_refused_with_all_that_came_with_them(box: Box) -> None:
    box.is_quick = False
    answers: list[Any] = []
    box.live.change_options({"tasks": {"summary": SUMMARY}, "limits": {"text_chars": 7}}, answers.append)
    box.preparing.pop()(SettingsError("tasks.summary: its own words leave no room"))
    assert "nothing was changed: tasks.summary: its own words" in str(answers[0])
    assert (box.used, options_file(box.folder).exists()) == ([], False)
    assert "summary" not in box.live.contract.tasks


def test_a_key_of_a_task_of_the_file_can_be_changed_alone(box: Box) -> None:
    box.file.write_text("[tasks.summary]\nkind = 'generate'\nsystem = 'Be brief.'\nmax_tokens = 9\n")
    box.start()
    assert box.change({"tasks": {"summary": {"system": "Be kind."}}})["changed"] == ["tasks.summary"]
    spec = box.live.contract.tasks.parts("summary")[0]
    assert (spec.name, box.live.settings.tasks["summary"].model_dump()["max_tokens"]) == ("summary", 9)
    assert "Be kind." in repr(spec)


def test_prompt_changes_lose_no_request_of_a_thousand_in_flight(tmp_path: Path) -> None:
    box = Box(tmp_path, "[tasks.mood]\nkind = 'generate'\nsystem = 'prompt 0'\nhistory = true\n")
    link, engine = FakeLink(), ScriptedEngine(auto=False)
    worker = Worker(
        contract=box.live.contract,
        engine=engine,
        link=link,
        journal=MemoryJournal(),
        metrics=Metrics(),
        capacity=2000,
        languages=LanguageRule(fixed="en"),
        on_control=lambda _, __: None,
    )
    box.live.parts = (worker.use,)

    def take(delivery: Delivery) -> None:
        route = box.live.contract.topics.route(delivery.message.topic)
        assert isinstance(route, TaskRoute)
        worker.on_delivery(route, delivery)

    def turn() -> None:
        for _ in range(4):
            worker.turn(0)
        assert worker.state().died is None

    link.on_delivery = take
    asked: dict[str, int] = {}  # by id, the prompt in force
    draw = random.Random(5)
    for n in range(1000):
        if n % 100 == 50:
            assert box.change({"tasks": {"mood": {"system": f"prompt {n // 100 + 1}"}}})["changed"] == ["tasks.mood"]
        session = f"s{n % 7}" if n % 3 == 0 else None  # a later turn waits for the one before
        body = {"text": f"text {n}", "id": str(n), **({} if session is None else {"session": session})}
        link.deliver(Message(topic="edged/box/in/mood", payload=json.dumps(body).encode(), qos=1))
        asked[f"text {n}"] = (n + 50) // 100
        if n % 10 == 9:
            turn()
            for key in draw.sample(sorted(engine._open), k=2):
                engine.finish(key)
    while engine._open or worker.state().jobs:
        turn()
        for key in draw.sample(sorted(engine._open), k=len(engine._open)):
            engine.finish(key)
        turn()
    answered = [json.loads(each.payload) for each in link.published]
    assert sorted(int(each["id"]) for each in answered) == [*range(1000)]
    assert {each["status"] for each in answered} == {"ok"}
    assert len(link.acked) == 1000
    specs = {work.text: work.spec for work in engine.submitted}
    assert all(
        isinstance(spec, GenerateSpec) and spec.system["en"] == f"prompt {asked[text]}" for text, spec in specs.items()
    )
    assert len(box.prepared) == 10
