"""How probable it is that a text has no feeling: learned from a model's readings of texts that ship with the prompts.

A text has two figures: how far the model favours the first label over the second, and how far it favours words that
follow plain texts over the labels' names. Plain texts lie between the clear ones by the first figure and above them by
the second. A logistic regression on both figures and the square of the first tells the probability (the square lets it
fall on both sides). It is fitted at the start of the engine, for one prompt and for the means over several.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SHARE = 0.25  # of plain texts in traffic, as it is assumed; deploy/MEASUREMENTS.md has what other values do
_PENALTY = 0.008  # on the squares of the weights
_STEPS = 25  # of Newton's method; it is done after about eight


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What one prompt, or the mean of several, shows of a text.

    Attributes:
        odds: log-probability of the first label minus that of the second.
        plain: log-probability of the plain words minus that of the names of both labels.
    """

    odds: float
    plain: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Neutrality:
    """The probability that a text is plain, by its reading.

    Attributes:
        centres: the means of `odds` and `plain` over the texts that it was learned from, and `widths` their spreads.
        weights: of `odds`, of `plain`, of the square of `odds`, and a constant.
    """

    centres: tuple[float, float]
    widths: tuple[float, float]
    weights: tuple[float, float, float, float]

    def probability(self, reading: Reading, *, further: float = 0.0) -> float:
        """Between 0 and 1. `further` is evidence from elsewhere, in nats."""
        point = np.array([[reading.odds, reading.plain]])
        return float(_sigmoid(_features(point, self.centres, self.widths) @ np.array(self.weights) + further)[0])


def learn(plain: Sequence[Reading], clear: Sequence[Reading]) -> Neutrality:
    """Fit to readings of plain texts and of clear ones (Newton's method on the penalised log-likelihood)."""
    points = np.array([[each.odds, each.plain] for each in (*plain, *clear)])
    is_plain = np.array([1.0] * len(plain) + [0.0] * len(clear))
    found, spread = points.mean(axis=0).tolist(), points.std(axis=0, ddof=1).tolist()
    centres, widths = (found[0], found[1]), (spread[0] or 1.0, spread[1] or 1.0)
    features = _features(points, centres, widths)
    importance = np.where(is_plain > 0, _SHARE / len(plain), (1 - _SHARE) / len(clear))
    penalty = 2 * _PENALTY * np.array([1.0, 1.0, 1.0, 1e-6])
    weights = np.zeros(4)
    for _ in range(_STEPS):
        expected = _sigmoid(features @ weights)
        slope = features.T @ (importance * (expected - is_plain)) + penalty * weights
        curve = features.T @ (features * (importance * expected * (1 - expected))[:, None]) + np.diag(penalty)
        weights = weights - np.linalg.solve(curve, slope).clip(-2, 2)
    a, b, c, d = weights.tolist()
    return Neutrality(centres=centres, widths=widths, weights=(a, b, c, d))


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


def as_numbers(found: Sequence[Neutrality]) -> list[float]:
    """What was learned, for a file."""
    return [number for each in found for number in (*each.centres, *each.widths, *each.weights)]


def of_numbers(numbers: Sequence[float]) -> tuple[Neutrality, ...]:
    """What `as_numbers` gave, again."""
    return tuple(
        Neutrality(centres=(a, b), widths=(c, d), weights=(e, f, g, h))
        for a, b, c, d, e, f, g, h in (numbers[start : start + 8] for start in range(0, len(numbers), 8))
    )


def mean(readings: Sequence[Reading]) -> Reading:
    """The mean over several prompts."""
    return Reading(
        odds=sum(each.odds for each in readings) / len(readings),
        plain=sum(each.plain for each in readings) / len(readings),
    )


def _features(
    points: NDArray[np.float64], centres: tuple[float, float], widths: tuple[float, float]
) -> NDArray[np.float64]:
    scaled = (points - np.array(centres)) / np.array(widths)
    return np.hstack([scaled, scaled[:, :1] ** 2, np.ones((len(points), 1))])


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + e^-x), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))
