"""Pulling through the hub's own client, from a hub on this machine; and what happens where no hub answers."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from edged.errors import ModelUnavailable
from edged.models.hub import HuggingFaceHub
from edged.models.store import Store
from tests.support.broker import free_port
from tests.support.hub import FakeHubServer, serve

REPO = "someone/small-model"
WEIGHTS = random.Random(0).randbytes(300_000)
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle",
    "model.py": b"import os",
}


@pytest.fixture
def hub() -> Iterator[FakeHubServer]:
    with serve(FakeHubServer(repo=REPO, files=dict(FILES))) as server:
        yield server


def _store(tmp_path: Path, endpoint: str) -> Store:
    return Store(tmp_path / "store", hub=HuggingFaceHub(endpoint, timeout_s=5))


def test_a_model_comes_from_the_hub_whole_and_without_a_word(
    tmp_path: Path, hub: FakeHubServer, capfd: pytest.CaptureFixture[str]
) -> None:
    store = _store(tmp_path, hub.endpoint)
    path = store.pull(REPO)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert {name for name, _ in hub.ranges} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert "3 files" in store.verify(REPO)
    assert capfd.readouterr() == ("", "")  # a bar is for terminals


def test_a_pull_goes_on_where_the_connection_was_lost(
    tmp_path: Path, hub: FakeHubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 10)  # what it keeps of a broken download
    hub.cut["model.safetensors"] = 100_000
    path = _store(tmp_path, hub.endpoint).pull(REPO)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    resumed = [wanted for name, wanted in hub.ranges if name == "model.safetensors"][1]
    assert resumed is not None
    assert 0 < int(resumed.removeprefix("bytes=").rstrip("-")) <= 100_000


def test_a_hub_that_is_gone_leaves_no_half_model(tmp_path: Path) -> None:
    files = dict(FILES)
    with serve(FakeHubServer(repo=REPO, files=files)) as hub:
        store = _store(tmp_path, hub.endpoint)
        listing = store._hub.list_files
        store._hub.list_files = lambda model: (listing(model), files.pop("model.safetensors"))[0]  # type: ignore[method-assign]
        with pytest.raises(ModelUnavailable):
            store.pull(REPO)
    for _ in range(2):  # the client takes a folder that it began to fill for an answer where no hub is reached
        with pytest.raises(ModelUnavailable, match="cannot be fetched"):
            store.pull(REPO)
    with pytest.raises(ModelUnavailable, match="edged models pull"):
        store.path(REPO)


def test_where_no_hub_answers_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"check the network.*EDGED_MODEL__ID.*smollm2-135m-instruct"):
        _store(tmp_path, f"http://127.0.0.1:{free_port()}").pull(REPO)


def test_a_model_that_the_hub_does_not_have(tmp_path: Path, hub: FakeHubServer) -> None:
    with pytest.raises(ModelUnavailable, match="none of that name"):
        _store(tmp_path, hub.endpoint).pull("someone/else")


def test_a_revision_that_the_hub_does_not_have(tmp_path: Path, hub: FakeHubServer) -> None:
    with pytest.raises(ModelUnavailable, match="no revision v9"):
        _store(tmp_path, hub.endpoint).pull(REPO, "v9")


def test_a_name_that_no_hub_allows(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"some--one/x cannot be fetched from the hub: .*"):
        _store(tmp_path, f"http://127.0.0.1:{free_port()}").pull("some--one/x")
