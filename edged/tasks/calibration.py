"""Running calibration: what a task leans to over the texts that it was given lately is taken out of its scores. Pure.

Batch calibration (Zhou et al. 2023) with a batch that moves on: each label's probability is divided by its mean over
these texts. It presumes that the labels are about as frequent as each other in the long run, and helps where the
neutral texts of a prompt are of another kind than the texts that come. An answer then depends on those before it; given
the same ones, it is the same.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edged.tasks.specs import ClassifySpec
from edged.tasks.text import Language

WINDOW = 512  # texts that are looked back at
_TRUST = 32  # texts that the prompt's own calibration counts for, so that the first few do not sway it


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What one text got.

    Attributes:
        judge: who judged it; see `judge_of`.
        scores: the labels' probabilities, in the order of the task.
    """

    judge: str
    scores: tuple[float, ...]


def judge_of(spec: ClassifySpec, language: Language, *, model: str, weight_format: str) -> str:
    """Name all that a leaning depends on; another prompt or model has another one."""
    said = (spec.name, spec.labels, spec.prompts[language], spec.opinions(language)[1:], model, weight_format)
    return hashlib.blake2b(repr(said).encode(), digest_size=12).hexdigest()


def observe(judge: str, scores: Mapping[str, float]) -> Observation:
    """Keep of an answer what calibration needs: nothing of the text's words."""
    return Observation(judge=judge, scores=tuple(round(each, 4) for each in scores.values()))


class RunningCalibration:
    """The leanings of all judges. For one thread."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, ...]]] = {}

    def add(self, observations: Iterable[Observation]) -> None:
        """Take in what texts got, oldest first."""
        for each in observations:
            self._seen.setdefault(each.judge, deque(maxlen=WINDOW)).append(each.scores)

    def correct(self, judge: str, scores: Mapping[str, float]) -> dict[str, float]:
        """The probabilities of a text's labels with the leaning so far taken out."""
        seen = self._seen.get(judge)
        if not seen:
            return dict(scores)
        fair = _TRUST / len(scores)
        means = [(sum(column) + fair) / (len(seen) + _TRUST) for column in zip(*seen, strict=True)]
        weights = [score / mean for score, mean in zip(scores.values(), means, strict=True)]
        return {label: weight / sum(weights) for label, weight in zip(scores, weights, strict=True)}
