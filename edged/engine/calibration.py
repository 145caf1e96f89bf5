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
from edged.engine.neutrality import LEARNING, Neutralities, Reading, as_numbers, learn_each, of_numbers
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

    def neutralities(self, language: Language) -> Neutralities:
        """How a plain text is known after one prompt, after two, and so on; empty without texts to learn from."""
        prompt, kept = self.spec.prompts[language], self.prepared.loaded.priors
        if not prompt.plain_texts:
            return Neutralities()
        opinions = self.spec.opinions(language)
        empty = [self._empty(each, language) for each in opinions]
        signals = tuple(word for word in prompt.signal_words if all(word in each.words for each in empty))
        asked = [self._by_word(*pair, language) for pair in zip(opinions, empty, strict=True)]
        # All prompts of a task are judged by the same texts, those of its first one.
        texts = [self.spec.read(each, language) for each in (*prompt.plain_texts, *prompt.clear_texts)]
        of = [LEARNING, texts, signals, [[each.tokens, each.labels.steps] for each in empty]]
        [first] = self._log_probabilities(asked[0], texts[:1], language)
        found = kept.find(of, first)
        if found is None:
            readings = [
                [
                    reading_of(words, about, signals, prior=self.prepared.priors[opinion.name, language])
                    for words in self._log_probabilities(by_word, texts, language)
                ]
                for opinion, about, by_word in zip(opinions, empty, asked, strict=True)
            ]
            found = as_numbers(learn_each(readings, plain=len(prompt.plain_texts)))
            kept.keep(of, first, found)
        return Neutralities(signals=signals, after=of_numbers(found, prompts=len(opinions)))

    def _empty(self, spec: ClassifySpec, language: Language) -> ClassificationPrompt:
        return self.prepared.loaded.prompter.classification(spec, text="", language=language)

    def _by_word(self, opinion: ClassifySpec, prompt: ClassificationPrompt, language: Language) -> ClassifySpec:
        by_word = _by_word(opinion, prompt, language)
        self.prepared.priors[by_word.name, language] = [0.0] * len(by_word.labels)
        return by_word

    def _log_probabilities(self, spec: ClassifySpec, texts: Sequence[str], language: Language) -> list[list[float]]:
        """The log-probabilities of the labels, for each text."""
        works = [Work(key=f"warm-up {n}", spec=spec, text=text, language=language) for n, text in enumerate(texts)]
        observed = []
        for event in self.run(works):
            if isinstance(event, Failed):
                raise event.error
            if not isinstance(event, Classified):
                raise ModelError(f"warm-up of task {spec.name} failed: {event}")
            observed.append([math.log(max(score, 1e-300)) for score in event.scores.values()])
        return observed


def reading_of(
    words: Sequence[float], prompt: ClassificationPrompt, signals: Sequence[str], *, prior: Sequence[float]
) -> Reading:
    """What a prompt shows of a text.

    Args:
        words: log-probabilities of the words of `prompt.labels`, but for a constant.
        prompt: of a task with two labels.
        signals: the signal words that count.
        prior: what the prompt leans to by itself.
    """
    one, other = label_log_probabilities(words[: prompt.scored], labels=2)
    places = {word: place for place, word in enumerate(prompt.words)}
    read = [words[places[word]] for word in signals]
    middle = sum(read) / max(len(read), 1)
    return Reading(
        odds=one - prior[0] - (other - prior[1]),
        plain=plain_evidence(words, plain=prompt.plain, named=prompt.named),
        words=tuple(each - middle for each in read),
    )


def _by_word(spec: ClassifySpec, prompt: ClassificationPrompt, language: Language) -> ClassifySpec:
    """The same prompt with every word that is read as a label of its own, in the same order."""
    said = spec.prompts[language]
    shown: list[dict[Language, str]] = [{language: label.example(language)} for label in spec.labels]
    labels = tuple(
        Label(
            canonical=str(n),
            names={language: word},
            said={language: (word,)},
            shown=shown[n] if n < len(shown) else {},
        )
        for n, word in enumerate(prompt.words)
    )
    numbers = {label.canonical: str(n) for n, label in enumerate(spec.labels)}
    examples = tuple(replace(each, label=numbers[each.label]) for each in said.examples)
    return ClassifySpec(
        name=f"{spec.name} by word",
        labels=labels,
        prompts={language: replace(said, examples=examples, plain_words=(), signal_words=())},
    )
