"""The delivery guarantee between the broker and the daemon: QoS 1 in both directions, at least once. Pure.

Messages that come in:

1. A QoS 1 message is acked (PUBACK) only after the daemon called `settle` with its ticket. Until then the broker keeps
   it and sends it again on the next connection.
2. PUBACKs leave in the order in which the messages came, although the daemon settles in any order (MQTT-4.6.0-2).
   A message that is not settled holds back the acks of all later ones.
3. Every connection begins a new epoch. A ticket of an earlier epoch settles nothing: its message comes again, and the
   broker may have given its packet id to another message.
4. At most `receive_maximum` messages are handed to the daemon and not yet acked. What the broker sends beyond that
   waits here without an ack. It happens on MQTT 3.1.1, which has no Receive Maximum.
5. After `drain` no further QoS 1 message is handed to the daemon; it stays unacked, so the broker keeps it for the
   next process. QoS 0, which the broker does not keep, is handed over in any case.
6. A message that must not reach the daemon (unreadable, or a retained one that is known) is acked when its turn comes.
   So is a message on which the daemon's callback fails: no other code could settle it.

Messages that go out:

7. Every publication ends once, with one `Outcome`. QoS 1 is CONFIRMED by the broker's PUBACK and by nothing else.
8. QoS 1 publications leave in order. Those without a PUBACK when a connection ends are sent again, first and in the
   same order, on the next connection.
9. QoS 0 is CONFIRMED when the socket took it, and DROPPED if there is no connection. It is never sent again.
10. A publication over which the broker closes `MAX_ATTEMPTS` connections is REFUSED, so that it does not block what is
    behind it.

`MessageFlow` applies the rules; `Settlement`, `Inbox` and `Outbox` hold the state. No socket, thread or clock here.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edged.mqtt.limits import Limits, unsendable
from edged.ports.link import Delivery, Message, Outcome, Publication, Sent, Ticket

WINDOW = 100  # QoS 1 publications in flight at most, even if the broker would take more
MAX_ATTEMPTS = 5  # connections that the broker closes over one and the same publication

CONFIRMED = Outcome(sent=Sent.CONFIRMED)
CONNECTION_LOST = Outcome(sent=Sent.DROPPED, reason="the connection was lost")


# ------------------------------------------------------------------------------------------------- messages that come


@dataclass(slots=True)
class _Unacked:
    ticket: Ticket
    settled: bool = False


@dataclass(slots=True)
class Settlement:
    """The unacked QoS 1 messages of the current connection in order of arrival (rules 1 to 3)."""

    epoch: int = 0
    _arrived: int = 0
    _open: deque[_Unacked] = field(default_factory=deque)
    _by_number: dict[int, _Unacked] = field(default_factory=dict)

    @property
    def unacked(self) -> int:
        """Messages that came on this connection and have no ack yet."""
        return len(self._open)

    def connected(self) -> int:
        """Begin a new epoch: all tickets given so far become void."""
        self.epoch += 1
        self._open.clear()
        self._by_number.clear()
        return self.epoch

    def arrived(self, packet_id: int) -> Ticket:
        """Note a QoS 1 message and give the ticket that settles it."""
        self._arrived += 1
        entry = _Unacked(Ticket(epoch=self.epoch, number=self._arrived, packet_id=packet_id))
        self._open.append(entry)
        self._by_number[entry.ticket.number] = entry
        return entry.ticket

    def settle(self, ticket: Ticket) -> list[int]:
        """Note that the daemon is done with the ticket's message.

        Returns:
            The packet ids to ack now, oldest first. None while an older message is not settled, and none for a
            ticket that is void or was settled before.
        """
        entry = self._by_number.get(ticket.number)
        if ticket.epoch != self.epoch or entry is None:
            return []
        entry.settled = True
        ready: list[int] = []
        while self._open and self._open[0].settled:
            done = self._open.popleft().ticket
            del self._by_number[done.number]
            ready.append(done.packet_id)
        return ready


@dataclass(slots=True, kw_only=True)
class Inbox:
    """The messages of the current connection that wait to be handed to the daemon (rules 4 to 6)."""

    receive_maximum: int
    draining: bool = False  # true: hand over no further QoS 1 message
    _settlement: Settlement = field(default_factory=Settlement)
    _qos0: deque[Delivery] = field(default_factory=deque)
    _qos1: deque[Delivery] = field(default_factory=deque)  # not handed over yet

    @property
    def unacked(self) -> int:
        """QoS 1 messages of this connection without an ack, whether handed over or not."""
        return self._settlement.unacked

    def reset(self) -> None:
        """Begin a new epoch: all tickets become void, and what was not handed over will come again."""
        self._settlement.connected()
        self._qos0.clear()
        self._qos1.clear()

    def arrived(self, message: Message, *, packet_id: int, redelivered: bool, now: float) -> Delivery:
        """Take in what the broker sent at `now` (monotonic seconds); `release` tells when to hand it over.

        `packet_id` has no meaning at QoS 0. `redelivered`: the broker says that it sent this before (DUP).
        """
        ticket = self._settlement.arrived(packet_id) if message.qos else None
        delivery = Delivery(message=message, ticket=ticket, redelivered=redelivered, received_at=now)
        (self._qos0 if ticket is None else self._qos1).append(delivery)
        return delivery

    def skip(self, packet_id: int) -> list[int]:
        """Take in a QoS 1 message that is not to be handed over; gives the packet ids to ack now, oldest first."""
        return self.settle(self._settlement.arrived(packet_id))

    def settle(self, ticket: Ticket) -> list[int]:
        """Note that the daemon is done with a message; gives the packet ids to ack now, oldest first."""
        return self._settlement.settle(ticket)

    def release(self) -> list[Delivery]:
        """Remove and return what may be handed over now: all of QoS 0, and QoS 1 up to `receive_maximum`."""
        ready = list(self._qos0)
        self._qos0.clear()
        while self._qos1 and not self.draining and self.unacked - len(self._qos1) < self.receive_maximum:
            ready.append(self._qos1.popleft())
        return ready


# ---------------------------------------------------------------------------------------------- publications that go


@dataclass(slots=True, eq=False)
class Entry:
    """A publication that has not ended; `on_done` is to be called at its end, by the code that uses this module."""

    publication: Publication
    on_done: Callable[[Outcome], None] | None = None
    attempts: int = 0  # connections that the broker closed while this alone was in flight


Ended = tuple[Entry, Outcome]


@dataclass(slots=True, kw_only=True)
class Outbox:
    """The publications that have not ended: they wait, or are in flight (rules 7 to 10).

    On each connection the window, i.e. how many QoS 1 publications may be in flight, starts at one and doubles with
    each PUBACK. So a publication over which the broker closes the connection is soon alone in flight, and is then
    known to be the cause.
    """

    capacity: int
    _limits: Limits | None = None  # None: no connection
    _window: int = 1
    _qos0: deque[Entry] = field(default_factory=deque)
    _qos1: deque[Entry] = field(default_factory=deque)
    _in_flight: dict[int, Entry] = field(default_factory=dict)  # by packet id, oldest first

    def __len__(self) -> int:
        return len(self._qos0) + len(self._qos1) + len(self._in_flight)

    @property
    def in_flight(self) -> int:
        """QoS 1 publications that were sent and have no PUBACK yet."""
        return len(self._in_flight)

    def offer(self, entry: Entry) -> Outcome | None:
        """Take `entry` in. If it cannot be kept, give its outcome instead."""
        reason = unsendable(entry.publication)
        if reason is not None:
            return Outcome(sent=Sent.REFUSED, reason=reason)
        if entry.publication.qos == 0 and self._limits is None:
            return Outcome(sent=Sent.DROPPED, reason="there is no connection")
        # Each QoS has its own limit: the chunks of a stream on a slow network must leave room for the result.
        queue = self._qos1 if entry.publication.qos else self._qos0
        if len(queue) >= self.capacity:
            return Outcome(sent=Sent.DROPPED, reason=f"{self.capacity} publications wait already")
        queue.append(entry)
        return None

    def connected(self, limits: Limits) -> None:
        """Begin to send."""
        self._limits = limits
        self._window = 1

    def take(self) -> Entry | None:
        """Remove and return what may be sent now; None if nothing may.

        QoS 0 goes first: it needs no window, and so the chunks of a stream are not overtaken by their result.
        """
        if self._limits is None:
            return None
        if self._qos0:
            return self._qos0.popleft()
        window = min(self._window, WINDOW, self._limits.receive_maximum)
        return self._qos1.popleft() if self._qos1 and len(self._in_flight) < window else None

    def sent(self, entry: Entry, packet_id: int) -> None:
        """Note that `entry` is in flight."""
        self._in_flight[packet_id] = entry

    def confirmed(self, packet_id: int, refusal: str | None) -> Ended | None:
        """Note the PUBACK of `packet_id`, with the broker's reason if it says that it failed."""
        entry = self._in_flight.pop(packet_id, None)
        if entry is None:
            return None
        self._window = min(2 * self._window, WINDOW)
        return entry, CONFIRMED if refusal is None else Outcome(sent=Sent.REFUSED, reason=refusal)

    def disconnected(self, *, by_broker: bool) -> list[Ended]:
        """Stop sending; what was in flight will go first on the next connection.

        Args:
            by_broker: whether the broker ended the connection, and neither we nor the network.

        Returns:
            What ends with the connection: QoS 0, and a publication that the broker refused in this way too often.
        """
        self._limits = None
        ended = [(entry, CONNECTION_LOST) for entry in self._qos0]
        self._qos0.clear()
        entries = list(self._in_flight.values())
        self._in_flight.clear()
        if by_broker and len(entries) == 1:
            entries[0].attempts += 1
            if entries[0].attempts >= MAX_ATTEMPTS:
                reason = f"the broker closed the connection each of the {MAX_ATTEMPTS} times that this was sent"
                ended.append((entries.pop(), Outcome(sent=Sent.REFUSED, reason=reason)))
        self._qos1.extendleft(reversed(entries))
        return ended

    def clear(self, reason: str) -> list[Ended]:
        """End all publications as DROPPED: nothing will be sent any more."""
        outcome = Outcome(sent=Sent.DROPPED, reason=reason)
        ended = [(entry, outcome) for entry in (*self._in_flight.values(), *self._qos0, *self._qos1)]
        self._in_flight.clear()
        self._qos0.clear()
        self._qos1.clear()
        return ended


