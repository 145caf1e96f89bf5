"""Generation: the model writes a text token by token, free or held to a JSON Schema."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Generic

import numpy as np
import numpy.typing as npt

from edged.engine import checked_text
from edged.engine import feeling as feelings
from edged.engine.constrain import Constraint
from edged.engine.counting import Times
from edged.engine.decoders.interface import K, Logits, Span
from edged.engine.detokenize import TextStream
from edged.engine.feeling import Feeling
from edged.engine.loaded import Prepared
from edged.engine.logprobs import LogprobTeller
from edged.engine.prompt import MIN_NEW_TOKENS
from edged.engine.sampling import Generator, sample
from edged.engine.scheduler import Urgency
from edged.engine.sequence import NO_NUMBERS, Running, Submitted, stopped_early
from edged.engine.warm_up import WarmUp
from edged.errors import ModelError, TooLong
from edged.ports.engine import NO_USAGE, Classified, Failed, Generated, Params, TextDelta, Usage, Work
from edged.tasks.message_kinds import has_kinds, kind_of
from edged.tasks.outputs import FinishReason
from edged.tasks.specs import Sampling, TextSpec, sampling_of
from edged.tasks.text import Language

_OTHER_SEED = 0x9E3779B97F4A7C15  # turns the seed of the first draft into that of the second


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A text to be drawn, and what it is drawn from.

    Attributes:
        teller: notes log probabilities; None where nobody asked for them.
        begins_not: a token that it does not begin with.
    """

    generator: Generator
    text: TextStream
    teller: LogprobTeller | None = None
    begins_not: int | None = None


