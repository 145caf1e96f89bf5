"""Running calibration: what a task leans to over the texts that it was given lately is taken out of its scores. Pure.

Batch calibration (Zhou et al. 2023) with a batch that moves on: it presumes that the labels are about as frequent as
each other in the long run, and helps where the neutral texts of a prompt are of another kind than the texts that come.
An answer then depends on those before it; given the same ones, it is the same.
"""

import hashlib
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edged.tasks import ClassifySpec
from edged.text import Language

WINDOW = 512  # texts that are looked back at
_TRUST = 32  # texts that the prompt's own calibration counts for, so that the first few do not sway it


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What one text got.

    Attributes:
        judge: who judged it; see `judge_of`.
        log_scores: by label, in the order of the task: natural logarithms whose mean is 0.
    """

    judge: str
    log_scores: tuple[float, ...]


def judge_of(spec: ClassifySpec, language: Language, *, model: str, weight_format: str) -> str:
    """Name all that a leaning depends on; another prompt or model has another one."""
    said = (spec.name, spec.labels, spec.prompts[language], spec.opinions(language)[1:], model, weight_format)
    return hashlib.blake2b(repr(said).encode(), digest_size=12).hexdigest()


def observe(judge: str, scores: Mapping[str, float]) -> Observation:
    """Keep of a text's probabilities what its calibration needs: nothing of its words."""
    return Observation(judge=judge, log_scores=tuple(round(each, 4) for each in _log_scores(scores)))


class RunningCalibration:
    """The leanings of all judges. For one thread."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, ...]]] = {}

    def add(self, observations: Iterable[Observation]) -> None:
        """Take in what texts got, oldest first."""
        for each in observations:
            self._seen.setdefault(each.judge, deque(maxlen=WINDOW)).append(each.log_scores)

    def correct(self, judge: str, scores: Mapping[str, float]) -> dict[str, float]:
        """The probabilities of a text's labels with the leaning so far taken out."""
        seen = self._seen.get(judge)
        if not seen:
            return dict(scores)
        logs = _log_scores(scores)
        leanings = [sum(column) / (len(seen) + _TRUST) for column in zip(*seen, strict=True)]
        weights = [math.exp(log - leaning) for log, leaning in zip(logs, leanings, strict=True)]
        return {label: weight / sum(weights) for label, weight in zip(scores, weights, strict=True)}


def _log_scores(scores: Mapping[str, float]) -> list[float]:
    logs = [math.log(max(score, 1e-9)) for score in scores.values()]
    mean = sum(logs) / len(logs)
    return [each - mean for each in logs]
