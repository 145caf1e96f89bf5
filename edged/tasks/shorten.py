"""Cuts a text to a number of bytes, for devices that take no more: after a sentence, else after a word. Pure."""

import unicodedata

from edged.tasks.sentences import last_end
from edged.tasks.text import is_han

MIN_BYTES = 16
_MORE = "…"  # stands for what is left out where the text ends within a sentence
_JOINER = "\u200d"  # joins emoji into one


def shorten(text: str, max_bytes: int) -> str:
    """The beginning of `text` in at most `max_bytes` bytes of UTF-8 (at least `MIN_BYTES`); all of it where it fits.

    It ends with a whole sentence if that keeps half of what there is room for, else with a whole word and an ellipsis.
    """
    if len(text.encode()) <= max_bytes:
        return text
    room = len(_head(text, max_bytes))
    end = last_end(text[: room + 2], is_over=False)
    while end is not None and end > room:
        end = last_end(text[: end - 1], is_over=False)
    if end is not None and 2 * len(text[:end].encode()) >= max_bytes:
        return text[:end]
    head = _head(text, max_bytes - len(_MORE.encode()))
    return head[: _word_end(text, len(head))].rstrip() + _MORE


def _head(text: str, max_bytes: int) -> str:
    return text.encode()[:max_bytes].decode(errors="ignore")


def _word_end(text: str, room: int) -> int:
    """Where the last whole word within `room` characters ends; where the word has no end there, a whole character."""
    if text[room].isspace() or is_han(text[room]) or is_han(text[room - 1]):
        return room
    spaces = [i for i in range(room // 2, room) if text[i].isspace() or is_han(text[i])]
    if spaces:
        return spaces[-1] + 1
    while room > 1 and (_belongs_to_last(text[room]) or text[room - 1] == _JOINER):
        room -= 1
    return room


def _belongs_to_last(character: str) -> bool:
    """Whether a character is a part of the one before it: an accent, a variant, a tone of skin, a joined emoji."""
    is_tone = "\U0001f3fb" <= character <= "\U0001f3ff"
    return character == _JOINER or is_tone or unicodedata.category(character) in {"Mn", "Me", "Mc"}
