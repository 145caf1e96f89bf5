"""What behaviour (worker, control, health) needs of the resources: Protocols. The fakes and the real ones keep them.

`tests/` holds a contract test for each, run against the fake in `edged/testing.py` and the real thing alike.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from edged.calibration import Observation
from edged.conversation import Turn
from edged.mqtt.settlement import Ticket
from edged.wire import Publication
from edged.work import Work, WorkEvent

# ------------------------------------------------------------------------------------------------------ the link


class Sent(StrEnum):
    """What became of a publication."""

    CONFIRMED = "confirmed"  # QoS 1: the broker's PUBACK; QoS 0: handed to the socket
    REFUSED = "refused"  # the broker answered with a failure: not authorised, quota exceeded, ...
    TOO_LARGE = "too_large"  # over the broker's Maximum Packet Size; it was not sent
    DROPPED = "dropped"  # QoS 0 while the outbox is full or there is no connection


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The end of a publication; `reason` in words for all but CONFIRMED."""

    sent: Sent
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkState:
    """The link at a glance.

    Attributes:
        connected_since: monotonic seconds; None while there is no connection.
        unacked: deliveries of this connection without an ack.
        receive_maximum: how many of those the broker was told to let there be; None: it was told nothing.
        outbox: publications without an end.
        fault: why there is no connection, in words; None while all is well.
        contended: connections in a row ended soon after they were made; perhaps another client has our client id, at
            a broker that does not tell.
        taken_over: another client connected with our client id, and again; the link does not reconnect.
        last_progress: monotonic seconds of the network thread's last turn; a watchdog's food.
    """

    connected_since: float | None
    reconnects: int
    unacked: int
    receive_maximum: int | None
    outbox: int
    protocol: str | None
    fault: str | None
    contended: bool
    taken_over: bool
    last_progress: float


class Link(Protocol):
    """Deliveries in (by callback), publications and acks out. For every thread; never waits for the network."""

    def publish(self, publication: Publication, on_done: Callable[[Outcome], None] | None = None) -> None:
        """Send, or keep until it can be sent (QoS 1). `on_done` is called once, in the network thread."""
        ...

    def settle(self, ticket: Ticket) -> None:
        """Ack a delivery as soon as the order of arrival allows; void tickets are ignored."""
        ...

    def unsubscribe(self, *, keep_shared: bool = False) -> None:
        """Take no more deliveries; the broker keeps what comes for our session.

        Work that is shared goes to others; with `keep_shared`, where there are none, it is kept for us too.
        """
        ...

    def share(self, *, taking: bool) -> None:
        """Take from the queues that are shared with others, or leave what is in them to the others."""
        ...

    def announce(self, receive_maximum: int) -> None:
        """Tell the broker, from the next connection on, to have no more deliveries at us without an ack (MQTT 5)."""
        ...

    def state(self) -> LinkState: ...


# ---------------------------------------------------------------------------------------------------- the engine


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineState:
    """The engine at a glance; times in monotonic seconds, token counts since the start.

    Attributes:
        last_token_at: when a token was last decoded or a label scored; None before the first.
        last_progress: when the step loop last turned; a watchdog's food.
        fault: why the engine does not work, in words; None while all is well. It does not come back.
        away: why it can answer nothing just now, in words; None while it can, as far as it knows.
    """

    waiting: int
    running: int
    last_token_at: float | None
    last_progress: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    steps: int
    step_rows: int
    cache_hits: int
    cache_misses: int
    cache_bytes: int
    cache_capacity: int
    fault: str | None
    away: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """The loaded model."""

    id: str
    architecture: str
    format: str
    device: str
    threads: int
    parameters: int
    weight_bytes: int
    load_s: float
    max_context_tokens: int
    max_new_tokens: int


class Engine(Protocol):
    """Runs work; answers by events. Callable from every thread; never blocks on the model."""

    def submit(self, work: Work, on_event: Callable[[WorkEvent], None]) -> None:
        """Take work in. Its events come in the engine's thread; exactly one of them is an end.

        `on_event` must be quick and must not raise. A Classification ends with `Classified`, a generation
        with any number of `TextDelta` (if streamed) and then `Generated`, either with `Failed`.
        """
        ...

    def cancel(self, key: str) -> None:
        """End work early: `Generated(finish_reason="cancelled")` where text exists, else `Failed(Cancelled)`."""
        ...

    def state(self) -> EngineState: ...

    @property
    def model(self) -> ModelInfo: ...


class StoppableEngine(Engine, Protocol):
    """An engine as the daemon starts and stops it."""

    def start(self) -> None:
        """Begin to load; returns at once."""
        ...

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait for the end of warm-up; False when `timeout` seconds were not enough. Raises why it cannot be."""
        ...

    def stop(self, timeout: float = 10.0) -> None:
        """End; work left over fails with ShuttingDown."""
        ...


# --------------------------------------------------------------------------------------------------- the journal


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
        observations: what its text got, for the calibration of later ones; in the same transaction too.
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
        """See whether entries can be kept now; a journal that is not opened opens itself when it is used."""
        ...

    def record(self, entries: Sequence[Entry], settled: Iterable[tuple[str, str]] = ()) -> list[Recorded]:
        """Keep all of `entries` or none (one transaction). A request recorded before is left as it is.

        `settled` is noted in the same transaction; see the method of that name.

        Returns:
            For each of `entries` in order what stands now: itself, or the answer that was first. Where several boxes
            record in one journal, that is the one that counts.
        """
        ...

    def find(self, request_id: str, fingerprint: str) -> Recorded | None:
        """The answer given to this request before."""
        ...

    def find_unsettled(self, packet_id: int, fingerprint: str) -> Recorded | None:
        """The answer to a delivery that was recorded, perhaps published, but never settled."""
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
        """Note that this process ends in order: that it leaves requests without an answer is no fault of theirs."""
        ...

    def turns(self, session: str) -> tuple[Turn, ...]:
        """The session's turns, oldest first."""
        ...

    def observations(self) -> tuple[Observation, ...]:
        """What texts got, oldest first: the last `OBSERVED` of them at least."""
        ...

    def forget(self, session: str) -> int:
        """Delete the session's turns, and the text of its results; gives how many turns there were.

        No trace of them is left once `tidy` has had a quiet moment.
        """
        ...

    def tidy(self, *, is_quiet: bool) -> None:
        """Do what takes its time, if now is the moment for it or if it has waited for too long."""
        ...

    def hurry(self) -> None:
        """Cut `tidy` short; from any thread."""
        ...


# ------------------------------------------------------------------------------------------------------- the box


@dataclass(frozen=True, kw_only=True, slots=True)
class Readings:
    """One look at the box; None for what it does not tell.

    `cpu_percent` is of the whole box since the look before, `load` the mean of one minute.
    """

    cpu_percent: float | None
    load: float | None
    memory_rss_mb: float | None
    memory_available_mb: float | None
    temperature_c: float | None
    throttled: bool | None
    disk_free_mb: float | None
