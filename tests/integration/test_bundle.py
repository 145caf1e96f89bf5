"""Bundles: the same answers as by torch, without torch; and what a damaged one is refused for."""

import json
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edged.engine import bundled, calibration, checkpoint_loading, loading
from edged.engine.decoders import native_library
from edged.engine.decoders.native import NativeDecoder
from edged.engine.engine import Engine
from edged.engine.loading import Plan
from edged.engine.tokenizer import BundleTokenizer
from edged.engine.warm_up_file import WarmUpFile
from edged.errors import ModelUnavailable
from edged.models.bundle import MANIFEST, SCHEMA, verify
from edged.ports.engine import Classified, Generated, Params, Work
from edged.settings.schema import EngineSettings, ModelSettings
from edged.tasks.built_in import REPLY, SENTIMENT
from edged.tasks.own import tasks_of
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
        assert answers(plan()) == computed
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        file.write_bytes(damaged)
        assert answers(plan()) == computed
        assert file.read_bytes() == whole  # made anew, to the bit
    assert file.stat().st_mtime_ns > written


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
