"""The engine: takes work from other threads and runs it, step by step, in the one thread that owns the model.

Other threads hand in work and cancellations; answers leave as events. What a step does is in stepper.py, what a task
does in classification.py and generation.py.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic

import structlog

from edged.engine.cooling import Cooling
from edged.engine.counting import Counts
from edged.engine.decoders.interface import K
from edged.engine.kinds import on_model
from edged.engine.loaded import Loaded, Prepared
from edged.engine.process_memory import give_back_memory
from edged.engine.sequence import Emit, Running, Submitted
from edged.engine.stepper import Stepper
from edged.engine.warm_up import WarmUp
from edged.errors import (
    EdgedError,
    Expired,
    ModelError,
    ModelUnavailable,
    RequestError,
    SettingsError,
    ShuttingDown,
    TooLong,
)
from edged.ports.engine import EngineState, Failed, ModelInfo, Work
from edged.tasks.specs import PartSpec, Tasks
from edged.tasks.text import LANGUAGES, Language

log = structlog.get_logger(__name__)

_KEEP_S = 20.0  # for writing the conversations, at the stop
_IDLE_S = 0.5  # how long the thread waits for work before it shows that it is alive


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cancel:
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Forget:
    conversation: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepare:
    tasks: Tasks
    on_done: Callable[[EdgedError | None], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Warm:
    """A task that was warmed up in a language, with the beginnings that are pinned for it."""

    spec: PartSpec
    language: Language
    pinned: tuple[tuple[int, ...], ...]


_Command = Submitted | _Cancel | _Forget | _Prepare | None  # None wakes the thread


@dataclass(frozen=True, kw_only=True, slots=True)
class _Model(Generic[K]):
    """All that exists once the model is loaded."""

    prepared: Prepared[K]
    stepper: Stepper[K]


class Engine(Generic[K]):
    """Runs work on one model; see `edged.ports.engine.Engine`."""

    def __init__(
        self,
        load: Callable[[], Loaded[K]],
        *,
        tasks: Tasks,
        cooling: Cooling | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`load` is called in the engine's thread; `tasks` are warmed up before the engine is ready.

        `cooling` says how long to pause after a step; without it there are no pauses.
        """
        self._load = load
        self._tasks = tasks
        self._cooling = cooling
        self._clock = clock
        self._to_prepare: deque[_Prepare] = deque()
        self._warm: list[_Warm] = []
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._number = 0  # of the piece of work that came last
        self._number_lock = threading.Lock()
        self._stopping = threading.Event()
        self._keeping = threading.Event()  # conversations are to be kept
        self._writing = threading.Event()  # they are being written
        self._settled = threading.Event()  # ready, or failed to become so
        self._failure: BaseException | None = None
        self._fault: str | None = None
        self._last_progress = clock()
        self._steps_at_rest = 0  # when memory was given back last
        self._loaded: _Model[K] | None = None
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
            if self._writing.is_set():
                self._thread.join(_KEEP_S)

    def keep_conversations(self) -> None:
        self._keeping.set()

    def submit(self, work: Work, on_event: Emit) -> None:
        with self._number_lock:
            self._number += 1
            number = self._number
        self._commands.put(Submitted(work=work, emit=on_event, number=number, at=self._clock()))

    def cancel(self, key: str) -> None:
        self._commands.put(_Cancel(key=key))

    def forget(self, conversation: str) -> None:
        self._commands.put(_Forget(conversation=conversation))

    def prepare(self, tasks: Tasks, on_done: Callable[[EdgedError | None], None]) -> None:
        self._commands.put(_Prepare(tasks=tasks, on_done=on_done))

    def state(self) -> EngineState:
        stepper = None if self._loaded is None else self._loaded.stepper
        counts = Counts() if stepper is None else stepper.counts
        cache = None if stepper is None else stepper.memory.cache
        return EngineState(
            waiting=(0 if stepper is None else stepper.waiting) + self._commands.qsize(),
            running=0 if stepper is None else stepper.running,
            last_token_at=counts.last_token_at,
            last_progress=self._last_progress,
            prompt_tokens=counts.prompt_tokens,
            cached_tokens=counts.cached_tokens,
            completion_tokens=counts.completion_tokens,
            steps=counts.steps,
            step_rows=counts.step_rows,
            cache_hits=0 if cache is None else cache.hits,
            cache_misses=0 if cache is None else cache.misses,
            cache_bytes=0 if cache is None else cache.nbytes,
            cache_capacity=0 if cache is None else cache.capacity_bytes,
            fault=self._fault,
            away=None,
            duty=1.0 if self._cooling is None else self._cooling.duty,
        )

    @property
    def model(self) -> ModelInfo:
        prepared = self._model.prepared
        return replace(prepared.loaded.info, own_calibrations=tuple(prepared.own.values()))

    # --------------------------------------------------------------------------------- the engine's own thread

    @property
    def _model(self) -> _Model[K]:
        if self._loaded is None:
            raise ModelError("the model is not loaded yet")
        return self._loaded

    def _main(self) -> None:
        try:
            self._begin()
            self._settled.set()
            self._run_until_stopped(self._model.stepper)
        except Exception as error:
            # The top of the thread: a fault here must be seen, not lost.
            self._fault = f"the engine stopped: {error}"
            self._failure = error
            if not isinstance(error, EdgedError):
                log.exception("engine_died")
        finally:
            self._settled.set()
            self._refuse_the_rest()
        if self._keeping.is_set() and self._failure is None:
            self._writing.set()
            self._model.stepper.memory.keep_conversations(self._clock())

    def _begin(self) -> None:
        """Load the model, then warm up every task."""
        loaded = self._load()
        stepper = Stepper(loaded, self._clock)
        self._loaded = _Model(prepared=Prepared.of(loaded), stepper=stepper)
        self._warm_up_all(self._tasks, WarmUp(stepper, self._take, self._clock))
        stepper.memory.keep_warm_up()
        stepper.memory.recall_conversations(self._clock())
        give_back_memory()
        stepper.counts = Counts()
        self._last_progress = self._clock()

    def _prepare(self, wanted: _Prepare) -> None:
        """Warm up other tasks between the steps of the work in hand."""
        error: EdgedError | None = None
        try:
            self._warm_up_all(
                wanted.tasks, WarmUp(self._model.stepper, self._take, self._clock, self._take_commands_between)
            )
        except EdgedError as caught:
            error = caught
        except Exception as caught:
            # A prompt may bring out a bug of a tokenizer or template; the tasks before go on.
            log.exception("tasks_failed")
            error = ModelError(f"the model fails on the tasks: {type(caught).__name__}")
        wanted.on_done(error)

    def _take_commands_between(self) -> None:
        if self._stopping.is_set():
            raise ShuttingDown("the daemon is shutting down")
        self._take_commands(wait=False)

    def _warm_up_all(self, tasks: Tasks, warm_up: WarmUp[K]) -> None:
        """Warm up what is not warm already, and let go of the beginnings of other prompts."""
        warm: list[_Warm] = []
        for spec in {part.name: part for part in tasks.all_parts}.values():
            for language in LANGUAGES:
                known = next((each for each in self._warm if (each.spec, each.language) == (spec, language)), None)
                if known is None:
                    before = len(warm_up.pinned)
                    self._warm_up(spec, language, warm_up)
                    known = _Warm(spec=spec, language=language, pinned=tuple(warm_up.pinned[before:]))
                warm.append(known)
        self._warm = warm
        self._model.stepper.memory.cache.pin_only(tokens for each in warm for tokens in each.pinned)

    def _warm_up(self, spec: PartSpec, language: Language, warm_up: WarmUp[K]) -> None:
        prepared = self._model.prepared
        try:
            on_model(spec, prepared).warm_up(language, warm_up)
        except TooLong as error:
            raise SettingsError(
                f"tasks.{spec.name}: its own words leave no room for a text in the model's context of "
                f"{prepared.loaded.info.max_context_tokens} tokens; shorten them, or raise engine.max_context_tokens"
            ) from error
        except ModelError as error:
            raise ModelUnavailable(
                f"the model {prepared.loaded.info.id} fails on the task {spec.name}: {error}; choose another model in "
                "EDGED_MODEL__ID"
            ) from error

    def _run_until_stopped(self, stepper: Stepper[K]) -> None:
        while not self._stopping.is_set():
            self._take_commands(wait=stepper.is_idle and not self._to_prepare)
            if self._to_prepare:
                self._prepare(self._to_prepare.popleft())
            if self._cooling is None:
                stepper.step()
            else:
                self._step_and_cool(stepper, self._cooling)

    def _step_and_cool(self, stepper: Stepper[K], cooling: Cooling) -> None:
        begin, duty = self._clock(), cooling.duty
        stepper.step()
        now = self._clock()
        pause = cooling.pause_after(now - begin, now)
        if cooling.duty != duty:
            log.info("duty_changed", duty=cooling.duty, temperature_c=cooling.temperature)
        if pause > 0:
            self._stopping.wait(pause)

    def _take_commands(self, *, wait: bool) -> None:
        self._last_progress = self._clock()
        try:
            command = self._wait_for_command() if wait else self._commands.get_nowait()
            while True:
                self._obey(command)
                command = self._commands.get_nowait()
        except queue.Empty:
            return

    def _wait_for_command(self) -> _Command:
        """Wait for the next command; when none comes, the memory of the work before goes back to the system.

        Raises:
            queue.Empty: none came.
        """
        try:
            return self._commands.get(timeout=_IDLE_S)
        except queue.Empty:
            steps = self._model.stepper.counts.steps
            if steps != self._steps_at_rest:
                self._steps_at_rest = steps
                give_back_memory()
            raise

    def _obey(self, command: _Command) -> None:
        if isinstance(command, Submitted):
            self._take(command)
        elif isinstance(command, _Cancel):
            self._model.stepper.cancel(command.key)
        elif isinstance(command, _Forget):
            self._model.stepper.forget(command.conversation)
        elif isinstance(command, _Prepare):
            self._to_prepare.append(command)

    def _take(self, submitted: Submitted) -> None:
        """Make a sequence of the work, or fail it."""
        work = submitted.work
        try:
            self._model.stepper.add(self._sequence(submitted))
        except RequestError as error:
            submitted.emit(Failed(key=work.key, error=error))
        except Exception as error:
            # A tokenizer or template that fails on one text must not end the loop for all.
            log.exception("prompt_failed", key=work.key)
            submitted.emit(Failed(key=work.key, error=ModelError(f"no prompt can be made: {type(error).__name__}")))

    def _sequence(self, submitted: Submitted) -> Running[K]:
        work = submitted.work
        if work.deadline is not None and submitted.at >= work.deadline:
            raise Expired("the deadline passed before work began")
        return on_model(work.spec, self._model.prepared).sequence(submitted)

    def _refuse_the_rest(self) -> None:
        """Answer all work that is left, so that nobody waits for ever."""
        error: RequestError = ShuttingDown("the daemon is shutting down")
        if self._fault is not None:
            error = ModelError("the engine stopped; the daemon will be restarted")
        if self._loaded is not None:
            self._loaded.stepper.fail_all(error)
        for wanted in self._to_prepare:
            wanted.on_done(error)
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            if isinstance(command, Submitted):
                command.emit(Failed(key=command.work.key, error=error))
            elif isinstance(command, _Forget) and self._loaded is not None:
                self._loaded.stepper.forget(command.conversation)
            elif isinstance(command, _Prepare):
                command.on_done(error)
