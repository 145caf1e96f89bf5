"""`edged eval` on tasks that write, extract or are composed, with the engine that answers by rule."""

import json
from pathlib import Path

import pytest

from edged.errors import ModelError, RequestError, SettingsError, TooLong
from edged.evaluation.parts import PartsReport, PartTest, in_words, is_for, run, table
from edged.evaluation.run import Way
from edged.settings.schema import Settings
from edged.tasks.case_file import Case
from edged.testing import ScriptedEngine
from tests.unit.test_judging import TASKS

# The engine calls a text with "bad" in it negative, answers "You said: <text>", and extracts the text itself.
LINES = (
    ('{"item": "shirt", "count": 1}', {"sentiment": "positive", "order": {"item": "shirt", "count": 1}}),
    ('{"item": "bad hat", "count": 2}', {"sentiment": "positive", "order": {"item": "hat", "count": 2}}),
    ("fine", {"reply": "You said: fine"}),
)


def evaluated(
    tmp_path: Path, task: str, content: str, *, engine: ScriptedEngine | None = None, way: Way | None = None
) -> tuple[PartsReport, list[Case]]:
    path = tmp_path / "data.tsv"
    path.write_text(content)
    made = engine or ScriptedEngine()
    return run(
        Settings(),
        data=path,
        task=task,
        tasks=TASKS,
        limit=None,
        against=way,
        make_engine=lambda _settings, _tasks: made,
    )


def test_each_part_of_a_composition_is_judged_by_its_kind(tmp_path: Path) -> None:
    content = "\n".join(f"{text}\t{json.dumps(expected)}" for text, expected in LINES)
    found, cases = evaluated(tmp_path, "all", content)
    assert len(cases) == found.texts == 3
    parts = found.parts
    assert (parts["sentiment"].texts, parts["sentiment"].right) == (2, 0.5)
    assert (parts["order"].texts, parts["order"].right, parts["order"].score) == (2, 0.5, 0.75)
    assert parts["order"].fields == {"item": 0.5, "count": 1.0}
    assert (parts["reply"].texts, parts["reply"].right, parts["reply"].contains) == (1, 1.0, 1.0)
    assert found.score == pytest.approx((1 + 0 + 1 + 0.5 + 1) / 5)
    told = table(found)
    assert "extract" in told
    assert all(words in told for words in ("A label is right", "share of right fields", "chrF"))
    assert "item" in told


def test_a_text_is_asked_in_its_own_language_where_the_model_reads_it(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.reads = ("de", "en")
    content = "Der Akku hält nur zwei Stunden, und ich bin sehr enttäuscht.\tSchade\nI like it a lot.\tFine\n"
    evaluated(tmp_path, "reply", content, engine=engine)
    assert [work.language for work in engine.submitted] == ["de", "en"]


def test_two_ways_are_compared_by_a_sign_test(tmp_path: Path) -> None:
    way = Way(settings=Settings(), task="reply", changed={"model.format": "int4"})
    found, _ = evaluated(tmp_path, "reply", "fine\tYou said: fine\n", way=way)
    assert found.compared is not None
    assert found.compared.tests == {"reply": PartTest(first_better=0, second_better=0, p_value=1.0)}
    assert "No difference is shown" in table(found)
    assert "A label is right" not in table(found)  # there is none
    other = Way(settings=Settings(), task="order", changed={"task": "order"})
    with pytest.raises(SettingsError, match="compare settings"):
        evaluated(tmp_path, "reply", "fine\tYou said: fine\n", way=other)


@pytest.mark.parametrize(
    ("one", "other", "p", "told"),
    [(2, 6, 0.29, "more texts would be needed"), (30, 5, 0.0001, "the first way is better on texts like these")],
)
def test_the_test_is_told_in_words(one: int, other: int, p: float, told: str) -> None:
    assert told in in_words(PartTest(first_better=one, second_better=other, p_value=p))


def test_a_text_without_an_answer_is_wrong_and_a_broken_model_is_an_error(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.faults["fine"] = TooLong("too long")
    found, _ = evaluated(tmp_path, "reply", "fine\tx\n", engine=engine)
    assert (found.parts["reply"].no_answer, found.parts["reply"].right, found.score) == (1, 0.0, 0.0)
    found, _ = evaluated(tmp_path, "order", 'no JSON\t{"item": "x"}\n')
    assert (found.parts["order"].no_answer, found.parts["order"].fields) == (1, {"item": 0.0})
    engine.faults["fine"] = ModelError("broken")
    with pytest.raises(RequestError, match="broken"):
        evaluated(tmp_path, "reply", "fine\tx\n", engine=engine)


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"data\.tsv, line 1"):
        evaluated(tmp_path, "order", "a\tshirt\n")


def test_tasks_that_give_one_label_are_measured_by_their_labels() -> None:
    assert [is_for(TASKS, name) for name in ("sentiment", "reply", "order", "message", "no such")] == [
        False,
        True,
        True,
        True,
        False,
    ]