# -------------------------------------------------------------------------------------------------- both directions


class Wire(Protocol):
    """The part of a connection that carries messages. Its methods do nothing if the connection is gone."""

    @property
    def is_open(self) -> bool: ...

    @property
    def is_congested(self) -> bool: ...

    def ack(self, packet_id: int) -> None: ...

    def publish(self, publication: Publication) -> int | None: ...


class MessageFlow:
    """Moves messages between the current connection, the inbox, the outbox and the daemon. Lives as long as the link.

    Args:
        inbox: holds what came.
        outbox: holds what is to go.
        deliver: hands a message to the daemon; tells whether its callback came to its end.
        end: takes each publication with its outcome.
    """

    def __init__(
        self,
        *,
        inbox: Inbox,
        outbox: Outbox,
        deliver: Callable[[Delivery], bool],
        end: Callable[[Entry, Outcome], None],
    ) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._deliver = deliver
        self._end = end
        self._wire: Wire | None = None
        self._limits = Limits()

    @property
    def unacked(self) -> int:
        """QoS 1 messages of this connection without an ack."""
        return self._inbox.unacked

    @property
    def awaits_puback(self) -> bool:
        """Whether QoS 1 publications are in flight."""
        return self._outbox.in_flight > 0

    def connected(self, wire: Wire, limits: Limits) -> None:
        """Use `wire` from now on: the broker accepted the connection."""
        self._wire = wire
        self._limits = limits
        self._outbox.connected(limits)

    def disconnected(self, *, by_broker: bool) -> None:
        """Begin a new epoch; see `Outbox.disconnected` for what ends and what is sent again."""
        self._wire = None
        self._inbox.reset()
        for entry, outcome in self._outbox.disconnected(by_broker=by_broker):
            self._end(entry, outcome)

    def arrived(self, message: Message, *, packet_id: int, redelivered: bool, now: float) -> None:
        """Take in a message from the broker, and hand over what may be."""
        self._inbox.arrived(message, packet_id=packet_id, redelivered=redelivered, now=now)
        self._hand_over()

    def skip(self, *, qos: int, packet_id: int) -> None:
        """Ack, when its turn comes, a message that is not handed over; else the broker would send it for ever."""
        if qos:
            self._ack(self._inbox.skip(packet_id))

    def settle(self, ticket: Ticket) -> None:
        """Ack what may be acked now that the ticket's message is done, and hand over what has room now."""
        self._ack(self._inbox.settle(ticket))
        self._hand_over()

    def drain(self) -> None:
        """Hand over no further QoS 1 message."""
        self._inbox.draining = True

    def offer(self, entry: Entry) -> None:
        """Keep a publication until `flush` sends it, or end it at once."""
        if (outcome := self._outbox.offer(entry)) is not None:
            self._end(entry, outcome)

    def flush(self) -> None:
        """Send what waits, as far as broker and socket take it."""
        wire = self._wire
        while (
            wire is not None and wire.is_open and not wire.is_congested and (entry := self._outbox.take()) is not None
        ):
            refusal = self._limits.refusal(entry.publication)
            if refusal is None:
                self._send(wire, entry)
            else:
                self._end(entry, refusal)

    def confirmed(self, packet_id: int, refusal: str | None) -> None:
        """End the publication whose PUBACK came."""
        if (ended := self._outbox.confirmed(packet_id, refusal)) is not None:
            self._end(*ended)

    def clear(self, reason: str) -> None:
        """End all publications as DROPPED."""
        for entry, outcome in self._outbox.clear(reason):
            self._end(entry, outcome)

    def _hand_over(self) -> None:
        while ready := self._inbox.release():
            for delivery in ready:
                if not self._deliver(delivery) and delivery.ticket is not None:
                    self._ack(self._inbox.settle(delivery.ticket))

    def _ack(self, packet_ids: Sequence[int]) -> None:
        if self._wire is not None:
            for packet_id in packet_ids:
                self._wire.ack(packet_id)

    def _send(self, wire: Wire, entry: Entry) -> None:
        try:
            packet_id = wire.publish(self._limits.adapt(entry.publication))
        except Exception as error:
            # The entry is in no queue now: without an end here it would never have one.
            self._end(entry, Outcome(sent=Sent.REFUSED, reason=f"it cannot be sent: {error}"))
            raise
        if packet_id is not None:
            self._outbox.sent(entry, packet_id)
        elif wire.is_open:
            self._end(entry, CONFIRMED)
        else:
            self._end(entry, CONNECTION_LOST)
