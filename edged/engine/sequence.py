"""One piece of work while it runs: which rows it needs next, and what it makes of their logits.

Emits its own events. Knows nothing of other sequences, of threads or of the cache.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic

import torch

from edged.engine.constrain import Constraint
from edged.engine.decoders.interface import K, Span
from edged.engine.detokenize import TextStream
from edged.engine.prompt import Classification, Generation
from edged.engine.sampling import sample
from edged.engine.scheduler import Candidate, Urgency
from edged.engine.scoring import add_opinion, by_label, label_log_probabilities, pooled
from edged.errors import Cancelled, Expired, ModelError, RequestError, TooLong
from edged.ports.engine import (
    NO_USAGE,
    Classified,
    Failed,
    Generated,
    TextDelta,
    Timings,
    Usage,
    Work,
    WorkEvent,
)
from edged.tasks.outputs import FinishReason
from edged.tasks.specs import ClassifySpec, Sampling

Emit = Callable[[WorkEvent], None]

NO_NUMBERS = "the model gave logits that are no numbers; check its files with `edged models verify`"


@dataclass(slots=True, kw_only=True)
class Clocked:
    """When things happened to a piece of work, in monotonic seconds."""

    submitted: float
    admitted: float
    first_token: float | None = None

    def timings(self, now: float) -> Timings:
        """The times so far, in milliseconds."""
        first = now if self.first_token is None else self.first_token
        return Timings(
            queue_ms=1000 * (self.admitted - self.submitted),
            prefill_ms=1000 * (first - self.admitted),
            decode_ms=1000 * (now - first),
            first_token_ms=1000 * (first - self.submitted),
            total_ms=1000 * (now - self.submitted),
        )


@dataclass(slots=True, kw_only=True)
class Running(Generic[K]):
    """What the two kinds of sequences share.

    Attributes:
        prompt: all tokens of the prompt; the first `cached` of them were taken from the prefix cache.
        nbytes: memory of the keys and values at their longest.
        memory: the keys and values; None until the sequence is admitted.
        done: the end event was emitted.
    """

    work: Work
    emit: Emit
    number: int
    clock: Clocked
    prompt: Sequence[int]
    nbytes: int
    memory: K | None = None
    cached: int = 0
    done: bool = False

    @property
    def key(self) -> str:
        return self.work.key

    @property
    def kv(self) -> K:
        if self.memory is None:
            raise RuntimeError("a sequence runs only after it was admitted")
        return self.memory

    @property
    def prompt_left(self) -> int:
        return max(len(self.prompt) - self.kv.length, 0) if self.memory is not None else len(self.prompt)

    def fail(self, error: RequestError) -> None:
        """End without an answer."""
        self._end(Failed(key=self.key, error=error))

    def _end(self, event: WorkEvent) -> None:
        self.done = True
        self.emit(event)

    def _usage(self, completion_tokens: int) -> Usage:
        return Usage(prompt_tokens=len(self.prompt), cached_tokens=self.cached, completion_tokens=completion_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """A prompt that asks for the label, and what it leans to by itself."""

    plan: Classification
    prior: Sequence[float]


@dataclass(slots=True, kw_only=True)
class Classifying(Running[K]):
    """Scores labels at the end of the prompt; in doubt, at the end of the next one too.

    Attributes:
        further: prompts that are left to ask. With the next one `memory` is None, until there is room again.
        evidence: of each label, by the prompts so far; `asked` is their number.
        spent: tokens of the prompts before the present one.
    """

    spec: ClassifySpec
    opinion: Opinion
    further: Iterator[Opinion]
    evidence: list[float]
    asked: int = 0
    spent: Usage = NO_USAGE

    def candidate(self) -> Candidate:
        return Candidate(
            key=self.key,
            urgency=Urgency.CLASSIFY,
            number=self.number,
            nbytes=self.nbytes,
            prompt_left=self.prompt_left,
        )

    def span(self, rows: int) -> Span[K]:
        """The next `rows` tokens of the prompt; with the last of them, the branches of the label trie."""
        start = self.kv.length
        tokens = self.prompt[start : start + rows]
        if start + rows < len(self.prompt):
            return Span(kv=self.kv, tokens=tokens)
        branches = [(len(tokens) + parent, token) for parent, token in self.opinion.plan.labels.branches]
        last = len(tokens) - 1
        return Span(
            kv=self.kv,
            tokens=tokens,
            branches=branches,
            wanted=range(last, last + 1 + len(branches)),
            words=self.opinion.plan.labels.words,
        )

    def accept(self, logits: torch.Tensor, now: float) -> None:
        """Take the logits of the wanted rows of the last span."""
        if not len(logits):
            return
        found = label_log_probabilities(logits, self.opinion.plan.labels, labels=len(self.spec.labels))
        if not all(map(math.isfinite, found)):
            self.fail(ModelError(NO_NUMBERS))
            return
        self.evidence = add_opinion(self.evidence, found, self.opinion.prior)
        self.asked += 1
        scores = pooled(self.evidence, self.asked)
        usage = self.spent + self._usage(0)
        if self.spec.is_in_doubt(scores) and (opinion := next(self.further, None)) is not None:
            self._ask(opinion, spent=usage)
            return
        self.clock.first_token = now
        self._end(
            Classified(
                key=self.key,
                scores=dict(by_label([label.canonical for label in self.spec.labels], scores)),
                usage=usage,
                timings=self.clock.timings(now),
            )
        )

    def _ask(self, opinion: Opinion, *, spent: Usage) -> None:
        self.spent = spent
        self.opinion = opinion
        self.prompt = opinion.plan.tokens
        self.memory = None
        self.cached = 0

    def stop_early(self, reason: FinishReason, now: float) -> None:  # noqa: ARG002 - as Generating has it
        """End before the answer."""
        self.fail(_early(reason))


@dataclass(slots=True, kw_only=True)
class Generating(Running[K]):
    """Writes a reply token by token."""

    plan: Generation
    sampling: Sampling
    generator: torch.Generator
    text: TextStream
    end_tokens: frozenset[int]
    banned: torch.Tensor  # token ids
    constraint: Constraint | None = None
    generated: list[int] = field(default_factory=list)

    def candidate(self) -> Candidate:
        return Candidate(
            key=self.key,
            urgency=Urgency.GENERATE,
            number=self.number,
            nbytes=self.nbytes,
            prompt_left=self.prompt_left,
        )

    def span(self, rows: int) -> Span[K]:
        """The next `rows` tokens of the prompt, or the token drawn last."""
        start = self.kv.length
        if start >= len(self.prompt):
            return Span(kv=self.kv, tokens=self.generated[-1:], wanted=(0,))
        tokens = self.prompt[start : start + rows]
        return Span(kv=self.kv, tokens=tokens, wanted=(len(tokens) - 1,) if start + rows >= len(self.prompt) else ())

    def accept(self, logits: torch.Tensor, now: float) -> None:
        """Draw the next token from the wanted row of the last span."""
        if not len(logits):
            return
        row = logits[0]
        if not math.isfinite(float(row.max())):  # a NaN anywhere comes out too, at a thirtieth of isfinite's time
            self.fail(ModelError(NO_NUMBERS))
            return
        row[self.banned] = float("-inf")
        if self.constraint is not None:
            self.constraint.mask(row, self.end_tokens)
        elif not self.text.has_begun:  # a reply has at least one word
            row[list(self.end_tokens)] = float("-inf")
        own_words = (*self.plan.said, *self.generated)
        token = sample(row, how=self.sampling, said=own_words, generator=self.generator)
        if self.clock.first_token is None:
            self.clock.first_token = now
        if token in self.end_tokens:
            self._finish("stop", now)
            return
        self.generated.append(token)
        self._show(self.text.push(token))
        if self.text.stopped or (self.constraint is not None and self.constraint.take(token)):
            self._finish("stop", now)
        elif len(self.generated) >= self.plan.max_new_tokens:
            self._finish("length", now)

    def stop_early(self, reason: FinishReason, now: float) -> None:
        """End with the text there is; without any, fail."""
        if self.text.has_begun and self.constraint is None:
            self._finish(reason, now)
        else:
            self.fail(_early(reason))

    def _finish(self, reason: FinishReason, now: float) -> None:
        if self.constraint is not None and reason == "length":
            self.fail(
                TooLong(
                    f"the JSON is not complete after {len(self.generated)} tokens; ask about less, or raise max_tokens "
                    "of the task (and engine.max_new_tokens)"
                )
            )
            return
        self._show(self.text.finish(is_cut=reason in {"length", "deadline"}))
        self._end(
            Generated(
                key=self.key,
                text=self.text.text,
                finish_reason=reason,
                usage=self._usage(len(self.generated)),
                timings=self.clock.timings(now),
            )
        )

    def _show(self, piece: str) -> None:
        if piece and self.work.stream:
            self.emit(TextDelta(key=self.key, text=piece))


def _early(reason: FinishReason) -> RequestError:
    if reason == "deadline":
        return Expired("the deadline passed before there was an answer")
    return Cancelled("the request was cancelled before there was an answer")
