"""Texts cut to a number of bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.tasks.shorten import MIN_BYTES, shorten


@pytest.mark.parametrize(
    ("text", "max_bytes", "short"),
    [
        ("It fits.", 16, "It fits."),
        ("One is here. Two is there. Three is gone.", 28, "One is here. Two is there."),
        ("One is here. Two is there. Three is gone.", 26, "One is here. Two is there."),
        ("One is here. Two is there. Three is gone.", 25, "One is here. Two is…"),
        ("Yes. The rest of it is one long sentence without an end", 30, "Yes. The rest of it is one…"),
        ("今天天气很好。我们去公园走走吧,好不好?", 24, "今天天气很好。"),
        ("今天天气很好我们去公园走走吧好不好", 20, "今天天气很…"),
        ("a" * 40, 16, "a" * 13 + "…"),
        ("abcdefgh\U0001f468\u200d\U0001f469\u200d\U0001f467 and more", 20, "abcdefgh…"),
    ],
)
def test_a_text_ends_after_a_sentence_else_after_a_word(text: str, max_bytes: int, short: str) -> None:
    assert shorten(text, max_bytes) == short


@given(st.text(max_size=80), st.integers(MIN_BYTES, 100))
def test_it_fits_and_is_a_beginning(text: str, max_bytes: int) -> None:
    short = shorten(text, max_bytes)
    assert len(short.encode()) <= max_bytes
    assert text == short or text.startswith(short.removesuffix("…"))
    assert (short == text) == (len(text.encode()) <= max_bytes)
