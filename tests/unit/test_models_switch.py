"""Changing the model while the daemon runs: what is used, what is refused, and what a power cut leaves."""

import contextlib
import json
import time
from pathlib import Path

import pytest

from edged.contract.model_report import ModelState
from edged.errors import ModelError, RequestError
from edged.models.bundle_source import BundleSource
from edged.ports.engine import Work, WorkEvent
from edged.serving.canary import Questions, Verdict, fault_of, judge, read_cases
from edged.serving.model_trial import HOUR_S
from edged.settings.options import options_file
from edged.settings.schema import Settings
from edged.tasks.built_in import BUILT_IN, REPLY, SENTIMENT
from edged.tasks.canary import CANARY
from edged.tasks.case_file import Case, CaseFile
from edged.testing import ScriptedEngine
from tests.support.model_box import Box, Model
from tests.support.waiting import eventually


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_a_model_is_fetched_judged_and_used(box: Box) -> None:
    assert box.obey("pull", "good-2") == {"started": "pull", "id": "good-2"}
    assert box.until_done().latest_version == "good-2"
    assert box.obey("switch") == {"started": "switch", "id": "good-2"}
    report = box.until_done()
    assert (report.installed_version, report.state, report.previous) == ("good-2", ModelState.SWITCHED, "good-1")
    states = [each.state for each in box.reports]
    assert states == ["pulling", "idle", "loading", "judging", "switched"]
    assert [each.update_percentage for each in box.reports] == [10, None, 40, 70, None]
    assert box.engine.model.id == "good-2"
    assert box.kept == {"model": {"id": "good-2"}}
    assert box.told == 1
    eventually(lambda: box.made[0].is_stopped)
    box.start()
    assert box.live.settings.model.id == "good-2"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("poor", "it was right for 50% of the canary's texts, the model before for 100%"),
        ("broken", "the memory is too small"),
        ("nowhere", "is not here"),
    ],
)
def test_a_model_that_is_worse_is_not_used(box: Box, model: str, words: str) -> None:
    report = box.switch(model)
    assert (report.installed_version, report.state, report.previous) == ("good-1", ModelState.REFUSED, None)
    assert words in str(report.reason)
    assert (box.engine.model.id, box.kept, box.trial.running) == ("good-1", {}, None)
    assert all(each.is_stopped for each in box.made[1:])
    assert not box.made[0].is_stopped


def test_fifty_switches_under_load_lose_nothing_and_refuse_all_bad_models(tmp_path: Path) -> None:
    box = Box(tmp_path)
    events: list[WorkEvent] = []
    asked = 0
    refused = 0
    for n in range(50):
        for _ in range(4):
            box.engine.submit(Work(key=f"w{asked}", spec=REPLY, text="hi", language="en"), events.append)
            asked += 1
        is_bad = n % 5 == 4
        report = box.switch(f"poor-{n}" if is_bad else f"good-{n + 2}")
        refused += report.state is ModelState.REFUSED
        assert report.state is (ModelState.REFUSED if is_bad else ModelState.SWITCHED)
    assert refused == 10
    assert len(events) == asked == 200
    assert box.engine.state().steps >= 200
    eventually(lambda: sum(each.is_stopped for each in box.made) == 50)


def test_open_work_ends_on_the_model_that_it_began_on(tmp_path: Path) -> None:
    box = Box(tmp_path, auto=False)
    old = box.made[0]
    events: list[WorkEvent] = []
    box.engine.submit(Work(key="a", spec=REPLY, text="hi", language="en"), events.append)
    box.engine.submit(Work(key="b", spec=REPLY, text="hi", language="en"), events.append)
    new = Model("good-2", auto=False)
    box.engine.switch(new)
    box.engine.submit(Work(key="c", spec=REPLY, text="hi", language="en"), events.append)
    assert ([each.text for each in new.submitted], len(old.submitted)) == (["hi"], 2)
    assert box.engine.state().running == 3
    box.engine.cancel("a")
    assert not old.is_stopped
    old.finish("b")
    eventually(lambda: old.is_stopped)
    new.finish("c")
    assert {event.key for event in events} == {"a", "b", "c"}
    assert box.engine.state().steps == 3


def test_it_goes_back_without_being_judged(box: Box) -> None:
    box.switch("good-2")
    assert box.obey("rollback") == {"started": "rollback", "id": "good-1"}
    report = box.until_done()
    assert (report.installed_version, report.previous) == ("good-1", "good-2")
    assert [each.state for each in box.reports][-2:] == ["loading", "switched"]


