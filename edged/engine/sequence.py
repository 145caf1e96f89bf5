"""One piece of work while it runs: what every kind of sequence has. The kinds are in classification.py, generation.py.

A sequence says which tokens it needs in the next step, takes their logits, and emits its own events. It knows nothing
of other sequences, of threads or of the cache.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic

from edged.engine.counting import Times
from edged.engine.decoders.interface import K, Logits, Span
from edged.engine.scheduler import Candidate, Urgency
from edged.errors import Cancelled, Expired, RequestError
from edged.ports.engine import Failed, Usage, Work, WorkEvent
from edged.tasks.outputs import FinishReason

Emit = Callable[[WorkEvent], None]

NO_NUMBERS = "the model gave logits that are no numbers; check its files with `edged models verify`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """A piece of work as it was handed in.

    Attributes:
        number: its place in the order of arrival.
        at: when it came, in monotonic seconds.
    """

    work: Work
    emit: Emit
    number: int
    at: float


@dataclass(slots=True, kw_only=True)
class Running(ABC, Generic[K]):
    """What all kinds of sequences share.

    Attributes:
        urgency: which sequences go first.
        prompt: all tokens of the prompt; the first `cached` of them were taken from the prefix cache.
        capacity: tokens that its keys and values need room for, at their longest.
        bytes_per_token: memory of the keys and values of one token.
        memory: the keys and values; None until the sequence is admitted.
        done: the end event was emitted.
    """

    urgency: ClassVar[Urgency]

    work: Work
    emit: Emit
    number: int
    times: Times
    prompt: Sequence[int]
    capacity: int
    bytes_per_token: int
    memory: K | None = None
    cached: int = 0
    done: bool = False

    @abstractmethod
    def span(self, rows: int) -> Span[K]:
        """The next `rows` tokens to run."""

    @abstractmethod
    def accept(self, logits: Logits, now: float) -> None:
        """Take the logits of the wanted rows of the last span."""

    @abstractmethod
    def stop_early(self, reason: FinishReason, now: float) -> None:
        """End now, with what there is of an answer; fail where there is nothing."""

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far."""
        return 0

    @property
    def borrows_prefix(self) -> bool:
        """Whether its keys and values may be read where the prefix cache has them; then none of them can be kept."""
        return False

    @property
    def reusable_tokens(self) -> Sequence[int]:
        """The tokens whose keys and values a later prompt may begin with; empty where none is expected to."""
        return ()

    @property
    def key(self) -> str:
        return self.work.key

    @property
    def kv(self) -> K:
        if self.memory is None:
            raise RuntimeError("a sequence runs only after it was admitted")
        return self.memory

    def candidate(self) -> Candidate:
        """The sequence as the scheduler sees it."""
        computed = 0 if self.memory is None else self.memory.length
        return Candidate(
            key=self.work.key,
            urgency=self.urgency,
            sender=self.work.sender,
            order=self.work.order,
            number=self.number,
            nbytes=self.capacity * self.bytes_per_token,
            prompt_left=max(len(self.prompt) - computed, 0),
        )

    def fail(self, error: RequestError) -> None:
        """End without an answer."""
        self._end(Failed(key=self.key, error=error))

    def _end(self, event: WorkEvent) -> None:
        self.done = True
        self.emit(event)

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self.prompt), cached_tokens=self.cached, completion_tokens=self.completion_tokens
        )


def stopped_early(reason: FinishReason) -> RequestError:
    """The error for work that was stopped before it had an answer."""
    if reason == "deadline":
        return Expired("the deadline passed before there was an answer")
    return Cancelled("the request was cancelled before there was an answer")
