"""Tokens to text as it grows: whole characters only. Knows no model."""

from collections.abc import Callable, Sequence

from edged.engine.reply_text import ReplyText

_REPLACEMENT = "\ufffd"  # what a tokenizer gives for bytes that are no character, or none yet

Decode = Callable[[Sequence[int]], str]


class TextStream:
    """The text of one reply, token by token. A token may end inside a character, which waits then for its rest."""

    def __init__(self, decode: Decode, text: ReplyText | None = None) -> None:
        self._decode = decode
        self._text = text or ReplyText()
        self._tokens: list[int] = []
        self._window = 0  # tokens before it are decoded for good; a few are kept as context for the next
        self._settled = 0  # the end of the context

    @property
    def text(self) -> str:
        """The whole text given out so far."""
        return self._text.text

    @property
    def has_begun(self) -> bool:
        """Whether there is any text, given out or not."""
        return self._text.has_begun

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete."""
        return self._text.stopped

    def push(self, token: int) -> str:
        """Add a token; gives the text that is now certain."""
        self._tokens.append(token)
        context = self._decode(self._tokens[self._window : self._settled])
        grown = self._decode(self._tokens[self._window :])
        if len(grown) <= len(context) or grown.endswith(_REPLACEMENT):
            return ""
        self._window, self._settled = self._settled, len(self._tokens)
        return self._text.add(_whole(grown[len(context) :]))

    def finish(self, *, is_cut: bool = False) -> str:
        """End the text; gives what was held back. `is_cut`: a limit ended it, and not the model."""
        if self.stopped:
            return ""
        context = self._decode(self._tokens[self._window : self._settled])
        rest = self._decode(self._tokens[self._window :])[len(context) :]
        self._window = self._settled = len(self._tokens)
        return self._text.add(_whole(rest)) + self._text.finish(is_cut=is_cut)


def _whole(text: str) -> str:
    """Without what is left of characters that were never finished."""
    return text.replace(_REPLACEMENT, "")
