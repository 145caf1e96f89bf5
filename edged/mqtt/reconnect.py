"""When to connect again, and with which version of MQTT. Pure: sleeps not, and draws from the generator it is given."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

Version = Literal["5", "3.1.1"]


@dataclass(slots=True, kw_only=True)
class Backoff:
    """Exponential backoff with full jitter, so that a fleet does not come back all at once.

    See M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
    """

    first: float = 0.2  # seconds
    ceiling: float = 4.0  # a box is back within seconds of its broker, and an attempt costs little
    lasting: float = 60.0  # a connection that lived this long makes the next wait short again
    random: Random = field(default_factory=Random)
    _failures: int = 0

    def next(self, *, lived: float) -> float:
        """Seconds to wait after a connection (or an attempt at one) that lived `lived` seconds."""
        if lived >= self.lasting:
            self._failures = 0
        longest = min(self.ceiling, self.first * 2.0**self._failures)
        self._failures = min(self._failures + 1, 30)  # enough for every ceiling; keeps the power small
        return self.random.uniform(0, longest)


@dataclass(slots=True)
class VersionChoice:
    """The version to try next, out of those allowed.

    A broker that knows no MQTT 5 says so, or hangs up, or is lost for words. The first is believed until the end; the
    others may have any reason, so a version that came of a guess is left again when its connection ends.
    """

    allowed: Sequence[Version]
    _at: int = 0
    _works: bool = False
    _guessed: bool = False

    @property
    def current(self) -> Version:
        return self.allowed[self._at]

    def refused(self) -> bool:
        """The broker said that it does not speak the current version. Tells whether another one is left to try."""
        self._guessed = False
        return self._advance()

    def unanswered(self) -> bool:
        """The broker hung up or kept silent when asked. Tells whether another version is left to try."""
        if self._works:
            return False
        self._guessed = True
        return self._advance()

    def understood(self) -> None:
        """A connection is over on which the broker had answered us."""
        if self._guessed:
            self._at = 0
        self._works = not self._guessed
        self._guessed = False

    def _advance(self) -> bool:
        self._works = False
        self._at = (self._at + 1) % len(self.allowed)
        return self._at != 0


def versions(setting: Literal["auto", "5", "3.1.1"]) -> tuple[Version, ...]:
    """The versions that the setting allows, in the order to try them."""
    return ("5", "3.1.1") if setting == "auto" else (setting,)
