"""A reply's text while it grows, and how much of it may be shown already. Pure; knows no model.

A streamed text cannot be taken back, and the pieces that were shown must join to the final text. So a piece is held
back as long as it may turn out to be the beginning of a stop string, white space at the end of the text, or (where only
whole sentences are wanted) an unfinished sentence.
"""

from collections.abc import Sequence

from edged.ports.engine import Params
from edged.tasks.sentences import last_end
from edged.tasks.specs import TextSpec


class ReplyText:
    """The text of one reply.

    Attributes:
        stopped: a stop string is complete, and the text ends before it.
    """

    def __init__(
        self,
        stops: Sequence[str] = (),
        *,
        roles: Sequence[str] = (),
        whole_sentences: bool = False,
        is_raw: bool = False,
    ) -> None:
        """Begin with no text.

        Args:
            stops: strings that end the text and are not part of it.
            roles: names of speakers as a line begins with them ("User:"). Such a line ends the text; at the very
                beginning of the text the name alone is left out.
            whole_sentences: whether a text that is cut short ends with its last whole sentence, if it has one.
            is_raw: whether white space at the beginning and at the end belongs to the text.
        """
        self._is_raw = is_raw
        self._stops = (*stops, *(f"\n{role}" for role in roles))
        self._roles = tuple(roles)
        self._whole_sentences = whole_sentences
        self._text = ""  # all text so far, without the white space and names left out at its beginning
        self._shown = 0  # how many characters of it are shown
        self.stopped = False

    @property
    def text(self) -> str:
        """The text shown so far."""
        return self._text[: self._shown]

    @property
    def has_begun(self) -> bool:
        """Whether there is any text, shown or not."""
        return bool(self._text)

    def add(self, piece: str) -> str:
        """Add a piece; gives the further text that may be shown now."""
        self._text += piece
        if not self._shown:
            self._text = self._from_its_beginning()
        ends = [at for at in (self._text.find(stop, self._shown) for stop in self._stops) if at >= 0]
        if ends:
            self._text = self._trimmed(self._text[: min(ends)])
            self.stopped = True
            return self._show(len(self._text))
        return self._show(self._certain())

    def finish(self, *, is_cut: bool) -> str:
        """End the text; gives what was held back. `is_cut` says that a limit ended it and not the model."""
        if self.stopped:
            return ""
        self._text = self._trimmed(self._text)
        if is_cut and self._whole_sentences:
            end = last_end(self._text, is_over=True, start=self._shown) or self._shown
            self._text = self._text[:end] or self._text  # half a sentence is better than no text
        return self._show(len(self._text))

    def _trimmed(self, text: str) -> str:
        return text if self._is_raw else text.rstrip()

    def _from_its_beginning(self) -> str:
        if self._is_raw:
            return self._text
        text = self._text.lstrip()
        while role := next((role for role in self._roles if text.startswith(role)), ""):
            text = text[len(role) :].lstrip()
        return text

    def _certain(self) -> int:
        """How many characters of the text will not change any more."""
        until = len(self._text) - self._held_back()
        if self._whole_sentences:
            return last_end(self._text[:until], is_over=False, start=self._shown) or self._shown
        return until

    def _held_back(self) -> int:
        """How many characters at the end may be the beginning of a stop string or a role, or are white space before it.

        White space is shown only together with what follows it, because a text does not end with white space.
        """
        if not self._shown and any(role.startswith(self._text) for role in self._roles):
            return len(self._text)
        held = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._text)), held, -1):
                if self._text.endswith(stop[:size]):
                    held = size
                    break
        return len(self._text) - len(self._trimmed(self._text[: len(self._text) - held]))

    def _show(self, until: int) -> str:
        until = max(until, self._shown)
        piece = self._text[self._shown : until]
        self._shown = until
        return piece


def reply_text(spec: TextSpec, params: Params, *, roles: Sequence[str] = ()) -> ReplyText:
    """The text of a reply by the task's settings and the request's. JSON has no stop strings: its schema ends it."""
    if spec.schema is not None:
        return ReplyText()
    wanted = spec.whole_sentences if params.whole_sentences is None else params.whole_sentences
    return ReplyText((*spec.stop, *params.stop), roles=roles, whole_sentences=wanted, is_raw=spec.is_raw)
