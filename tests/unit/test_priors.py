"""Priors in the store: found only for what they were computed of."""

import json
from pathlib import Path

import pytest

from edged.engine.priors import PriorStore, carried_file

PROMPTS = [(1, 2, 3), (1, 2, 4)]
FIRST = [-0.1, -2.3]
PRIOR = [-0.5, -0.9]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "priors.json"


def test_the_next_start_finds_what_this_one_kept(path: Path) -> None:
    PriorStore(path).keep(PROMPTS, FIRST, PRIOR)
    assert PriorStore(path).find(PROMPTS, FIRST) == PRIOR


def test_another_prompt_or_another_model_finds_nothing(path: Path) -> None:
    PriorStore(path).keep(PROMPTS, FIRST, PRIOR)
    store = PriorStore(path)
    assert store.find([(1, 2, 3), (1, 2, 5)], FIRST) is None
    assert store.find(PROMPTS, [-0.1, -2.3000000000000003]) is None


def test_several_are_kept_side_by_side(path: Path) -> None:
    PriorStore(path).keep(PROMPTS, FIRST, PRIOR)
    PriorStore(path).keep(PROMPTS, [-1.0], [-3.0])
    assert PriorStore(path).find(PROMPTS, FIRST) == PRIOR
    assert PriorStore(path).find(PROMPTS, [-1.0]) == [-3.0]


@pytest.mark.parametrize("garbage", ["", "[", "[]", '{"a": 7}', "\0"])
def test_a_file_that_is_none_is_begun_anew(path: Path, garbage: str) -> None:
    path.parent.mkdir()
    path.write_text(garbage)
    store = PriorStore(path)
    assert store.find(PROMPTS, FIRST) is None
    store.keep(PROMPTS, FIRST, PRIOR)
    assert PriorStore(path).find(PROMPTS, FIRST) == PRIOR


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = PriorStore(tmp_path / "file" / "priors.json")
    store.keep(PROMPTS, FIRST, PRIOR)
    assert store.find(PROMPTS, FIRST) == PRIOR  # for this process


def test_it_does_not_grow_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.engine.priors._MAX_ENTRIES", 3)
    store = PriorStore(path)
    for number in range(10):
        store.keep(PROMPTS, [float(number)], PRIOR)
    assert len(json.loads(path.read_text())["content"]) <= 3
    assert store.find(PROMPTS, [9.0]) == PRIOR


def test_without_a_place_nothing_is_kept() -> None:
    store = PriorStore(None)
    store.keep(PROMPTS, FIRST, PRIOR)
    assert store.find(PROMPTS, FIRST) is None


def test_what_came_with_a_model_is_found_where_the_first_result_is_nearly_the_same(tmp_path: Path) -> None:
    here = PriorStore(None)
    here.keep(PROMPTS, FIRST, PRIOR)
    came = tmp_path / "calibration.json"
    came.write_bytes(carried_file(came).encode(here.used))
    there = PriorStore(tmp_path / "priors.json", came_with=[came])
    assert there.find(PROMPTS, [each + 0.01 for each in FIRST]) == PRIOR
    assert there.used[0].learned == PRIOR
    assert there.find(PROMPTS, [each + 0.1 for each in FIRST]) is None
    assert there.find([(1, 2, 3)], FIRST) is None
    assert there.find(PROMPTS, FIRST[:1]) is None


def test_a_file_that_should_have_come_with_a_model_may_be_missing(tmp_path: Path) -> None:
    assert PriorStore(None, came_with=[tmp_path / "calibration.json"]).find(PROMPTS, FIRST) is None
