"""Where sentences end, in English and Chinese. Pure.

The rules are careful: they may miss the end of a sentence, but seldom see one where there is none.
"""

import re
from collections.abc import Iterator

from edged.tasks.text import is_han

_CLOSING = re.escape("\"'”’)]}」』】》»*_`")
_END = re.compile(rf"(?P<marks>[.!?…。！？]+)[{_CLOSING}]*|\n")
_CHINESE = frozenset("。！？")
_GOES_ON = (":", ",", ";", "：", "，", "；", "、")  # a line that ends so does not end a sentence
_TITLES = frozenset({"mr", "mrs", "ms", "dr", "prof", "st", "mt", "vs", "e.g", "i.e"})
_LAST_WORD = re.compile(r"[^\s(]*$")


def last_end(text: str, *, is_over: bool, start: int = 0) -> int | None:
    """The index after the last whole sentence of `text`; None where there is no whole sentence.

    A line break ends a sentence too, so that the items of a list count.

    Args:
        text: the text so far.
        is_over: whether nothing follows. If more may follow, an end counts only if the text after it proves it, so
            that it stays one however the text goes on.
        start: only ends after this index are looked for.
    """
    found = None
    for end in _ends(text, is_over=is_over, start=start):
        found = end
    return found


def first_end(text: str, *, is_over: bool, start: int = 0) -> int | None:
    """As `last_end`, but the end of the first whole sentence after `start`."""
    return next(_ends(text, is_over=is_over, start=start), None)


def _ends(text: str, *, is_over: bool, start: int) -> Iterator[int]:
    for match in _END.finditer(text, start):
        marks = match["marks"]
        end = match.end() if marks else len(text[: match.start()].rstrip())
        is_end = _ends_by_marks(text, match, is_over=is_over) if marks else _ends_by_line(text[:end])
        if is_end and end > start:
            yield end


def _ends_by_line(before: str) -> bool:
    return bool(before) and not before.endswith(_GOES_ON) and not _is_number_of_list(before)


def _ends_by_marks(text: str, match: re.Match[str], *, is_over: bool) -> bool:
    before, after = text[: match.start()], text[match.end() :]
    if match["marks"] == "." and _is_abbreviation(before):
        return False
    if not after.strip():  # "3." may become "3.14", and "..." may be followed by a word in small letters
        return is_over and not (match.group() == "." and before[-1:].isdigit())
    if not _CHINESE.isdisjoint(match["marks"]) or is_han(after[0]):
        return True
    return after[0].isspace() and not after.lstrip()[0].islower()


def _is_abbreviation(before: str) -> bool:
    """Whether a full stop after `before` belongs to its last word: "Dr.", "J. S. Bach", "1." at the start of a line."""
    found = _LAST_WORD.search(before)
    word = found.group() if found else ""
    is_initial = len(word) == 1 and word.isupper() and word.isascii() and word != "I"
    return word.lower() in _TITLES or is_initial or _is_number_of_list(before + ".")


def _is_number_of_list(before: str) -> bool:
    return re.fullmatch(r"\s*\d+[.)]", before.rpartition("\n")[2]) is not None
