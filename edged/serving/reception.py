"""Takes every delivery, reads its topic once, and passes the message to the part that handles it.

For the network thread, so nothing here waits.
"""

import json
from collections.abc import Callable
from typing import Any

import structlog

from edged.contract.status import Identity, State
from edged.contract.topics import (
    AskedRoute,
    BirthRoute,
    ControlRoute,
    MemberRoute,
    ProbeRoute,
    RuleRoute,
    StatusRoute,
    StrayRoute,
    TaskRoute,
    Topics,
)
from edged.monitoring.health import Health
from edged.monitoring.home_assistant import Discovery
from edged.ports.link import Delivery, Link
from edged.serving.live_settings import LiveSettings

log = structlog.get_logger(__name__)

_BACKLOG_S = 30.0  # in which the broker sends the messages that it kept for us
_CORRECT_S = 1.0


class Reception:
    """Passes requests and commands on; reads and settles all other messages."""

    def __init__(
        self,
        *,
        topics: Topics,
        identity: Identity,
        link: Link,
        health: Health,
        discovery: Discovery,
        on_asked: Callable[[AskedRoute, Delivery], None],
        on_member: Callable[[ProbeRoute | MemberRoute, bytes], None],
        on_rival: Callable[[], None],
        wake: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """Assign.

        Args:
            topics: gives the route of each topic.
            identity: tells our own status from that of another daemon.
            link: settles what is only read.
            health: gets the messages of our status topic.
            discovery: is told that Home Assistant started.
            on_asked: takes requests and commands, and settles them.
            on_member: takes what the boxes of a group say.
            on_rival: another daemon may have our name.
            wake: the main thread has something to do now.
            clock: monotonic seconds.
        """
        self._topics = topics
        self._identity = identity
        self._link = link
        self._health = health
        self._discovery = discovery
        self._on_asked = on_asked
        self._on_member = on_member
        self._on_rival = on_rival
        self._wake = wake
        self._clock = clock
        self._heard_ourselves_at: float | None = None
        self._corrected_at = float("-inf")
        self._came_again = 0

    def use(self, live: LiveSettings) -> None:
        """Read topics by these settings from now on. For any thread."""
        self._topics = live.contract.topics

    @property
    def came_again(self) -> int | None:
        """How many requests the broker brought again until now; None while more may come of those it had kept."""
        return None if self._backlog_may_come(self._clock()) else self._came_again

    def on_delivery(self, delivery: Delivery) -> None:
        """Take a delivery from the link."""
        topic, payload = delivery.message.topic, delivery.message.payload
        route = self._topics.route(topic)
        if isinstance(route, TaskRoute | ControlRoute | RuleRoute):
            self._came_again += delivery.redelivered and not isinstance(route, ControlRoute)
            self._on_asked(route, delivery)
            return
        if delivery.ticket is not None:
            self._link.settle(delivery.ticket)
        match route:
            case BirthRoute():
                self._discovery.hear(route.topic, payload)
                self._wake()
            case StatusRoute():
                self._hear_status(delivery)
            case ProbeRoute() | MemberRoute():
                self._on_member(route, payload)
                self._wake()  # a box may have come, or gone: its work may be ours now
            case StrayRoute():
                log.debug("stray_message", topic=topic)

    def is_late(self, delivery: Delivery) -> bool:
        """Whether the broker may have kept `delivery` since before this process.

        What the broker kept comes before our first status, which it got after all of that. Where we may not read our
        status, the first seconds of the connection are all that can be told.
        """
        return self._backlog_may_come(delivery.received_at)

    def _backlog_may_come(self, now: float) -> bool:
        if self._heard_ourselves_at is not None:
            return now < self._heard_ourselves_at
        connected = self._link.state().connected_since
        return connected is None or now < connected + _BACKLOG_S

    def _hear_status(self, delivery: Delivery) -> None:
        status = _json_object(delivery.message.payload)
        if self._identity.is_ours(status) and self._heard_ourselves_at is None:
            self._heard_ourselves_at = delivery.received_at
        self._health.hear_status(status)
        if not self._identity.is_ours(status):
            self._correct_while_loading(delivery.received_at)
        if self._identity.is_rival(status):
            self._on_rival()
            self._wake()

    def _correct_while_loading(self, now: float) -> None:
        """Publish at once that this process runs; later, the main thread does so. At most once a second."""
        if self._health.state is State.LOADING and now - self._corrected_at >= _CORRECT_S:
            self._corrected_at = now
            self._link.publish(self._health.status())


def _json_object(payload: bytes) -> dict[str, Any]:
    """Read a payload; an empty object if it is not a JSON object."""
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
