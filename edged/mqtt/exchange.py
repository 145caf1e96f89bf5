"""What is said on one connection, from CONNECT to its end: the protocol between inbox, outbox and broker.

Knows no paho, no thread and no retry; the clock and whom to tell come as arguments.
"""

from collections.abc import Callable, Mapping, Sequence

import structlog

from edged.mqtt.connection import (
    Accepted,
    Arrived,
    Closed,
    Confirmed,
    Connection,
    Event,
    Rejected,
    Subscribed,
    Unreadable,
)
from edged.mqtt.inbox import Inbox
from edged.mqtt.outbox import CONFIRMED, Entry, Limits, Outbox
from edged.ports.link import Delivery, Outcome, Sent, Ticket

ANSWER_TIMEOUT = 10.0  # seconds for the broker to answer CONNECT or SUBSCRIBE
CONFIRM_TIMEOUT = 60.0  # seconds in which one PUBACK at least must come while publications are in flight
RESUBSCRIBE_AFTER = 30.0  # seconds until refused subscriptions are tried again: somebody may have mended the ACL
_SHARED = "$share/"

log = structlog.get_logger(__name__)


class Exchange:
    """One connection's exchange with the broker.

    Attributes:
        asked: whether CONNECT was sent.
        accepted: the broker's answer to CONNECT; None until it took us in.
        accepted_at: when it did, in the clock's seconds.
        rejected: the broker's answer to CONNECT, when it did not.
        is_up: whether subscriptions were asked for and answered.
        refused: the subscriptions that the broker refused, and why.
        closed: how the connection ended; None while it stands.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        subscriptions: Sequence[str],
        fleeting: Sequence[str],
        lossy: Sequence[str] = (),
        shared: Sequence[str],
        leaving: Sequence[str] = (),
        takes_shared: bool | None,
        has_subscribed: bool,
        inbox: Inbox,
        outbox: Outbox,
        deliver: Callable[[Delivery], None],
        end: Callable[[Entry, Outcome], None],
        clock: Callable[[], float],
    ) -> None:
        """Assign; `open` connects.

        Args:
            connection: a new one.
            subscriptions: topic filters, each at QoS 1.
            fleeting: those of them that end with the work; see `Link`.
            lossy: those of them that are asked for at QoS 0.
            shared: topic filters of queues that others take from too.
            leaving: topic filters to end at the broker, if it has them.
            takes_shared: whether to subscribe to them; None leaves them at the broker as they are.
            has_subscribed: whether they were granted on an earlier connection of this link.
            inbox: what arrives goes there first.
            outbox: where publications come from.
            deliver: takes what the inbox hands over.
            end: takes the publications that came to their end.
            clock: monotonic seconds.
        """
        self.asked = False
        self.accepted: Accepted | None = None
        self.accepted_at: float | None = None
        self.rejected: Rejected | None = None
        self.is_up = False
        self.refused: dict[str, str] = {}
        self.closed: Closed | None = None
        self._connection = connection
        self._subscriptions = subscriptions
        self._fleeting = fleeting
        self._lossy = lossy
        self._shared = shared
        self._leaving = leaving
        self._takes_shared = takes_shared
        self._has_subscribed = has_subscribed
        self._inbox = inbox
        self._outbox = outbox
        self._deliver = deliver
        self._end = end
        self._clock = clock
        self._limits = Limits()
        self._has_shared = True
        self._ignores_retained = False
        self._answer_by: float | None = None
        self._confirm_by = 0.0
        self._resubscribe_at: float | None = None

    @property
    def is_subscribed(self) -> bool:
        """Whether the broker has all our subscriptions."""
        return self.is_up and not self.refused

    def open(self) -> None:
        """Connect; see `Connection.open`."""
        self._connection.open()
        self.asked = True
        self._answer_by = self._clock() + ANSWER_TIMEOUT

    def turn(self, *, readable: bool, writable: bool) -> None:
        """Take in what the broker says.

        Raises:
            TimeoutError: the broker leaves CONNECT, SUBSCRIBE or PUBLISH without an answer.
        """
        for event in self._connection.turn(readable=readable, writable=writable):
            self._take(event)
        if self.closed is None and not self._connection.is_open:
            self.closed = Closed(reason="the connection was lost", by_broker=False)
        if self.closed is None:
            self._watch(self._clock())

    def _watch(self, now: float) -> None:
        if self._answer_by is not None and now >= self._answer_by:
            raise TimeoutError(f"no word in {ANSWER_TIMEOUT:.0f} s")
        if not self._outbox.in_flight:
            self._confirm_by = now + CONFIRM_TIMEOUT
        elif now >= self._confirm_by:
            raise TimeoutError(f"no PUBACK in {CONFIRM_TIMEOUT:.0f} s")
        if self._resubscribe_at is not None and now >= self._resubscribe_at:
            self._subscribe(tuple(self.refused))

    def flush(self) -> None:
        """Send what waits, as far as broker and socket take it."""
        connection = self._connection
        while connection.is_open and not connection.is_congested and (entry := self._outbox.take()) is not None:
            refusal = self._limits.refusal(entry.publication)
            if refusal is None:
                self._send(entry)
            else:
                self._end(entry, refusal)

    def settle(self, ticket: Ticket) -> None:
        """Ack what may be acked now that `ticket`'s delivery is done."""
        self._ack(self._inbox.settle(ticket))
        self._hand_over()

    def unsubscribe(self, *, keep_shared: bool) -> None:
        """End the subscriptions that end with the work; see `Inbox.draining` for the rest."""
        if not keep_shared:
            self.share(taking=False)
        filters = [each for each in self._subscriptions if self._is_fleeting(each)]
        if filters and self.accepted is not None:
            self._connection.unsubscribe(filters)

    def share(self, *, taking: bool) -> None:
        """Take from the shared queues, or leave them to others; what is on its way still comes."""
        self._takes_shared = taking
        if self.accepted is None or not self._shared:
            return
        if taking:
            self._subscribe(self._shared)
        else:
            self._connection.unsubscribe(self._shared)
            self._refuse({})

    def _is_fleeting(self, topic_filter: str) -> bool:
        """Whether nobody is to keep for us what comes there while we are away: others take it, or it would be late."""
        return topic_filter.startswith(_SHARED) or topic_filter in self._fleeting

    # ------------------------------------------------------------------------------------------------- incoming

    def _take(self, event: Event) -> None:
        match event:
            case Accepted():
                self._begin(event)
            case Rejected():
                self.rejected = event
            case Subscribed():
                self._subscribed(event)
            case Arrived():
                self._arrived(event)
            case Unreadable():
                log.warning("unreadable_message_dropped", qos=event.qos)
                self._skip(event.qos, event.packet_id)
            case Confirmed():
                self._confirm_by = self._clock() + CONFIRM_TIMEOUT
                ended = self._outbox.confirmed(event.packet_id, event.refusal)
                if ended is not None:
                    self._end(*ended)
            case Closed():
                # The first reason is the true one.
                self.closed = self.closed or event

    def _begin(self, accepted: Accepted) -> None:
        self.accepted = accepted
        self.accepted_at = self._clock()
        self._answer_by = None
        self._limits = accepted.limits
        self._has_shared = accepted.has_shared
        self._outbox.connected(accepted.limits)
        filters = [each for each in self._subscriptions if not (self._inbox.draining and self._is_fleeting(each))]
        if self._takes_shared:
            filters += self._shared
        elif self._takes_shared is False and self._shared and accepted.session_present:
            self._connection.unsubscribe(self._shared)
        if self._leaving and accepted.session_present:
            self._connection.unsubscribe(self._leaving)
        # A broker that had a power cut may know our session and not what we subscribed to, so we always do. MQTT 3.1.1
        # then brings the retained messages again, which is news to nobody.
        self._ignores_retained = accepted.session_present and self._has_subscribed
        self._subscribe(filters)

    def _subscribe(self, filters: Sequence[str]) -> None:
        """Ask for `filters`, but for those that would cost the connection (MQTT 5, section 3.2.2.3.13)."""
        asked = [each for each in filters if self._has_shared or not each.startswith(_SHARED)]
        self._refuse({each: "it has no shared subscriptions" for each in filters if each not in asked})
        if asked:
            self._resubscribe_at = None
            self._answer_by = self._clock() + ANSWER_TIMEOUT
            self._connection.subscribe(asked, lossy=self._lossy)
        else:
            self.is_up = True

    def _subscribed(self, event: Subscribed) -> None:
        self._answer_by = None
        # There may have been two SUBSCRIBEs, each with an answer of its own.
        self.refused = {each: why for each, why in self.refused.items() if each not in event.filters}
        self._refuse(event.refused)
        self.is_up = True

    def _refuse(self, refused: Mapping[str, str]) -> None:
        """Note what the broker does not give us, of what we still want."""
        left = {each for each in self._shared if not self._takes_shared}
        self.refused = {each: why for each, why in {**self.refused, **refused}.items() if each not in left}
        self._resubscribe_at = self._clock() + RESUBSCRIBE_AFTER if self.refused else None

    def _hand_over(self) -> None:
        for delivery in self._inbox.release():
            self._deliver(delivery)

    def _arrived(self, event: Arrived) -> None:
        message = event.message
        if message.retain and self._ignores_retained and message.topic not in self._subscriptions:
            self._skip(message.qos, event.packet_id)
            return
        self._inbox.arrived(message, packet_id=event.packet_id, redelivered=event.redelivered, now=self._clock())
        self._hand_over()

    def _skip(self, qos: int, packet_id: int) -> None:
        """Ack, in its turn, what is not handed over: else it would come again for ever."""
        if qos:
            self._ack(self._inbox.skip(packet_id))

    # ------------------------------------------------------------------------------------------------- outgoing

    def _ack(self, packet_ids: Sequence[int]) -> None:
        for packet_id in packet_ids:
            self._connection.ack(packet_id)

    def _send(self, entry: Entry) -> None:
        try:
            packet_id = self._connection.publish(self._limits.adapt(entry.publication))
        except Exception as error:
            # It is in nobody's list now: without an end here it would never have one.
            self._end(entry, Outcome(sent=Sent.REFUSED, reason=f"it cannot be sent: {error}"))
            raise
        if packet_id is not None:
            self._outbox.sent(entry, packet_id)
        elif self._connection.is_open:
            self._end(entry, CONFIRMED)
        else:
            self._end(entry, Outcome(sent=Sent.DROPPED, reason="the connection was lost"))
