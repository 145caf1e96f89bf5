"""What the rest of edged knows of MQTT: messages that come, publications that go, and the link that carries both. Pure.

How the link keeps its promises (ack, send again, reconnect) is in `edged/mqtt/delivery.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """An MQTT message as it came.

    Attributes:
        qos: 0 or 1.
        retain: the broker kept it and sends it because we subscribed; it may be old.
        response_topic: where the sender wants the result (MQTT 5; this and the rest are None on MQTT 3.1.1).
        correlation_data: bytes that the result is to carry again.
        content_type: of the payload, as the sender says.
        expiry_s: seconds after which the message is of no use, counted from its arrival here.
        user_properties: names and values that senders add, in order.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    response_topic: str | None = None
    correlation_data: bytes | None = None
    content_type: str | None = None
    expiry_s: int | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """An MQTT message to send, at QoS 0 or 1. On MQTT 3.1.1 the fields from `correlation_data` on are left out."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    correlation_data: bytes | None = None
    response_topic: str | None = None
    content_type: str | None = "application/json"
    expiry_s: int | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """Identifies one QoS 1 delivery on one connection. `Link.settle` takes it when the delivery is done.

    Attributes:
        epoch: number of the connection on which the message came; on a later one the ticket is void.
        number: order of arrival.
        packet_id: what the PUBACK names.
    """

    epoch: int
    number: int
    packet_id: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """How something came in.

    Attributes:
        ticket: None at QoS 0, which is not acked, and for what did not come from the broker.
        redelivered: the broker says that it sent this message before (DUP).
        received_at: when it arrived, in monotonic seconds.
    """

    ticket: Ticket | None
    redelivered: bool
    received_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery(Arrival):
    """A message that arrived, with the ticket that settles it."""

    message: Message


class Sent(StrEnum):
    """How a publication ended."""

    CONFIRMED = "confirmed"  # QoS 1: the broker's PUBACK came; QoS 0: the socket took it
    REFUSED = "refused"  # the broker's PUBACK has an error (not authorised, ...), or MQTT does not allow the message
    TOO_LARGE = "too_large"  # over the broker's Maximum Packet Size; it was not sent
    DROPPED = "dropped"  # QoS 0 without a connection, a full outbox, or a link that has stopped


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The end of a publication; `reason` says in words why, for all but CONFIRMED."""

    sent: Sent
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkState:
    """The link at a glance.

    Attributes:
        connected_since: when the connection was made, in monotonic seconds; None while there is none.
        reconnects: connections after the first.
        unacked: QoS 1 deliveries of this connection without an ack.
        receive_maximum: how many of those the broker may send at most, as it was told; None on MQTT 3.1.1.
        outbox: publications that have not ended.
        protocol: the MQTT version of the last connection, "5" or "3.1.1"; None before the first.
        fault: in words, why there is no connection or which subscriptions are refused; None while all is well.
        contended: several connections in a row ended soon after they were made. Another client may have our client
            id, and the broker does not say so.
        taken_over: another client connected twice in a row with our client id; the link does not connect again.
        lacks: what the broker says that it cannot do, each in words; empty before the first connection.
        last_progress: when the network thread last did anything, in monotonic seconds. A watchdog looks at it.
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
    lacks: tuple[str, ...] = ()


class Link(Protocol):
    """The link to the broker. Any thread may call it; no method waits for the network.

    Deliveries come by a callback that is given to the constructor, in the network thread. That callback and every
    `on_done` must be quick and must not raise.
    """

    def publish(self, publication: Publication, on_done: Callable[[Outcome], None] | None = None) -> None:
        """Send, or keep until it can be sent (QoS 1). `on_done` is called once, in the network thread."""
        ...

    def settle(self, ticket: Ticket) -> None:
        """Ack a delivery as soon as the order of arrival allows; void tickets are ignored."""
        ...

    def unsubscribe(self, *, keep_shared: bool = False) -> None:
        """Take no further deliveries; the broker keeps what comes for our session.

        Shared work goes to other boxes. With `keep_shared`, for a box that is alone, the broker keeps that too.
        """
        ...

    def share(self, *, taking: bool) -> None:
        """Take from the shared subscriptions, or leave what comes there to other boxes."""
        ...

    def listen(self, filters: Sequence[str], *, at_qos_0: Sequence[str] = ()) -> None:
        """Subscribe to these filters instead of those of the last call, beside the link's own."""
        ...

    def announce(self, receive_maximum: int) -> None:
        """Have the broker send, from the next connection on, no more QoS 1 messages without an ack (MQTT 5)."""
        ...

    def state(self) -> LinkState:
        """The link at a glance."""
        ...