@pytest.mark.parametrize(
    ("action", "model", "words"),
    [
        ("explode", None, "there are: status"),
        ("switch", None, "name one"),
        ("rollback", None, "name one"),
        ("switch", "good-1", "in use already"),
    ],
)
def test_what_cannot_be_done_is_told_at_once(box: Box, action: str, model: str | None, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        box.obey(action, model)
    assert box.obey("status")["installed_version"] == "good-1"


DIGEST = "0" * 64


def test_a_bundle_is_fetched_from_where_the_settings_allow(box: Box) -> None:
    box.file.write_text("[model]\nid = 'good-1'\n[models]\nsources = ['https://box.lan/models/']\n")
    box.start()
    url = "https://box.lan/models/good-7.tar"
    assert box.obey("pull", url=url, sha256=DIGEST) == {"started": "pull", "id": "good-7"}
    assert box.until_done().latest_version == "good-7"
    assert box.store.fetched == [(BundleSource(url=url, sha256=DIGEST), "good-7")]
    assert box.switch("good-7").state is ModelState.SWITCHED


@pytest.mark.parametrize(
    ("action", "model", "more", "words"),
    [
        ("pull", None, {"url": "https://box.lan.evil/models/a.tar", "sha256": DIGEST}, "below none of models.sources"),
        ("pull", None, {"url": "https://box.lan/other/a.tar", "sha256": DIGEST}, "below none of models.sources"),
        ("pull", None, {"url": "https://box.lan/models/a.tar"}, "64 digits"),
        ("pull", "good-1", {"url": "https://box.lan/models/a.tar", "sha256": DIGEST}, "in use already"),
        ("switch", None, {"url": "https://box.lan/models/a.tar", "sha256": DIGEST}, "a url is for pull"),
    ],
)
def test_a_bundle_from_elsewhere_is_refused(
    box: Box, action: str, model: str | None, more: dict[str, str], words: str
) -> None:
    box.file.write_text("[model]\nid = 'good-1'\n[models]\nsources = ['https://box.lan/models/']\n")
    box.start()
    with pytest.raises(RequestError, match=words):
        box.obey(action, model, **more)
    assert box.store.fetched == []


@pytest.mark.parametrize("source", ["https://box.lan", "box.lan/", "https://ada:pw@box.lan/", "file:///models/"])
def test_a_source_that_is_no_beginning_of_a_url_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="sources"):
        Settings.model_validate({"node": "box", "models": {"sources": [source]}})


def _languages(box: Box) -> tuple[str, ...]:
    return box.engine.model.languages


def test_what_is_said_of_the_languages_of_a_model_is_not_said_of_the_next(box: Box) -> None:
    box.file.write_text("[model]\nid = 'good-1'\nreads = ['en', 'de']\n")
    box.start()
    assert _languages(box) == ("en", "de")
    box.switch("good-2")
    assert _languages(box) == (box.live.settings.model.reads or ()) == ()
    box.start()
    assert (box.live.settings.model.id, box.live.settings.model.reads) == ("good-2", None)
    box.obey("rollback")
    box.until_done()
    assert _languages(box) == box.live.settings.model.reads == ("en", "de")


def test_what_was_said_over_mqtt_of_the_languages_of_a_model_ends_with_its_use(box: Box) -> None:
    options_file(box.folder).write_text("[model]\nid = 'good-0'\nreads = ['fr']\n")
    box.start()
    assert _languages(box) == ("fr",)
    box.switch("good-2")
    assert (_languages(box), box.kept) == ((), {"model": {"id": "good-2"}})


def test_a_model_of_which_the_settings_do_not_say_that_it_reads_the_language_of_all_prompts_is_refused(
    box: Box,
) -> None:
    box.file.write_text("language = 'de'\n[model]\nid = 'good-1'\nreads = ['de']\n")
    box.start()
    with pytest.raises(RequestError, match=r"language is de.*model\.reads"):
        box.obey("switch", "good-2")
    assert not box.models.report().in_progress


def test_one_thing_at_a_time(box: Box) -> None:
    box.obey("pull", "good-2")
    with pytest.raises(RequestError, match="R/model tells when it is done"):
        box.obey("switch", "good-3")
    box.until_done()