@dataclass(slots=True, kw_only=True)
class Generating(Running[K]):
    """Writes a reply token by token.

    Attributes:
        max_new_tokens: the reply ends after so many tokens.
        said: tokens of the model's own earlier turns, oldest first; repeating them is made less likely too.
        banned: ids of the tokens that a reply never contains.
        draft: the text that is drawn now.
        second: drawn instead, if the first text is rejected; None where it cannot be, or was.
        constraint: holds the output to a JSON Schema; None for free text.
        must_be_whole: whether an output that is cut short is an error.
        feeling: asks for the feeling of the text, which chooses the prompt; None where that needs no asking, or was
            done.
        spent: tokens of that question.
        generated: the tokens of the draft so far.
    """

    urgency: ClassVar[Urgency] = Urgency.GENERATE

    max_new_tokens: int
    said: Sequence[int]
    sampling: Sampling
    draft: Draft
    end_tokens: frozenset[int]
    banned: npt.NDArray[np.intp]
    second: Draft | None = None
    constraint: Constraint | None = None
    must_be_whole: bool = False
    feeling: Feeling[K] | None = None
    spent: Usage = NO_USAGE
    generated: list[int] = field(default_factory=list)

    @property
    def completion_tokens(self) -> int:
        return len(self.generated)

    @property
    def borrows_prefix(self) -> bool:
        return self.feeling is not None  # which is over after a step or two

    @property
    def reusable_tokens(self) -> Sequence[int]:
        if not self.work.continues or not self.generated:
            return ()
        return (*self.prompt, *self.generated)[: self.kv.length]

    def span(self, rows: int) -> Span[K]:
        """The next `rows` tokens of the prompt, or the token drawn last."""
        if self.feeling is not None:
            return self.feeling.span(self.kv, rows, cached=self.cached)
        start = self.kv.length
        if start >= len(self.prompt):
            return Span(kv=self.kv, tokens=self.generated[-1:], wanted=(0,))
        tokens = self.prompt[start : start + rows]
        return Span(kv=self.kv, tokens=tokens, wanted=(len(tokens) - 1,) if start + rows >= len(self.prompt) else ())

    def accept(self, logits: Logits, now: float) -> None:
        """Draw the next token from the wanted row of the last span."""
        if self.feeling is not None:
            self._take_feeling(self.feeling, logits, now)
            return
        if not len(logits):
            return
        row = logits[0]
        if not math.isfinite(float(row.max())):  # the largest is NaN if any is
            self.fail(ModelError(NO_NUMBERS))
            return
        draft = self.draft
        as_given = None if draft.teller is None else row.copy()
        self._mask(row)
        own_words = (*self.said, *self.generated)
        token = sample(row, how=self.sampling, said=own_words, generator=draft.generator)
        if self.times.first_token is None:
            self.times.first_token = now
        if token in self.end_tokens:
            self._finish("stop", now)
            return
        if draft.teller is not None and as_given is not None:
            draft.teller.take(as_given, token, before=(self.generated or self.prompt)[-1])
        self.generated.append(token)
        self._show(draft.text.push(token))
        if draft.text.is_rejected:
            self._reject(now)
        elif draft.text.stopped or (self.constraint is not None and self.constraint.take(token)):
            self._finish("stop", now)
        elif len(self.generated) >= self.max_new_tokens:
            self._finish("length", now)

    def stop_early(self, reason: FinishReason, now: float) -> None:
        """End with the text there is; without any, fail."""
        if self.draft.text.has_begun and not self.must_be_whole:
            self._finish(reason, now)
        else:
            self.fail(stopped_early(reason))

    def _take_feeling(self, feeling: Feeling[K], logits: Logits, now: float) -> None:
        """Take the logits of the question for the feeling; with its answer, go on to the reply."""
        feeling.accept(logits, now)
        event = feeling.event
        if isinstance(event, Failed):
            self.fail(event.error)
        elif isinstance(event, Classified):
            self.feeling, self.spent = None, event.usage
            prompt = feeling.prompt(event)
            self.max_new_tokens = prompt.max_new_tokens
            self._run_instead(prompt.tokens, len(prompt.tokens) + prompt.max_new_tokens)
        elif feeling.asks_further:
            self._run_instead(feeling.asking.prompt, feeling.asking.capacity)

    def _run_instead(self, prompt: Sequence[int], capacity: int) -> None:
        """Go on with another prompt, which gets its own memory."""
        self.prompt = prompt
        self.capacity = max(self.capacity, capacity)
        self.memory = None
        self.cached = 0

    def _mask(self, row: Logits) -> None:
        """Make the tokens that may not come next impossible."""
        row[self.banned] = -np.inf
        if self.constraint is not None:
            self.constraint.mask(row, self.end_tokens)
        elif not self.draft.text.has_begun:  # a reply has at least one word
            row[list(self.end_tokens)] = -np.inf
        if not self.generated and self.draft.begins_not is not None:
            row[self.draft.begins_not] = -np.inf

    def _reject(self, now: float) -> None:
        """Begin the second draft after the prompt; where there is none, the first one counts."""
        if self.second is None:
            self._end_with("stop", now, self.draft.text.keep())
            return
        self.draft, self.second = replace(self.second, begins_not=self.generated[0]), None
        self.generated = []
        self.memory = None
        self.cached = 0

    def _finish(self, reason: FinishReason, now: float) -> None:
        if self.must_be_whole and reason == "length":
            self.fail(
                TooLong(
                    f"the JSON is not complete after {len(self.generated)} tokens; ask about less, or raise max_tokens "
                    "of the task (and engine.max_new_tokens)"
                )
            )
            return
        text = self.draft.text
        piece = text.finish(is_cut=reason in {"length", "deadline"})
        if text.is_rejected and reason in {"stop", "length"}:
            self._reject(now)
        else:
            self._end_with(reason, now, text.keep() if text.is_rejected else piece)

    def _end_with(self, reason: FinishReason, now: float, piece: str) -> None:
        self._show(piece)
        teller = self.draft.teller
        self._end(
            Generated(
                key=self.key,
                text=self.draft.text.text,
                finish_reason=reason,
                logprobs=() if teller is None else tuple(teller.told),
                usage=self.spent + self._usage(),
                timings=self.times.timings(now),
            )
        )

    def _show(self, piece: str) -> None:
        if piece and self.work.stream:
            logprobs = () if self.draft.teller is None else self.draft.teller.since_shown()
            self.emit(TextDelta(key=self.key, text=piece, logprobs=logprobs))


