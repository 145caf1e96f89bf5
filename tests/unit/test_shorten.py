"""Texts cut to a number of bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.tasks.shorten import MIN_BYTES, MOST_PARTS, shorten, split


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


@pytest.mark.parametrize(
    ("text", "max_bytes", "most", "parts"),
    [
        (" It fits. ", 16, 9, ("It fits.",)),
        ("One is here. Two is there. Three.", 16, 9, ("1/4 One is here.", "2/4 Two is", "3/4 there.", "4/4 Three.")),
        ("One is here. Two is there. Three.", 20, 9, ("1/3 One is here.", "2/3 Two is there.", "3/3 Three.")),
        ("One is here. Two is there. Three.", 20, 2, ("1/2 One is here.", "2/2 Two is there.")),
        ("One is here. Two is there. Three.", 20, 1, ("One is here.",)),
        ("今天天气很好。我们去公园走走吧。", 31, 3, ("1/2 今天天气很好。", "2/2 我们去公园走走吧。")),
    ],
)
def test_a_text_is_cut_into_numbered_parts(text: str, max_bytes: int, most: int, parts: tuple[str, ...]) -> None:
    assert split(text, max_bytes, most) == parts


@given(st.text(max_size=120), st.integers(MIN_BYTES, 60), st.integers(1, MOST_PARTS))
def test_parts_fit_and_together_they_are_the_text(text: str, max_bytes: int, most: int) -> None:
    parts = split(text, max_bytes, most)
    assert 1 <= len(parts) <= most
    assert all(len(each.encode()) <= max_bytes for each in parts)
    if most > 1:
        bare = [each[4:] for each in parts] if len(parts) > 1 else [*parts]
        together = "".join("".join(bare).split())
        assert "".join(text.split()).startswith(together.removesuffix("…"))
