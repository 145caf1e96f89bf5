"""What a task may do with the model before the engine is ready: pin the beginnings of its prompts, run work."""

from collections.abc import Callable, Sequence
from typing import Generic

from edged.engine.decoders.interface import K
from edged.engine.sequence import Submitted
from edged.engine.stepper import Stepper
from edged.ports.engine import Work, WorkEvent


class WarmUp(Generic[K]):
    """Handed to each task once, for each language."""

    def __init__(self, stepper: Stepper[K], take: Callable[[Submitted], None], clock: Callable[[], float]) -> None:
        """`take` makes a sequence of a piece of work and adds it to `stepper`."""
        self._stepper = stepper
        self._take = take
        self._clock = clock

    def pin(self, tokens: Sequence[int]) -> None:
        """Compute the keys and values of a beginning that many prompts share, and keep them for good."""
        self._stepper.memory.pin(tokens)

    def run(self, works: Sequence[Work]) -> list[WorkEvent]:
        """Run work to its end; gives the last event of each piece, in order."""
        last: dict[str, WorkEvent] = {}
        for work in works:
            self._take(
                Submitted(work=work, emit=lambda event: last.update({event.key: event}), number=0, at=self._clock())
            )
        while not self._stepper.is_idle:
            self._stepper.step()
        return [last[work.key] for work in works]
