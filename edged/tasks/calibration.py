"""Running calibration: takes the bias that a task showed on its latest texts out of its scores. Pure.

This is batch calibration (Zhou et al. 2023) over a moving window: each label's probability is divided by its mean over
the latest texts. It assumes that all labels are about equally frequent in the long run. It helps where the neutral
texts of a prompt differ from the texts that come. An answer then depends on the answers before it; after the same
answers it is the same again.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edged.tasks.specs import ClassifySpec
from edged.tasks.text import Language

WINDOW = 512  # how many of the latest texts count
_TRUST = 32  # the mean begins as if so many texts had shown no bias, so that the first few texts change it little


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """The scores of one text.

    Attributes:
        judge: which task, prompt and model scored it; see `judge_of`.
        scores: the probabilities of the labels, in the order of the task.
    """

    judge: str
    scores: tuple[float, ...]


def judge_of(spec: ClassifySpec, language: Language, *, model: str, weight_format: str) -> str:
    """A hash of everything that the bias depends on: the task, its prompts and the model."""
    said = (spec.name, spec.labels, spec.prompts[language], spec.opinions(language)[1:], model, weight_format)
    return hashlib.blake2b(repr(said).encode(), digest_size=12).hexdigest()


def observe(judge: str, scores: Mapping[str, float]) -> Observation:
    """Take from an answer what calibration needs. It contains nothing of the text."""
    return Observation(judge=judge, scores=tuple(round(each, 4) for each in scores.values()))


def labels_alone(spec: ClassifySpec, scores: Mapping[str, float]) -> dict[str, float]:
    """The probabilities of a task's labels, given that the answer is not the neutral one."""
    found = {label.canonical: scores[label.canonical] for label in spec.labels}
    whole = sum(found.values()) or 1.0
    return {name: value / whole for name, value in found.items()}


def with_others(corrected: Mapping[str, float], scores: Mapping[str, float]) -> dict[str, float]:
    """The scores with those of the labels corrected among themselves; the neutral label keeps its probability."""
    share = sum(value for name, value in scores.items() if name in corrected)
    return {name: corrected[name] * share if name in corrected else value for name, value in scores.items()}


class RunningCalibration:
    """The latest scores by all judges. For use in one thread."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, ...]]] = {}

    def add(self, observations: Iterable[Observation]) -> None:
        """Add scores of texts, the oldest first."""
        for each in observations:
            self._seen.setdefault(each.judge, deque(maxlen=WINDOW)).append(each.scores)

    def correct(self, judge: str, scores: Mapping[str, float]) -> dict[str, float]:
        """The probabilities of a text's labels without the bias so far."""
        seen = self._seen.get(judge)
        if not seen:
            return dict(scores)
        fair = _TRUST / len(scores)
        means = [(sum(column) + fair) / (len(seen) + _TRUST) for column in zip(*seen, strict=True)]
        weights = [score / mean for score, mean in zip(scores.values(), means, strict=True)]
        return {label: weight / sum(weights) for label, weight in zip(scores, weights, strict=True)}
