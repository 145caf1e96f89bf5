"""A reply's text as it grows: what is shown is never taken back, and it ends as it should."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engine.reply_text import ReplyText, reply_text
from edged.ports.engine import Params
from edged.tasks.specs import GenerateSpec

ROLES = ("User:", "Assistant:")


def written(
    pieces: Sequence[str], *, stops: Sequence[str] = (), roles: Sequence[str] = (), cut: bool = True, whole: bool = True
) -> tuple[list[str], str]:
    """What is shown with each piece, and the text in the end."""
    text = ReplyText(stops, roles=roles, whole_sentences=whole)
    shown = []
    for piece in pieces:
        shown.append(text.add(piece))
        if text.stopped:
            break
    shown.append(text.finish(is_cut=cut))
    return shown, text.text


def test_a_text_that_is_cut_short_ends_with_its_last_whole_sentence() -> None:
    shown, text = written(["I am ", "sorry. ", "That is", " hard! Ca", "n I"])
    assert text == "I am sorry. That is hard!" == "".join(shown)
    assert shown == ["", "", "I am sorry.", " That is hard!", "", ""]


def test_a_text_that_ends_by_itself_is_whole_as_it_is() -> None:
    assert written(["Fine. See you", " soon"], cut=False)[1] == "Fine. See you soon"


def test_half_a_sentence_is_better_than_none() -> None:
    assert written(["I am very ", "happy for yo"]) == (["", "", "I am very happy for yo"], "I am very happy for yo")


def test_without_the_wish_nothing_is_held_back_or_left_out() -> None:
    assert written(["One. Tw", "o thr"], whole=False) == (["One. Tw", "o thr", ""], "One. Two thr")


def test_a_stop_string_ends_it_even_within_a_sentence() -> None:
    assert written(["One. Two", " # three."], stops=["#"])[1] == "One. Two"


@given(
    st.lists(st.text(alphabet="aB1 .!?。”\n:Us", max_size=6), max_size=12),
    st.lists(st.text(alphabet="a.\n", min_size=1, max_size=3), max_size=2),
    st.booleans(),
    st.booleans(),
)
def test_what_is_shown_joins_to_the_text_and_is_never_empty_for_a_text(
    pieces: list[str], stops: list[str], cut: bool, whole: bool
) -> None:
    shown, text = written(pieces, stops=stops, cut=cut, whole=whole)
    assert "".join(shown) == text == text.strip()
    if not stops:
        assert bool(text) == bool("".join(pieces).strip())
        if not (cut and whole):
            assert text == "".join(pieces).strip()


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (" Hello!\nUser: And you?", "Hello!"),
        ("\nUser: I am sad.", "I am sad."),  # nothing else was said
        (" Assistant: Hello!", "Hello!"),
        ("\nAssistant: User:  Hello!\nAssistant: Bye!", "Hello!"),
        ("Users are kind.", "Users are kind."),
        ("User", "User"),
        ("The User: a story", "The User: a story"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_no_words_of_another_role(said: str, text: str, size: int) -> None:
    pieces = [said[i : i + size] for i in range(0, len(said), size)]
    shown, whole = written(pieces, roles=ROLES, whole=False)
    assert "".join(shown) == whole == text


def test_a_caller_may_ask_for_more_or_less_than_the_task_says() -> None:
    task = GenerateSpec(name="t", system={"en": "s", "zh": "s"}, whole_sentences=True, stop=("#",))
    for wish, text in ((None, "One."), (True, "One."), (False, "One. Tw")):
        made = reply_text(task, Params(whole_sentences=wish))
        made.add("One. Tw")
        made.finish(is_cut=True)
        assert made.text == text


def test_a_raw_text_keeps_its_white_space() -> None:
    text = ReplyText(("END",), is_raw=True)
    shown = [text.add(piece) for piece in (" ", " five,\n", "  E", "xit ")] + [text.finish(is_cut=True)]
    assert "".join(shown) == text.text == "  five,\n  Exit "
    assert shown[2] == "  "
    assert text.add("END") == ""
