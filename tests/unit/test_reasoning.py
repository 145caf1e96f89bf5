"""A model's reasoning is taken out of its text, whatever pieces the text comes in."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engine.remote.reasoning import AnswerFilter, answer_of

REASONED = [
    ("<think>Hm.</think>Hello.", "Hello."),
    ("\n<think>\nHm, a < b.\n</think>\n\nHello <b>there</b>.", "Hello <b>there</b>."),
    ("<think></think>Hello.", "Hello."),
    ("<think>a</think><think>b</think>Hello.", "Hello."),
    ("<thinking>Hm.</thinking> Hello.", "Hello."),
    ("<thought>Hm.</thought> Hello.", "Hello."),
    ("<reasoning>Hm.</reasoning>Hello.", "Hello."),
    ("[THINK]Hm.[/THINK]Hello.", "Hello."),
    ("<seed:think>Hm.</seed:think>Hello.", "Hello."),
    ("◁think▷嗯。◁/think▷你好。", "你好。"),
    ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello.", "Hello."),
    ("<|channel>thought\nHm.<channel|>Hello.", "Hello."),
    ("Hm.\n</think>\n\nHello.", "Hello."),  # the prompt had the opening mark
    ("<think>Hm. I am not don", ""),
]
PLAIN = [
    "Hello.",
    "",
    "a < b and <b>c</b>",
    "<thin ice>",
    "Write <think> before and </think> after your thoughts.",
    "It ends with </",
    "你好 [THIN] 😄",
]


def in_pieces(text: str, cuts: list[int], **options: bool) -> tuple[str, AnswerFilter]:
    """The answer, when the text comes cut at these places."""
    answer = AnswerFilter(**options)
    found = ""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        was_unmarked = answer.was_unmarked
        piece = answer.add(text[start:end])
        found = piece if answer.was_unmarked and not was_unmarked else found + piece
    return found + answer.finish(), answer


cuts = st.lists(st.integers(0, 200), max_size=20)


@pytest.mark.parametrize(("text", "answer"), REASONED)
@given(cuts=cuts)
def test_reasoning_is_left_out(text: str, answer: str, cuts: list[int]) -> None:
    found, filtered = in_pieces(text, cuts)
    assert found.strip() == answer
    assert filtered.has_seen_reasoning


@pytest.mark.parametrize("text", PLAIN)
@given(cuts=cuts)
def test_text_without_reasoning_is_whole(text: str, cuts: list[int]) -> None:
    found, filtered = in_pieces(text, cuts)
    assert found == text
    assert not filtered.has_seen_reasoning


@given(text=st.text(alphabet="<>/[]thinkTHINK aé", max_size=40), cuts=cuts)
def test_pieces_make_no_difference(text: str, cuts: list[int]) -> None:
    assert in_pieces(text, cuts)[0] == in_pieces(text, [])[0]


def test_what_is_certain_is_let_through_at_once() -> None:
    answer = AnswerFilter()
    assert [answer.add(piece) for piece in ("Hel", "lo", " <", "b", ">")] == ["Hel", "lo", " ", "<b", ">"]


def test_reasoning_that_a_prompt_opened_is_kept_back_from_the_beginning() -> None:
    answer = AnswerFilter(begins_inside=True)
    assert [answer.add(piece) for piece in ("Hm.", "</thi", "nk>", "Hello")] == ["", "", "", "Hello"]
    assert not answer.was_unmarked


def test_a_model_that_for_once_does_not_reason_is_heard() -> None:
    assert answer_of("Hello.", begins_inside=True) == "Hello."
    assert answer_of("Hm. I am not don", begins_inside=True, is_cut=True) == ""
