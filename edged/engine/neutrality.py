"""How probable it is that a text has no feeling: learned from a model's readings of texts that ship with the prompts.

A prompt gives more than the probabilities of the labels: the logits of any other word in the label's place cost nothing
more, and a small model finds other words probable after "The meeting is at 3 pm." than after "I love it". A logistic
regression on these logits, on the odds of the labels and on their square tells the probability (the square lets it fall
on both sides). It is fitted before the first request, for one prompt and for the means over several.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# deploy/MEASUREMENTS.md has what other values do.
_SHARE = 0.25  # of plain texts in what is learned from, by weight
_PENALTY, _WORD_PENALTY = 0.008, 0.3  # on the squares of the weights: of the label's figures, of each word
# The texts that ship are clearer than those that come, and a regression on them is too sure of itself.
_SURENESS, _SHIFT = 0.25, -0.2
_LABEL_FIGURES = 3  # those of the labels; the others are one for each word
_STEPS = 50  # of Newton's method; it is done after about ten
LEARNING = (_SHARE, _PENALTY, _WORD_PENALTY, _SURENESS, _SHIFT)  # what is learned depends on these too


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What one prompt, or the mean of several, shows of a text.

    Attributes:
        odds: log-probability of the first label minus that of the second.
        plain: log-probability of the plain words minus that of the names of both labels.
        words: logits of words in the label's place, minus their mean.
    """

    odds: float
    plain: float
    words: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Neutrality:
    """The probability that a text is plain, by its reading.

    Attributes:
        weights: of the odds, their square, `plain`, and each word.
        constant: is added.
    """

    weights: tuple[float, ...]
    constant: float

    def probability(self, reading: Reading, *, further: float = 0.0) -> float:
        """Between 0 and 1. `further` is evidence from elsewhere, in nats."""
        figures = _figures([reading])[0]
        return float(_sigmoid(figures @ np.array(self.weights) + self.constant + further))


@dataclass(frozen=True, kw_only=True, slots=True)
class Neutralities:
    """What was learned for one task and language.

    Attributes:
        signals: the words whose logits count.
        after: one prompt, two, and so on; empty where nothing was learned.
    """

    signals: tuple[str, ...] = ()
    after: tuple[Neutrality, ...] = ()


def learn(plain: Sequence[Reading], clear: Sequence[Reading]) -> Neutrality:
    """Fit to readings of plain texts and of clear ones (Newton's method on the penalised log-likelihood)."""
    figures = _figures([*plain, *clear])
    is_plain = np.array([1.0] * len(plain) + [0.0] * len(clear))
    centres, widths = figures.mean(axis=0), figures.std(axis=0)
    widths[widths < 1e-9] = 1.0
    scaled = np.hstack([(figures - centres) / widths, np.ones((len(figures), 1))])
    importance = np.where(is_plain > 0, _SHARE / len(plain), (1 - _SHARE) / len(clear))
    words = figures.shape[1] - _LABEL_FIGURES
    penalty = np.array([_PENALTY] * _LABEL_FIGURES + [_WORD_PENALTY] * words + [1e-6])
    found = np.zeros(scaled.shape[1])
    for _ in range(_STEPS):
        expected = _sigmoid(scaled @ found)
        slope = scaled.T @ (importance * (expected - is_plain)) + penalty * found
        curve = scaled.T @ (scaled * (importance * expected * (1 - expected))[:, None]) + np.diag(penalty)
        step = np.linalg.solve(curve, slope).clip(-3, 3)
        found = found - step
        if np.abs(step).max() < 1e-9:
            break
    weights = found[:-1] / widths
    constant = found[-1] - float(weights @ centres)
    return Neutrality(
        weights=tuple(float(_SURENESS * each) for each in weights), constant=float(_SURENESS * constant + _SHIFT)
    )


def learn_each(readings: Sequence[Sequence[Reading]], *, plain: int) -> tuple[Neutrality, ...]:
    """Learn from one prompt, from the means over two, and so on.

    Args:
        readings: by each prompt, of plain texts and then of clear ones.
        plain: how many of the texts are plain.
    """
    found = []
    for asked in range(1, len(readings) + 1):
        means = [mean(each) for each in zip(*readings[:asked], strict=True)]
        found.append(learn(means[:plain], means[plain:]))
    return tuple(found)


def numbers_of(words: int) -> int:
    """How many numbers a `Neutrality` of so many words is."""
    return _LABEL_FIGURES + words + 1


def as_numbers(found: Sequence[Neutrality]) -> list[float]:
    """What was learned, for a file: with so many digits that reading them back gives the same numbers."""
    return [float(f"{number:.9g}") for each in found for number in (*each.weights, each.constant)]


def of_numbers(numbers: Sequence[float], *, prompts: int) -> tuple[Neutrality, ...]:
    """What `as_numbers` gave for so many prompts, again."""
    width = len(numbers) // prompts
    rows = [tuple(numbers[start : start + width]) for start in range(0, len(numbers), width)]
    return tuple(Neutrality(weights=row[:-1], constant=row[-1]) for row in rows)


def mean(readings: Sequence[Reading]) -> Reading:
    """The mean over several prompts."""
    return Reading(
        odds=sum(each.odds for each in readings) / len(readings),
        plain=sum(each.plain for each in readings) / len(readings),
        words=tuple(sum(each) / len(readings) for each in zip(*(one.words for one in readings), strict=True)),
    )


def _figures(readings: Sequence[Reading]) -> NDArray[np.float64]:
    return np.array([[each.odds, each.odds**2, each.plain, *each.words] for each in readings], dtype=np.float64)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + e^-x), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))
