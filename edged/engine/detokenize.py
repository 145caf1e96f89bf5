"""Tokens to text as it grows: whole characters only, stop strings never shown. Knows no model."""

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"  # what a tokenizer gives for bytes that are no character yet

Decode = Callable[[Sequence[int]], str]


class ShownText:
    """The text of one reply, piece by piece, of which is given out what is certain.

    A stop string may lie across pieces, and white space may be the last there is: both are held back.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._text = ""  # all text so far, leading white space removed
        self._shown = 0  # characters of it given out
        self.stopped = False

    @property
    def text(self) -> str:
        """The whole text given out so far."""
        return self._text[: self._shown]

    def push(self, piece: str) -> str:
        """Add a piece; gives the text that is now certain. Sets `stopped` when a stop string is complete."""
        self._text = self._text + piece if self._text else piece.lstrip()
        ends = [at for at in (self._text.find(stop, max(0, self._shown)) for stop in self._stops) if at >= 0]
        if ends:
            self._text = self._text[: min(ends)].rstrip()
            self.stopped = True
            return self._show(len(self._text))
        return self._show(len(self._text) - self._held_back())

    def finish(self) -> str:
        """End the text; gives what was held back."""
        if self.stopped:
            return ""
        self._text = self._text.rstrip()
        return self._show(len(self._text))

    def _held_back(self) -> int:
        """Characters at the end that may be the beginning of a stop string, and the white space before them.

        White space is given out only with what follows it: a text does not end with any.
        """
        held = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._text)), held, -1):
                if self._text.endswith(stop[:size]):
                    held = size
                    break
        return len(self._text) - len(self._text[: len(self._text) - held].rstrip())

    def _show(self, until: int) -> str:
        until = max(until, self._shown)
        piece = self._text[self._shown : until]
        self._shown = until
        return piece


class TextStream:
    """The text of one reply, token by token. A token may end inside a character; that is held back too."""

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._shown = ShownText(stops)
        self._tokens: list[int] = []
        self._window = 0  # tokens before it are decoded for good; a few are kept as context for the next
        self._settled = 0  # the end of the context

    @property
    def text(self) -> str:
        """The whole text given out so far."""
        return self._shown.text

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete."""
        return self._shown.stopped

    def push(self, token: int) -> str:
        """Add a token; gives the text that is now certain."""
        self._tokens.append(token)
        context = self._decode(self._tokens[self._window : self._settled])
        grown = self._decode(self._tokens[self._window :])
        if len(grown) <= len(context) or grown.endswith(_REPLACEMENT):
            return ""
        self._window, self._settled = self._settled, len(self._tokens)
        return self._shown.push(grown[len(context) :])

    def finish(self) -> str:
        """End the text; gives what was held back (an unfinished character is dropped)."""
        if self.stopped:
            return ""
        context = self._decode(self._tokens[self._window : self._settled])
        rest = self._decode(self._tokens[self._window :])[len(context) :].rstrip(_REPLACEMENT)
        self._window = self._settled = len(self._tokens)
        shown = self._shown.push(rest)
        return shown + self._shown.finish()
