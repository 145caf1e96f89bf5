"""A reply's text, held to rules for its sentences. Pure; knows no model.

A streamed text cannot be taken back, so a sentence is held back until it was checked: the first one always, a later
one where its first word says that it may have a fault. A fault in the first sentence rejects the whole draft, and the
caller draws another. A fault in a later sentence ends the text before it. The last draft is never rejected: its faulty
first sentences are left out, as long as another sentence remains.
"""

import re
from collections.abc import Callable, Sequence

from edged.engine.reply_text import ReplyText, reply_text
from edged.ports.engine import Work
from edged.tasks import reply_rules
from edged.tasks.sentences import first_end
from edged.tasks.specs import TextSpec

_LONGEST_HELD = 240  # characters: a sentence that is longer is shown unchecked
_FIRST_WORD = re.compile(r"\s*\S+\s")


class CheckedText:
    """The text of one reply; has the form of `ReplyText`.

    Attributes:
        stopped: a stop string or a faulty sentence has ended the text.
        is_rejected: the first sentence has a fault, and nothing was shown.
    """

    def __init__(
        self,
        text: ReplyText,
        *,
        is_faulty: Callable[[str], bool],
        is_suspect: Callable[[str], bool],
        may_reject: bool,
    ) -> None:
        """Assign.

        Args:
            text: takes the pieces first.
            is_faulty: tells whether a sentence breaks a rule.
            is_suspect: tells by its first word whether it may.
            may_reject: whether there will be another draft if this one is rejected.
        """
        self._inner = text
        self._is_faulty = is_faulty
        self._is_suspect = is_suspect
        self._may_reject = may_reject
        self._text = ""  # what `_inner` has shown, without sentences that were left out
        self._start = 0  # where the sentence begins that is not checked yet
        self._shown = 0
        self._left_out = ""  # the first sentence that was
        self.stopped = False
        self.is_rejected = False

    @property
    def text(self) -> str:
        """The text shown so far."""
        return self._text[: self._shown]

    @property
    def has_begun(self) -> bool:
        """Whether there is any text, shown or not."""
        return self._inner.has_begun

    def add(self, piece: str) -> str:
        """Add a piece; gives the further text that may be shown now."""
        self._take_in(self._inner.add(piece))
        if self._inner.stopped:
            return self._end()
        return self._advance(is_over=False)

    def finish(self, *, is_cut: bool) -> str:
        """End the text; gives what was held back."""
        if self.stopped or self.is_rejected:
            return ""
        self._take_in(self._inner.finish(is_cut=is_cut))
        return self._end()

    def keep(self) -> str:
        """No other draft will come: show what may be shown of a rejected text. It is over."""
        self._may_reject, self.is_rejected = False, False
        return self._end()

    def _take_in(self, piece: str) -> None:
        self._text = self._text + piece if self._text else piece.lstrip()

    def _end(self) -> str:
        piece = self._advance(is_over=True)
        if self.is_rejected:
            return ""
        self.stopped = True
        if not self._text.strip():  # no sentence was without a fault, and a reply has at least one
            self._text = self._left_out
            return self._show(len(self._text))
        return piece

    def _advance(self, *, is_over: bool) -> str:
        """Check the sentences that are whole now; gives what may be shown."""
        while not (self.stopped or self.is_rejected):
            end = first_end(self._text, is_over=is_over, start=self._start)
            if end is None and is_over and self._text[self._start :].strip():
                end = len(self._text)
            if end is None:
                break
            self._take(end)
        if self.is_rejected:
            return ""
        return self._show(self._start if self._is_held() else len(self._text))

    def _take(self, end: int) -> None:
        """Check the sentence before `end`."""
        sentence = self._text[self._start : end]
        is_known = self._shown > self._start  # its beginning was shown, so it was not suspect
        if is_known or not (self._is_first or self._is_suspect(sentence)) or not self._is_faulty(sentence):
            self._start = end
        elif not self._is_first:
            self._text = self._text[: self._start]
            self.stopped = True
        elif self._may_reject:
            self.is_rejected = True
        else:
            self._left_out = self._left_out or sentence.strip()
            self._text = self._text[end:].lstrip()

    @property
    def _is_first(self) -> bool:
        return self._start == 0

    def _is_held(self) -> bool:
        """Whether the sentence in progress is to be checked before it is shown."""
        rest = self._text[self._start :]
        if self._shown > self._start or len(rest) > _LONGEST_HELD:
            return False
        return self._is_first or _FIRST_WORD.match(rest) is None or self._is_suspect(rest)

    def _show(self, until: int) -> str:
        until = max(until, self._shown)
        piece = self._text[self._shown : until]
        self._shown = until
        return piece


def is_checked(spec: TextSpec, work: Work) -> bool:
    """Whether the text of a task is held to rules; there are some in English only."""
    return spec.is_checked and reply_rules.has_rules(work.language)


def text_of(spec: TextSpec, work: Work, *, roles: Sequence[str], may_reject: bool) -> ReplyText | CheckedText:
    """The text of a reply by the task's settings and the request's, held to the rules where the task wants it."""
    text = reply_text(spec, work.params, roles=roles)
    if not is_checked(spec, work):
        return text
    asked = (*(turn.content for turn in work.turns if turn.role == "user"), work.text)
    return CheckedText(
        text,
        is_faulty=lambda sentence: reply_rules.fault_of(sentence, asked) is not None,
        is_suspect=reply_rules.is_suspect,
        may_reject=may_reject,
    )
