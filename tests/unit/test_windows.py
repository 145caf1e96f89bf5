"""How a long text is cut into parts of whole sentences."""

import pytest

from edged.tasks.windows import windows


def words(text: str) -> int:
    return len(text.split())


SENTENCES = [f"This is sentence number {n} of the text." for n in range(40)]


@pytest.mark.parametrize("text", ["", "Short.", " ".join(SENTENCES[:2])])
def test_a_text_that_fits_is_the_only_part(text: str) -> None:
    assert windows(text, count=words, most=16) == (text,)


@pytest.mark.parametrize("most", [8, 9, 20, 64, 100, 319])
def test_parts_are_whole_sentences_of_nearly_the_same_length(most: int) -> None:
    parts = windows(" ".join(SENTENCES), count=words, most=most)
    assert " ".join(parts) == " ".join(SENTENCES)
    assert all(part.startswith("This") and part.endswith(".") for part in parts)
    lengths = [words(part) for part in parts]
    assert max(lengths) <= most
    assert max(lengths[:-1]) - min(lengths[:-1]) <= 8, "all but the last differ by one sentence at most"


@pytest.mark.parametrize("text", ["x" * 100, "word " * 20, "字" * 100, "clause of a text, " * 6, ". " * 50])
def test_a_text_without_an_end_of_a_sentence_is_cut_too_and_nothing_is_lost(text: str) -> None:
    parts = windows(text, count=len, most=10)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(0 < len(part) <= 10 for part in parts)


def test_a_long_sentence_is_cut_between_words() -> None:
    text = "one two three four five six seven eight nine ten"
    assert " ".join(windows(text, count=words, most=3)) == text
