"""What the engine learns about the prompts of a classification before the first request.

That is what a prompt leans to by itself, and how the model's readings of plain texts differ from those of texts with a
feeling. Both are kept from one start to the next, see `priors.py`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic

from edged.engine.decoders.interface import K
from edged.engine.loaded import Prepared
from edged.engine.neutrality import Neutrality, Reading, learn, mean
from edged.engine.scoring import label_log_probabilities, mean_prior, plain_evidence
from edged.errors import ModelError
from edged.ports.engine import Classified, Failed, Work, WorkEvent
from edged.tasks.specs import ClassifySpec, Label
from edged.tasks.text import Language


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration(Generic[K]):
    """Learns for one task. `run` runs works to their end and gives the last event of each."""

    spec: ClassifySpec
    prepared: Prepared[K]
    run: Callable[[Sequence[Work]], Sequence[WorkEvent]]

    def prior(self, opinion: ClassifySpec, language: Language) -> list[float]:
        """What a prompt leans to: the mean log-probability of each label over its neutral texts."""
        # While it is being learned, the leaning counts as none, and no further prompt is asked.
        self.prepared.priors[opinion.name, language] = [0.0] * len(opinion.labels)
        asked_once = replace(opinion, neutral=None, doubt=0.0)
        return self._observe(asked_once, opinion.prompts[language].neutral_texts, language, keep=mean_prior)

    def neutralities(self, language: Language) -> tuple[Neutrality, ...]:
        """How a plain text is known after one prompt, after two, and so on; empty without texts to learn from."""
        if not self.spec.prompts[language].plain_texts:
            return ()
        readings = [self._readings(opinion, language) for opinion in self.spec.opinions(language)]
        plain = len(self.spec.prompts[language].plain_texts)
        found = []
        for asked in range(1, len(readings) + 1):
            means = [mean(each) for each in zip(*readings[:asked], strict=True)]
            found.append(learn(means[:plain], means[plain:]))
        return tuple(found)

    def _readings(self, opinion: ClassifySpec, language: Language) -> list[Reading]:
        """The readings of plain texts and then of clear ones, by one prompt."""
        # All prompts of a task are judged by the same texts, those of its first one.
        first = self.spec.prompts[language]
        prompt = self.prepared.loaded.prompter.classification(opinion, text="", language=language)
        by_word = _by_word(opinion, language, plain=prompt.plain)
        self.prepared.priors[by_word.name, language] = [0.0] * len(by_word.labels)
        texts = (*first.plain_texts, *first.clear_texts)
        flat = self._observe(by_word, texts, language, keep=_flat)
        width = len(by_word.labels)
        prior = self.prepared.priors[opinion.name, language]
        readings = []
        for start in range(0, len(flat), width):
            words = flat[start : start + width]
            one, other = label_log_probabilities(words[: width - prompt.plain], labels=len(opinion.labels))
            evidence = plain_evidence(words, plain=prompt.plain, named=prompt.named)
            readings.append(Reading(odds=one - prior[0] - (other - prior[1]), plain=evidence))
        return readings

    def _observe(
        self,
        spec: ClassifySpec,
        texts: Sequence[str],
        language: Language,
        keep: Callable[[Sequence[Sequence[float]]], list[float]],
    ) -> list[float]:
        """What `keep` makes of the labels' log-probabilities for texts: from the file if the model is the same."""
        prompter, kept = self.prepared.loaded.prompter, self.prepared.loaded.priors
        works = [Work(key=f"warm-up {n}", spec=spec, text=text, language=language) for n, text in enumerate(texts)]
        prompts = [prompter.classification(spec, text=text, language=language).tokens for text in texts]
        [first] = _label_log_probabilities(works[:1], self.run)
        found = kept.find(prompts, first)
        if found is None or len(found) % len(first):
            found = keep([first, *_label_log_probabilities(works[1:], self.run)])
            kept.keep(prompts, first, found)
        return found


def _flat(observed: Sequence[Sequence[float]]) -> list[float]:
    return [value for each in observed for value in each]


def _by_word(spec: ClassifySpec, language: Language, *, plain: int) -> ClassifySpec:
    """The same prompt with every word that is read as a label, first those of the labels, then the plain ones."""
    prompt = spec.prompts[language]
    words = [word for reading in zip(*(each.words(language) for each in spec.labels), strict=True) for word in reading]
    words += prompt.plain_words[:plain]
    shown: list[dict[Language, str]] = [{language: label.example(language)} for label in spec.labels]
    shown += [{}] * (len(words) - len(shown))
    labels = tuple(
        Label(canonical=str(n), names={language: word}, said={language: (word,)}, shown=shown[n])
        for n, word in enumerate(words)
    )
    numbers = {label.canonical: str(n) for n, label in enumerate(spec.labels)}
    examples = tuple(replace(each, label=numbers[each.label]) for each in prompt.examples)
    return ClassifySpec(
        name=f"{spec.name} by word",
        labels=labels,
        prompts={language: replace(prompt, examples=examples, plain_words=())},
    )


def _label_log_probabilities(
    works: Sequence[Work], run: Callable[[Sequence[Work]], Sequence[WorkEvent]]
) -> list[list[float]]:
    """Run classifications; gives the log-probabilities of the labels for each text."""
    observed = []
    for event in run(works):
        if isinstance(event, Failed):
            raise event.error
        if not isinstance(event, Classified):
            raise ModelError(f"warm-up of task {works[0].spec.name} failed: {event}")
        observed.append([math.log(max(score, 1e-12)) for score in event.scores.values()])
    return observed
