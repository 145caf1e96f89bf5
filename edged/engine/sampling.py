"""From logits to the next token. Each sequence has its own random generator.

So the same seed gives the same text, whatever else runs in the batch and whichever decoder computes the logits.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edged.engine.decoders.interface import Logits
from edged.tasks.specs import Sampling

_BLOCK = 128
_PENALTY_WINDOW = 256  # how many of the last tokens count as repetitions
_NUCLEUS = 1024  # tokens that are sorted first, where top_k excludes none
_KEY_BITS = (1 << 64) - 1


class Generator:
    """The random numbers of one sequence: Philox 4x64-10 (Salmon et al. 2011) with the seed as its key.

    numpy promises that a bit generator gives the same numbers in every release and on every machine.
    """

    def __init__(self, seed: int) -> None:
        """Begin the numbers of this seed. A seed of more than 64 bits, or below 0, counts modulo 2^64."""
        self._philox = np.random.Philox(key=seed & _KEY_BITS)

    def draw(self) -> float:
        """Give the next number, uniform in [0, 1): the upper 53 bits of the next 64."""
        return (int(self._philox.random_raw()) >> 11) * 2.0**-53


def sample(logits: Logits, *, how: Sampling, said: Sequence[int], generator: Generator) -> int:
    """Draw the next token.

    Args:
        logits: (vocab,); -inf for tokens that are not allowed. It may be changed in place.
        how: temperature 0 takes the most probable token; top_k 0 and top_p 1 exclude no token.
        said: the model's own tokens so far, those of its earlier turns first. `repetition_penalty` makes them less
            likely (Keskar et al. 2019). The user's words are not penalised, so that a reply may use them.
        generator: advanced by one draw, unless the temperature is 0.
    """
    if how.repetition_penalty != 1.0 and said:
        seen = list(set(said[-_PENALTY_WINDOW:]))
        scores = logits[seen]
        logits[seen] = np.where(scores > 0, scores / how.repetition_penalty, scores * how.repetition_penalty)
    if how.temperature == 0:
        return int(logits.argmax())
    if not math.isfinite(top := float(logits.max())):
        raise ValueError("no token is allowed")
    # Nearly always a few tokens have all the probability that top_p leaves, and the others need not be sorted.
    for count in (how.top_k,) if how.top_k else (_NUCLEUS, logits.shape[0]):
        values, tokens = largest(logits, count)
        weights = _weights(values, top, how.temperature)
        ends = weights.cumsum()  # where the share of each token ends; the shares are not divided by their sum
        total = float(ends[-1]) if how.top_k else float(_weights(logits, top, how.temperature).sum())
        if how.top_p * total <= ends[-1]:
            break
    if how.top_p < 1.0:
        kept = int(np.count_nonzero(ends - weights < how.top_p * total))  # the first always stays
        ends = ends[: max(kept, 1)]
    drawn = int(ends.searchsorted(generator.draw() * ends[-1], side="right"))
    return int(tokens[min(drawn, len(ends) - 1)])


def _weights(logits: Logits, top: float, temperature: float) -> npt.NDArray[np.float64]:
    """The probabilities of tokens beside that of the most probable one."""
    weights: npt.NDArray[np.float64] = np.exp((logits.astype(np.float64) - top) / temperature)
    return weights


def largest(logits: Logits, count: int) -> tuple[Logits, npt.NDArray[np.intp]]:
    """The `count` largest values of (vocab,), the largest first, and their indices; of equal ones the earlier first.

    It takes the largest value of each block first, and looks only into the blocks with the largest of these. That
    takes a small part of the time of sorting a whole vocabulary.
    """
    size = logits.shape[0]
    whole = size // _BLOCK
    if count > whole:
        places = np.argsort(-logits, kind="stable")[:count]
        return logits[places], places
    tops = logits[: whole * _BLOCK].reshape(whole, _BLOCK).max(axis=1)
    if size % _BLOCK:
        tops = np.append(tops, logits[whole * _BLOCK :].max())
    # Every value above the least of the `count` largest tops is in a block of these; equal ones may be elsewhere.
    least = np.partition(tops, len(tops) - count)[len(tops) - count]
    chosen = np.flatnonzero(tops >= least)
    candidates = (chosen[:, None] * _BLOCK + np.arange(_BLOCK)).ravel()
    if chosen[-1] == whole:
        candidates = candidates[: len(candidates) - (-size % _BLOCK)]
    values = logits[candidates]
    if count < len(values):
        limit = np.partition(values, len(values) - count)[len(values) - count]
        candidates = candidates[values >= limit]
        values = logits[candidates]
    order = np.argsort(-values, kind="stable")[:count]
    return values[order], candidates[order]
