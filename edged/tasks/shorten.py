"""Cuts a text to a number of bytes, for devices that take no more: after a sentence, else after a word. Pure.

A text may also be cut into numbered parts, each within that number of bytes.
"""

import unicodedata

from edged.tasks.sentences import last_end
from edged.tasks.text import is_han

MIN_BYTES = 16
MOST_PARTS = 9
_MORE = "…"  # stands for what is left out where the text ends within a sentence
_JOINER = "\u200d"  # joins emoji into one


def shorten(text: str, max_bytes: int) -> str:
    """The beginning of `text` in at most `max_bytes` bytes of UTF-8 (at least `MIN_BYTES`); all of it where it fits.

    It ends with a whole sentence if that keeps half of what there is room for, else with a whole word and an ellipsis.
    """
    if len(text.encode()) <= max_bytes:
        return text
    if (end := _sentence_end(text, max_bytes)) is not None:
        return text[:end]
    head = _head(text, max_bytes - len(_MORE.encode()))
    return head[: _word_end(text, len(head))].rstrip() + _MORE


def split(text: str, max_bytes: int, most: int) -> tuple[str, ...]:
    """The text in parts of at most `max_bytes` bytes (at least `MIN_BYTES`), each with its number before it: `1/3 `.

    A text that fits is one part without a number. Of a text that takes more than `most` parts (at most `MOST_PARTS`)
    the last part ends as `shorten` ends a text.
    """
    if most == 1:
        return (shorten(text, max_bytes),)
    rest = text.strip()
    if len(rest.encode()) <= max_bytes:
        return (rest,)
    room = max_bytes - len(f"{MOST_PARTS}/{MOST_PARTS} ")
    parts: list[str] = []
    while rest and len(parts) < most - 1 and len(rest.encode()) > room:
        end = _sentence_end(rest, room)
        if end is None:
            end = _word_end(rest, len(_head(rest, room)))
        parts.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    if rest:
        parts.append(shorten(rest, room))
    return tuple(f"{number}/{len(parts)} {part}" for number, part in enumerate(parts, start=1))


def _sentence_end(text: str, max_bytes: int) -> int | None:
    """Where the last whole sentence within so many bytes ends, if it keeps half of them."""
    room = len(_head(text, max_bytes))
    end = last_end(text[: room + 2], is_over=False)
    while end is not None and end > room:
        end = last_end(text[: end - 1], is_over=False)
    return end if end is not None and 2 * len(text[:end].encode()) >= max_bytes else None


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
