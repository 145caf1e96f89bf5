"""One piece of work while it is open: who asked for it, when it came, and whether it was cancelled."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from edged.engine.remote.connection import Connection
from edged.ports.engine import TextDelta, Timings, Work, WorkEvent

Emit = Callable[[WorkEvent], None]


@dataclass(slots=True)
class OpenWork:
    """Work that has no end yet. Times are monotonic seconds.

    Attributes:
        emit: takes the work's events.
        submitted: when it came.
        admitted: when a thread took it up; None before.
        first: when the first text or score came; None before.
        cancelled: set by `cancel` and `stop`.
        connection: the connection of the thread that works on it.
    """

    work: Work
    emit: Emit
    submitted: float
    admitted: float | None = None
    first: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    connection: Connection | None = None

    def show(self, piece: str) -> None:
        """Emit more text of a reply, if the caller wants it while it is written."""
        if piece and self.work.stream:
            self.emit(TextDelta(key=self.work.key, text=piece))

    def timings(self, now: float) -> Timings:
        """How long each part took, if the work ends `now`."""
        admitted = self.admitted or now
        first = self.first or now
        return Timings(
            queue_ms=1000 * (admitted - self.submitted),
            prefill_ms=1000 * (first - admitted),
            decode_ms=1000 * (now - first),
            first_token_ms=1000 * (first - self.submitted),
            total_ms=1000 * (now - self.submitted),
        )
