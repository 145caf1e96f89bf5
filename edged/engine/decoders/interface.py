"""What the step loop needs of a model: spans in, logits out. Every decoder keeps it, whatever it computes with.

Knows no request, no text and no sampling, and no torch: logits are numpy's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


class KeyValues(Protocol):
    """The keys and values of one sequence, as far as it was computed."""

    @property
    def length(self) -> int:
        """Tokens held."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory taken, spare room included."""
        ...


K = TypeVar("K", bound=KeyValues)


@dataclass(frozen=True, kw_only=True, slots=True)
class Span(Generic[K]):
    """Rows of one sequence in one step: `tokens` come right after what `kv` holds.

    Attributes:
        branches: rows after `tokens` that form a tree and are forgotten after the step: (parent, token), where
            parent is the index of an earlier row of this span. A row sees the sequence up to its parent's line.
        wanted: the rows whose logits are asked for, rising.
        words: the tokens of the vocabulary that are asked for; empty: all. The logits of others say nothing.
    """

    kv: K
    tokens: Sequence[int]
    branches: Sequence[tuple[int, int]] = ()
    wanted: Sequence[int] = ()
    words: Sequence[int] = ()


def refuse_unknown_tokens(spans: Sequence[Span[K]], vocab_size: int) -> None:
    """Refuse tokens that the embedding lacks: on a GPU, looking one up would end the use of the device.

    Raises:
        IndexError: there is one.
    """
    asked = [token for span in spans for token in (*span.tokens, *(token for _, token in span.branches))]
    if asked and not (min(asked) >= 0 and max(asked) < vocab_size):
        raise IndexError("a token is outside the vocabulary")


class CausalModel(Protocol[K]):
    """A causal language model with its weights."""

    vocab_size: int
    bytes_per_token: int  # of keys and values
    shares_prefixes: bool  # whether `fork` may cut a sequence short

    def allocate(self, capacity: int) -> K:
        """Make room for a sequence of at most `capacity` tokens (branches of the last step included)."""
        ...

    def fork(self, source: K, length: int, capacity: int, *, borrow: bool = False) -> K:
        """Make a new sequence that begins with the first `length` tokens of `source`, which stays as it is.

        With `borrow` it may read them there, and so keeps `source` in memory; it cannot be forked itself.
        """
        ...

    def forward(self, spans: Sequence[Span[K]]) -> Logits:
        """Run one step and extend each span's `kv` by its `tokens` (only if the whole step succeeds).

        Returns:
            Logits of the wanted rows, in order: (sum of wanted, vocab_size). Whoever gets them may change them; the
            next step may overwrite them.
        """
        ...
