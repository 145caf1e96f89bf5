"""Log probabilities of the tokens that a model writes, for callers that ask for them. Knows no task."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edged.engine.decoders.interface import Logits
from edged.engine.sampling import largest
from edged.tasks.outputs import TokenLogprob


@dataclass(slots=True, kw_only=True)
class LogprobTeller:
    """The log probabilities of one reply, token by token.

    Attributes:
        count: how many of the most probable tokens are named at each place.
        decode: tokens as text.
        told: those of the reply so far.
    """

    count: int
    decode: Callable[[Sequence[int]], str]
    told: list[TokenLogprob] = field(default_factory=list)
    _shown: int = 0

    def take(self, logits: Logits, token: int, *, before: int) -> None:
        """Note the token that was drawn.

        Args:
            logits: (vocab,), as the model gave them.
            token: the one that was drawn.
            before: the token before it, on which its text may depend.
        """
        highest = float(logits.max())
        whole = highest + math.log(float(np.exp(logits.astype(np.float64) - highest).sum()))
        values, tokens = largest(logits, self.count) if self.count else ((), ())
        self.told.append(
            TokenLogprob(
                token=self._text(token, before),
                logprob=round(float(logits[token]) - whole, 5),
                top=tuple(
                    (self._text(int(each), before), round(float(value) - whole, 5))
                    for each, value in zip(tokens, values, strict=True)
                ),
            )
        )

    def since_shown(self) -> tuple[TokenLogprob, ...]:
        """Those that were not given before by this method."""
        new = tuple(self.told[self._shown :])
        self._shown = len(self.told)
        return new

    def _text(self, token: int, before: int) -> str:
        """The text that a token adds: some tokenizers write the space before a word only where there is a word."""
        context, both = self.decode([before]), self.decode([before, token])
        return both[len(context) :] if both.startswith(context) else self.decode([token])
