"""Classification: the prompt is run once and the probability of each label is read; nothing is generated.

Where the first prompt leaves doubt, further prompts ask the same question in other words and their evidence is pooled.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Generic

from edged.engine.calibration import Calibration, reading_of
from edged.engine.counting import Times
from edged.engine.decoders.interface import K, Logits, Span
from edged.engine.loaded import Prepared
from edged.engine.neutrality import Neutralities, Reading, mean
from edged.engine.prompt import ClassificationPrompt
from edged.engine.scheduler import Urgency
from edged.engine.scoring import (
    add_opinion,
    by_label,
    label_log_probabilities,
    pooled,
    read_words,
)
from edged.engine.sequence import NO_NUMBERS, Running, Submitted, stopped_early
from edged.engine.warm_up import WarmUp
from edged.errors import ModelError, TooLong
from edged.ports.engine import NO_USAGE, Classified, Usage, Work
from edged.tasks.calibration import judge_of
from edged.tasks.instruments import EVIDENCE, is_reading
from edged.tasks.outputs import FinishReason
from edged.tasks.own_calibration import OwnCalibration
from edged.tasks.specs import ClassifySpec
from edged.tasks.text import Language, asked_in
from edged.tasks.windows import windows

_MOST_TOKENS = 8192  # of a text that is judged in windows
_LEAST_WINDOW = 32  # tokens: where the context leaves less room beside the prompts, a text is judged as a whole
_SPLIT_OTHERWISE = 8  # tokens that a window may have more inside a prompt than alone


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """A prompt that asks for the label of a window of the text, and the bias of that prompt.

    Attributes:
        capacity: tokens that this prompt takes for the longest window.
        windows: how many windows the text has; mostly one.
        is_last: whether it asks about the last of them.
    """

    prompt: ClassificationPrompt
    prior: Sequence[float]
    capacity: int
    windows: int
    is_last: bool


@dataclass(slots=True, kw_only=True)
class Classifying(Running[K]):
    """Scores the labels at the end of the prompt; in doubt, at the end of the next prompt too.

    A long text is judged in windows: a prompt is asked about each of them, and the mean of the evidence counts.

    Attributes:
        further: the prompts that are left to ask. When one is asked, `memory` is None until there is room again.
        evidence: of each label, from the `asked` prompts so far.
        neutralities: tell the probability that the text has no feeling, by the `readings` of the prompts so far.
        of_windows: the readings of the present prompt, one for each window so far.
        further_plain: such evidence that does not come from the model, in nats.
        own: what was learned from the operator's own texts, where that is to be used.
        spent: tokens of the prompts before the present one.
    """

    urgency: ClassVar[Urgency] = Urgency.CLASSIFY

    spec: ClassifySpec
    opinion: Opinion
    further: Iterator[Opinion]
    evidence: list[float]
    neutralities: Neutralities
    readings: list[Reading]
    of_windows: list[Reading] = field(default_factory=list)
    further_plain: float = 0.0
    own: OwnCalibration | None = None
    asked: int = 0
    spent: Usage = NO_USAGE

    @property
    def borrows_prefix(self) -> bool:
        return True  # it is over after a step or two

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
        prompt = self.opinion.prompt
        words = read_words(logits, prompt.labels)
        found = label_log_probabilities(words[: prompt.scored], labels=len(self.spec.labels))
        if not all(map(math.isfinite, found)):
            self.fail(ModelError(NO_NUMBERS))
            return
        self.evidence = add_opinion(self.evidence, found, self.opinion.prior, share=1 / self.opinion.windows)
        if self.neutralities.after:
            self.of_windows.append(reading_of(words, prompt, self.neutralities.signals, prior=self.opinion.prior))
        usage = self.spent + self._usage()
        if not self.opinion.is_last:
            self._ask(next(self.further), spent=usage)
            return
        if self.of_windows:
            self.readings.append(mean(self.of_windows))
            self.of_windows = []
        self.asked += 1
        scores = pooled(self.evidence, self.asked)
        neutral = self._neutral()
        if self.spec.is_in_doubt(scores, neutral) and (opinion := next(self.further, None)) is not None:
            self._ask(opinion, spent=usage)
            return
        self.times.first_token = now
        self._end(
            Classified(
                key=self.key,
                scores=self._named(scores, neutral),
                usage=usage,
                timings=self.times.timings(now),
            )
        )

    def _neutral(self) -> float | None:
        """The probability that the text has no feeling, by the prompts so far; None where that was not learned."""
        if not self.neutralities.after:
            return None
        learned = self.neutralities.after[self.asked - 1]
        return learned.probability(mean(self.readings), further=self.further_plain)

    def _named(self, scores: Sequence[float], neutral: float | None) -> dict[str, float]:
        named = dict(by_label([label.canonical for label in self.spec.labels], scores))
        if neutral is not None and self.spec.neutral is not None:
            named = {name: value * (1 - neutral) for name, value in named.items()}
            named[self.spec.neutral.canonical] = neutral
        return named if self.own is None else self.own.correct(named)

    def _ask(self, opinion: Opinion, *, spent: Usage) -> None:
        self.spent = spent
        self.opinion = opinion
        self.prompt = opinion.prompt.tokens
        # With the words of this prompt, the last token of the text may be split differently.
        self.capacity = max(self.capacity, opinion.capacity)
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
        work, model = (
            replace(submitted.work, language=self.warm_language(submitted.work.language)),
            self.prepared.loaded.model,
        )
        questions = self.spec.questions(work.language)
        opinions = self._opinions(work)
        first = next(opinions)
        return Classifying(
            work=work,
            emit=submitted.emit,
            number=submitted.number,
            times=Times(submitted=submitted.at),
            prompt=first.prompt.tokens,
            capacity=first.capacity + self.prepared.further_capacity.get((self.spec.name, work.language), 0),
            bytes_per_token=model.bytes_per_token,
            spec=self.spec,
            opinion=first,
            further=opinions,
            evidence=[0.0] * len(self.spec.labels),
            neutralities=self.prepared.neutralities.get(questions, Neutralities()),
            readings=[],
            further_plain=self._further_plain(work),
            own=self.prepared.own.get(questions),
        )

    def warm_up(self, language: Language, warm_up: WarmUp[K]) -> None:
        """Pin the beginning of every prompt, run each prompt, and learn what it leans to by itself.

        Raises:
            TooLong: a prompt leaves no room for a text.
        """
        loaded = self.prepared.loaded
        ask = loaded.prompter.classification
        calibration = Calibration(spec=self.spec, prepared=self.prepared, run=warm_up.run)
        opinions = self.spec.opinions(language)
        for opinion in opinions:
            warm_up.pin(ask(opinion, text="", language=language).prefix)
            calibration.learn_prior(opinion, language)
        if self.spec.neutral is not None and len(self.spec.labels) == 2:
            self.prepared.neutralities[self.spec.questions(language)] = calibration.neutralities(language)
        judge = judge_of(self.spec, language, model=loaded.info.id, weight_format=loaded.info.format)
        if (own := loaded.own_calibrations.get(judge)) is not None:
            self.prepared.own[self.spec.questions(language)] = own
        empty = [ask(opinion, text="", language=language) for opinion in opinions]
        capacities = [each.capacity for each in empty]
        self.prepared.further_capacity[self.spec.name, language] = max(capacities) - capacities[0]
        self.prepared.room[self.spec.name, language] = min(map(loaded.prompter.room_beside, empty)) - _SPLIT_OTHERWISE

    def warm_language(self, language: Language) -> Language:
        """The language, if its prompt was warmed up on this model; a model that was just switched to may lack it."""
        priors = self.prepared.priors
        if language in self.spec.prompts and self.spec.question(language) in priors:
            return language
        return asked_in(language, [each for each in self.spec.languages if self.spec.question(each) in priors])

    def _further_plain(self, work: Work) -> float:
        text = self.prepared.loaded.prompter.read(self.spec, work.text, work.language)
        return EVIDENCE if self.spec.knows_instruments and is_reading(text) else 0.0

    def _opinions(self, work: Work) -> Iterator[Opinion]:
        """The prompts to ask, in order, each made when it is needed: for most texts only the first is.

        Raises:
            TooLong: the text does not fit into the first prompt, or is longer than any that is judged. A further prompt
                that it does not fit is left out.
        """
        prompter = self.prepared.loaded.prompter
        # What names a label of one prompt is cut out for all of them.
        text = prompter.read(self.spec, work.text, work.language)
        shown = self._windows(text, work.language)
        for each in self.spec.opinions(work.language) if self.spec.doubt else (self.spec,):
            try:
                prompts = [prompter.classification(each, text=one, language=work.language) for one in shown]
            except TooLong:
                if each is self.spec:
                    raise
                continue
            for number, prompt in enumerate(prompts, start=1):
                yield Opinion(
                    prompt=prompt,
                    prior=self.prepared.priors[each.question(work.language)],
                    capacity=max(one.capacity for one in prompts),
                    windows=len(shown),
                    is_last=number == len(shown),
                )

    def _windows(self, text: str, language: Language) -> tuple[str, ...]:
        """The windows of a text; the whole text where it is short, or the task judges it as a whole.

        Raises:
            TooLong: it is longer than any text that is judged in windows.
        """
        prompter = self.prepared.loaded.prompter
        room = self.prepared.room.get((self.spec.name, language), 0)
        most = min(self.spec.window_tokens.get(language, room), room)
        is_short = len(text.encode()) <= most  # no token is shorter than a byte
        if is_short or not self.spec.window_tokens or most < _LEAST_WINDOW:
            return (text,)
        if (tokens := prompter.count(text)) > _MOST_TOKENS:
            raise TooLong(
                f"the text does not fit: it has {tokens} tokens, and at most {_MOST_TOKENS} are judged", field="text"
            )
        return windows(text, count=prompter.count, most=most)
