"""An engine whose model can be changed while it works: work in hand ends on the model that it began on.

Any thread may call it, as any engine.
"""

import threading
from collections.abc import Callable
from dataclasses import fields, replace

from edged.errors import EdgedError
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


class SwitchableEngine:
    """See `ports.StoppableEngine`. New work goes to one engine; those before it end what they have."""

    def __init__(self, engine: StoppableEngine) -> None:
        self._lock = threading.Lock()  # guards the next four
        self._engine = engine
        self._homes: dict[str, StoppableEngine] = {}  # of the work in hand
        self._retired: list[StoppableEngine] = []
        self._counted: dict[str, int] = dict.fromkeys(_COUNTS, 0)  # by engines that were stopped

    def start(self) -> None:
        self._engine.start()

    def wait_ready(self, timeout: float | None = None) -> bool:
        return self._engine.wait_ready(timeout)

    def stop(self, timeout: float = 10.0) -> None:
        with self._lock:
            engines = [self._engine, *self._retired]
        for each in engines:
            each.stop(timeout)

    def keep_conversations(self) -> None:
        self._engine.keep_conversations()

    def prepare(self, tasks: Tasks, on_done: Callable[[EdgedError | None], None]) -> None:
        self._engine.prepare(tasks, on_done)

    def submit(self, work: Work, on_event: Callable[[WorkEvent], None]) -> None:
        with self._lock:
            engine = self._homes[work.key] = self._engine

        def heard(event: WorkEvent) -> None:
            if isinstance(event, Classified | Generated | Failed):
                self._ended(work.key, engine)
            on_event(event)

        engine.submit(work, heard)

    def cancel(self, key: str) -> None:
        with self._lock:
            engine = self._homes.get(key, self._engine)
        engine.cancel(key)

    def forget(self, conversation: str) -> None:
        with self._lock:
            engines = [self._engine, *self._retired]
        for each in engines:
            each.forget(conversation)

    def state(self) -> EngineState:
        with self._lock:
            engine, retired, counted = self._engine, list(self._retired), dict(self._counted)
        state = engine.state()
        for each in retired:
            before = each.state()
            for name in _COUNTS:
                counted[name] += getattr(before, name)
            state = replace(state, waiting=state.waiting + before.waiting, running=state.running + before.running)
        return replace(state, **{name: getattr(state, name) + counted[name] for name in _COUNTS})

    @property
    def model(self) -> ModelInfo:
        return self._engine.model

    def switch(self, engine: StoppableEngine) -> None:
        """Give new work to an engine that is ready; the one before is stopped when it has ended its work."""
        with self._lock:
            before, self._engine = self._engine, engine
            self._retired.append(before)
            is_idle = before not in self._homes.values()
        if is_idle:
            self._stop_later(before)

    def _ended(self, key: str, engine: StoppableEngine) -> None:
        with self._lock:
            self._homes.pop(key, None)
            is_over = engine in self._retired and engine not in self._homes.values()
        if is_over:
            self._stop_later(engine)

    def _stop_later(self, engine: StoppableEngine) -> None:
        """Stop an engine that has no work; not in this thread, which may be its own."""
        threading.Thread(target=self._retire, args=(engine,), name="retire", daemon=True).start()

    def _retire(self, engine: StoppableEngine) -> None:
        engine.stop(_STOP_S)
        with self._lock:
            if engine not in self._retired:
                return
            self._retired.remove(engine)
            state = engine.state()
            for name in _COUNTS:
                self._counted[name] += getattr(state, name)


assert {each.name for each in fields(EngineState)} >= {*_COUNTS}  # noqa: S101 - a typing error shows at the import
