"""Which deliveries may be acked, in what order, on which connection. Pure: sees packet ids, never a socket.

MQTT wants PUBACKs in the order in which the PUBLISHes came (MQTT 5, MQTT-4.6.0-2), while answers finish in any
order. And an ack belongs to one connection: after a reconnect the broker may give the same packet id to another
message, so a ticket of an earlier epoch settles nothing; its message comes again.
"""

from collections import deque
from dataclasses import dataclass, field

from edged.ports.link import Ticket


@dataclass(slots=True)
class _Open:
    ticket: Ticket
    settled: bool = False


@dataclass(slots=True)
class Settlement:
    """The unacked deliveries of the current connection, in order of arrival."""

    epoch: int = 0
    _arrived: int = 0
    _open: deque[_Open] = field(default_factory=deque)
    _by_number: dict[int, _Open] = field(default_factory=dict)

    @property
    def unacked(self) -> int:
        """Deliveries that came on this connection and have no ack yet."""
        return len(self._open)

    def connected(self) -> int:
        """Begin a new epoch: all tickets handed out so far are void."""
        self.epoch += 1
        self._open.clear()
        self._by_number.clear()
        return self.epoch

    def arrived(self, packet_id: int) -> Ticket:
        """Note a QoS 1 delivery and give the ticket that will settle it."""
        self._arrived += 1
        entry = _Open(Ticket(epoch=self.epoch, number=self._arrived, packet_id=packet_id))
        self._open.append(entry)
        self._by_number[entry.ticket.number] = entry
        return entry.ticket

    def settle(self, ticket: Ticket) -> list[int]:
        """Say that `ticket`'s delivery is done.

        Returns:
            The packet ids to ack now, oldest first: none while an older delivery is still open, and none for a
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
