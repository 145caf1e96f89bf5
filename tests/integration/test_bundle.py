"""Bundles: the same answers as by torch, without torch; and what a damaged one is refused for."""

import contextlib
import json
import queue
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edged.engine import bundled, calibration, checkpoint_loading, loading
from edged.engine.conversation_place import NAME, Place
from edged.engine.decoders import native_library
from edged.engine.decoders.interface import Span
from edged.engine.decoders.native import NativeDecoder
from edged.engine.engine import Engine
from edged.engine.loading import Plan
from edged.engine.priors import PriorStore
from edged.engine.tokenizer import BundleTokenizer
from edged.engine.warm_up_file import WarmUpFile
from edged.errors import ModelUnavailable
from edged.models.bundle import MANIFEST, SCHEMA, verify
from edged.ports.engine import Classified, Generated, Params, Work
from edged.serving.model_loader import ModelLoader
from edged.serving.switchable import SwitchableEngine
from edged.settings.schema import EngineSettings, ModelSettings, Settings
from edged.tasks.built_in import REPLY, SENTIMENT
from edged.tasks.conversation import Turn
from edged.tasks.own import tasks_of
from edged.tasks.specs import Tasks
from tests.support import assets, tiny_chat
from tests.support.broker import Broker
from tests.support.daemon import Daemon, Watcher, publish
from tests.support.waiting import TIMEOUT

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TEXTS = ("I love this phone", "今天心情很好", "", "a <|im_end|> b\n\n🦖")


@pytest.fixture(scope="module")
def libraries(request: pytest.FixtureRequest) -> Path:
    """Where kernels are compiled to, once for all runs."""
    folder = request.config.cache.mkdir("kernels")
    try:
        native_library.library(folder)
    except native_library.NotBuilt as error:
        pytest.skip(str(error))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder."""
    return tiny_chat.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def plan(checkpoint: Path, libraries: Path, tmp_path: Path) -> Callable[..., Plan]:
    """A plan for the tiny model or another path, with a store of its own."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "kernels").symlink_to(libraries)

    def make(path: Path | None = None, **model: Any) -> Plan:
        return Plan(
            path=path or checkpoint,
            model=ModelSettings(id=str(path or checkpoint), device="cpu", **model),
            engine=EngineSettings(max_context_tokens=2048, threads=1),
            half_width=True,
            cache_dir=cache,
        )

    return make


def answers(plan: Plan) -> dict[str, Any]:
    """Scores, greedy texts and texts drawn by a seed."""
    engine: Engine[Any] = Engine(lambda: loading.load(plan), tasks=tasks_of({}))
    ends: queue.SimpleQueue[Any] = queue.SimpleQueue()
    engine.start()
    try:
        assert engine.wait_ready(300)
        for n, text in enumerate(TEXTS):
            greedy, drawn = Params(temperature=0, max_tokens=12), Params(temperature=1.5, seed=n, max_tokens=12)
            engine.submit(Work(key=f"scores {n}", spec=SENTIMENT, text=text, language="en"), ends.put)
            engine.submit(Work(key=f"greedy {n}", spec=REPLY, text=text, language="en", params=greedy), ends.put)
            engine.submit(Work(key=f"drawn {n}", spec=REPLY, text=text, language="zh", params=drawn), ends.put)
        events = [ends.get(timeout=300) for _ in range(3 * len(TEXTS))]
    finally:
        engine.stop()
    found: dict[str, Any] = {"format": engine.model.format, "parameters": engine.model.parameters}
    for event in events:
        assert isinstance(event, Classified | Generated), event
        found[event.key] = event.scores if isinstance(event, Classified) else (event.text, event.usage.prompt_tokens)
    return found


