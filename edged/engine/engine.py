"""The step loop: admit, run, deliver. The one thread that owns the model and all keys and values.

Other threads hand in work and cancellations; answers leave as events. A step that fails is tried again sequence by
sequence, so that only the one at fault gets the error.
"""

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic

import structlog
import torch

from edged.engine.constrain import Constraint, Constraints
from edged.engine.decoders.interface import CausalModel, K, Span
from edged.engine.detokenize import TextStream
from edged.engine.prefix_cache import PrefixCache
from edged.engine.priors import PriorStore
from edged.engine.prompt import MIN_NEW_TOKENS, Prompter
from edged.engine.reply_text import reply_text
from edged.engine.sampling import make_generator
from edged.engine.scheduler import admit, plan
from edged.engine.scoring import mean_prior
from edged.engine.sequence import Classifying, Clocked, Emit, Generating, Opinion
from edged.errors import EdgedError, Expired, ModelError, RequestError, SettingsError, ShuttingDown, TooLong
from edged.ports.engine import Classified, EngineState, Failed, ModelInfo, Params, Work, WorkEvent
from edged.tasks.specs import ClassifySpec, PartSpec, Sampling, Tasks, TextSpec, sampling_of
from edged.tasks.text import LANGUAGES, Language

log = structlog.get_logger(__name__)

