"""Laws of normalisation, and languages told apart by script."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.tasks.text import is_han, language_of, normalise

# Where widths, accents and controls meet, next to everything else.
_TEXT = st.text(
    st.one_of(st.characters(), st.sampled_from("！～　。、“”‘’【】《》e\u0301\u0338=＝\r\n\t\x00\x7f\x85\u200d"))
)


@given(_TEXT, st.booleans())
@settings(deadline=None)
def test_normalising_twice_changes_nothing_more(text: str, half_width: bool) -> None:
    once = normalise(text, half_width=half_width)
    assert normalise(once, half_width=half_width) == once


@given(_TEXT, st.booleans())
@settings(deadline=None)
def test_what_is_left_is_nfc_trimmed_and_without_controls(text: str, half_width: bool) -> None:
    result = normalise(text, half_width=half_width)
    assert unicodedata.is_normalized("NFC", result)
    assert result == result.strip()
    assert all(c in "\n\t" or unicodedata.category(c) != "Cc" for c in result)


@given(_TEXT)
@settings(deadline=None)
def test_half_width_leaves_no_full_width_form(text: str) -> None:
    result = normalise(text, half_width=True)
    assert not any(0xFF01 <= ord(c) <= 0xFF5E or c in "　。、“”‘’【】《》" for c in result)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1))
@settings(deadline=None)
def test_full_width_ascii_and_ascii_are_one_text_only_when_asked(text: str) -> None:
    wide = "".join(chr(ord(c) + 0xFEE0) for c in text)
    assert normalise(wide, half_width=True) == text
    assert normalise(wide, half_width=False) == wide


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今天心情很好！", "今天心情很好!"),
        ("Ｉ　ｌｏｖｅ　ｉｔ。", "I love it."),
        ("“好”、《书》", '"好",<书>'),
        ("a\r\nb\rc\nd\te", "a\nb\nc\nd\te"),
        ("  \x00\x1b[31mred\x7f\x9f ", "[31mred"),
        ("cafe\u0301", "café"),
        ("e\x01\u0301", "é"),  # an accent finds its letter when the control between them goes
        ("👩\u200d🚀 ☎\ufe0f", "👩\u200d🚀 ☎\ufe0f"),  # joiners and selectors shape emoji
        ("\n\n", ""),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert normalise(text, half_width=True) == expected


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("今天心情很好", "zh"),
        ("我爱 Python", "en"),  # two ideographs against six letters
        ("我很喜欢 Python", "zh"),
        ("I love 北京", "en"),
        ("𠀀", "zh"),  # extension B
        ("㐀", "zh"),  # extension A
        ("\uf900", "zh"),  # compatibility
        ("ありがとう", "en"),  # neither, so the default
        ("12:30 !? 😄", "en"),
        ("", "en"),
    ],
)
def test_language_by_script(text: str, language: str) -> None:
    assert language_of(text) == language


@given(st.text())
@settings(deadline=None)
def test_more_ideographs_never_make_a_text_less_chinese(text: str) -> None:
    if language_of(text) == "zh":
        assert language_of(text + "好") == "zh"
    assert language_of(text + "好" * (len(text) + 1)) == "zh"


@given(st.characters())
@settings(deadline=None)
def test_han_characters_are_letters_named_so(char: str) -> None:
    if is_han(char) and unicodedata.category(char) != "Cn":
        assert unicodedata.name(char).startswith("CJK ")
