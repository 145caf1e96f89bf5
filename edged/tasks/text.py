"""Text before it is tokenized: normalised, and its language told by its script. Pure."""

import unicodedata
from typing import Literal

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = ("zh", "en")

# Full-width forms U+FF01..U+FF5E mirror ASCII U+0021..U+007E (Unicode chart UFF00). The marks after them have
# no full-width code point, yet stand for the same signs in Chinese text.
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
    """Give `text` as the model should see it: NFC, no control characters, trimmed, optionally half-width.

    Line breaks become line feeds. Format characters that shape emoji and scripts (ZWJ, variation selectors) stay.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if half_width:
        text = text.translate(_HALF_WIDTH)
    text = "".join(c for c in text if c in _KEPT_CONTROLS or unicodedata.category(c) != "Cc")
    # Last, because what was taken out or made narrow may bring a letter and its accent together.
    return unicodedata.normalize("NFC", text).strip()


def is_han(char: str) -> bool:
    """Whether `char` is a Han ideograph of the blocks in everyday use (URO, extensions A and B, compatibility)."""
    code = ord(char)
    return (
        0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0x20000 <= code <= 0x2A6DF or 0xF900 <= code <= 0xFAFF
    )


def language_of(text: str) -> Language:
    """Tell Chinese from the rest by script: one ideograph says about as much as two Latin letters."""
    han = sum(map(is_han, text))
    latin = sum(c.isalpha() and not is_han(c) for c in text)
    return "zh" if 2 * han > latin else "en"
