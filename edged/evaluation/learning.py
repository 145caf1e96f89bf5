"""Learns an `OwnCalibration` from the scores of labelled texts. Pure.

It is a regression: the scale and the biases under which the given labels are most probable, pulled towards leaving the
scores as they are.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_STEPS = 50
_TRUST = 10.0  # this many texts speak for leaving the scores as they are


def fit(log_scores: Sequence[Sequence[float]], labels: Sequence[int]) -> tuple[float, tuple[float, ...]]:
    """The scale and the biases (Newton's method on the penalised likelihood of the labels).

    Args:
        log_scores: for each text the logarithms of its scores.
        labels: for each text the index of its label.
    """
    x = np.array(log_scores, dtype=np.float64)  # (texts, labels)
    texts, classes = x.shape
    # For each text and label the figures whose weights are the scale and the biases.
    figures = np.concatenate([x[:, :, None], np.tile(np.eye(classes), (texts, 1, 1))], axis=2)
    start = np.array([1.0, *[0.0] * classes])
    weights = start.copy()
    truth = figures[np.arange(texts), np.array(labels)]
    for _ in range(_STEPS):
        shares = _shares(figures @ weights)
        expected = np.einsum("tc,tcf->tf", shares, figures)
        spread = figures - expected[:, None, :]
        slope = (expected - truth).sum(axis=0) + _TRUST * (weights - start)
        curve = np.einsum("tc,tcf,tcg->fg", shares, spread, spread) + _TRUST * np.eye(classes + 1)
        step = np.linalg.solve(curve, slope).clip(-1, 1)
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return float(max(weights[0], 0.0)), tuple(float(each) for each in weights[1:])


def _shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(weights - weights.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return shares
