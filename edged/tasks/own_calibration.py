"""What `edged calibrate` learned from an operator's own texts, and what it makes of scores. Pure.

Each probability p of a label becomes exp(scale * log p + bias of the label), and the sum is made 1 again. A scale below
1 makes scores less sure, a bias moves the borders between labels (temperature with a bias for each label, a simple form
of the vector scaling of Guo et al. 2017).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LEAST = 1e-6  # a probability below this counts as this


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnCalibration:
    """What was learned for one task, prompt language and model.

    Attributes:
        task: its name.
        language: of its prompt.
        labels: in the order of the scores.
        scale: of all log-probabilities.
        biases: one for each label.
        texts: how many texts it was learned from.
    """

    task: str
    language: str
    labels: tuple[str, ...]
    scale: float
    biases: tuple[float, ...]
    texts: int

    def correct(self, scores: Mapping[str, float]) -> dict[str, float]:
        """The scores as they are with this; unchanged where they are of other labels."""
        if {*scores} != {*self.labels}:
            return dict(scores)
        weights = [
            self.scale * math.log(max(scores[label], _LEAST)) + bias
            for label, bias in zip(self.labels, self.biases, strict=True)
        ]
        top = max(weights)
        shares = {label: math.exp(each - top) for label, each in zip(self.labels, weights, strict=True)}
        return {label: shares[label] / sum(shares.values()) for label in scores}


def log_scores(scores: Mapping[str, float], labels: Sequence[str]) -> list[float]:
    """The logarithms of the scores, as `OwnCalibration` reads them."""
    return [math.log(max(scores[label], _LEAST)) for label in labels]
