"""How right an output is: labels, fields and texts, and the files that say what is expected."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.tasks.built_in import BUILT_IN, REPLY, SENTIMENT
from edged.tasks.case_file import Case, CaseFile, is_saved, read_saved, read_table
from edged.tasks.judging import Expected, chrf, expected_of, judge
from edged.tasks.outputs import Classification, Extraction, Output, Reply
from edged.tasks.specs import ComposeSpec, ExtractSpec, Tasks

ORDER = ExtractSpec(
    name="order",
    system={"en": "s", "zh": "s"},
    schema={"type": "object", "properties": {"item": {"type": "string"}, "count": {"type": "integer"}}},
)
TASKS = Tasks([*BUILT_IN, ORDER, ComposeSpec(name="all", parts=("sentiment", "reply", "order"))])


def label(name: str) -> Classification:
    return Classification(label=name, name=name, emoji="", score=1.0, scores={name: 1.0})


def reply(text: str) -> Reply:
    return Reply(text=text, finish_reason="stop")


def test_chrf_is_that_of_its_definition() -> None:
    assert chrf("the cat", "the cat") == 1.0
    assert chrf("abc", "xyz") == 0.0
    assert chrf("the cat", "thecat") == 1.0  # white space is left out
    # "ab" against "abc": precisions 1, 1; recalls 2/3, 1/2; so P = 1, R = 7/12, F2 = 5 P R / (4 P + R).
    assert chrf("ab", "abc") == pytest.approx(5 * (7 / 12) / (4 + 7 / 12))
    assert chrf("", "a") == 0.0
    assert chrf("", "") == 1.0


@given(st.text(max_size=20), st.text(max_size=20))
def test_chrf_is_a_share(one: str, other: str) -> None:
    assert 0.0 <= chrf(one, other) <= 1.0 + 1e-9
    assert chrf(one, one) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("output", "expected", "right", "score"),
    [
        (label("positive"), "positive", True, 1.0),
        (label("positive"), "negative", False, 0.0),
        (reply("It is  Fine."), ("no", "it is fine."), True, 1.0),
        (reply("abc"), ("xyz",), False, 0.0),
        (Extraction(data={"item": "Shirt", "count": 2}), {"item": "shirt", "count": 2}, True, 1.0),
        (Extraction(data={"item": "shirt", "count": 3}), {"item": "shirt", "count": 2}, False, 0.5),
        (Extraction(data={"item": "shirt"}), {"item": "shirt", "count": 2}, False, 0.5),
        (Extraction(data={"item": "shirt", "count": 2, "more": 1}), {"item": "shirt", "count": 2}, False, 1.0),
        (Extraction(data={"count": True}), {"count": 1}, False, 0.0),
        (Extraction(data={"count": 1.0}), {"count": 1}, True, 1.0),
    ],
)
def test_an_output_is_held_against_what_is_expected(
    output: Output, expected: Expected, right: bool, score: float
) -> None:
    found = judge(output, expected)
    assert found.is_right == right
    assert found.score == pytest.approx(score, abs=1e-9)


def test_a_reference_in_a_longer_text_is_noted() -> None:
    found = judge(reply("Well, it is fine, I think."), ("It is fine",))
    assert (found.contains, found.is_right) == (True, False)
    assert 0 < found.score < 1


def test_a_label_is_not_held_against_a_text() -> None:
    with pytest.raises(TypeError):
        judge(label("positive"), ("positive",))


@pytest.mark.parametrize(
    ("spec", "value", "told"),
    [
        (SENTIMENT, "great", "one of positive, negative, neutral"),
        (REPLY, [], "give a text"),
        (REPLY, [" "], "give a text"),
        (ORDER, {}, "an object of fields"),
        (ORDER, {"colour": "red"}, "no field colour"),
    ],
)
def test_what_a_task_cannot_give_is_refused(spec: Any, value: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        expected_of(spec, value)


def test_tables_of_every_kind_are_read_and_saved() -> None:
    tables = {
        "sentiment": ("It is fun.\tpositive\n", {"sentiment": "positive"}),
        "reply": ("Hi\tHello\tGood day\r\n", {"reply": ("Hello", "Good day")}),
        "order": ('one shirt\t{"item": "shirt", "count": 1}', {"order": {"item": "shirt", "count": 1}}),
        "all": ('Hi\t{"sentiment": "neutral", "reply": "Hello"}', {"sentiment": "neutral", "reply": ("Hello",)}),
    }
    for task, (content, expected) in tables.items():
        cases = read_table(content, TASKS, task)
        assert [each.expected for each in cases] == [expected]
        saved = CaseFile.of(cases, task=task, model="m", score=0.5).model_dump_json(indent=1)
        assert is_saved(saved)
        assert not is_saved(content)
        assert read_saved(saved, TASKS) == (task, cases)


@pytest.mark.parametrize(
    ("task", "content", "told"),
    [
        ("sentiment", "fine", "line 1: write a text, a tab"),
        ("sentiment", "a\tpositive\nb\tbad", "line 2: sentiment gives one of"),
        ("sentiment", "a\tpositive\tnegative", "line 1 has 3 columns"),
        ("order", "a\tshirt", "line 1: what is expected must be an object"),
        ("all", 'a\t{"urgency": "high"}', "no part urgency"),
        ("reply", "\n\n", "it has no text"),
    ],
)
def test_a_wrong_line_is_named(task: str, content: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_table(content, TASKS, task)


def test_a_saved_file_is_for_tasks_that_there_are() -> None:
    saved = CaseFile.of([Case(text="a", expected={"order": {"count": 1}})], task="order", model="m", score=1)
    with pytest.raises(ValueError, match="no task order"):
        read_saved(saved.model_dump_json(), BUILT_IN)
    with pytest.raises(ValueError, match="no file of edged eval"):
        read_saved('{"form": 2}', BUILT_IN)
