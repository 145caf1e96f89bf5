"""The work that `edged bench` gives to an engine, and the figures that it takes from the answers.

Knows the engine's port; loads and prints nothing. Every count is taken from the usage in the answers (tokens that were
computed, tokens that were decoded), not from what was asked for. The texts are made of common English words, drawn anew
for every request, so that no cache has them.
"""

import itertools
import queue
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from edged.errors import ModelError
from edged.ports.engine import Classified, Engine, Failed, Generated, Params, TextDelta, Usage, Work, WorkEvent
from edged.tasks.built_in import REPLY, SENTIMENT
from edged.tasks.conversation import Role, Turn
from edged.tasks.specs import GenerateSpec, PartSpec

# With one prompt: whether further prompts are asked depends on the words of a text, and these words are random.
_SENTIMENT = replace(SENTIMENT, doubt=0.0)
TEXT_TOKENS = 30  # of a user's text
HISTORY_TURNS = 3  # question and answer, each as long as a text
REPLY_TOKENS = 64
CONTEXT_TOKENS = 128  # before decoding begins
DECODE_TOKENS = 48  # after the first
_POLL_S = 1.0
_TRIES = 3
_WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work government number night point home water room "
    "mother area money story fact month lot right study book eye job word business issue side kind head house "
    "service friend father power hour game line end member law car city community name president team minute idea"
)
_LONG = "Write a long story in which all of these words are used."

