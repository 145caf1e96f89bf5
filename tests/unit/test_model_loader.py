"""Changing the model where the memory has no room for two: what waits, what is let go, and what is loaded again."""

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest

from edged.build import contract_of
from edged.contract.commands import ModelOrder
from edged.contract.model_report import ModelState
from edged.contract.topics import TaskRoute
from edged.engine.memory_plan import check_memory, plan_memory
from edged.errors import EdgedError, ModelUnavailable, NotEnoughMemory
from edged.monitoring.metrics import Metrics
from edged.ports.engine import Failed, Generated, Work, WorkEvent
from edged.ports.link import Delivery, Message
from edged.serving import model_loader
from edged.serving.model_trial import ModelTrial
from edged.serving.models import Models
from edged.serving.switchable import SwitchableEngine
from edged.serving.worker import Worker
from edged.settings.schema import EngineSettings
from edged.tasks.built_in import BUILT_IN, REPLY
from edged.testing import FakeLink, MemoryJournal, ScriptedEngine
from tests.support.model_box import Box, Model, Store
from tests.support.waiting import eventually


@pytest.fixture
def box(tmp_path: Path) -> Box:
    box = Box(tmp_path)
    box.memory.room = 1
    return box


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_loader, "_BETWEEN_TRIES_S", 0.0)


def test_a_model_takes_the_place_of_the_one_before(box: Box) -> None:
    report = box.switch("good-2")
    assert (report.installed_version, report.state, report.previous) == ("good-2", ModelState.SWITCHED, "good-1")
    assert (box.engine.model.id, box.engine.state().switching) == ("good-2", None)
    assert [each.name for each in box.made] == ["good-1", "good-2", "good-2"]
    assert [each.is_stopped for each in box.made] == [True, True, False]
    assert box.held == [True, False]
    assert [each.state for each in box.reports] == ["loading", "loading", "judging", "switched"]


