"""Which topic filters the broker is asked for, which it refused, and which end when the daemon stops taking work.

Lives as long as the link: each connection begins with `connected`. Knows no thread; the clock comes as an argument.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edged.mqtt.dotted_topics import as_subscribed
from edged.mqtt.events import Accepted, Subscribed
from edged.ports.link import Message

RESUBSCRIBE_AFTER = 30.0  # seconds until refused filters are asked for again: the access list may have been changed
_SHARED = "$share/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """The topic filters of a link.

    Attributes:
        own: subscribed to on every connection, at QoS 1.
        at_qos_0: those of `own` that are subscribed to at QoS 0.
        temporary: those of `own` that `drain` ends at the broker, as it does with `$share/` filters.
        shared: filters of shared subscriptions, subscribed to while `share` says so.
    """

    own: tuple[str, ...]
    at_qos_0: tuple[str, ...] = ()
    temporary: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    @property
    def plain(self) -> tuple[str, ...]:
        """All filters, those of shared subscriptions without `$share/<group>/`."""
        return tuple(each.split("/", 2)[2] if each.startswith(_SHARED) else each for each in (*self.own, *self.shared))


class Subscriber(Protocol):
    """The part of a connection that subscribes."""

    def subscribe(self, filters: Sequence[str], *, at_qos_0: Sequence[str]) -> None: ...

    def unsubscribe(self, filters: Sequence[str]) -> None: ...


class Subscriptions:
    """The subscriptions of one link.

    Attributes:
        refused: the filters that the broker refused on this connection, each with the reason.
        asked_at: when the SUBSCRIBE was sent that has no answer yet, in the clock's seconds; else None.
        is_answered: whether the broker answered this connection's first SUBSCRIBE, or there was nothing to ask for.
    """

    def __init__(self, filters: Filters, *, clock: Callable[[], float]) -> None:
        self.refused: dict[str, str] = {}
        self.asked_at: float | None = None
        self.is_answered = False
        self._filters = filters
        self._has_dots = any("." in each for each in filters.plain)
        self._clock = clock
        self._ended: tuple[str, ...] = ()
        self._takes_shared: bool | None = None  # None: not decided yet; the session stays as an earlier process left it
        self._is_draining = False
        self._were_granted = False  # all of them, at some time since the link started
        self._connection: Subscriber | None = None  # None until the broker accepted us
        self._has_shared = True
        self._knows_retained = False
        self._ask_again_at: float | None = None

    def unsubscribe_from(self, filters: Sequence[str]) -> None:
        """Have the broker end `filters`, which our session may have from an earlier process."""
        self._ended = tuple(filters)

    # ----------------------------------------------------------------------------------------- what the connection does

    def connected(self, connection: Subscriber, accepted: Accepted) -> None:
        """Ask for all filters, and end those that are not wanted any more."""
        self._connection = connection
        self._has_shared = accepted.has_shared
        filters = [each for each in self._filters.own if not (self._is_draining and self._is_temporary(each))]
        if self._takes_shared:
            filters += self._filters.shared
        elif self._takes_shared is False and self._filters.shared and accepted.session_present:
            connection.unsubscribe(self._filters.shared)
        if self._ended and accepted.session_present:
            connection.unsubscribe(self._ended)
        # A broker may lose the subscriptions of a session in a power cut, so all are asked for on every connection.
        # MQTT 3.1.1 then sends the retained messages again, which are known.
        self._knows_retained = accepted.session_present and self._were_granted
        self._subscribe(connection, filters)

    def disconnected(self) -> None:
        """Forget what belonged to the connection."""
        self.refused = {}
        self.asked_at = None
        self.is_answered = False
        self._connection = None
        self._knows_retained = False
        self._ask_again_at = None

    def answered(self, event: Subscribed) -> None:
        """Take the broker's answer to a SUBSCRIBE."""
        self.asked_at = None
        # There may have been two SUBSCRIBEs; each has its own answer.
        self.refused = {each: why for each, why in self.refused.items() if each not in event.filters}
        self._refuse(event.refused)
        self.is_answered = True

    def turn(self) -> None:
        """Ask again for what was refused, when it is time. To be called at least every second."""
        self._were_granted = self._were_granted or (self.is_answered and not self.refused)
        is_due = self._ask_again_at is not None and self._clock() >= self._ask_again_at
        if is_due and self._connection is not None:
            self._subscribe(self._connection, tuple(self.refused))

    # ------------------------------------------------------------------------------------------- what the daemon wants

    def share(self, *, taking: bool) -> None:
        """Subscribe to the shared filters, or unsubscribe; what is on its way still comes."""
        self._takes_shared = taking
        if self._connection is None or not self._filters.shared:
            return
        if taking:
            self._subscribe(self._connection, self._filters.shared)
        else:
            self._connection.unsubscribe(self._filters.shared)
            self._refuse({})

    def drain(self, *, keep_shared: bool) -> None:
        """End the temporary subscriptions, and the shared ones unless `keep_shared`.

        The others stay: at UNSUBSCRIBE the broker would throw away what comes until the next process subscribes.
        """
        self._is_draining = True
        if not keep_shared:
            self.share(taking=False)
        filters = [each for each in self._filters.own if self._is_temporary(each)]
        if filters and self._connection is not None:
            self._connection.unsubscribe(filters)

    def named(self, message: Message) -> Message:
        """Give `message` with its topic as we subscribed to it: RabbitMQ writes the dots of topics as slashes."""
        if not self._has_dots:
            return message
        return replace(message, topic=as_subscribed(message.topic, self._filters.plain))

    def is_known(self, message: Message) -> bool:
        """Whether `message` is a retained one that the daemon got on an earlier connection.

        A filter without wildcards is a state: its last retained message is wanted on every connection.
        """
        return message.retain and self._knows_retained and message.topic not in self._filters.own

    # ----------------------------------------------------------------------------------------------------------- parts

    def _is_temporary(self, topic_filter: str) -> bool:
        """Whether the broker should keep no such messages for us: others take them, or they come too late."""
        return topic_filter.startswith(_SHARED) or topic_filter in self._filters.temporary

    def _subscribe(self, connection: Subscriber, filters: Sequence[str]) -> None:
        """Ask for `filters`, except those over which the broker would close the connection (MQTT 5, 3.2.2.3.13)."""
        asked = [each for each in filters if self._has_shared or not each.startswith(_SHARED)]
        self._refuse({each: "it has no shared subscriptions" for each in filters if each not in asked})
        if asked:
            self._ask_again_at = None
            self.asked_at = self._clock()
            connection.subscribe(asked, at_qos_0=self._filters.at_qos_0)
        else:
            self.is_answered = True

    def _refuse(self, refused: Mapping[str, str]) -> None:
        """Note what the broker refuses, of what is still wanted."""
        unwanted = {each for each in self._filters.shared if not self._takes_shared}
        self.refused = {each: why for each, why in {**self.refused, **refused}.items() if each not in unwanted}
        self._ask_again_at = self._clock() + RESUBSCRIBE_AFTER if self.refused else None
