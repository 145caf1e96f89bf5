"""From tokens to text while the text grows, in whole characters. Knows no model."""

from collections.abc import Callable, Sequence

from edged.engine.checked_text import CheckedText
from edged.engine.reply_text import ReplyText

_REPLACEMENT = "\ufffd"  # what a tokenizer gives for bytes that are not a character, or not yet a whole one

Decode = Callable[[Sequence[int]], str]


class TextStream:
    """The text of one reply, token by token. A token may end inside a character; that character waits for its rest."""

    def __init__(self, decode: Decode, text: ReplyText | CheckedText | None = None) -> None:
        self._decode = decode
        self._text = text or ReplyText()
        self._tokens: list[int] = []
        # Only the tokens from `_window` on are decoded again. Those before `_settled` are already in the text; they
        # are decoded once more as context, because the text of a token may depend on the tokens before it.
        self._window = 0
        self._settled = 0

    @property
    def text(self) -> str:
        """The whole text shown so far."""
        return self._text.text

    @property
    def has_begun(self) -> bool:
        """Whether there is any text, shown or not."""
        return self._text.has_begun

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self._text.stopped

    @property
    def is_rejected(self) -> bool:
        """Whether another text is to be drawn instead; see `CheckedText`."""
        return isinstance(self._text, CheckedText) and self._text.is_rejected

    def keep(self) -> str:
        """A rejected text counts all the same; gives what it may show."""
        return self._text.keep() if isinstance(self._text, CheckedText) else ""

    def push(self, token: int) -> str:
        """Add a token; gives the further text that may be shown now."""
        self._tokens.append(token)
        context = self._decode(self._tokens[self._window : self._settled])
        grown = self._decode(self._tokens[self._window :])
        if len(grown) <= len(context) or grown.endswith(_REPLACEMENT):
            return ""
        self._window, self._settled = self._settled, len(self._tokens)
        return self._text.add(_whole(grown[len(context) :]))

    def finish(self, *, is_cut: bool = False) -> str:
        """End the text; gives what was held back. `is_cut` says that a limit ended it and not the model."""
        if self.stopped:
            return ""
        context = self._decode(self._tokens[self._window : self._settled])
        rest = self._decode(self._tokens[self._window :])[len(context) :]
        self._window = self._settled = len(self._tokens)
        return self._text.add(_whole(rest)) + self._text.finish(is_cut=is_cut)


def _whole(text: str) -> str:
    """The text without the marks for characters that were never completed."""
    return text.replace(_REPLACEMENT, "")
