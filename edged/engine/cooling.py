"""Keeps a box below a temperature: while it is hotter, the model pauses for a share of the time. Pure.

The share of the time that the model runs (the duty cycle) goes down by one step at each look at the thermometer that
finds the box too hot, and up by one step at each look that finds it well below.
"""

from collections.abc import Callable

STEPS = (1.0, 0.75, 0.5, 0.25)
LOOK_S = 10.0  # between two looks: a heat sink takes about so long to follow
MARGIN_C = 5.0  # so far below the limit the duty cycle goes up again; without a margin it would go up and down all day


class Cooling:
    """For one thread; times are monotonic seconds."""

    def __init__(self, max_temperature: float, read: Callable[[], float | None]) -> None:
        """Begin with a cool box.

        Args:
            max_temperature: in degrees Celsius.
            read: gives the temperature of the processor; None where the box does not tell it.
        """
        self._max_temperature = max_temperature
        self._read = read
        self._step = 0
        self._looked_at = float("-inf")
        self.temperature: float | None = None

    @property
    def duty(self) -> float:
        """The share of the time that the model may run."""
        return STEPS[self._step]

    def pause_after(self, busy_s: float, now: float) -> float:
        """How many seconds to pause after the model ran for `busy_s`."""
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._look()
        return busy_s * (1 / self.duty - 1)

    def _look(self) -> None:
        self.temperature = self._read()
        if self.temperature is None:
            self._step = 0
        elif self.temperature > self._max_temperature:
            self._step = min(self._step + 1, len(STEPS) - 1)
        elif self.temperature < self._max_temperature - MARGIN_C:
            self._step = max(self._step - 1, 0)
