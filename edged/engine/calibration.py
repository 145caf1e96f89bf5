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
from edged.engine.neutrality import Neutrality, Reading, as_numbers, learn_each, of_numbers
from edged.engine.prompt import ClassificationPrompt
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
        texts, kept = opinion.prompts[language].neutral_texts, self.prepared.loaded.priors
        prompter = self.prepared.loaded.prompter
        of = [prompter.classification(asked_once, text=text, language=language).tokens for text in texts]
        [first] = self._log_probabilities(asked_once, texts[:1], language)
        found = kept.find(of, first)
        if found is None:
            found = mean_prior([first, *self._log_probabilities(asked_once, texts[1:], language)])
            kept.keep(of, first, found)
        return found

    def neutralities(self, language: Language) -> tuple[Neutrality, ...]:
        """How a plain text is known after one prompt, after two, and so on; empty without texts to learn from."""
        prompt, kept = self.spec.prompts[language], self.prepared.loaded.priors
        if not prompt.plain_texts:
            return ()
        opinions = self.spec.opinions(language)
        asked = [self._by_word(opinion, language) for opinion in opinions]
        # All prompts of a task are judged by the same texts, those of its first one.
        texts = (*prompt.plain_texts, *prompt.clear_texts)
        of = [[self._empty(each, language).tokens, self._empty(each, language).labels.steps] for each in asked]
        [first] = self._log_probabilities(asked[0], texts[:1], language)
        found = kept.find([of, texts], first)
        if found is None:
            readings = [self._readings(*pair, texts, language) for pair in zip(opinions, asked, strict=True)]
            learned = learn_each(readings, plain=len(prompt.plain_texts))
            found = as_numbers(learned)
            kept.keep([of, texts], first, found)
        return of_numbers(found)

    def _by_word(self, opinion: ClassifySpec, language: Language) -> ClassifySpec:
        by_word = _by_word(opinion, language, plain=self._empty(opinion, language).plain)
        self.prepared.priors[by_word.name, language] = [0.0] * len(by_word.labels)
        return by_word

    def _empty(self, spec: ClassifySpec, language: Language) -> ClassificationPrompt:
        return self.prepared.loaded.prompter.classification(spec, text="", language=language)

    def _readings(
        self, opinion: ClassifySpec, by_word: ClassifySpec, texts: Sequence[str], language: Language
    ) -> list[Reading]:
        """The readings of texts by one prompt."""
        prompt, prior = self._empty(opinion, language), self.prepared.priors[opinion.name, language]
        readings = []
        for words in self._log_probabilities(by_word, texts, language):
            one, other = label_log_probabilities(words[: len(words) - prompt.plain], labels=len(opinion.labels))
            evidence = plain_evidence(words, plain=prompt.plain, named=prompt.named)
            readings.append(Reading(odds=one - prior[0] - (other - prior[1]), plain=evidence))
        return readings

    def _log_probabilities(self, spec: ClassifySpec, texts: Sequence[str], language: Language) -> list[list[float]]:
        """The log-probabilities of the labels, for each text."""
        works = [Work(key=f"warm-up {n}", spec=spec, text=text, language=language) for n, text in enumerate(texts)]
        observed = []
        for event in self.run(works):
            if isinstance(event, Failed):
                raise event.error
            if not isinstance(event, Classified):
                raise ModelError(f"warm-up of task {spec.name} failed: {event}")
            observed.append([math.log(max(score, 1e-12)) for score in event.scores.values()])
        return observed


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
