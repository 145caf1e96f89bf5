"""What a task may do with the model before it is asked for: pin the beginnings of its prompts, run work."""

from collections.abc import Callable, Sequence
from typing import Generic

from edged.engine.decoders.interface import K
from edged.engine.sequence import Submitted
from edged.engine.stepper import Stepper
from edged.ports.engine import Work, WorkEvent


class WarmUp(Generic[K]):
    """Handed to each task once, for each language.

    Attributes:
        pinned: the tokens of all beginnings that were pinned.
    """

    def __init__(
        self,
        stepper: Stepper[K],
        take: Callable[[Submitted], None],
        clock: Callable[[], float],
        between: Callable[[], None] | None = None,
    ) -> None:
        """Assign.

        Args:
            stepper: runs the work.
            take: makes a sequence of a piece of work and adds it to `stepper`.
            clock: monotonic seconds.
            between: called between two steps, so that other work goes on; may raise, to end the warm-up. Without it
                there is no other work yet.
        """
        self.pinned: list[tuple[int, ...]] = []
        self._stepper = stepper
        self._take = take
        self._clock = clock
        self._between = between
        self._is_warm = False  # something was tried out

    def pin(self, tokens: Sequence[int]) -> bool:
        """Compute the keys and values of a beginning that many prompts share, and keep them.

        Returns:
            Whether nothing had to be computed because an earlier start of the same model left them in its file. Such a
            file is written after all tasks were tried out.
        """
        is_kept = self._stepper.memory.pin(tokens, self._step_of_others)
        self.pinned.append(tuple(tokens))
        return is_kept

    def _step_of_others(self) -> None:
        if self._between is not None:
            self._between()
        self._stepper.step()

    def try_out(self, work: Work, *, is_known: bool = False) -> WorkEvent | None:
        """Run work whose answer nobody needs, so that no request is the first; gives its last event.

        Beside other work nothing is run and None given: the model is warm, and it would wait for a place in the batch.
        Of work that is known to run, because an earlier start of the same model ran it, only the first is run.
        """
        if self._between is not None or (is_known and self._is_warm):
            return None
        self._is_warm = True
        return self.run([work])[0]

    def run(self, works: Sequence[Work]) -> list[WorkEvent]:
        """Run work to its end; gives the last event of each piece, in order."""
        last: dict[str, WorkEvent] = {}
        for work in works:
            self._take(
                Submitted(work=work, emit=lambda event: last.update({event.key: event}), number=0, at=self._clock())
            )
        while len(last) < len(works):
            self._stepper.step()
            if self._between is not None:
                self._between()
        return [last[work.key] for work in works]
