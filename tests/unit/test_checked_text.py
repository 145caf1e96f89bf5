"""A reply's text held to rules: a faulty beginning is rejected, a faulty later sentence ends the text."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engine.checked_text import CheckedText, text_of
from edged.engine.reply_text import ReplyText
from edged.ports.engine import Work
from edged.tasks.specs import GenerateSpec
from edged.tasks.text import Language

FREE = GenerateSpec(name="t", system={"en": "s", "zh": "s"})
CHECKED = GenerateSpec(name="t", system={"en": "s", "zh": "s"}, is_checked=True)


def checked(*, may_reject: bool, stops: Sequence[str] = ()) -> CheckedText:
    """A text in which sentences with BAD are faulty, and those that begin with X may be."""
    return CheckedText(
        ReplyText(stops),
        is_faulty=lambda sentence: "BAD" in sentence,
        is_suspect=lambda beginning: beginning.lstrip().startswith("X"),
        may_reject=may_reject,
    )


def written(pieces: Sequence[str], *, may_reject: bool = False) -> tuple[list[str], CheckedText]:
    text = checked(may_reject=may_reject)
    shown = []
    for piece in pieces:
        shown.append(text.add(piece))
        if text.stopped or text.is_rejected:
            return shown, text
    shown.append(text.finish(is_cut=False))
    return shown, text


def test_the_first_sentence_waits_for_its_end_and_later_words_come_as_they_are() -> None:
    shown, text = written(["Fine. ", "That is ", "it, my ", "friend", "."])
    assert "".join(shown) == text.text == "Fine. That is it, my friend."
    assert shown[0] == ""
    assert len([each for each in shown if each]) > 2


def test_a_later_sentence_that_may_be_faulty_waits_too() -> None:
    shown, text = written(["Fine. X is", " not ", "bad. End", "."])
    assert shown[:2] == ["Fine.", ""]
    assert "".join(shown) == text.text == "Fine. X is not bad. End."


def test_a_faulty_first_sentence_rejects_the_draft_before_anything_is_shown() -> None:
    shown, text = written(["This is BAD", ". But ", "never said"], may_reject=True)
    assert text.is_rejected
    assert not any(shown)
    assert text.text == ""


def test_a_text_of_one_faulty_sentence_is_rejected_at_its_end() -> None:
    _, text = written(["BAD"], may_reject=True)
    assert (text.is_rejected, text.text) == (True, "")
    assert text.keep() == text.text == "BAD"  # no other draft comes: better than no text
    assert not text.is_rejected


def test_a_faulty_later_sentence_ends_the_text() -> None:
    shown, text = written(["Fine. X is", " BAD. The ", "end."], may_reject=True)
    assert (text.stopped, text.is_rejected) == (True, False)
    assert "".join(shown) == text.text == "Fine."


def test_the_last_draft_leaves_its_faulty_beginning_out() -> None:
    assert written(["BAD one. BAD two. ", "Good. X BAD. More."])[1].text == "Good."
    assert written(["BAD one. BAD two."])[1].text == "BAD one."


def test_a_stop_string_ends_a_checked_text() -> None:
    text = checked(may_reject=True, stops=["#"])
    assert text.add("Fine, so # no") == "Fine, so"
    assert (text.stopped, text.finish(is_cut=False)) == (True, "")
    bad = checked(may_reject=True, stops=["#"])
    assert bad.add("BAD # no") == ""
    assert bad.is_rejected


def test_a_very_long_sentence_is_not_held_for_ever() -> None:
    text = checked(may_reject=True)
    assert text.add("word " * 100)
    text.finish(is_cut=True)
    assert not text.is_rejected


PIECES = st.lists(st.text(alphabet="aX .!\n", max_size=5) | st.sampled_from(["BAD", ". ", "X ", "Go. "]), max_size=14)


@given(PIECES, st.booleans())
def test_however_it_comes_in_pieces_the_text_is_the_same_and_is_what_was_shown(
    pieces: list[str], may_reject: bool
) -> None:
    shown, text = written(pieces, may_reject=may_reject)
    if text.is_rejected:
        assert not any(shown)
        shown = [text.keep()]
    assert "".join(shown) == text.text == text.text.strip()
    assert bool(text.text) == bool("".join(pieces).strip())
    _, whole = written(["".join(pieces)], may_reject=may_reject)
    assert whole.is_rejected or whole.text == text.text


@pytest.mark.parametrize(
    ("spec", "language", "held"), [(CHECKED, "en", True), (FREE, "en", False), (CHECKED, "zh", False)]
)
def test_only_tasks_that_want_it_are_checked_and_only_in_english(
    spec: GenerateSpec, language: Language, held: bool
) -> None:
    work = Work(key="k", spec=spec, text="Turn it off.", language=language)
    text = text_of(spec, work, roles=(), may_reject=True)
    assert isinstance(text, CheckedText) == held
    assert text.add("I'll turn it off.") == ("" if held else "I'll turn it off.")
