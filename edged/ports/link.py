"""What crosses the border to the broker: messages in, publications out, and the link that carries both. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """An MQTT message as it came. Fields of MQTT 5 are None on MQTT 3.1.1."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    response_topic: str | None = None
    correlation_data: bytes | None = None
    content_type: str | None = None
    expiry_s: int | None = None  # what is left of the message's expiry when it reached us


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """An MQTT message to send."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    correlation_data: bytes | None = None
    response_topic: str | None = None
    content_type: str | None = "application/json"
    expiry_s: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """The right to ack one delivery on one connection."""

    epoch: int
    number: int  # order of arrival within the epoch
    packet_id: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """A message that arrived, and what it takes to settle it.

    Attributes:
        ticket: None at QoS 0, where nothing is acked.
        redelivered: the broker says that it sent this before (DUP).
        received_at: monotonic seconds.
    """

    message: Message
    ticket: Ticket | None
    redelivered: bool
    received_at: float


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
