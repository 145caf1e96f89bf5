"""What the marks in a text say about whether it has a feeling: an exclamation, a question, a headline. Pure.

A small language model hardly looks at them. They count as evidence for neutral, beside what the model reads, and never
decide alone. The values are in nats (log-odds of neutral); deploy/MEASUREMENTS.md tells how they were chosen.
"""

import re

_EXCLAIMS = -0.75
_SMILES = -0.4
_ASKS = 0.75  # where the text does not exclaim too
_IS_HEADLINE = 0.5  # "Weather: rain until Friday", "Lions win - The Times", "New Bridge Opens In Leeds"
_IS_CUT = 0.5  # it ends with "...", as the beginning of a longer text does
_LISTS_NUMBERS = 0.4
_ENDS_CALMLY = 0.25  # with one full stop, and without an exclamation
_ANY_TEXT = -0.15  # one without marks is a little more often a feeling than the model's readings tell
_MOST = 0.75  # that marks may count together

_SMILE = re.compile(r"[:;=8]-?[)DpP3*]|<3")
_HEADING = re.compile(r"\w: \S| - ")
_CUT = re.compile(r"(?:\.\.\.|…)\W*$")
_FULL_STOP = re.compile(r"[^.]\.[\"')]*$")
_NUMBER = re.compile(r"\d+")
_MANY_NUMBERS = 3
_LONG_WORD, _MANY_WORDS, _CAPITALS = 4, 4, 0.8  # in a headline so many words of so many letters begin with a capital


def evidence(text: str) -> float:
    """How much the marks of a text speak for neutral, in nats; below 0 they speak for a feeling.

    Args:
        text: as one line, see `tasks/prose.py`.
    """
    found = _ANY_TEXT
    exclaims = "!" in text
    if exclaims:
        found += _EXCLAIMS
    if _SMILE.search(text):
        found += _SMILES
    if "?" in text and not exclaims:
        found += _ASKS
    if _HEADING.search(text) or _is_in_capitals(text):
        found += _IS_HEADLINE
    if _CUT.search(text):
        found += _IS_CUT
    if len(_NUMBER.findall(text)) >= _MANY_NUMBERS:
        found += _LISTS_NUMBERS
    if _FULL_STOP.search(text) and not exclaims:
        found += _ENDS_CALMLY
    return max(-_MOST, min(found, _MOST))


def _is_in_capitals(text: str) -> bool:
    words = [word for word in text.split() if len(word) >= _LONG_WORD and word[0].isalpha()]
    return len(words) >= _MANY_WORDS and sum(word[0].isupper() for word in words) >= _CAPITALS * len(words)
