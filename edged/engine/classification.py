"""Classification: the prompt is run once and the probability of each label is read; nothing is generated.

Where the first prompt leaves doubt, further prompts ask the same question in other words and their evidence is pooled.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Generic

from edged.engine.counting import Times
from edged.engine.decoders.interface import K, Logits, Span
from edged.engine.loaded import Prepared
from edged.engine.prompt import ClassificationPrompt
from edged.engine.scheduler import Urgency
from edged.engine.scoring import add_opinion, by_label, label_log_probabilities, mean_prior, pooled
from edged.engine.sequence import NO_NUMBERS, Running, Submitted, stopped_early
from edged.engine.warm_up import WarmUp
from edged.errors import ModelError, TooLong
from edged.ports.engine import NO_USAGE, Classified, Failed, Usage, Work
from edged.tasks.outputs import FinishReason
from edged.tasks.specs import ClassifySpec
from edged.tasks.text import Language


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """A prompt that asks for the label, and the bias of that prompt."""

    prompt: ClassificationPrompt
    prior: Sequence[float]


@dataclass(slots=True, kw_only=True)
class Classifying(Running[K]):
    """Scores the labels at the end of the prompt; in doubt, at the end of the next prompt too.

    Attributes:
        further: the prompts that are left to ask. When one is asked, `memory` is None until there is room again.
        evidence: of each label, from the `asked` prompts so far.
        spent: tokens of the prompts before the present one.
    """

    urgency: ClassVar[Urgency] = Urgency.CLASSIFY
    borrows_prefix: ClassVar[bool] = True  # it is over after a step or two

    spec: ClassifySpec
    opinion: Opinion
    further: Iterator[Opinion]
    evidence: list[float]
    asked: int = 0
    spent: Usage = NO_USAGE

    def span(self, rows: int) -> Span[K]:
        """The next `rows` tokens of the prompt; with the last of them, the branches of the label trie."""
        start = self.kv.length
        tokens = self.prompt[start : start + rows]
        if start + rows < len(self.prompt):
            return Span(kv=self.kv, tokens=tokens)
        labels = self.opinion.prompt.labels
        branches = [(len(tokens) + parent, token) for parent, token in labels.branches]
        last = len(tokens) - 1
        return Span(
            kv=self.kv,
            tokens=tokens,
            branches=branches,
            wanted=range(last, last + 1 + len(branches)),
            words=labels.words,
        )

    def accept(self, logits: Logits, now: float) -> None:
        """Score the labels; end, or ask the next prompt where the scores leave doubt."""
        if not len(logits):
            return
        found = label_log_probabilities(logits, self.opinion.prompt.labels, labels=len(self.spec.labels))
        if not all(map(math.isfinite, found)):
            self.fail(ModelError(NO_NUMBERS))
            return
        self.evidence = add_opinion(self.evidence, found, self.opinion.prior)
        self.asked += 1
        scores = pooled(self.evidence, self.asked)
        usage = self.spent + self._usage()
        if self.spec.is_in_doubt(scores) and (opinion := next(self.further, None)) is not None:
            self._ask(opinion, spent=usage)
            return
        self.times.first_token = now
        self._end(
            Classified(
                key=self.key,
                scores=dict(by_label([label.canonical for label in self.spec.labels], scores)),
                usage=usage,
                timings=self.times.timings(now),
            )
        )

    def _ask(self, opinion: Opinion, *, spent: Usage) -> None:
        self.spent = spent
        self.opinion = opinion
        self.prompt = opinion.prompt.tokens
        # With the words of this prompt, the last token of the text may be split differently.
        self.capacity = max(self.capacity, opinion.prompt.capacity)
        self.memory = None
        self.cached = 0

    def stop_early(self, reason: FinishReason, now: float) -> None:  # noqa: ARG002 - the form of all kinds
        """End before the answer."""
        self.fail(stopped_early(reason))


@dataclass(frozen=True, kw_only=True, slots=True)
class Classifier(Generic[K]):
    """One classification task on the loaded model."""

    spec: ClassifySpec
    prepared: Prepared[K]

    def sequence(self, submitted: Submitted) -> Classifying[K]:
        """Make the sequence of a piece of work.

        Raises:
            TooLong: the text does not fit into the context.
        """
        work, model = submitted.work, self.prepared.loaded.model
        opinions = self._opinions(work)
        first = next(opinions)
        return Classifying(
            work=work,
            emit=submitted.emit,
            number=submitted.number,
            times=Times(submitted=submitted.at),
            prompt=first.prompt.tokens,
            capacity=first.prompt.capacity + self.prepared.further_capacity.get((self.spec.name, work.language), 0),
            bytes_per_token=model.bytes_per_token,
            spec=self.spec,
            opinion=first,
            further=opinions,
            evidence=[0.0] * len(self.spec.labels),
        )

    def warm_up(self, language: Language, warm_up: WarmUp[K]) -> None:
        """Pin the beginning of every prompt, run each prompt, and measure its bias.

        Raises:
            TooLong: a prompt leaves no room for a text.
        """
        ask = self.prepared.loaded.prompter.classification
        opinions = self.spec.opinions(language)
        for opinion in opinions:
            warm_up.pin(ask(opinion, text="", language=language).prefix)
            if opinion.question(language) not in self.prepared.priors:
                self._learn_prior(opinion, language, warm_up)
        capacities = [ask(opinion, text="", language=language).capacity for opinion in opinions]
        self.prepared.further_capacity[self.spec.name, language] = max(capacities) - capacities[0]

    def _opinions(self, work: Work) -> Iterator[Opinion]:
        """The prompts to ask, in order, each made when it is needed: for most texts only the first is.

        Raises:
            TooLong: the text does not fit into the first prompt. A further prompt that it does not fit is left out.
        """
        for each in self.spec.opinions(work.language) if self.spec.doubt else (self.spec,):
            try:
                prompt = self.prepared.loaded.prompter.classification(each, text=work.text, language=work.language)
            except TooLong:
                if each is self.spec:
                    raise
            else:
                yield Opinion(prompt=prompt, prior=self.prepared.priors[each.question(work.language)])

    def _learn_prior(self, opinion: ClassifySpec, language: Language, warm_up: WarmUp[K]) -> None:
        priors, question = self.prepared.priors, opinion.question(language)
        # While the bias is being measured, it counts as zero, and no further prompt is asked.
        priors[question] = [0.0] * len(opinion.labels)
        try:
            priors[question] = self._prior(opinion, language, warm_up)
        except BaseException:
            del priors[question]
            raise

    def _prior(self, opinion: ClassifySpec, language: Language, warm_up: WarmUp[K]) -> list[float]:
        """The bias of a prompt: from a file if the model is still the same, else measured with its neutral texts."""
        loaded = self.prepared.loaded
        prompter, kept, file = loaded.prompter, loaded.priors, loaded.warm_up_file
        asked_once = replace(opinion, doubt=0.0)
        texts = opinion.prompts[language].neutral_texts
        works = [
            Work(key=f"warm-up {n}", spec=asked_once, text=text, language=language) for n, text in enumerate(texts)
        ]
        asked = prompter.classification(opinion, text=texts[0], language=language)
        known = None if file is None else file.prior(asked, texts)
        if known is not None and len(known) == len(opinion.labels):
            return known
        prompts = [prompter.classification(opinion, text=text, language=language).tokens for text in texts]
        [first] = _label_log_probabilities(works[:1], warm_up)
        prior = kept.find(prompts, first)
        if prior is None or len(prior) != len(first):
            prior = mean_prior([first, *_label_log_probabilities(works[1:], warm_up)])
            kept.keep(prompts, first, prior)
        if file is not None:
            file.note_prior(asked, texts, prior=prior)
        return prior


def _label_log_probabilities(works: Sequence[Work], warm_up: WarmUp[K]) -> list[list[float]]:
    """Run classifications; gives the log-probabilities of the labels for each text."""
    observed = []
    for event in warm_up.run(works):
        if isinstance(event, Failed):
            raise event.error
        if not isinstance(event, Classified):
            raise ModelError(f"warm-up of task {works[0].spec.name} failed: {event}")
        observed.append([math.log(max(score, 1e-12)) for score in event.scores.values()])
    return observed