@dataclass(frozen=True, kw_only=True, slots=True)
class Writer(Generic[K]):
    """One task that is answered by writing, on the loaded model."""

    spec: TextSpec
    prepared: Prepared[K]

    def sequence(self, submitted: Submitted) -> Generating[K]:
        """Make the sequence of a piece of work.

        Raises:
            TooLong: the text leaves no room for a reply in the context.
            BadRequest: the output cannot be held to the schema that the request brought.
        """
        work, loaded, schema = submitted.work, self.prepared.loaded, self.spec.schema
        seed = work.params.seed if work.params.seed is not None else work.seed
        wanted = work.params.max_tokens or self.spec.max_tokens or loaded.limits.max_new_tokens
        kind = self._kind(work)
        prompt_for = partial(
            loaded.prompter.generation,
            self.spec,
            text=work.text,
            language=work.language,
            turns=work.turns,
            max_new_tokens=min(wanted, loaded.limits.max_new_tokens),
        )
        prompt = prompt_for(kind=kind)
        feeling = None
        if kind == "statement" and self.spec.feeling is not None:
            feeling = feelings.ask(
                self.spec.feeling, self.prepared, submitted, choose=lambda label: prompt_for(kind=label)
            )
        first = prompt.tokens if feeling is None else feeling.asking.prompt
        capacity = len(prompt.tokens) + prompt.max_new_tokens
        return Generating(
            work=work,
            emit=submitted.emit,
            number=submitted.number,
            times=Times(submitted=submitted.at),
            prompt=first,
            capacity=capacity if feeling is None else max(capacity, feeling.asking.capacity),
            bytes_per_token=loaded.model.bytes_per_token,
            max_new_tokens=prompt.max_new_tokens,
            said=prompt.said,
            sampling=sampling_of(loaded.sampling, self.spec.sampling, work.params),
            draft=self._draft(work, prompt.roles, seed=seed, may_reject=True),
            second=self._draft(work, prompt.roles, seed=seed ^ _OTHER_SEED, may_reject=False),
            end_tokens=self.prepared.end_tokens,
            banned=self.prepared.banned,
            constraint=None if schema is None else self.prepared.constraints.begin_request(schema),
            must_be_whole=self.spec.must_be_whole,
            feeling=feeling,
        )

    def _kind(self, work: Work) -> str | None:
        """The kind of message, where there are examples for some kinds and this is the first of a conversation."""
        if work.turns or not self.spec.examples_of_kind.get(work.language) or not has_kinds(work.language):
            return None
        return kind_of(work.text)

    def _draft(self, work: Work, roles: Sequence[str], *, seed: int, may_reject: bool) -> Draft:
        decode = self.prepared.loaded.prompter.decode
        return Draft(
            generator=Generator(seed),
            text=TextStream(decode, checked_text.text_of(self.spec, work, roles=roles, may_reject=may_reject)),
            teller=None if work.logprobs is None else LogprobTeller(count=work.logprobs, decode=decode),
        )

    def warm_up(self, language: Language, warm_up: WarmUp[K]) -> None:
        """Pin the beginning that all prompts share, of each kind of message, and write two tokens.

        Raises:
            SettingsError: the schema of the task cannot be used.
            TooLong: the task's own words leave no room for a text.
        """
        prompter = self.prepared.loaded.prompter
        # Raises TooLong if there is no room even for a short text and a short reply.
        prompter.generation(self.spec, text="Hi", language=language, turns=(), max_new_tokens=MIN_NEW_TOKENS)
        kinds = (None, *self.spec.examples_of_kind.get(language, {}))
        are_kept = [warm_up.pin(prompter.shared_beginning(self.spec, language, kind)) for kind in kinds]
        if self.spec.schema is not None:  # a schema that cannot be used ends the start, not a request
            self.prepared.constraints.begin(self.spec.name, self.spec.schema)
        work = Work(key="warm-up", spec=self.spec, text="Hi", language=language, params=Params(max_tokens=2))
        event = warm_up.try_out(work, is_known=all(are_kept))
        # With a schema the work may fail: two tokens are seldom a whole JSON.
        if isinstance(event, Failed) and self.spec.schema is None:
            raise event.error