_ROLES: tuple[Role, Role] = ("user", "assistant")
_GREEDY = Params(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A piece of work with its answer; `submitted` and `ended` are monotonic seconds."""

    submitted: float
    ended: float
    event: Classified | Generated

    @property
    def usage(self) -> Usage:
        return self.event.usage

    @property
    def prefilled(self) -> int:
        """Prompt tokens that were computed."""
        return self.usage.prompt_tokens - self.usage.cached_tokens

    @property
    def first_token(self) -> float:
        """When the first token was decoded, in monotonic seconds."""
        return self.submitted + self.event.timings.first_token_ms / 1000

    @property
    def decoded(self) -> int:
        """Tokens decoded after the first."""
        return max(self.usage.completion_tokens - 1, 0)

    @property
    def decode_s(self) -> float:
        return self.event.timings.decode_ms / 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefilled:
    """A prompt that was run: tokens computed, and at which speed."""

    tokens: int
    tokens_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """A batch that was decoded; `side_by_side` is the share of the time in which all sequences were decoding."""

    context_tokens: int
    new_tokens: int
    side_by_side: float
    tokens_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A single request."""

    prefilled: int
    milliseconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Messages:
    """`message` jobs that were run: what each computed and wrote, and how long all of them took."""

    prefilled: tuple[int, ...]
    new_tokens: tuple[int, ...]
    seconds: float

    @property
    def jobs_per_min(self) -> float:
        """Jobs per minute; a job with a shorter reply counts as the share of a full reply that it has."""
        return 60 * sum(self.new_tokens) / REPLY_TOKENS / self.seconds


class Workloads:
    """The workloads on one engine. Used by one thread; raises the error of the first request that has no answer."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic, seed: int = 0) -> None:
        self._engine = engine
        self._clock = clock
        self._random = random.Random(seed)
        self._words = _WORDS.split()
        self._first = itertools.cycle(self._words)
        self._numbers = itertools.count()
        self._sizes: dict[tuple[str, int], int] = {}

    # -------------------------------------------------------------------------------------------- the workloads

    def prefill(self, tokens: int) -> Prefilled:
        """Run a prompt of this many uncached tokens, up to its first new token."""
        words = self._size(f"prefill {tokens}", tokens, lambda text: self._one(self._bare(text, 1)).prefilled)
        end = self._one(self._bare(self._text(words), 1))
        return Prefilled(tokens=end.prefilled, tokens_per_s=end.prefilled * 1000 / end.event.timings.prefill_ms)

    def decode(self, batch: int) -> Decoded:
        """Decode `batch` sequences greedily, each after a prompt of its own.

        A model may end its turn early. Then other prompts are tried; if all of them end early, the tokens that were
        decoded count.
        """
        tries = (self._decode_once(batch) for _ in range(_TRIES))
        seen: list[Decoded] = []
        for each in tries:
            seen.append(each)
            if each.new_tokens >= DECODE_TOKENS:
                break
        return max(seen, key=lambda each: (each.new_tokens, each.side_by_side))

    def first_token(self) -> Answered:
        """Ask for a reply and wait for its first token."""
        end = self._one(self._reply(self._text(self._text_words()), max_tokens=1))
        return Answered(prefilled=end.prefilled, milliseconds=end.event.timings.first_token_ms)

    def sentiment(self) -> Answered:
        """Ask for the sentiment of a text; timed from outside the engine."""
        end = self._one(self._sentiment(self._text(self._text_words())))
        return Answered(prefilled=end.prefilled, milliseconds=1000 * (end.ended - end.submitted))

    def messages(self, concurrency: int, jobs: int, *, knows_history: bool = False) -> Messages:
        """Run `message` jobs, always `concurrency` of them at the same time, until all have begun.

        `knows_history`: the earlier turns were run just before, as in a conversation that goes on; else they are new.
        """
        words = self._text_words()
        work = [self._message(words) for _ in range(jobs)]
        if knows_history:
            for _, reply in work:
                earlier = self._reply(self._text(words), turns=reply.turns, max_tokens=1)
                self._one(replace(earlier, continues=True))
        begin = self._clock()
        ends = self._run(work, concurrency=concurrency)
        return Messages(
            prefilled=tuple(sum(each.prefilled for each in job) for job in ends),
            new_tokens=tuple(sum(each.usage.completion_tokens for each in job) for job in ends),
            seconds=self._clock() - begin,
        )

    # ------------------------------------------------------------------------------------------------- the parts

    def _decode_once(self, batch: int) -> Decoded:
        words = self._size("context", CONTEXT_TOKENS, lambda text: self._one(self._bare(text, 1)).usage.prompt_tokens)
        texts = [self._text(words) for _ in range(batch)]
        # The prompts are run first and kept, so that all sequences decode from the same step on.
        self._together([replace(self._bare(text, 1), continues=True) for text in texts])
        return decoded(self._together([self._bare(text, DECODE_TOKENS + 1) for text in texts]))

    def _bare(self, text: str, max_tokens: int) -> Work:
        """A prompt that is only the template and the text, so that two prompts share nothing but the template."""
        spec = GenerateSpec(name="bench", system={"en": text, "zh": text}, keeps_history=False)
        return self._work(spec, _LONG, params=replace(_GREEDY, max_tokens=max_tokens))

    def _sentiment(self, text: str) -> Work:
        return self._work(_SENTIMENT, text)

    def _reply(self, text: str, *, turns: tuple[Turn, ...] = (), max_tokens: int = REPLY_TOKENS) -> Work:
        return self._work(REPLY, text, params=Params(max_tokens=max_tokens), turns=turns)

    def _message(self, words: int) -> list[Work]:
        said = [self._text(words) for _ in range(2 * HISTORY_TURNS + 1)]
        turns = tuple(Turn(role=_ROLES[i % 2], content=text) for i, text in enumerate(said[:-1]))
        return [self._sentiment(said[-1]), self._reply(said[-1], turns=turns)]

    def _work(self, spec: PartSpec, text: str, *, params: Params = Params(), turns: tuple[Turn, ...] = ()) -> Work:
        number = next(self._numbers)
        return Work(key=f"bench-{number}", spec=spec, text=text, language="en", params=params, turns=turns, seed=number)

    # ------------------------------------------------------------------------------------------------- the texts

    def _text(self, words: int) -> str:
        """Random words. The first word changes with every text, so that no text begins as a cached one does."""
        return " ".join([next(self._first), *self._random.choices(self._words, k=words - 1)])

    def _text_words(self) -> int:
        """How many words make a user's text."""
        if ("text", TEXT_TOKENS) not in self._sizes:
            empty = self._one(self._sentiment("")).usage.prompt_tokens
            count = lambda text: self._one(self._sentiment(text)).usage.prompt_tokens - empty  # noqa: E731
            return self._size("text", TEXT_TOKENS, count)
        return self._sizes["text", TEXT_TOKENS]

    def _size(self, name: str, tokens: int, count: Callable[[str], int]) -> int:
        """Find how many words make so many tokens for this model; looked for once for each name."""
        if (name, tokens) not in self._sizes:
            self._sizes[name, tokens] = words_for(tokens, lambda words: count(self._text(words)))
        return self._sizes[name, tokens]

    # ---------------------------------------------------------------------------------------------- the engine

    def _one(self, work: Work) -> Ended:
        return self._together([work])[0]

    def _together(self, work: Sequence[Work]) -> list[Ended]:
        return [job[0] for job in self._run([[each] for each in work], concurrency=len(work))]

    def _run(self, jobs: Sequence[Sequence[Work]], *, concurrency: int) -> list[list[Ended]]:
        """Run jobs, each of one or more pieces of work; when a running job ends, the next one begins."""
        events: queue.SimpleQueue[tuple[float, WorkEvent]] = queue.SimpleQueue()
        waiting = deque(jobs)
        submitted: dict[str, float] = {}
        job_of = {work.key: i for i, job in enumerate(jobs) for work in job}
        left = [len(job) for job in jobs]
        ends: dict[str, Ended] = {}

        def begin(batch: Iterable[Sequence[Work]]) -> None:
            for each in itertools.chain.from_iterable(batch):
                submitted[each.key] = self._clock()
                self._engine.submit(each, lambda event: events.put((self._clock(), event)))

        begin([waiting.popleft() for _ in range(min(concurrency, len(jobs)))])
        while len(ends) < len(job_of):
            at, event = self._next(events)
            if isinstance(event, TextDelta):
                continue
            if isinstance(event, Failed):
                raise event.error
            ends[event.key] = Ended(submitted=submitted[event.key], ended=at, event=event)
            left[job_of[event.key]] -= 1
            if not left[job_of[event.key]] and waiting:
                begin([waiting.popleft()])
        return [[ends[work.key] for work in job] for job in jobs]

    def _next(self, events: "queue.SimpleQueue[tuple[float, WorkEvent]]") -> tuple[float, WorkEvent]:
        while True:
            try:
                return events.get(timeout=_POLL_S)
            except queue.Empty:
                fault = self._engine.state().fault
                if fault is not None:
                    raise ModelError(fault) from None


def decoded(ends: Sequence[Ended]) -> Decoded:
    """Summarise sequences that were decoded side by side: the speed is the sum of the speeds of all sequences."""
    together = min(each.ended for each in ends) - max(each.first_token for each in ends)
    in_all = max(each.ended for each in ends) - min(each.first_token for each in ends)
    return Decoded(
        context_tokens=round(statistics.median(each.usage.prompt_tokens for each in ends)),
        new_tokens=min(each.decoded for each in ends),
        side_by_side=max(together, 0.0) / in_all if in_all > 0 else 0.0,
        tokens_per_s=sum(each.decoded / each.decode_s for each in ends if each.decode_s > 0),
    )


def words_for(tokens: int, count: Callable[[int], int]) -> int:
    """Find how many words make `tokens` tokens, by trying.

    Args:
        tokens: the number of tokens wanted.
        count: gives the tokens of a text of so many words; should grow about linearly.

    Returns:
        The number of words that came nearest, at least 1.
    """
    tried: dict[int, int] = {}  # words to how far off

    def off(words: int) -> int:
        if words not in tried:
            tried[words] = count(words) - tokens
        return tried[words]

    slope = max((off(8) - off(4)) / 4, 0.1)  # tokens of a word
    words = max(1, round(8 - off(8) / slope))
    for _ in range(_TRIES):
        if off(words) == 0:
            break
        words = max(1, round(words - off(words) / slope))
    return min(tried, key=lambda each: abs(tried[each]))