def test_a_full_disk_leaves_the_model_before(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edged.state_files.replace", full)
    report = box.switch("good-2")
    assert "No space left" in str(report.reason)
    assert box.engine.model.id == box.live.settings.model.id == "good-1"


# ------------------------------------------------------------------------------------------------------ the trial


def test_a_model_on_which_two_processes_end_badly_is_taken_back(box: Box) -> None:
    box.switch("good-2")
    assert not box.trial.process_begins("good-2")  # the process that switched has crashed
    assert box.trial.process_begins("good-2")  # so has the second one
    assert box.kept == {}
    box.start()
    assert box.live.settings.model.id == "good-1"
    assert not box.trial.process_begins("good-1")


def test_ends_in_order_do_not_count_and_after_an_hour_nothing_does(box: Box) -> None:
    box.switch("good-2")
    box.trial.process_ends()
    for _ in range(5):
        assert not box.trial.process_begins("good-2")
        box.trial.process_ends()
    assert not box.trial.process_begins("good-2")
    box.wall += HOUR_S
    for _ in range(5):
        assert not box.trial.process_begins("good-2")
    box.start()
    assert box.models.report().previous == "good-1"


def test_a_model_that_no_longer_loads_is_taken_back_in_its_first_hour(box: Box) -> None:
    options_file(box.folder).write_text("[model]\nid = 'good-0'\n[limits]\ntext_chars = 7\n")
    box.start()
    box.switch("good-2")
    assert box.trial.take_back("its files are damaged")
    assert box.kept == {"model": {"id": "good-0"}, "limits": {"text_chars": 7}}
    assert not box.trial.take_back("again")


class Cut(BaseException):
    """The power is cut."""


@pytest.mark.parametrize("step", range(6))
def test_a_power_cut_at_any_write_leaves_one_whole_model(box: Box, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = 0
    from edged import state_files  # noqa: PLC0415 - as it was before it is replaced

    real = state_files.replace

    def cut(path: Path, content: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes > step // 2:
            if step % 2:
                real(path, content)
            raise Cut
        real(path, content)

    monkeypatch.setattr(state_files, "replace", cut)
    with contextlib.suppress(Cut):
        box.switch("good-2")
    monkeypatch.setattr(state_files, "replace", real)
    box.start()
    model = box.live.settings.model.id
    assert model in {"good-1", "good-2"}
    assert not box.trial.process_begins(model)
    running = box.trial.running
    assert running is None or (running.id, running.previous) == (model, "good-1") == ("good-2", "good-1")


# ----------------------------------------------------------------------------------------------------- the canary


def test_the_built_in_texts_are_forty_for_each_language_and_half_of_them_positive() -> None:
    for cases in CANARY.values():
        assert len({text for text, _ in cases}) == 40
        assert sum(label == "positive" for _, label in cases) == 20


def test_a_file_of_texts_is_read() -> None:
    found = read_cases("It was fun.\tpositive\nIt was not.\tnegative\r\n", SENTIMENT, BUILT_IN)
    assert found.parts == [SENTIMENT]
    assert [each.expected for each in found.cases] == [{"sentiment": "positive"}, {"sentiment": "negative"}]
    for wrong in ("no tab", "a\tgreat", ""):
        with pytest.raises(ValueError, match=r"a tab|no text"):
            read_cases(wrong, SENTIMENT, BUILT_IN)


def test_what_eval_saved_of_any_task_judges_a_model() -> None:
    cases = [
        Case(text="fine", expected={"sentiment": "positive", "reply": ("You said: fine",)}),
        Case(text="bad", expected={"sentiment": "positive", "reply": ("xyz",)}),
    ]
    content = CaseFile.of(cases, task="message", model="m", score=0.5).model_dump_json()
    questions = read_cases(content, SENTIMENT, BUILT_IN)
    assert questions.cases == cases
    engine = ScriptedEngine()
    found = judge(engine, questions, language="en", clock=time.monotonic)
    assert found.right == 0.5  # of four answers a label and a reply are right, and nothing of the others
    assert [work.spec.name for work in engine.submitted] == ["sentiment", "reply"] * 2
    assert [work.seed for work in engine.submitted] == [0, 0, 1, 1]  # the same for every model


def test_a_text_of_the_canary_is_asked_in_its_own_language_where_the_model_reads_it() -> None:
    engine = ScriptedEngine()
    engine.reads = ("de", "en")
    cases = [
        Case(text="Der Akku hält nur zwei Stunden, und ich bin sehr enttäuscht.", expected={"sentiment": "negative"})
    ]
    judge(engine, Questions(parts=[SENTIMENT], cases=cases), language=None, clock=time.monotonic)
    assert [work.language for work in engine.submitted] == ["de"]


def test_a_model_may_be_a_little_worse_and_a_little_slower() -> None:
    old = Verdict(right=0.90, seconds=0.1)
    assert fault_of(Verdict(right=0.86, seconds=0.19), old, margin=0.05, slowest=2.0) is None
    assert "86%" not in str(fault_of(Verdict(right=0.80, seconds=0.1), old, margin=0.05, slowest=2.0))
    assert "2.5 times as long" in str(fault_of(Verdict(right=0.9, seconds=0.25), old, margin=0.05, slowest=2.0))


def test_a_model_that_fails_on_a_text_is_refused() -> None:
    engine = ScriptedEngine()
    engine.faults["x"] = ModelError("broken")
    with pytest.raises(RequestError, match="failed on a text of the canary"):
        judge(
            engine,
            Questions(parts=[SENTIMENT], cases=[Case(text="x", expected={"sentiment": "positive"})]),
            language="en",
            clock=time.monotonic,
        )


def test_the_report_is_what_home_assistant_reads(box: Box) -> None:
    body = json.loads(json.dumps(box.models.report().body()))
    assert {"installed_version", "latest_version", "in_progress", "update_percentage", "title"} <= body.keys()
