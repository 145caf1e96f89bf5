"""Decodes one real token, to know that the engine can."""

import threading
from collections.abc import Callable

from edged.ports.engine import Engine, Failed, Params, Work, WorkEvent
from edged.tasks.specs import GenerateSpec

PROBE = GenerateSpec(name="probe", system={"en": "Say OK.", "zh": "说好。"}, max_tokens=1, keeps_history=False)


class Prober:
    """Decodes one real token, to know that the engine can."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float], timeout_s: float) -> None:
        self._engine = engine
        self._clock = clock
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._number = 0

    def probe(self, on_end: Callable[[float | None], None]) -> None:
        """Decode; `on_end` gets the milliseconds it took, or None on failure, in the engine's thread."""
        with self._lock:
            self._number += 1
            key = f"probe/{self._number}"
        begin = self._clock()

        def on_event(event: WorkEvent) -> None:
            on_end(None if isinstance(event, Failed) else 1000 * (self._clock() - begin))

        work = Work(
            key=key,
            spec=PROBE,
            text="OK",
            language="en",
            params=Params(max_tokens=1, temperature=0.0),
            deadline=begin + self._timeout_s,
        )
        self._engine.submit(work, on_event)