_IDLE_S = 0.5  # how long an idle loop sleeps before it shows that it is alive


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the engine may take."""

    max_batch: int
    max_new_tokens: int
    prefill_chunk_tokens: int
    kv_bytes: int
    prefix_cache_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded(Generic[K]):
    """A model ready to run.

    Attributes:
        sampling: what suits it, where neither task nor request say otherwise.
    """

    model: CausalModel[K]
    prompter: Prompter
    info: ModelInfo
    limits: Limits
    sampling: Sampling = field(default_factory=Sampling)
    priors: PriorStore = field(default_factory=lambda: PriorStore(None))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Submitted:
    work: Work
    emit: Emit
    number: int
    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cancel:
    key: str


_Command = _Submitted | _Cancel | None  # None wakes the loop


@dataclass(slots=True)
class _Counts:
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    step_rows: int = 0
    last_token_at: float | None = None
    last_progress: float = field(default_factory=time.monotonic)


class Engine(Generic[K]):
    """Runs work on one model; see `edged.ports.Engine`."""

    def __init__(
        self, load: Callable[[], Loaded[K]], *, tasks: Tasks, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`load` is called in the engine's thread; `tasks` are warmed up before the engine is ready."""
        self._load = load
        self._tasks = tasks
        self._clock = clock
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._waiting: dict[str, Classifying[K] | Generating[K]] = {}
        self._running: dict[str, Classifying[K] | Generating[K]] = {}
        self._priors: dict[tuple[str, Language], list[float]] = {}
        self._longer: dict[tuple[str, Language], int] = {}  # rows that a further prompt takes more than the first
        self._counts = _Counts()
        self._number = 0
        self._number_lock = threading.Lock()
        self._stopping = threading.Event()
        self._settled = threading.Event()  # ready, or failed to become so
        self._failure: BaseException | None = None
        self._fault: str | None = None
        self._loaded: Loaded[K] | None = None
        self._cache: PrefixCache[K] = PrefixCache(capacity_bytes=0)
        self._banned = torch.empty(0, dtype=torch.long)
        self._constraints: Constraints | None = None
        self._ends: frozenset[int] = frozenset()
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    # ----------------------------------------------------------------------------- called from other threads

    def start(self) -> None:
        """Load and warm up in the engine's thread; `wait_ready` tells when."""
        self._thread.start()

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until work is answered at full speed.

        Returns:
            False when `timeout` seconds were not enough.

        Raises:
            EdgedError: the model cannot be loaded (ModelUnavailable), or the thread met a bug.
        """
        if not self._settled.wait(timeout):
            return False
        if self._failure is not None:
            raise self._failure
        return True

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread after the step that runs; work left over fails with ShuttingDown."""
        self._stopping.set()
        self._commands.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def submit(self, work: Work, on_event: Emit) -> None:
        with self._number_lock:
            self._number += 1
            number = self._number
        self._commands.put(_Submitted(work=work, emit=on_event, number=number, at=self._clock()))

    def cancel(self, key: str) -> None:
        self._commands.put(_Cancel(key=key))

    def state(self) -> EngineState:
        counts, cache = self._counts, self._cache
        return EngineState(
            waiting=len(self._waiting) + self._commands.qsize(),
            running=len(self._running),
            last_token_at=counts.last_token_at,
            last_progress=counts.last_progress,
            prompt_tokens=counts.prompt_tokens,
            cached_tokens=counts.cached_tokens,
            completion_tokens=counts.completion_tokens,
            steps=counts.steps,
            step_rows=counts.step_rows,
            cache_hits=cache.hits,
            cache_misses=cache.misses,
            cache_bytes=cache.nbytes,
            cache_capacity=cache.capacity_bytes,
            fault=self._fault,
            away=None,
        )

    @property
    def model(self) -> ModelInfo:
        return self._ready.info

    # --------------------------------------------------------------------------------- the engine's own thread

    @property
    def _ready(self) -> Loaded[K]:
        if self._loaded is None:
            raise ModelError("the model is not loaded yet")
        return self._loaded

    def _main(self) -> None:
        try:
            with torch.inference_mode():
                self._begin()
                self._settled.set()
                while not self._stopping.is_set():
                    self._take_commands(wait=not self._running and not self._waiting)
                    self._step()
        except Exception as error:
            # The top of the thread: a fault here must be seen, not lost.
            self._fault = f"the engine stopped: {error}"
            self._failure = error
            if not isinstance(error, EdgedError):
                log.exception("engine_died")
        finally:
            self._settled.set()
            self._refuse_the_rest()

    def _begin(self) -> None:
        """Load, then run every task once: pins the prompts' beginnings and learns the priors."""
        loaded = self._load()
        self._loaded = loaded
        self._ends = loaded.prompter.end_tokens()
        self._constraints = loaded.prompter.constraints(loaded.model.vocab_size)
        self._banned = torch.tensor(sorted(loaded.prompter.banned_tokens(loaded.model.vocab_size)), dtype=torch.long)
        self._cache = PrefixCache(capacity_bytes=loaded.limits.prefix_cache_bytes)
        for name in self._tasks.names:
            for spec in self._tasks.parts(name):
                for language in LANGUAGES:
                    self._warm(spec, language)
        self._counts = _Counts()

    def _warm(self, spec: PartSpec, language: Language) -> None:
        try:
            if isinstance(spec, ClassifySpec):
                for opinion in spec.opinions(language):
                    self._warm_classification(replace(opinion, doubt=0.0), language)
                ask = self._ready.prompter.classification
                rows = [ask(opinion, text="", language=language).capacity for opinion in spec.opinions(language)]
                self._longer[spec.name, language] = max(rows) - rows[0]
            else:
                self._warm_generation(spec, language)
        except TooLong as error:
            raise SettingsError(
                f"tasks.{spec.name}: its own words leave no room for a text in the model's context of "
                f"{self._ready.info.max_context_tokens} tokens; shorten them, or raise engine.max_context_tokens"
            ) from error

    def _warm_classification(self, spec: ClassifySpec, language: Language) -> None:
        if (spec.name, language) in self._priors:
            return
        self._priors[spec.name, language] = [0.0] * len(spec.labels)
        self._pin(self._ready.prompter.classification(spec, text="", language=language).prefix)
        texts = spec.prompts[language].neutral_texts
        works = [Work(key=f"warm-up {n}", spec=spec, text=text, language=language) for n, text in enumerate(texts)]
        prompter, kept = self._ready.prompter, self._ready.priors
        prompts = [prompter.classification(spec, text=text, language=language).tokens for text in texts]
        [first] = self._observe(works[:1])
        prior = kept.find(prompts, first)
        if prior is None or len(prior) != len(first):
            prior = mean_prior([first, *self._observe(works[1:])])
            kept.keep(prompts, first, prior)
        self._priors[spec.name, language] = prior

    def _observe(self, works: Sequence[Work]) -> list[list[float]]:
        """Log-probabilities of the labels for each."""
        observed = []
        for event in self._run_together(works):
            if isinstance(event, Failed):
                raise event.error
            if not isinstance(event, Classified):
                raise ModelError(f"warm-up of task {works[0].spec.name} failed: {event}")
            observed.append([math.log(max(score, 1e-12)) for score in event.scores.values()])
        return observed

    def _warm_generation(self, spec: TextSpec, language: Language) -> None:
        prompter = self._ready.prompter
        prompter.generation(spec, text="Hi", language=language, turns=(), max_new_tokens=MIN_NEW_TOKENS)  # it fits
        self._pin(prompter.shared_beginning(spec, language))
        if spec.schema is not None:
            self._constraint(spec)  # a schema that is none ends the start, not a request
        work = Work(key="warm-up", spec=spec, text="Hi", language=language, params=Params(max_tokens=2))
        (event,) = self._run_together([work])
        # That two tokens are no whole JSON is no fault of the task's.
        if isinstance(event, Failed) and spec.schema is None:
            raise event.error

    def _pin(self, tokens: Sequence[int]) -> None:
        """Compute the keys and values of a beginning that many prompts share, and keep them for good."""
        model = self._ready.model
        if not tokens or not model.shares_prefixes:
            return
        length, source = self._cache.match(tokens)
        if source is not None and length == len(tokens):
            return
        kv = model.allocate(len(tokens)) if source is None else model.fork(source, length, len(tokens))
        chunk = self._ready.limits.prefill_chunk_tokens
        for start in range(kv.length, len(tokens), chunk):
            model.forward([Span(kv=kv, tokens=tokens[start : start + chunk])])
        self._cache.put(tokens, kv, kv.nbytes, pinned=True)

    def _run_together(self, works: Sequence[Work]) -> list[WorkEvent]:
        """Run work to its end before any other; the last event of each, in order."""
        last: dict[str, WorkEvent] = {}
        for work in works:
            submitted = _Submitted(
                work=work, emit=lambda event: last.update({event.key: event}), number=0, at=self._clock()
            )
            self._take(submitted)
        while self._waiting or self._running:
            self._step()
        return [last[work.key] for work in works]

    def _take_commands(self, *, wait: bool) -> None:
        self._counts.last_progress = self._clock()
        try:
            command = self._commands.get(timeout=_IDLE_S) if wait else self._commands.get_nowait()
            while True:
                self._obey(command)
                command = self._commands.get_nowait()
        except queue.Empty:
            return

    def _obey(self, command: _Command) -> None:
        if isinstance(command, _Submitted):
            self._take(command)
        elif isinstance(command, _Cancel):
            sequence = self._waiting.pop(command.key, None) or self._running.get(command.key)
            if sequence is not None:
                sequence.stop_early("cancelled", self._clock())
                self._drop_done()

    def _take(self, submitted: _Submitted) -> None:
        """Make a sequence of the work, or fail it."""
        work = submitted.work
        try:
            self._waiting[work.key] = self._sequence(submitted)
        except RequestError as error:
            submitted.emit(Failed(key=work.key, error=error))
        except Exception as error:
            # A tokenizer or template that chokes on one text must not end the loop for all.
            log.exception("prompt_failed", key=work.key)
            submitted.emit(Failed(key=work.key, error=ModelError(f"no prompt can be made: {type(error).__name__}")))

    def _sequence(self, submitted: _Submitted) -> Classifying[K] | Generating[K]:
        work, ready = submitted.work, self._ready
        spec, prompter = work.spec, ready.prompter
        if work.deadline is not None and submitted.at >= work.deadline:
            raise Expired("the deadline passed before work began")
        clock = Clocked(submitted=submitted.at, admitted=submitted.at)
        if isinstance(spec, ClassifySpec):
            opinions = self._opinions(spec, work)
            first = next(opinions)
            capacity = first.plan.capacity + self._longer.get((spec.name, work.language), 0)
            return Classifying(
                work=work,
                emit=submitted.emit,
                number=submitted.number,
                clock=clock,
                prompt=first.plan.tokens,
                nbytes=capacity * ready.model.bytes_per_token,
                spec=spec,
                opinion=first,
                further=opinions,
                evidence=[0.0] * len(spec.labels),
            )
        wanted = work.params.max_tokens or spec.max_tokens or ready.limits.max_new_tokens
        limit = min(wanted, ready.limits.max_new_tokens)
        opening = prompter.generation(
            spec, text=work.text, language=work.language, turns=work.turns, max_new_tokens=limit
        )
        return Generating(
            work=work,
            emit=submitted.emit,
            number=submitted.number,
            clock=clock,
            prompt=opening.tokens,
            nbytes=(len(opening.tokens) + opening.max_new_tokens) * ready.model.bytes_per_token,
            plan=opening,
            sampling=sampling_of(ready.sampling, spec.sampling, work.params),
            generator=make_generator(work.params.seed if work.params.seed is not None else work.seed),
            text=TextStream(prompter.decode, reply_text(spec, work.params, roles=opening.roles)),
            end_tokens=self._ends,
            banned=self._banned,
            constraint=self._constraint(spec),
        )

    def _opinions(self, spec: ClassifySpec, work: Work) -> Iterator[Opinion]:
        """The prompts to ask, in order, made as they are asked for: most texts need the first alone.

        Raises:
            TooLong: the text does not fit into the first. A further one for which it is too long is left out.
        """
        for each in spec.opinions(work.language) if spec.doubt else (spec,):
            try:
                plan = self._ready.prompter.classification(each, text=work.text, language=work.language)
            except TooLong:
                if each is spec:
                    raise
            else:
                yield Opinion(plan=plan, prior=self._priors[each.name, work.language])

    def _constraint(self, spec: TextSpec) -> Constraint | None:
        if spec.schema is None or self._constraints is None:
            return None
        return self._constraints.begin(spec.name, spec.schema)

    def _step(self) -> None:
        """Run one step of all that is ready."""
        self._expire()
        self._admit()
        limits = self._ready.limits
        rows = plan([each.candidate() for each in self._running.values()], prefill_tokens=limits.prefill_chunk_tokens)
        if not rows:
            return
        batch = [self._running[key] for key in rows]
        spans = [sequence.span(rows[sequence.key]) for sequence in batch]
        try:
            logits = self._ready.model.forward(spans)
        except Exception as error:  # noqa: BLE001 - torch raises RuntimeError for anything; the request is answered
            log.warning("step_failed", sequences=len(batch), error=str(error))
            self._cache.clear()
            self._one_by_one(batch, spans)
        else:
            self._deliver(batch, spans, logits)
        self._drop_done()

    def _one_by_one(self, batch: Sequence[Classifying[K] | Generating[K]], spans: Sequence[Span[K]]) -> None:
        """Run each span of a failed step alone; who fails again is at fault."""
        for sequence, span in zip(batch, spans, strict=True):
            try:
                logits = self._ready.model.forward([span])
            except Exception as error:
                # As in _step: whatever torch raised, this request has an answer and the others go on.
                log.exception("request_failed", key=sequence.key)
                sequence.fail(ModelError(f"the model failed on this request: {type(error).__name__}"))
            else:
                self._deliver([sequence], [span], logits)

    def _deliver(
        self,
        batch: Sequence[Classifying[K] | Generating[K]],
        spans: Sequence[Span[K]],
        logits: torch.Tensor,
    ) -> None:
        now = self._clock()
        first = 0
        for sequence, span in zip(batch, spans, strict=True):
            wanted = len(span.wanted)
            self._accept(sequence, logits[first : first + wanted], now)
            if isinstance(sequence, Classifying) and sequence.memory is None and not sequence.done:
                # A further opinion is asked; its words may split a text's last token in another way.
                row_bytes = self._ready.model.bytes_per_token
                sequence.nbytes = max(sequence.nbytes, sequence.opinion.plan.capacity * row_bytes)
                self._make_room(sequence)
            first += wanted
        counts = self._counts
        counts.steps += 1
        counts.step_rows += sum(len(span.tokens) for span in spans)
        if first:
            counts.last_token_at = now

    def _accept(self, sequence: Classifying[K] | Generating[K], logits: torch.Tensor, now: float) -> None:
        try:
            sequence.accept(logits, now)
        except RequestError as error:
            sequence.fail(error)
        except Exception as error:
            # As in _step: what one sequence makes of its logits must not end the loop for all.
            log.exception("request_failed", key=sequence.key)
            sequence.fail(ModelError(f"the model failed on this request: {type(error).__name__}"))

    def _admit(self) -> None:
        if not self._waiting:
            return
        ready = self._ready
        keys = admit(
            [each.candidate() for each in self._waiting.values()],
            running=[each.candidate() for each in self._running.values()],
            max_batch=ready.limits.max_batch,
            max_bytes=ready.limits.kv_bytes,
        )
        for key in keys:
            sequence = self._waiting.pop(key)
            self._running[key] = sequence
            sequence.clock.admitted = self._clock()
            self._make_room(sequence)

    def _make_room(self, sequence: Classifying[K] | Generating[K]) -> None:
        """Give a sequence its keys and values, with as much of the prompt as is cached."""
        model = self._ready.model
        capacity = sequence.nbytes // model.bytes_per_token
        length, source = self._cache.match(sequence.prompt) if model.shares_prefixes else (0, None)
        length = min(length, len(sequence.prompt) - 1)  # the last token is run for its logits
        if source is None:
            sequence.memory = model.allocate(capacity)
        else:  # a classification is over after a step or two, and nothing is kept of it
            sequence.memory = model.fork(source, length, capacity, borrow=isinstance(sequence, Classifying))
        sequence.cached = sequence.kv.length
        self._counts.prompt_tokens += len(sequence.prompt)
        self._counts.cached_tokens += sequence.cached

    def _expire(self) -> None:
        now = self._clock()
        for sequence in (*self._waiting.values(), *self._running.values()):
            if sequence.work.deadline is not None and now >= sequence.work.deadline:
                sequence.stop_early("deadline", now)
        self._drop_done()

    def _drop_done(self) -> None:
        for key in [key for key, sequence in self._waiting.items() if sequence.done]:
            del self._waiting[key]
        for key in [key for key, sequence in self._running.items() if sequence.done]:
            self._retire(self._running.pop(key))

    def _retire(self, sequence: Classifying[K] | Generating[K]) -> None:
        """Keep what was computed for the conversation's next turn."""
        if not isinstance(sequence, Generating):
            return
        self._counts.completion_tokens += len(sequence.generated)
        if sequence.work.continues and sequence.generated and self._ready.model.shares_prefixes:
            tokens = (*sequence.prompt, *sequence.generated)[: sequence.kv.length]
            self._cache.put(tokens, sequence.kv, sequence.kv.nbytes)

    def _refuse_the_rest(self) -> None:
        """Answer all that is left; nobody waits for ever."""
        error: RequestError = ShuttingDown("the daemon is shutting down")
        if self._fault is not None:
            error = ModelError("the engine stopped; the daemon will be restarted")
        for sequence in (*self._waiting.values(), *self._running.values()):
            sequence.fail(error)
        self._waiting.clear()
        self._running.clear()
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            if isinstance(command, _Submitted):
                command.emit(Failed(key=command.work.key, error=error))
