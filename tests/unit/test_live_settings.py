"""Settings that change while the daemon runs: read again, or set over MQTT, and then kept in the state folder."""

import json
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.build import contract_of
from edged.errors import RequestError
from edged.serving.live_settings import LiveSettings
from edged.settings.load import load, load_with_sources
from edged.settings.options import options_file, options_text, patched
from edged.settings.text import show
from edged.tasks.built_in import BUILT_IN

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
        self.start()

    def start(self) -> None:
        read = partial(load, flags=self.flags, config_file=self.file)
        self.live = LiveSettings(
            read(warn=self.warnings.append), read=read, contract_of=lambda new: contract_of(new, BUILT_IN)
        )
        self.live.parts = (self.used.append,)

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
    assert box.live.settings.queue.capacity == 64
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
