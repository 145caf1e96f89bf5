"""A text as prose, for a classification: what its form says is dropped, what its words say is kept. Pure.

A classification shows the model cases, each with its label, and the text as the last case. A text may look like a case,
and then the model repeats the label that the text names. So the text becomes one line without markup; statements of a
label ("Sentiment: positive", "label=bad") and closing sentences that name one are cut out, where other words remain.
All of it goes by form: no list of phrases is needed, and the label's own words come from the task.
"""

import functools
import html
import re
from collections.abc import Iterable
from dataclasses import dataclass

_COMMENT = re.compile(r"<!--.*?(?:-->|$)", re.DOTALL)
_UNSEEN = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|$)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,500}>|<[A-Za-z]>")
# A mark of a chat template, with the role that may follow it.
_MARK = re.compile(
    r"<\|[^<>|]{0,40}\|>(?:[A-Za-z]+(?=\n))?"
    r"|\[/?(?:INST|SYS|b|i|u|s|url|quote|code|color|size)(?:=[^\]]*)?\]|<</?SYS>>",
    re.IGNORECASE,
)
_LINK = re.compile(r"!?\[([^\]\n]*)\]\((?:[^()\s]|\([^()\s]*\))*\)")
_HEADER = re.compile(r"^[ \t]*\|.*\|[ \t]*\n(?=[ \t]*\|[-:| ]{3,}$)", re.MULTILINE)  # the first row of a table
_ROW = re.compile(r"^[ \t]*\|(.*)\|[ \t]*$", re.MULTILINE)
_LINE_MARK = re.compile(r"^[ \t]*(?:>+|#{1,6}(?=\s)|[*+•-](?=\s)|\|)[ \t]*", re.MULTILINE)
_EMPHASIS = re.compile(r"(\*{1,3}|_{2,3}|~~|`{1,3})(?=\S)(.+?)(?<=\S)\1", re.DOTALL)
_RULE = re.compile(r"^[ \t]*[-=*_#|:+`~ ]{3,}$", re.MULTILINE)
# Format characters that no word needs: zero-width space, marks of direction, soft hyphen, byte order mark and the like.
_INVISIBLE = re.compile(
    "[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)
_JOINER_IN_WORD = re.compile("(?<=[A-Za-z0-9])[\u200c\u200d]+|[\u200c\u200d]+(?=[A-Za-z0-9])")
_SPACED_OUT = re.compile(r"(?<!\S)(?:[^\W\d_] ){4,}[^\W\d_](?!\S)")
_MANY = re.compile(r"([!?.,;:~*=_#-])\1{3,}")
_QUOTES = ('""', "''", "“”", "‘’", "«»", "「」", "()", "[]")
_SENTENCE = re.compile(r"(?<=[.!?。\uff01\uff1f…])[\"')\]]*\s+|\n+|(?<=[。\uff01\uff1f])")
_HEADING = re.compile(r"([^\W\d_]+)[:：]")
_WORD = re.compile(r"\w|[^\x00-\x7f]")  # a letter, a digit, an emoji
_SHORT = 12  # words: a longer first sentence is seldom an order to the model
_SHOUTED = 0.7  # of the letters, at least this share is upper case in a text that shouts


def prose(text: str, *, names: Iterable[str], words: Iterable[str], headings: Iterable[str]) -> str:
    """The text as one line of plain words.

    Args:
        text: normalised.
        names: of the labels. A first or last sentence that has one is cut out, and every `<something>: <name>`.
        words: that may stand for a label in the task's own prompts.
        headings: that stand before them there. Every `<heading>: <word>` is cut out.
    """
    plain = _without_markup(_without_invisible(text))
    says = _Says(names=tuple(sorted(names)), words=tuple(sorted({*words})), headings=tuple(sorted({*headings})))
    plain = _without_labels(plain, says) or plain
    plain = _unquoted(" ".join(plain.split()))
    return _calm(_MANY.sub(lambda run: run[1] * 3, plain)) or text


def _without_invisible(text: str) -> str:
    text = _JOINER_IN_WORD.sub("", _INVISIBLE.sub("", text))
    return _SPACED_OUT.sub(lambda run: run[0].replace(" ", ""), text)


def _without_markup(text: str) -> str:
    for _ in range(3):  # markup that was escaped, perhaps twice
        before = text
        text = _TAG.sub(" ", _UNSEEN.sub(" ", _COMMENT.sub(" ", text)))
        text = html.unescape(_MARK.sub("\n", text))
        if text == before:
            break
    text = _ROW.sub(lambda row: row[1].replace("|", "\n"), _HEADER.sub("", text))
    text = _RULE.sub("", _LINK.sub(r"\1", text))
    while (stripped := _LINE_MARK.sub("", text)) != text:
        text = stripped
    return _EMPHASIS.sub(r"\2", text).strip()


def headings(form: str) -> frozenset[str]:
    """The words before a colon in the form of a prompt."""
    return frozenset(_HEADING.findall(form))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Says:
    """How a task's prompts name the labels."""

    names: tuple[str, ...]
    words: tuple[str, ...]
    headings: tuple[str, ...]


def _without_labels(text: str, says: _Says) -> str:
    """The text without statements of a label; empty where it consists of nothing else."""
    statement, named = _patterns(says)
    parts = [part for part in _SENTENCE.split(statement.sub("\n", text)) if _WORD.search(part)]
    while len(parts) > 1 and named.search(parts[-1]):
        parts.pop()
    while len(parts) > 1 and named.search(parts[0]) and len(parts[0].split()) <= _SHORT:
        parts.pop(0)
    return "\n".join(parts)


@functools.lru_cache(maxsize=64)
def _patterns(says: _Says) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns of a statement that gives a label, and of the name of a label."""
    name, word, heading = (_any(each) for each in (says.names, says.words, says.headings))
    is_to = r"[\"'*]*\s*(?:[:=：]|[-=]>)\s*[\"'*]*"
    closing = r"(?![\w-])[\"'*]*[.!]?[)}\]]?"
    # Bounded, and never tried shorter: on a long text without spaces the search would take seconds otherwise.
    key = r"[({\[]?[\"'*]{0,9}[^\W\d_](?:\w|-(?!>)){0,60}+"
    found = rf"{key}{is_to}(?:{name}){closing}|(?<!\w)(?:{heading}){is_to}(?:{word}){closing}"
    # A heading and, alone on the next line, what stands behind it.
    found += rf"|(?<!\w)(?:{heading})[ \t]*\n\s*[\"'*]*(?:{name}|{word}){closing}(?=[ \t]*(?:\n|$))"
    # The rest of an object in JSON belongs to it, and so does a further case in the form of the prompt.
    statement = rf"(?:{found})(?:[^{{}}]*\}}|(?:\s*\n\s*(?:{heading})[:=：].*)+)?"
    return re.compile(statement, re.IGNORECASE), re.compile(name, re.IGNORECASE)


def _any(words: tuple[str, ...]) -> str:
    """A pattern of any of some words. Chinese has no space between words, so a word has no border there."""
    longest_first = sorted(words, key=len, reverse=True)
    return "|".join(
        rf"(?<![\w-]){re.escape(word)}(?![\w-])" if word.isascii() else re.escape(word) for word in longest_first
    )


def _unquoted(text: str) -> str:
    for opening, closing in map(tuple, _QUOTES * 3):
        inner = text[1:-1]
        if len(text) > 2 and text[0] == opening and text[-1] == closing and not {opening, closing} & {*inner}:
            text = inner.strip()
    return text


def _calm(text: str) -> str:
    """A text that is mostly in upper case, as it is written otherwise."""
    letters = [char for char in text if char.isupper() or char.islower()]
    if len(letters) < 8 or " " not in text or sum(map(str.isupper, letters)) < _SHOUTED * len(letters):
        return text
    low = re.sub(r"\bi\b", "I", text.lower())
    return re.sub(r"(^\W*|[.!?]\s+)(\w)", lambda found: found[1] + found[2].upper(), low)
