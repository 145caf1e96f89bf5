"""An engine whose model can be changed while it works: work in hand ends on the model that it began on.

Where the memory has no room for two models, there is none between two (`let_go`, then `switch`); what is asked for
meanwhile waits. Any thread may call it, as any engine.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from edged.errors import Cancelled, EdgedError, ShuttingDown
from edged.ports.engine import Classified, EngineState, Failed, Generated, ModelInfo, StoppableEngine, Work, WorkEvent
from edged.tasks.specs import Tasks

_COUNTS = (
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "steps",
    "step_rows",
    "cache_hits",
    "cache_misses",
)
_STOP_S = 10.0

OnEvent = Callable[[WorkEvent], None]
OnPrepared = Callable[[EdgedError | None], None]


@dataclass(slots=True, kw_only=True)
class _Gap:
    """The time between two models.

    Attributes:
        why: in words, for the daemon's status.
        model: the one before.
        state: of the engine before, when it was stopped; None while it ends its work.
        fault: why no model will come, in words.
        work: by key, what was asked for meanwhile.
        tasks: those to get ready for.
    """

    why: str
    model: ModelInfo
    state: EngineState | None = None
    fault: str | None = None
    work: dict[str, tuple[Work, OnEvent]] = field(default_factory=dict)
    tasks: list[tuple[Tasks, OnPrepared]] = field(default_factory=list)


class SwitchableEngine:
    """See `ports.StoppableEngine`. New work goes to one engine; those before it end what they have."""

    def __init__(self, engine: StoppableEngine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()  # guards the next five
        self._engine: StoppableEngine | None = engine  # None in the gap, once the engine before it has stopped
        self._gap: _Gap | None = None
        self._homes: dict[str, StoppableEngine] = {}  # of the work in hand
        self._retired: list[StoppableEngine] = []
        self._counted: dict[str, int] = dict.fromkeys(_COUNTS, 0)  # by engines that were stopped

    def start(self) -> None:
        self._present.start()

    def wait_ready(self, timeout: float | None = None) -> bool:
        return self._present.wait_ready(timeout)

    def stop(self, timeout: float = 10.0) -> None:
        gap = self._gap
        for each in self._engines():
            each.stop(timeout)
        if gap is not None:
            error = ShuttingDown("the daemon is shutting down")
            for key, (_, on_event) in [*gap.work.items()]:
                on_event(Failed(key=key, error=error))
            for _, on_done in gap.tasks:
                on_done(error)

    def keep_conversations(self) -> None:
        with self._changed:
            engine = self._engine
        if engine is not None:
            engine.keep_conversations()

    def prepare(self, tasks: Tasks, on_done: OnPrepared) -> None:
        with self._changed:
            if self._gap is not None:
                self._gap.tasks.append((tasks, on_done))
                return
        self._present.prepare(tasks, on_done)

    def submit(self, work: Work, on_event: OnEvent) -> None:
        with self._changed:
            if self._gap is not None:
                self._gap.work[work.key] = (work, on_event)
                return
            engine = self._homes[work.key] = self._present

        def heard(event: WorkEvent) -> None:
            if isinstance(event, Classified | Generated):
                event = replace(event, model=engine.model)
            if isinstance(event, Classified | Generated | Failed):
                self._ended(work.key, engine)
            on_event(event)

        engine.submit(work, heard)

    def cancel(self, key: str) -> None:
        with self._changed:
            waiting = None if self._gap is None else self._gap.work.pop(key, None)
            engine = self._homes.get(key, self._engine)
        if waiting is not None:
            waiting[1](Failed(key=key, error=Cancelled("the request was cancelled before there was an answer")))
        elif engine is not None:
            engine.cancel(key)

    def forget(self, conversation: str) -> None:
        with self._changed:
            if self._gap is not None:
                waiting = self._gap.work.items()
                self._gap.work = {key: (work.without(conversation), on_event) for key, (work, on_event) in waiting}
        for each in self._engines():
            each.forget(conversation)

    def _engines(self) -> list[StoppableEngine]:
        with self._changed:
            return [*([] if self._engine is None else [self._engine]), *self._retired]

    def state(self) -> EngineState:
        with self._changed:
            gap, retired, counted = self._gap, list(self._retired), dict(self._counted)
            held = 0 if gap is None else len(gap.work)
            if gap is None or gap.state is None:
                state = self._present.state()
            else:
                state = replace(gap.state, last_progress=self._clock())
        for each in retired:
            before = each.state()
            for name in _COUNTS:
                counted[name] += getattr(before, name)
            state = replace(state, waiting=state.waiting + before.waiting, running=state.running + before.running)
        state = replace(state, **{name: getattr(state, name) + counted[name] for name in _COUNTS})
        if gap is None:
            return state
        return replace(state, waiting=state.waiting + held, fault=gap.fault or state.fault, switching=gap.why)

    @property
    def model(self) -> ModelInfo:
        with self._changed:
            if self._gap is not None:
                return self._gap.model
        return self._present.model

    @property
    def has_model(self) -> bool:
        """Whether there is a model: False between `let_go` and `switch`."""
        return self._gap is None

    def let_go(self, why: str, timeout: float) -> bool:
        """Stop the engine when it has ended its work, and forget it, so that its memory is free for the next one.

        Waits for that. `why` is for the daemon's status.

        Returns:
            False if the work did not end within `timeout` seconds; then it goes on as before.
        """
        with self._changed:
            engine = self._present
            gap = self._gap = _Gap(why=why, model=engine.model)
            is_idle = self._changed.wait_for(lambda: not self._homes and not self._retired, timeout)
        if not is_idle:
            self._end_gap()
            return False
        engine.stop(_STOP_S)
        with self._changed:
            state = engine.state()
            for name in _COUNTS:
                self._counted[name] += getattr(state, name)
            nothing: dict[str, Any] = dict.fromkeys(("waiting", "running", *_COUNTS), 0)
            gap.state = replace(state, **nothing)
            self._engine = None
        return True

    def lose(self, fault: str) -> None:
        """No model will come: the daemon must end. `fault` says why, in words."""
        with self._changed:
            if self._gap is not None:
                self._gap.fault = fault

    def switch(self, engine: StoppableEngine) -> None:
        """Give new work to an engine that is ready; the one before is stopped when it has ended its work."""
        with self._changed:
            before, self._engine = self._engine, engine
            is_idle = before not in self._homes.values()
            if before is not None:
                self._retired.append(before)
        if before is None:
            self._end_gap()
        elif is_idle:
            self._stop_later(before)

    @property
    def _present(self) -> StoppableEngine:
        if self._engine is None:
            raise RuntimeError("there is no engine between two models")
        return self._engine

    def _end_gap(self) -> None:
        """Give what waited in the gap to the engine."""
        with self._changed:
            gap, self._gap = self._gap, None
            if gap is None:
                return
            for tasks, on_done in gap.tasks:
                self.prepare(tasks, on_done)
            for work, on_event in gap.work.values():
                self.submit(work, on_event)

    def _ended(self, key: str, engine: StoppableEngine) -> None:
        with self._changed:
            self._homes.pop(key, None)
            is_over = engine in self._retired and engine not in self._homes.values()
            self._changed.notify_all()
        if is_over:
            self._stop_later(engine)

    def _stop_later(self, engine: StoppableEngine) -> None:
        """Stop an engine that has no work; not in this thread, which may be its own."""
        threading.Thread(target=self._retire, args=(engine,), name="retire", daemon=True).start()

    def _retire(self, engine: StoppableEngine) -> None:
        engine.stop(_STOP_S)
        with self._changed:
            if engine not in self._retired:
                return
            self._retired.remove(engine)
            state = engine.state()
            for name in _COUNTS:
                self._counted[name] += getattr(state, name)
            self._changed.notify_all()


assert {each.name for each in fields(EngineState)} >= {*_COUNTS}  # noqa: S101 - a typing error shows at the import
