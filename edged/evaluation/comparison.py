"""Whether one of two ways to label the same texts is better, or only luckier. Pure.

McNemar's test (McNemar 1947), in its exact form: only the texts count that one way labels right and the other wrong. If
both ways were equally good, each such text would be won by either with a probability of one half.
"""

import math
from collections.abc import Sequence

from edged.evaluation.report import Verdict


def won(first: Sequence[Verdict], second: Sequence[Verdict]) -> tuple[int, int]:
    """How many texts only the first way labels right, and how many only the second, in the same order of texts."""
    pairs = [(a.is_right, b.is_right) for a, b in zip(first, second, strict=True)]
    return pairs.count((True, False)), pairs.count((False, True))


def mcnemar(one: int, other: int) -> float:
    """The probability that chance divides `one + other` texts at least as unevenly (two-sided binomial test)."""
    texts, fewer = one + other, min(one, other)
    tail = sum(math.comb(texts, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << texts))
