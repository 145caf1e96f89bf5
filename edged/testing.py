"""Stand-ins that keep the Protocols of `ports.py`, for tests of behaviour without a broker, a model or a disk.

They ship with the package, and pass the same contract tests as the real things. No real thing knows of them.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from edged.mqtt.inbox import Inbox
from edged.mqtt.outbox import CONFIRMED, Limits, unsendable
from edged.mqtt.settlement import Delivery, Ticket
from edged.ports import LinkState, Outcome, Sent
from edged.wire import Message, Publication

T = TypeVar("T")

# ------------------------------------------------------------------------------------------------------ the link


@dataclass(slots=True, eq=False)
class _Pending:
    publication: Publication
    on_done: Callable[[Outcome], None] | None


class FakeLink:
    """A `ports.Link` with the broker inside. Everything happens in the calling thread, before the call returns.

    So `on_done` may be called before `publish` returns: code that stands this stands the real link. Only what is
    asked for while a callback runs is done after that callback has returned, as the network thread does it.

    Attributes:
        on_delivery: takes what `deliver` brings; may be set after the fact.
        on_change: told when the connection is made or lost.
        limits: what the broker takes; may be changed at any time.
        auto: whether publications are confirmed at once; else by `finish`.
        published: what reached the broker, in order.
        acked: the deliveries that were acked, in the order of their acks.
        errors: what callbacks raised; a test of a well-behaved worker asserts that there is nothing.
    """

    def __init__(
        self,
        on_delivery: Callable[[Delivery], None] | None = None,
        *,
        on_change: Callable[[LinkState], None] | None = None,
        receive_maximum: int = 65535,
        limits: Limits | None = None,
        auto: bool = True,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.on_delivery = on_delivery
        self.on_change = on_change
        self.limits = limits or Limits()
        self.auto = auto
        self.published: list[Publication] = []
        self.acked: list[Delivery] = []
        self.errors: list[Exception] = []
        self._clock = clock
        self._inbox = Inbox(receive_maximum=receive_maximum)
        self._packet_ids = itertools.count(1)
        self._unacked: dict[int, Delivery] = {}  # what the broker keeps, by packet id, in order of arrival
        self._waiting: deque[_Pending] = deque()  # for a connection
        self._in_flight: deque[_Pending] = deque()  # for a confirmation
        self._connected_since: float | None = clock()
        self._reconnects = 0
        self._taken_over = False
        self._lock = threading.Lock()  # guards the next two
        self._todo: deque[Callable[[], object]] = deque()
        self._is_busy = False

    # what the program calls

    def publish(self, publication: Publication, on_done: Callable[[Outcome], None] | None = None) -> None:
        """Send, or keep until `reconnect` (QoS 1)."""
        self._do(partial(self._publish, _Pending(publication, on_done)))

    def settle(self, ticket: Ticket) -> None:
        """Ack a delivery as soon as the order of arrival allows."""
        self._do(partial(self._settle, ticket))

    def unsubscribe(self) -> None:
        """Hand over no more QoS 1 deliveries."""
        self._inbox.draining = True

    def state(self) -> LinkState:
        """The link at a glance."""
        is_up = self._connected_since is not None
        return LinkState(
            connected_since=self._connected_since,
            reconnects=self._reconnects,
            unacked=self._inbox.unacked,
            outbox=len(self._waiting) + len(self._in_flight),
            protocol="5",
            fault=None if is_up else "the connection was lost",
            taken_over=self._taken_over,
            last_progress=self._clock(),
        )

    # what a test calls

    def deliver(self, message: Message) -> Delivery:
        """Bring a message as the broker would; gives the delivery, handed over now or once there is room.

        Raises:
            ConnectionError: there is no connection.
        """
        if self._connected_since is None:
            raise ConnectionError("there is no connection; call reconnect() first")
        delivery = self._arrive(message, next(self._packet_ids), redelivered=False)
        self._do(self._hand_over)
        return delivery

    def finish(self, outcome: Outcome = CONFIRMED) -> Publication:
        """End the oldest publication that is in flight."""
        pending = self._in_flight.popleft()
        self._do(partial(self._call, pending.on_done, outcome))
        return pending.publication

    def disconnect(self, *, taken_over: bool = False) -> None:
        """Lose the connection: all tickets are void, and what was in flight goes out again on the next one."""
        self._connected_since = None
        self._inbox.reset()
        self._waiting.extendleft(reversed(self._in_flight))
        self._in_flight.clear()
        if taken_over:
            self._taken_over = True
            while self._waiting:
                self._do(partial(self._drop, self._waiting.popleft()))
        self._do(self._tell)

    def reconnect(self) -> None:
        """Connect again: what was not acked comes again, and what waited to be sent goes out."""
        self._connected_since = self._clock()
        self._reconnects += 1
        self._do(self._tell)
        again, self._unacked = self._unacked, {}
        for packet_id, delivery in again.items():
            self._arrive(delivery.message, packet_id, redelivered=True)
        self._do(self._hand_over)
        for _ in range(len(self._waiting)):
            self._do(partial(self._publish, self._waiting.popleft()))

    # parts

    def _do(self, action: Callable[[], object]) -> None:
        """Act now, or, if a callback runs now (in whichever thread), right after it."""
        with self._lock:
            self._todo.append(action)
            if self._is_busy:
                return
            self._is_busy = True
        while (todo := self._next()) is not None:
            todo()

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            self._is_busy = bool(self._todo)
            return self._todo.popleft() if self._todo else None

    def _publish(self, pending: _Pending) -> None:
        publication = pending.publication
        reason = unsendable(publication)
        refusal = self.limits.refusal(publication)
        if reason is not None:
            self._call(pending.on_done, Outcome(sent=Sent.REFUSED, reason=reason))
        elif self._taken_over or (self._connected_since is None and publication.qos == 0):
            self._drop(pending)
        elif self._connected_since is None:
            self._waiting.append(pending)
        elif refusal is not None:
            self._call(pending.on_done, refusal)
        else:
            self.published.append(publication)
            self._in_flight.append(pending)
            if self.auto or publication.qos == 0:
                self._in_flight.remove(pending)
                self._call(pending.on_done, CONFIRMED)

    def _drop(self, pending: _Pending) -> None:
        self._call(pending.on_done, Outcome(sent=Sent.DROPPED, reason="there is no connection"))

    def _settle(self, ticket: Ticket) -> None:
        self.acked += [self._unacked.pop(packet_id) for packet_id in self._inbox.settle(ticket)]
        self._hand_over()

    def _arrive(self, message: Message, packet_id: int, *, redelivered: bool) -> Delivery:
        delivery = self._inbox.arrived(message, packet_id=packet_id, redelivered=redelivered, now=self._clock())
        if delivery.ticket is not None:
            self._unacked[packet_id] = delivery
        return delivery

    def _hand_over(self) -> None:
        for delivery in self._inbox.release():
            if not self._call(self.on_delivery, delivery) and delivery.ticket is not None:
                self.settle(delivery.ticket)  # as the real one does: nobody else will

    def _tell(self) -> None:
        self._call(self.on_change, self.state())

    def _call(self, callback: Callable[[T], None] | None, argument: T) -> bool:
        if callback is None:
            return True
        try:
            callback(argument)
        except Exception as error:  # noqa: BLE001 - a callback's mistake does not stop the real link either
            self.errors.append(error)
            return False
        return True
