"""Cuts a long text into windows of a few whole sentences, which a classification judges one by one. Pure."""

import re
from collections.abc import Callable, Iterator

from edged.tasks.sentences import first_end

# Where a sentence that is too long is cut; where it has no such place, it is cut between two characters.
_PAUSE = re.compile(r"[,;:)，；：、]\s*|\s+")


def windows(text: str, *, count: Callable[[str], int], most: int) -> tuple[str, ...]:
    """A text in windows of nearly the same length; a text of at most `most` tokens is the only window.

    Args:
        text: to cut.
        count: gives the number of tokens of a text.
        most: tokens of a window, at least 1. Where `count` gives less for two pieces of a text than for both together,
            a window may have more.
    """
    whole = count(text)
    if whole <= most:
        return (text,)
    wanted = -(-whole // -(-whole // most))  # tokens of each, if as few windows as possible had one length
    found: list[str] = []
    tokens = 0
    for piece in _pieces(text, count, most):
        more = count(piece)
        if not found or tokens >= wanted or tokens + more > most:
            found.append("")
            tokens = 0
        found[-1] += piece
        tokens += more
    return tuple(window for each in found if (window := each.strip())) or (text,)


def _pieces(text: str, count: Callable[[str], int], most: int) -> Iterator[str]:
    """The sentences of a text; those of more than `most` tokens in halves, quarters and so on."""
    start = 0
    while start < len(text):
        end = first_end(text, is_over=True, start=start) or len(text)
        yield from _halves(text[start:end], count, most)
        start = end


def _halves(sentence: str, count: Callable[[str], int], most: int) -> Iterator[str]:
    if len(sentence) < 2 or count(sentence) <= most:
        yield sentence
        return
    middle = len(sentence) // 2
    pauses = [each.end() for each in _PAUSE.finditer(sentence, 1) if each.end() < len(sentence)]
    cut = min(pauses, key=lambda place: abs(place - middle), default=middle)
    if not len(sentence) // 4 <= cut <= 3 * len(sentence) // 4:
        cut = middle
    yield from _halves(sentence[:cut], count, most)
    yield from _halves(sentence[cut:], count, most)
