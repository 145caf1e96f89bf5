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
from edged.engine.neutrality import LEARNING, Neutralities, Reading, as_numbers, learn_each, numbers_of, of_numbers
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

    def learn_prior(self, opinion: ClassifySpec, language: Language) -> None:
        """Learn what a prompt leans to: the mean log-probability of each label over its neutral texts."""
        priors, question = self.prepared.priors, opinion.question(language)
        if question in priors:
            return
        asked_once = replace(opinion, neutral=None, doubt=0.0)
        texts, prompter = opinion.prompts[language].neutral_texts, self.prepared.loaded.prompter

        def prompt(text: str) -> ClassificationPrompt:
            return prompter.classification(asked_once, text=text, language=language)

        priors[question] = self._known(
            (prompt(texts[0]), texts),
            of=lambda: [prompt(text).tokens for text in texts],
            length=len(opinion.labels),
            first=lambda: self._log_probabilities(asked_once, texts[:1], language)[0],
            learn=lambda first: mean_prior([first, *self._log_probabilities(asked_once, texts[1:], language)]),
        )

    def neutralities(self, language: Language) -> Neutralities:
        """How a plain text is known after one prompt, after two, and so on; empty without texts to learn from."""
        prompt = self.spec.prompts[language]
        if not prompt.plain_texts:
            return Neutralities()
        opinions = self.spec.opinions(language)
        empty = [self._empty(each, language) for each in opinions]
        signals = tuple(word for word in prompt.signal_words if all(word in each.words for each in empty))
        asked = [_by_word(*pair, language) for pair in zip(opinions, empty, strict=True)]
        written = (*prompt.plain_texts, *prompt.clear_texts)

        def texts() -> list[str]:  # all prompts of a task are judged by the same texts, those of its first one
            return [self.spec.read(each, language) for each in written]

        def learn(first: Sequence[float]) -> list[float]:  # noqa: ARG001 - it is scored again with the others
            readings = []
            for opinion, about, by_word in zip(opinions, empty, asked, strict=True):
                prior = self.prepared.priors[opinion.question(language)]
                scored = self._log_probabilities(by_word, texts(), language)
                readings.append([reading_of(words, about, signals, prior=prior) for words in scored])
            return as_numbers(learn_each(readings, plain=len(prompt.plain_texts)))

        asks = [(each.tokens, each.labels.steps) for each in empty]
        found = self._known(
            (LEARNING, len(prompt.plain_texts), written, signals, asks),
            of=lambda: (LEARNING, len(prompt.plain_texts), texts(), signals, asks),
            length=len(opinions) * numbers_of(len(signals)),
            first=lambda: self._log_probabilities(asked[0], texts()[:1], language)[0],
            learn=learn,
        )
        return Neutralities(signals=signals, after=of_numbers(found, prompts=len(opinions)))

    def _known(
        self,
        name: tuple[object, ...],
        *,
        of: Callable[[], object],
        length: int,
        first: Callable[[], list[float]],
        learn: Callable[[list[float]], list[float]],
    ) -> list[float]:
        """What was learned at an earlier start, or on another box, or is learned now.

        Args:
            name: tells it from others in the warm-up file.
            of: gives the same for the file of priors, for JSON: the texts as tokens.
            length: how many numbers it has.
            first: scores the first text.
            learn: learns, given what `first` gave.
        """
        kept, file = self.prepared.loaded.priors, self.prepared.loaded.warm_up_file
        found = None if file is None else file.prior(*name)
        if found is not None and len(found) == length:
            return found
        one = first()
        told = of()
        found = kept.find(told, one)
        if found is None or len(found) != length:
            found = learn(one)
            kept.keep(told, one, found)
        if file is not None:
            file.note_prior(*name, prior=found)
        return found

    def _empty(self, spec: ClassifySpec, language: Language) -> ClassificationPrompt:
        return self.prepared.loaded.prompter.classification(spec, text="", language=language)

    def _log_probabilities(self, spec: ClassifySpec, texts: Sequence[str], language: Language) -> list[list[float]]:
        """The log-probabilities of the labels, for each text; the bias of the prompt counts as zero meanwhile."""
        works = [Work(key=f"warm-up {n}", spec=spec, text=text, language=language) for n, text in enumerate(texts)]
        question = spec.question(language)
        self.prepared.priors[question] = [0.0] * len(spec.labels)
        try:
            events = self.run(works)
        finally:
            del self.prepared.priors[question]
        observed = []
        for event in events:
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
