"""The records between the worker and any engine: work, its events, and the engine's state. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from edged.errors import EdgedError, RequestError
from edged.tasks.conversation import Turn
from edged.tasks.outputs import Scored, TokenLogprob, Written
from edged.tasks.own_calibration import OwnCalibration
from edged.tasks.specs import PartSpec, Tasks
from edged.tasks.text import Language


@dataclass(frozen=True, kw_only=True, slots=True)
class Params:
    """A caller's values for sampling and length; None leaves the task's own value."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    whole_sentences: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One task on one text: one sequence in the engine.

    Attributes:
        key: names the work in every event and in `cancel`; unique among the work in hand.
        text: the user's words as they came; the engine normalises them.
        turns: the conversation before `text`, oldest first; for classification always empty.
        seed: what sampling draws from, when the caller gave no seed of its own.
        continues: whether a later turn may begin with this one, so that what was computed is worth keeping.
        stream: whether `TextDelta` events are wanted.
        deadline: monotonic seconds after which no more work is done on it.
        sender: whose share of the model it takes; "" where nobody is told apart.
        order: work with a lower number begins first, among work of its kind; then what came first.
        logprobs: how many alternatives to name for each token that is written; None: log probabilities are not wanted.
            An engine that cannot tell them gives none.
        conversation: by its name in the journal, if it is kept there. What is computed of it may be kept on the disk
            too, until it is forgotten.
    """

    key: str
    spec: PartSpec
    text: str
    language: Language
    turns: tuple[Turn, ...] = ()
    params: Params = Params()
    seed: int = 0
    continues: bool = False
    stream: bool = False
    deadline: float | None = None
    sender: str = ""
    order: int = 0
    logprobs: int | None = None
    conversation: str | None = None

    def without(self, conversation: str) -> "Work":
        """The same work; what is computed of it is not kept if it is of this conversation, which was forgotten."""
        return replace(self, conversation=None, continues=False) if self.conversation == conversation else self


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of one piece of work: `cached_tokens` of the `prompt_tokens` were not computed again."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )


NO_USAGE = Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Milliseconds of one piece of work in the engine; `first_token_ms` counts from submission."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    first_token_ms: float
    total_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TextDelta:
    """More of a reply's text. Whole characters only; never part of a stop string or a special token.

    `logprobs` are those of the tokens since the delta before it.
    """

    key: str
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Classified(Scored):
    """The end of a classification: a calibrated probability for each scored label, by canonical name.

    `model` is that which did the work, where it may be another one than that of new work.
    """

    key: str
    usage: Usage
    timings: Timings
    model: "ModelInfo | None" = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated(Written):
    """The end of a generation; `model` as in `Classified`."""

    key: str
    usage: Usage
    timings: Timings
    model: "ModelInfo | None" = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The end of work that has no answer."""

    key: str
    error: RequestError


WorkEvent = TextDelta | Classified | Generated | Failed


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineState:
    """The engine at a glance; times in monotonic seconds, token counts since the start.

    Attributes:
        last_token_at: when a token was last decoded or a label scored; None before the first.
        last_progress: when the step loop last made a round; the watchdog depends on it.
        fault: why the engine has stopped for good, in words; None while it runs.
        away: why it can answer nothing just now, in words; None while it can, as far as it knows.
        duty: the share of the time that the model may run; below 1 while the box is too hot.
        switching: why work waits while another model takes the place of this one, in words; None while none does.
    """

    waiting: int
    running: int
    last_token_at: float | None
    last_progress: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    steps: int
    step_rows: int
    cache_hits: int
    cache_misses: int
    cache_bytes: int
    cache_capacity: int
    fault: str | None
    away: str | None
    duty: float = 1.0
    switching: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """The loaded model.

    Attributes:
        threads_reason: why it runs on so many threads, in words; empty where it does not run here.
        own_calibrations: what was learned from the operator's texts and is in use.
        kernels: the CPU instructions of its compiled kernels, or torch; empty where it does not run here.
    """

    id: str
    architecture: str
    format: str
    device: str
    threads: int
    parameters: int
    weight_bytes: int
    load_s: float
    max_context_tokens: int
    max_new_tokens: int
    threads_reason: str = ""
    own_calibrations: tuple[OwnCalibration, ...] = ()
    kernels: str = ""


class Engine(Protocol):
    """Runs work; answers by events. Callable from every thread; never blocks on the model."""

    def submit(self, work: Work, on_event: Callable[[WorkEvent], None]) -> None:
        """Take work in. Its events come in the engine's thread; exactly one of them is an end.

        `on_event` must be quick and must not raise. A Classification ends with `Classified`, a generation
        with any number of `TextDelta` (if streamed) and then `Generated`, either with `Failed`.
        """
        ...

    def cancel(self, key: str) -> None:
        """End work early: `Generated(finish_reason="cancelled")` where text exists, else `Failed(Cancelled)`."""
        ...

    def forget(self, conversation: str) -> None:
        """Keep nothing any more of what was computed of a conversation; work on it is answered all the same."""
        ...

    def state(self) -> EngineState: ...

    @property
    def model(self) -> ModelInfo: ...


class StoppableEngine(Engine, Protocol):
    """An engine as the daemon starts and stops it."""

    def start(self) -> None:
        """Begin to load; returns at once."""
        ...

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait for the end of warm-up; False if `timeout` seconds were not enough. Raises why it failed."""
        ...

    def prepare(self, tasks: Tasks, on_done: Callable[[EdgedError | None], None]) -> None:
        """Get ready for these tasks instead of those before, while the work in hand goes on.

        Work on the earlier tasks is still answered; it may take longer from now on. `on_done` is called once, with why
        the tasks cannot be used if they cannot; it may come in the engine's thread, must be quick and must not raise.
        """
        ...

    def keep_conversations(self) -> None:
        """At the stop, keep conversations for the next process, if the settings ask for it."""
        ...

    def stop(self, timeout: float = 10.0) -> None:
        """Stop the engine; unfinished work fails with ShuttingDown."""
        ...
