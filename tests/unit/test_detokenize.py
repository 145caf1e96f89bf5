from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engine.detokenize import TextStream
from edged.engine.reply_text import ReplyText


def by_bytes(tokens: Sequence[int]) -> str:
    """A byte-level tokenizer: the hardest case, where every token may end inside a character."""
    return bytes(tokens).decode(errors="replace")


def streamed(text: str, stops: Sequence[str] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(by_bytes, ReplyText(stops))
    pieces = []
    for byte in text.encode():
        pieces.append(stream.push(byte))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    return pieces, stream


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=40))
def test_pieces_join_to_the_stripped_text_and_no_character_is_cut(text: str) -> None:
    pieces, stream = streamed(text)
    assert "".join(pieces) == text.strip() == stream.text
    assert not any("\ufffd" in piece for piece in pieces)


@given(
    st.text(alphabet="abc \n", max_size=40),
    st.lists(st.text(alphabet="abc\n", min_size=1, max_size=4), max_size=3),
)
def test_the_stop_string_that_is_complete_first_ends_the_text_and_is_not_shown(text: str, stops: list[str]) -> None:
    pieces, stream = streamed(text, stops)
    body = text.lstrip()
    complete = [(body.find(stop) + len(stop), body.find(stop)) for stop in stops if stop in body]
    first_end = min((end for end, _ in complete), default=0)
    begin = min((begin for end, begin in complete if end == first_end), default=len(body))
    assert "".join(pieces) == stream.text == body[:begin].rstrip()
    assert stream.stopped == bool(complete)


def test_a_stop_string_across_tokens_stops() -> None:
    pieces, stream = streamed("Hello\nUser: you", ["\nUser:"])
    assert stream.stopped
    assert "".join(pieces) == "Hello"


def test_a_beginning_of_a_stop_string_is_shown_once_it_is_none() -> None:
    pieces, _ = streamed("a\nUse it", ["\nUser:"])
    assert "".join(pieces) == "a\nUse it"


@pytest.mark.parametrize("text", ["😀 好", "é", "👩‍🚀"])
def test_an_unfinished_character_at_the_end_is_dropped(text: str) -> None:
    stream = TextStream(by_bytes)
    for byte in ("ok " + text).encode()[:-1]:
        stream.push(byte)
    stream.finish()
    assert "\ufffd" not in stream.text
    assert stream.text.startswith("ok")


def test_bytes_that_are_no_character_are_left_out() -> None:
    stream = TextStream(by_bytes)
    shown = [stream.push(byte) for byte in b"a\xe5\xa5b \xff c\xe5"]
    assert "".join([*shown, stream.finish()]) == "ab  c" == stream.text