@pytest.mark.parametrize("model", ["poor", "broken-in-its-place"])
def test_the_model_before_is_loaded_again_if_the_new_one_is_refused(
    box: Box, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_ready(self: Model, timeout: float | None = None) -> bool:
        if self.name.startswith("broken") and len(box.made) > 2:
            raise ModelUnavailable("its files are damaged")
        box.memory.take(self)
        return timeout is not None

    monkeypatch.setattr(Model, "wait_ready", wait_ready)
    report = box.switch(model)
    assert (report.installed_version, report.state) == ("good-1", ModelState.REFUSED)
    assert str(report.reason).startswith(("it was right for 50%", "its files are damaged"))
    assert (box.engine.model.id, box.kept, box.trial.running) == ("good-1", {}, None)
    assert [each.name for each in box.made] == ["good-1", model, model, "good-1"]
    assert [each.is_stopped for each in box.made] == [True, True, True, False]
    assert box.held == [True, False]


def test_a_full_disk_brings_the_model_before_back(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edged.state_files.replace", full)
    report = box.switch("good-2")
    assert "No space left" in str(report.reason)
    assert box.engine.model.id == box.live.settings.model.id == "good-1"
    assert box.held[-1] is False


def test_where_no_model_can_be_loaded_any_more_the_daemon_ends(box: Box) -> None:
    def no_memory_any_more() -> None:
        box.memory.room = 0 if len(box.made) > 1 else box.memory.room

    box.before_made = no_memory_any_more
    box.obey("switch", "good-2")

    def is_lost() -> bool:
        box.turn()
        return box.engine.state().fault is not None

    eventually(is_lost)
    assert "the model good-1 cannot be loaded again" in str(box.engine.state().fault)
    assert box.kept == {}


def test_a_model_that_would_not_fit_alone_either_is_refused_at_once(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_ready(self: Model, timeout: float | None = None) -> bool:
        raise NotEnoughMemory(f"{self.name} needs more than there is after {timeout} s", missing_bytes=1 << 30)

    monkeypatch.setattr(Model, "wait_ready", wait_ready)
    report = box.switch("good-2")
    assert (report.state, box.engine.model.id, box.held) == (ModelState.REFUSED, "good-1", [])
    assert not box.made[0].is_stopped


def test_with_a_bound_for_the_whole_daemon_there_are_never_two_models(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.file.write_text("[model]\nid = 'good-1'\n[engine]\nmemory_mb = 900\n")
    box.made.clear()
    box.start()
    assert box.switch("good-2").state is ModelState.SWITCHED
    assert [each.name for each in box.made] == ["good-1", "good-2"]
    assert box.held == [True, False]


def test_nothing_refers_to_a_model_that_was_let_go(box: Box) -> None:
    known: list[weakref.ref[Model]] = []
    alive: list[int] = []

    def count() -> None:
        known.extend(map(weakref.ref, box.made))
        box.made.clear()
        gc.collect()
        alive.append(sum(each() is not None for each in known))

    box.before_made = count
    box.switch("good-2")
    assert alive == [1, 0]


# ------------------------------------------------------------------------------------------- what is asked meanwhile


class Serving:
    """A worker whose engine's model is changed."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.link = FakeLink()
        self.contract = contract_of(box.live.settings, BUILT_IN)
        self.worker = Worker(
            contract=self.contract,
            engine=box.engine,
            link=self.link,
            journal=MemoryJournal(),
            metrics=Metrics(),
            capacity=8,
            batch=2,
            language=None,
            on_control=lambda _, __: None,
        )
        self.link.on_delivery = self.take
        self.models = Models(
            engine=box.engine,
            live=box.live,
            make_engine=box.make,
            store=lambda _: Store(),
            try_out=lambda _, __: None,
            trial=ModelTrial(box.folder, wall_clock=lambda: box.wall),
            publish=box.reports.append,
            hold=lambda is_held: self.worker.hold(is_held=is_held),
            post=self.worker.call,
            clock=lambda: 0.0,
        )

    def take(self, delivery: Delivery) -> None:
        route = self.contract.topics.route(delivery.message.topic)
        assert isinstance(route, TaskRoute)
        self.worker.on_delivery(route, delivery)

    def ask(self, *ids: str) -> None:
        for each in ids:
            payload = json.dumps({"text": "hi", "id": each}).encode()
            self.link.deliver(Message(topic="edged/box/in/reply", payload=payload, qos=1))
        self.worker.turn(0)

    def until(self, condition: Any) -> None:
        def turned() -> bool:
            self.worker.turn(0)
            return bool(condition())

        eventually(turned)

    @property
    def models_of_answers(self) -> dict[str, str]:
        bodies = [json.loads(each.payload) for each in self.link.published]
        return {body["id"]: body["model"] for body in bodies}


@pytest.mark.parametrize(("wanted", "used"), [("good-2", "good-2"), ("poor", "good-1")])
def test_what_is_asked_meanwhile_waits_and_nothing_is_lost(tmp_path: Path, wanted: str, used: str) -> None:
    box = Box(tmp_path, auto=False)
    box.memory.room = 1
    serving = Serving(box)
    serving.ask("a", "b", "c")
    old = box.made[0]
    assert len(old.submitted) == 3
    serving.models.obey(ModelOrder(action="switch", id=wanted), lambda _: None)
    serving.until(lambda: box.engine.state().switching)
    assert wanted in str(box.engine.state().switching)
    serving.ask("d", "e")
    assert [each.key for each in old.submitted if not each.key.startswith("canary/")] == [
        "1/reply",
        "2/reply",
        "3/reply",
    ]
    assert not old.is_stopped
    assert serving.link.acked == []
    for _ in range(3):
        old.finish()
    serving.until(lambda: not serving.models.report().in_progress)
    serving.until(lambda: len(serving.link.acked) == 5)
    expected = {"a": "good-1", "b": "good-1", "c": "good-1", "d": used, "e": used}
    assert serving.models_of_answers == expected
    assert len(serving.link.published) == 5
    assert old.is_stopped


def test_many_switches_in_place_lose_nothing_and_answer_nothing_twice(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.memory.room = 1
    serving = Serving(box)
    asked = 0
    used = "good-1"
    for n in range(10):
        wanted = f"poor-{n}" if n % 5 == 4 else f"good-{n + 2}"
        serving.models.obey(ModelOrder(action="switch", id=wanted), lambda _: None)
        while serving.models.report().in_progress:
            if asked - len(serving.link.published) < 4:  # those that wait for a model
                serving.ask(f"r{asked}")
                asked += 1
            serving.worker.turn(0.01)
        used = used if wanted.startswith("poor") else wanted
        assert box.engine.model.id == used
    serving.until(lambda: len(serving.link.acked) == asked)
    assert len(serving.link.published) == len(serving.models_of_answers) == asked


def test_work_that_waits_too_long_for_the_model_expires(tmp_path: Path) -> None:
    box = Box(tmp_path, auto=False)
    serving = Serving(box)
    serving.worker.call(lambda: serving.worker.hold(is_held=True))
    payload = json.dumps({"text": "hi", "id": "x", "deadline_ms": 1}).encode()
    serving.link.deliver(Message(topic="edged/box/in/reply", payload=payload, qos=1))
    serving.until(lambda: serving.link.published)
    assert json.loads(serving.link.published[0].payload)["error"]["code"] == "expired"
    assert box.made[0].submitted == []


def test_a_result_names_the_model_that_made_it(tmp_path: Path) -> None:
    box = Box(tmp_path, auto=False)
    serving = Serving(box)
    serving.ask("a")
    box.engine.switch(Model("good-2"))
    serving.ask("b")
    box.made[0].finish()
    serving.until(lambda: len(serving.link.acked) == 2)
    assert serving.models_of_answers == {"a": "good-1", "b": "good-2"}


# --------------------------------------------------------------------------------------------------- between two models


def between() -> SwitchableEngine:
    engine = SwitchableEngine(ScriptedEngine(), clock=lambda: 77.0)
    assert engine.let_go("another one comes", 0.0)
    return engine


def test_between_two_models_the_engine_is_well_and_keeps_what_it_is_given() -> None:
    engine = between()
    events: list[WorkEvent] = []
    for key in ("a", "b"):
        engine.submit(Work(key=key, spec=REPLY, text="hi", language="en"), events.append)
    state = engine.state()
    assert (state.switching, state.fault, state.last_progress, state.waiting) == ("another one comes", None, 77.0, 2)
    assert engine.model.id == "scripted"
    engine.cancel("a")
    assert [type(each) for each in events] == [Failed]
    prepared: list[EdgedError | None] = []
    engine.prepare(BUILT_IN, prepared.append)
    assert prepared == []
    new = ScriptedEngine()
    engine.switch(new)
    assert prepared == [None]
    assert new.prepared == [BUILT_IN]
    assert [type(each) for each in events] == [Failed, Generated]
    assert engine.state().switching is None


def test_what_waits_between_two_models_is_handed_back_at_the_end() -> None:
    engine = between()
    events: list[WorkEvent] = []
    prepared: list[EdgedError | None] = []
    engine.submit(Work(key="a", spec=REPLY, text="hi", language="en"), events.append)
    engine.prepare(BUILT_IN, prepared.append)
    engine.stop()
    assert isinstance(events[0], Failed)
    assert events[0].error.code == "shutting_down"
    assert prepared[0] is not None


def test_a_conversation_is_forgotten_between_two_models_too() -> None:
    engine = between()
    engine.keep_conversations()
    for key, conversation in (("a", "forgotten"), ("b", "other")):
        work = Work(key=key, spec=REPLY, text="hi", language="en", continues=True, conversation=conversation)
        engine.submit(work, lambda _: None)
    engine.forget("forgotten")
    new = ScriptedEngine()
    engine.switch(new)
    assert [(work.conversation, work.continues) for work in new.submitted] == [(None, False), ("other", True)]


def test_conversations_are_forgotten_by_every_model_and_kept_by_the_present_one() -> None:
    old, new = ScriptedEngine(auto=False), ScriptedEngine()
    engine = SwitchableEngine(old)
    engine.submit(Work(key="a", spec=REPLY, text="hi", language="en"), lambda _: None)
    engine.switch(new)
    engine.forget("c")
    engine.keep_conversations()
    assert (old.forgotten, new.forgotten) == (["c"], ["c"])
    assert (old.keeps_conversations, new.keeps_conversations) == (False, True)


def test_a_model_with_open_work_is_not_let_go() -> None:
    old = ScriptedEngine(auto=False)
    engine = SwitchableEngine(old)
    events: list[WorkEvent] = []
    engine.submit(Work(key="a", spec=REPLY, text="hi", language="en"), events.append)
    assert not engine.let_go("another one comes", 0.0)
    assert engine.has_model
    old.finish()
    assert len(events) == 1


# ------------------------------------------------------------------------------------------------- what is too large


def test_only_memory_that_others_take_now_is_worth_letting_a_model_go() -> None:
    with pytest.raises(NotEnoughMemory) as found:
        check_memory("the weights", 5 << 20, 3 << 20)
    assert found.value.missing_bytes == 2 << 20
    with pytest.raises(ModelUnavailable) as refused:
        plan_memory(EngineSettings(kv_mb=1), weights=1, one_context=2 << 20, process=0, free=1 << 30)
    assert not isinstance(refused.value, NotEnoughMemory)
