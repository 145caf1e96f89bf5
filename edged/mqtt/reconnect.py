"""When to connect again, with which version of MQTT, and when another client seems to have our client id.

Pure: nothing here waits, the clock's values come as arguments and so does the random generator.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

Version = Literal["5", "3.1.1"]

SUSPICIOUS = 3  # connections in a row that ended soon after they were made
TAKEOVERS = 2  # in a row. A bad network may deliver an early CONNECT of our own late, so one takeover proves nothing.


@dataclass(slots=True, kw_only=True)
class Backoff:
    """Exponential backoff with full jitter, so that the boxes of a fleet do not all connect at the same moment.

    See M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
    """

    first: float = 0.2  # seconds
    ceiling: float = 4.0  # seconds; short, for an attempt costs little
    lasting: float = 60.0  # seconds; after a connection that lived this long the next wait is short again
    random: Random = field(default_factory=Random)
    _failures: int = 0

    def next(self, *, lived: float) -> float:
        """Seconds to wait after a connection (or an attempt at one) that lived `lived` seconds."""
        if lived >= self.lasting:
            self._failures = 0
        longest = min(self.ceiling, self.first * 2.0**self._failures)
        self._failures = min(self._failures + 1, 30)  # the bound keeps the power above in range
        return self.random.uniform(0, longest)


@dataclass(slots=True, kw_only=True)
class Contention:
    """Whether another client is connected with our client id: the broker then closes the older of the connections.

    Only MQTT 5 can tell this (reason 0x8E, session taken over), and mosquitto 2.0.11 does not tell it even then. So
    several connections in a row that end soon after they were made raise the suspicion.
    """

    lasting: float = 60.0  # seconds after which the end of a connection says nothing about another client
    _short_lived: int = 0  # connections in a row
    _takeovers: int = 0  # in a row

    @property
    def is_certain(self) -> bool:
        """Whether the broker told of takeovers in a row."""
        return self._takeovers >= TAKEOVERS

    def ended(self, *, was_up: bool, lived: float, taken_over: bool) -> None:
        """Note the end of a connection, or of an attempt at one.

        Args:
            was_up: whether the broker had accepted it and answered SUBSCRIBE.
            lived: seconds since the broker had accepted it; 0 if it did not.
            taken_over: whether the broker said that another client took over the session.
        """
        lasted = lived >= self.lasting
        self._short_lived = self._short_lived + 1 if was_up and not lasted else 0
        self._takeovers = (0 if lasted else self._takeovers) + taken_over

    def is_suspected(self, *, connected_for: float | None) -> bool:
        """Whether the connections before this one ended soon.

        Args:
            connected_for: seconds that the current connection is up; None if there is none.
        """
        lasts = connected_for is not None and connected_for >= self.lasting
        return self._short_lived >= SUSPICIOUS and not lasts


@dataclass(slots=True)
class VersionChoice:
    """The version of MQTT to try next, out of those allowed.

    A broker that does not know MQTT 5 says so, closes the connection, or does not answer. If it says so, that holds
    for the whole process. The other two may have any cause, so a version that was only guessed is given up again when
    its connection ends.
    """

    allowed: Sequence[Version]
    _at: int = 0
    _works: bool = False
    _guessed: bool = False

    @property
    def current(self) -> Version:
        return self.allowed[self._at]

    def refused(self) -> bool:
        """Note that the broker said it does not speak the current version. Tells whether another is left to try."""
        self._guessed = False
        return self._advance()

    def unanswered(self) -> bool:
        """Note that the broker did not answer CONNECT. Tells whether another version is left to try."""
        if self._works:
            return False
        self._guessed = True
        return self._advance()

    def understood(self) -> None:
        """Note the end of a connection on which the broker had answered CONNECT."""
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
