"""One connection, from CONNECT to its end: gives each event to the part that it concerns, and watches for silence.

Knows no paho, no thread and no retry; the clock comes as an argument.
"""

from collections.abc import Callable

import structlog

from edged.mqtt.connection import Connection
from edged.mqtt.delivery import MessageFlow
from edged.mqtt.events import Accepted, Arrived, Closed, Confirmed, Event, Rejected, Subscribed, Unreadable
from edged.mqtt.subscriptions import Subscriptions

ANSWER_TIMEOUT = 10.0  # seconds for the broker to answer CONNECT or SUBSCRIBE
CONFIRM_TIMEOUT = 60.0  # seconds in which at least one PUBACK must come while publications are in flight

log = structlog.get_logger(__name__)


class Exchange:
    """The exchange with the broker on one connection.

    Attributes:
        connected_at: when CONNECT was sent, in the clock's seconds; None before.
        accepted_at: when the broker accepted the connection; None if it did not (yet).
        lacks: what the broker said that it cannot do, each in words.
        rejected: the broker's answer if it refused the connection.
        closed: how the connection ended; None while it is open.
    """

    def __init__(
        self, *, connection: Connection, subscriptions: Subscriptions, flow: MessageFlow, clock: Callable[[], float]
    ) -> None:
        self.connected_at: float | None = None
        self.accepted_at: float | None = None
        self.lacks: tuple[str, ...] = ()
        self.rejected: Rejected | None = None
        self.closed: Closed | None = None
        self._connection = connection
        self._subscriptions = subscriptions
        self._flow = flow
        self._clock = clock
        self._confirm_by = 0.0

    @property
    def is_up(self) -> bool:
        """Whether the broker accepted the connection and answered the SUBSCRIBE."""
        return self.closed is None and self._subscriptions.is_answered

    def open(self) -> None:
        """Connect; see `Connection.open`."""
        self._connection.open()
        self.connected_at = self._clock()

    def turn(self, *, readable: bool, writable: bool) -> None:
        """Act on what the broker sent, then send what waits.

        Raises:
            TimeoutError: the broker does not answer CONNECT, SUBSCRIBE or PUBLISH.
        """
        for event in self._connection.turn(readable=readable, writable=writable):
            self._take(event)
        if self.closed is None and not self._connection.is_open:
            self.closed = Closed(reason="the connection was lost", by_broker=False)
        if self.closed is None:
            self._watch(self._clock())
            self._subscriptions.turn()
        self._flow.flush()

    def _watch(self, now: float) -> None:
        connecting_since = self.connected_at if self.accepted_at is None else None
        for since in (connecting_since, self._subscriptions.asked_at):
            if since is not None and now - since >= ANSWER_TIMEOUT:
                raise TimeoutError(f"no answer in {ANSWER_TIMEOUT:.0f} s")
        if not self._flow.awaits_puback:
            self._confirm_by = now + CONFIRM_TIMEOUT
        elif now >= self._confirm_by:
            raise TimeoutError(f"no PUBACK in {CONFIRM_TIMEOUT:.0f} s")

    def _take(self, event: Event) -> None:
        match event:
            case Accepted():
                self.accepted_at = self._clock()
                self.lacks = event.lacks
                self._flow.connected(self._connection, event.limits)
                self._subscriptions.connected(self._connection, event)
            case Rejected():
                self.rejected = event
            case Subscribed():
                self._subscriptions.answered(event)
            case Arrived():
                self._arrived(event)
            case Unreadable():
                log.warning("unreadable_message_dropped", qos=event.qos)
                self._flow.skip(qos=event.qos, packet_id=event.packet_id)
            case Confirmed():
                self._confirm_by = self._clock() + CONFIRM_TIMEOUT
                self._flow.confirmed(event.packet_id, event.refusal)
            case Closed():
                # Of several reasons the first is the true one.
                self.closed = self.closed or event

    def _arrived(self, event: Arrived) -> None:
        message = self._subscriptions.named(event.message)
        if self._subscriptions.is_known(message):
            self._flow.skip(qos=message.qos, packet_id=event.packet_id)
            return
        self._flow.arrived(message, packet_id=event.packet_id, redelivered=event.redelivered, now=self._clock())
