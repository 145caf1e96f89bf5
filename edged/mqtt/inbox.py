"""Which deliveries are handed over, and which wait unacked. Pure: sees packet ids, never a socket or a clock.

On MQTT 5 the broker keeps to our Receive Maximum. On 3.1.1 it knows of none, so what is over it waits here, unacked
and thus still the broker's. The same hold keeps requests in the broker while the daemon goes down.
"""

from collections import deque
from dataclasses import dataclass, field

from edged.mqtt.settlement import Settlement
from edged.ports.link import Delivery, Message, Ticket


@dataclass(slots=True, kw_only=True)
class Inbox:
    """The deliveries of the current connection: handed over up to a bound, in order of arrival."""

    receive_maximum: int
    draining: bool = False  # true: hand over no more of what the broker keeps for us
    _settlement: Settlement = field(default_factory=Settlement)
    _free: deque[Delivery] = field(default_factory=deque)  # QoS 0
    _held: deque[Delivery] = field(default_factory=deque)  # QoS 1

    @property
    def unacked(self) -> int:
        """Deliveries of this connection without an ack, handed over or not."""
        return self._settlement.unacked

    def reset(self) -> None:
        """Begin a new epoch: all tickets are void, and what was held will come again."""
        self._settlement.connected()
        self._free.clear()
        self._held.clear()

    def arrived(self, message: Message, *, packet_id: int, redelivered: bool, now: float) -> Delivery:
        """Take in what the broker sent; `release` tells when to hand it over.

        Args:
            message: as it came.
            packet_id: of a QoS 1 delivery; without meaning at QoS 0.
            redelivered: whether the broker says that it sent this before.
            now: monotonic seconds.
        """
        ticket = self._settlement.arrived(packet_id) if message.qos else None
        delivery = Delivery(message=message, ticket=ticket, redelivered=redelivered, received_at=now)
        (self._free if ticket is None else self._held).append(delivery)
        return delivery

    def skip(self, packet_id: int) -> list[int]:
        """Take in a delivery that is done on arrival; gives the packet ids to ack now, oldest first."""
        return self.settle(self._settlement.arrived(packet_id))

    def settle(self, ticket: Ticket) -> list[int]:
        """Say that a delivery is done; gives the packet ids to ack now, oldest first."""
        return self._settlement.settle(ticket)

    def release(self) -> list[Delivery]:
        """Remove and return what may be handed over now: QoS 0, which nobody keeps, and QoS 1 up to the bound."""
        ready = list(self._free)
        self._free.clear()
        while self._held and not self.draining and self.unacked - len(self._held) < self.receive_maximum:
            ready.append(self._held.popleft())
        return ready
