"""The record of an answered request, and the port of the journal that keeps it. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edged.tasks.calibration import Observation
from edged.tasks.conversation import Turn


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One answered request, as it is recorded.

    Attributes:
        request_id: names the request, together with `fingerprint`.
        fingerprint: a hash of what was asked (task, session, text, params): the same id with another question
            is another request.
        packet_id: of the delivery that is not settled yet; lets a redelivery without an id of its own find its
            entry after a crash. None at QoS 0.
        payload: the result or error as published.
        session: whose turns these are; None stores no turns.
        turns: added to the session in the same transaction.
        observations: the scores of its text, for the calibration of later texts; in the same transaction too.
        at: wall-clock seconds since the epoch.
    """

    request_id: str
    fingerprint: str
    packet_id: int | None
    payload: bytes
    session: str | None
    turns: tuple[Turn, ...]
    at: float
    observations: tuple[Observation, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """What the journal remembers of a request."""

    request_id: str
    payload: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalLimits:
    """How much is kept, and for how long."""

    keep_hours: float
    session_hours: float
    max_mb: int
    keep_text: bool


OBSERVED = 20_000  # observations that a journal keeps, of all judges


class Journal(Protocol):
    """Results and conversations that outlive the process. Used by one thread; raises `edged.errors.JournalFault`."""

    def open(self) -> None:
        """Check whether entries can be kept now; a journal that is not opened opens itself when it is used."""
        ...

    def record(self, entries: Sequence[Entry], settled: Iterable[tuple[str, str]] = ()) -> list[Recorded]:
        """Keep all of `entries` or none (one transaction). A request recorded before is left as it is.

        `settled` is noted in the same transaction; see the method of that name.

        Returns:
            For each of `entries` in order the entry that counts: itself, or one that was recorded before it for the
            same request, perhaps by another box.
        """
        ...

    def find(self, request_id: str, fingerprint: str) -> Recorded | None:
        """The answer given to this request before."""
        ...

    def find_unsettled(self, packet_id: int, fingerprint: str) -> Recorded | None:
        """The answer to a delivery that was recorded, perhaps published, but never settled."""
        ...

    def unsettled(self, fingerprint: str) -> tuple[Recorded, ...]:
        """The answers to deliveries of this fingerprint that were never settled, oldest first.

        For brokers that send a message again under another packet id. A shared journal gives none: a group needs a
        broker with shared subscriptions, and of those none was seen to do so.
        """
        ...

    def settled(self, requests: Iterable[tuple[str, str]]) -> None:
        """Note that these requests' (id, fingerprint) deliveries were acked: their packet ids may be used again."""
        ...

    def starts(self, fingerprint: str) -> int:
        """How many processes before this one noted that they began this request, and recorded no answer to it."""
        ...

    def begin(self, fingerprint: str) -> None:
        """Note that this process begins a request that an earlier one left without an answer."""
        ...

    def hand_back(self) -> None:
        """Note that this process ends in order: its requests without an answer are not suspected."""
        ...

    def turns(self, session: str) -> tuple[Turn, ...]:
        """The session's turns, oldest first."""
        ...

    def observations(self) -> tuple[Observation, ...]:
        """The scores of texts, oldest first: at least the last `OBSERVED` of them."""
        ...

    def forget(self, session: str) -> int:
        """Delete the session's turns, and the text of its results; gives how many turns there were.

        No trace of them is left once `tidy` has had a quiet moment.
        """
        ...

    def tidy(self, *, is_quiet: bool) -> None:
        """Do slow maintenance, if the moment is quiet or if the maintenance has waited for too long."""
        ...

    def hurry(self) -> None:
        """Cut `tidy` short; from any thread."""
        ...