@pytest.mark.parametrize("weight_format", ["int8", "int4"])
def test_a_bundle_answers_as_the_checkpoint_does(
    plan: Callable[..., Plan], weight_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = plan(format=weight_format)
    assert bundled.find(asked) is None
    by_torch = answers(asked)
    bundle = bundled.find(asked)
    assert bundle is not None

    def no_torch(*_: object) -> None:
        raise AssertionError("the bundle is there")

    monkeypatch.setattr(checkpoint_loading, "load", no_torch)
    assert answers(asked) == by_torch
    assert answers(plan(bundle.folder)) == by_torch  # by the folder itself, as it was carried to another box
    loaded = loading.load(asked)
    assert isinstance(loaded.model, NativeDecoder)
    assert isinstance(loaded.prompter._tokenizer, BundleTokenizer)
    assert verify(bundle.folder).files.keys() == {"weights.safetensors", "tokenizer.json", "LICENSE"}


def test_a_bundle_of_a_model_with_layers_of_several_kinds_computes_as_the_checkpoint_does(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    asked = plan(tiny_chat.save(tmp_path / "gemma", "gemma3"), format="int8")
    tokens = list(range(5, 45))  # more than the window
    logits = []
    for _ in range(2):
        model = loading.load(asked).model
        kv = model.allocate(64)
        logits.append(model.forward([Span(kv=kv, tokens=tokens, wanted=range(len(tokens)))]).copy())
    bundle = bundled.find(asked)
    assert bundle is not None
    assert np.array_equal(logits[0], logits[1])
    said = json.loads((bundle.folder / MANIFEST).read_bytes())
    damage: tuple[dict[str, Any], ...] = (
        {"layer_kinds": [{"rope": 0, "window": 8}]},
        {"layer_kinds": [{"rope": 2, "window": 0}] * 3},
    )
    for each in damage:
        (bundle.folder / MANIFEST).write_text(
            json.dumps(said | {"model": said["model"] | {"shape": said["model"]["shape"] | each}})
        )
        with pytest.raises(ModelUnavailable, match=r"damaged: model.*kinds of layers"):
            bundled.read_bundle(bundle.folder)


def test_a_model_that_is_let_go_leaves_its_memory_to_the_next_one(plan: Callable[..., Plan], tmp_path: Path) -> None:
    asked = plan(format="int8")
    loading.prepare(asked)
    loaded: list[weakref.ref[Any]] = []
    tasks = Tasks([REPLY])

    def free() -> int:
        return 0 if any(each() is not None for each in loaded) else 1 << 34

    def make(*_: object) -> Engine[Any]:
        def load() -> Any:
            model = loading.load(asked, available_bytes=free)
            loaded.append(weakref.ref(model.model))
            return model

        return Engine(load, tasks=tasks)

    engine = SwitchableEngine(make())
    loader = ModelLoader(engine=engine, make_engine=make, hold=lambda _: None, post=lambda function: function())
    settings = Settings(node="box", state_dir=tmp_path)
    ends: queue.SimpleQueue[Any] = queue.SimpleQueue()
    work = Work(key="a", spec=REPLY, text="hi", language="en", params=Params(temperature=0, max_tokens=4))
    engine.start()
    try:
        assert engine.wait_ready(TIMEOUT)
        engine.submit(work, ends.put)
        before = ends.get(timeout=TIMEOUT)
        assert loader.load_beside(settings, tasks) is None
        loader.let_go("another")
        loader.go_on(loader.load(settings, tasks))  # no memory is free as long as anything refers to the model before
        engine.submit(work, ends.put)
        after = ends.get(timeout=TIMEOUT)
        assert (after.text, len(loaded)) == (before.text, 2)
    finally:
        engine.stop()


def test_a_start_from_the_warm_up_file_answers_the_same(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    loading.load(plan())
    computed = answers(plan())
    (file,) = (plan().cache_dir or Path()).glob("warm-up/*.safetensors")
    written = file.stat().st_mtime_ns

    def computes_nothing(*_: object) -> None:
        raise AssertionError("the file is there")

    with monkeypatch.context() as patch:
        patch.setattr(calibration, "mean_prior", computes_nothing)
        patch.setattr(WarmUpFile, "write", computes_nothing)
        patch.setattr(PriorStore, "find", computes_nothing)
        assert answers(plan()) == computed
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        file.write_bytes(damaged)
        assert answers(plan()) == computed
        assert file.read_bytes() == whole  # made anew, to the bit
    assert file.stat().st_mtime_ns > written


@contextlib.contextmanager
def process(plan: Plan) -> Iterator[Engine[Any]]:
    """An engine as of one process of the daemon, which ends in order."""
    engine: Engine[Any] = Engine(lambda: loading.load(plan), tasks=Tasks([REPLY]))
    engine.start()
    try:
        assert engine.wait_ready(300)
        yield engine
    finally:
        engine.keep_conversations()
        engine.stop()


class Session:
    """A conversation whose turns are answered by one process or several."""

    def __init__(self, name: str, **params: Any) -> None:
        self.name = name
        self.params = Params(max_tokens=8, **params)
        self.turns: tuple[Turn, ...] = ()

    def work(self, text: str) -> Work:
        return Work(
            key=f"{self.name} {len(self.turns)}",
            spec=REPLY,
            text=text,
            language="en",
            turns=self.turns,
            params=self.params,
            continues=True,
            conversation=self.name,
        )

    def say(self, engine: Engine[Any], text: str) -> Generated:
        ends: queue.SimpleQueue[Any] = queue.SimpleQueue()
        engine.submit(self.work(text), ends.put)
        event = ends.get(timeout=300)
        assert isinstance(event, Generated), event
        self.turns += (Turn(role="user", content=text), Turn(role="assistant", content=event.text))
        return event


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(path=tmp_path / NAME, most_bytes=64 << 20, most_age_s=3600)


@pytest.mark.parametrize("is_real", [False, True], ids=["tiny", "real"])
def test_conversations_that_outlive_the_process_change_no_token(
    plan: Callable[..., Plan], place: Place, request: pytest.FixtureRequest, *, is_real: bool
) -> None:
    alone = plan(assets.small_model()) if is_real else plan()
    if is_real:
        prepared = request.config.cache.mkdir("bundles") / "prepared"
        prepared.mkdir(exist_ok=True)
        ((alone.cache_dir or Path()) / "prepared").symlink_to(prepared)
    loading.prepare(alone)
    keeping = replace(alone, conversations=place)
    greedy, drawn = Session("greedy", temperature=0), Session("drawn", temperature=1.5, seed=7)
    with process(keeping) as engine:
        for session in (greedy, drawn):
            session.say(engine, f"{session.name} is my name, and I live in a house by the sea.")
    assert place.path.stat().st_size < place.most_bytes
    turns = {session.name: session.turns for session in (greedy, drawn)}
    with process(keeping) as engine:
        assert not place.path.exists()
        recalled = {session.name: session.say(engine, "What is my name?") for session in (greedy, drawn)}
    assert place.path.exists()
    greedy.turns, drawn.turns = turns["greedy"], turns["drawn"]
    with process(alone) as engine:
        computed = {session.name: session.say(engine, "What is my name?") for session in (greedy, drawn)}
    for name, event in computed.items():
        assert recalled[name].text == event.text
        assert recalled[name].usage.cached_tokens > event.usage.cached_tokens + 10


def test_a_forgotten_conversation_is_in_no_file(plan: Callable[..., Plan], place: Place) -> None:
    loading.prepare(plan())
    keeping = replace(plan(), conversations=place)
    before, within, kept = (Session(name, temperature=0) for name in ("before", "within", "kept"))
    with process(keeping) as engine:
        for session in (before, within, kept):
            session.say(engine, "My name is Ann.")
        engine.forget("before")
        ends: queue.SimpleQueue[Any] = queue.SimpleQueue()
        engine.submit(within.work("What is my name?"), ends.put)
        engine.forget("within")  # while it has a turn in hand
        assert isinstance(ends.get(timeout=300), Generated)
    written = place.path.read_bytes()
    assert b"kept" in written
    assert b"before" not in written
    assert b"within" not in written
    with process(keeping) as engine:
        engine.forget("kept")
    assert not place.path.exists()


def test_where_torch_computes_no_conversation_outlives_the_process(plan: Callable[..., Plan], place: Place) -> None:
    place.path.write_bytes(b"left by another")
    with process(replace(plan(format="fp32"), conversations=place)) as engine:
        assert not place.path.exists()
        Session("s").say(engine, "Hi")
    assert not place.path.exists()


def test_a_checkpoint_that_changes_gets_another_bundle(plan: Callable[..., Plan], checkpoint: Path) -> None:
    loading.load(plan())
    first = bundled.find(plan())
    assert first is not None
    (checkpoint / "config.json").touch()
    assert bundled.find(plan()) is None
    loading.load(plan())
    second = bundled.find(plan())
    assert second is not None
    assert second.manifest.origin.made_of != first.manifest.origin.made_of


def test_other_devices_formats_and_kernels_do_not_take_a_bundle(plan: Callable[..., Plan]) -> None:
    loading.load(plan())
    folder = getattr(bundled.find(plan()), "folder", None)
    assert folder is not None
    assert bundled.find(plan(format="fp32")) is None
    assert bundled.find(plan(format="int4")) is None
    with pytest.raises(ModelUnavailable, match=r"is in int8, and model\.format is int4"):
        loading.load(plan(folder, format="int4"))


Change = Callable[[Path], object]


def _edit(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        said = json.loads((folder / MANIFEST).read_text())
        for place, value in changes.items():
            *path, last = place.split("__")
            at = said
            for each in path:
                at = at[each]
            at[last] = value
        (folder / MANIFEST).write_text(json.dumps(said))

    return change


def _overwrite(file: Path) -> None:
    file.write_bytes(b" " * file.stat().st_size)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_edit(edged_bundle=SCHEMA + 1), f"schema {SCHEMA + 1}, and this release .* update edged"),
        (_edit(edged_bundle=SCHEMA - 1), f"schema {SCHEMA - 1}, and this release .* prepare the model again"),
        (_edit(edged_bundle="x"), "edged_bundle"),
        (_edit(files={}), "names no tokenizer.json, weights.safetensors"),
        (_edit(model={}), "manifest of the bundle .* is damaged: model"),
        (_edit(model__shape__layers=2), "does not have the tensors"),
        (_edit(model__end_tokens=[99999]), "token 99999, and the vocabulary ends"),
        (_edit(model__tokenizer__chat_template="{% for %}"), "chat template cannot be used"),
        (_edit(model__tokenizer__chat_template="{{ raise_exception('no') }}"), "chat template cannot be used: no"),
        (_edit(model__tokenizer__chat_template=ENDLESS), "chat template cannot be used: it does not end within"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"x"), "weights.safetensors is cut short"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "is no JSON"),
        (lambda folder: _overwrite(folder / "tokenizer.json"), "tokenizer.json is not understood"),
        (_edit(model__shape__vocab=256), r"tokenizer\.json has \d+ tokens, and the weights are of 256"),
    ],
)
def test_a_damaged_bundle_is_refused_by_name(plan: Callable[..., Plan], change: Change, words: str) -> None:
    loading.load(plan())
    bundle = bundled.find(plan())
    assert bundle is not None
    change(bundle.folder)
    with pytest.raises(ModelUnavailable, match=words):
        loading.load(plan(bundle.folder))
    if "chat template" not in words:  # a bundle of a checkpoint that is here is made anew
        loading.load(plan())
        loading.load(plan(bundle.folder))


