"""Ends the process if a part has died or stands still, since such a part does not come back by itself."""

from collections.abc import Callable

from edged.errors import FatalError
from edged.monitoring.health import Health
from edged.ports.engine import EngineState
from edged.ports.worker import WorkerState

_STALLS = 3  # times `health.stall_after` without progress after which the process ends, for a supervisor to restart it


class Supervision:
    """Ends the process when a part died or stands still: a supervisor starts a new one; the broker has the work."""

    def __init__(
        self,
        health: Health,
        *,
        engine: Callable[[], EngineState],
        worker: Callable[[], WorkerState],
        stall_after: float,
        clock: Callable[[], float],
    ) -> None:
        self._health = health
        self._engine = engine
        self._worker = worker
        self._stall_after = stall_after
        self._clock = clock
        self._progress_at = clock()

    def check(self) -> None:
        """Check that every part runs.

        Raises:
            FatalError: a part has ended or stands still.
        """
        died = self._engine().fault or self._worker().died
        if died is not None:
            raise FatalError(died)
        now = self._clock()
        if self._health.makes_progress:
            self._progress_at = now
        # A thread that stands still cannot be helped from outside. Under systemd the watchdog acts before this does.
        elif now - self._progress_at >= (_STALLS - 1) * self._stall_after:
            raise FatalError("; ".join(self._health.reasons) or "a thread stands still")
