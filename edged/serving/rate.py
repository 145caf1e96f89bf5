"""How fast this box answers, measured while it has work. For one thread; `seconds` may be read by others."""

from collections.abc import Callable

_KEPT = 0.9  # of the mean so far, at each answer


class ServiceRate:
    """A moving mean of the time between two answers.

    A box with few requests runs below its full speed, so its time is scaled down to that of a full batch.

    Attributes:
        seconds: between two answers of a box that has all the work that it can do side by side; None before the first.
    """

    def __init__(self, *, batch: int, clock: Callable[[], float]) -> None:
        """`batch` requests are answered side by side; `clock` gives monotonic seconds."""
        self._batch = batch
        self._clock = clock
        self._since = clock()
        self.seconds: float | None = None

    def begin(self) -> None:
        """There is work again: the time without work does not count."""
        self._since = self._clock()

    def answered(self, answers: int, *, jobs: int) -> None:
        """Note that `answers` came together, of `jobs` in hand; they share the time since the ones before."""
        now = self._clock()
        part = min(jobs, self._batch) / self._batch
        between = part * (now - self._since) / answers
        kept = 0.0 if self.seconds is None else _KEPT**answers
        self.seconds = kept * (self.seconds or 0.0) + (1 - kept) * between
        self._since = now