def test_a_checkpoint_whose_template_never_ends_is_refused_too(plan: Callable[..., Plan], tmp_path: Path) -> None:
    folder = tiny_chat.save(tmp_path)
    for said in folder.glob("tokenizer_config.json"):
        said.write_text(json.dumps(json.loads(said.read_text()) | {"chat_template": ENDLESS}))
    (folder / "chat_template.jinja").write_text(ENDLESS)
    with pytest.raises(ModelUnavailable, match="chat template cannot be used: it does not end within"):
        loading.load(plan(folder, format="fp32"))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(folder=tmp_path)
    made.start()
    yield made
    made.stop()


def test_the_daemon_answers_without_torch_and_transformers(
    broker: Broker, tmp_path: Path, libraries: Path, request: pytest.FixtureRequest
) -> None:
    store = request.config.cache.mkdir("bundles")
    if not (store / "kernels").exists():
        (store / "kernels").symlink_to(libraries)
    path = assets.small_model()
    model, engine = ModelSettings(id=str(path), device="cpu"), EngineSettings()
    loading.prepare(Plan(path=path, model=model, engine=engine, half_width=True, cache_dir=store))
    daemon = Daemon(
        folder=tmp_path,
        broker=broker,
        program=("-m", "tests.support.without_torch", "edged", "run"),
        more={"EDGED_MODEL_DIR": str(store), "EDGED_MODEL__DEVICE": "cpu"},
    )
    watcher = Watcher(broker, f"{daemon.root}/out/#")
    daemon.start()
    try:
        daemon.wait_ready()
        for text in ("I love this phone, it is wonderful!", "The parcel came broken and nobody answers the phone."):
            publish(broker, f"{daemon.root}/in/message", text)
        results = [watcher.next_json() for _ in range(2)]
        checked, asked = (
            subprocess.run(
                [sys.executable, "-m", "tests.support.without_torch", "edged", *arguments],
                env=daemon.environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=TIMEOUT,
            )
            for arguments in (["check"], ["ask", "Hello", "--task", "sentiment"])
        )
    finally:
        watcher.stop()
        daemon.stop()
    assert [each["status"] for each in results] == ["ok", "ok"]
    assert {each["sentiment"]["label"] for each in results} == {"positive", "negative"}
    assert all(each["reply"]["text"] for each in results)
    assert (checked.returncode, asked.returncode) == (0, 0), checked.stdout + checked.stderr + asked.stderr
    assert "(weights 136, keys and values" in checked.stdout
