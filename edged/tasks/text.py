"""Text before it is tokenized: how it is normalised, and which languages its script leaves possible. Pure."""

import unicodedata
from collections.abc import Collection

Language = str  # its code (ISO 639-1), as in "en"
LANGUAGES: tuple[Language, ...] = ("zh", "en")  # those in which every task can be asked

# The full-width forms U+FF01..U+FF5E are in the order of ASCII U+0021..U+007E (Unicode chart UFF00). The marks after
# them are not full-width forms of ASCII, but have the same meaning in Chinese text.
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    0x3000: " ",
    ord("。"): ".",
    ord("、"): ",",
    ord("“"): '"',
    ord("”"): '"',
    ord("‘"): "'",
    ord("’"): "'",
    ord("【"): "[",
    ord("】"): "]",
    ord("《"): "<",
    ord("》"): ">",
}
_KEPT_CONTROLS = {"\n", "\t"}


def normalise(text: str, *, half_width: bool) -> str:
    """Give `text` as the model should see it: NFC, without control characters, trimmed, half-width if asked.

    Line breaks become line feeds. Format characters that emoji and scripts need (ZWJ, variation selectors) are kept.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if half_width:
        text = text.translate(_HALF_WIDTH)
    text = "".join(c for c in text if c in _KEPT_CONTROLS or unicodedata.category(c) != "Cc")
    # NFC comes last: a letter and its accent may become neighbours only by the steps before.
    return unicodedata.normalize("NFC", text).strip()


def is_han(char: str) -> bool:
    """Whether `char` is a Han ideograph of the blocks in everyday use (URO, extensions A and B, compatibility)."""
    code = ord(char)
    return (
        0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0x20000 <= code <= 0x2A6DF or 0xF900 <= code <= 0xFAFF
    )


def is_kana(char: str) -> bool:
    """Whether `char` is a letter of the Japanese syllabaries."""
    return 0x3041 <= ord(char) <= 0x30FF and char not in "・゠"


def language_of(text: str) -> Language:
    """Chinese or English, by the script: one ideograph counts as much as two letters of other scripts."""
    han = sum(map(is_han, text))
    latin = sum(c.isalpha() and not is_han(c) for c in text)
    return "zh" if 2 * han > latin else "en"


def asked_in(wanted: Language, prompts: Collection[Language]) -> Language:
    """The language among those of `prompts` in which a task is asked about a text of the language `wanted`."""
    return wanted if wanted in prompts or not prompts else next(each for each in ("en", *prompts) if each in prompts)
