"""Whether another daemon has our client id or our name: a look at the boxes by a connection of its own, in doubt only.

Two boxes with one client id take the connection from each other, and not every broker says so. What comes by ours
tells nothing then: whoever has the client id has the session, and so is brought what he publishes himself, and what
was said long ago and kept for the session.
"""

import json
import uuid
from collections.abc import Callable
from typing import Any

from edged.contract.status import Identity
from edged.errors import BrokerUnavailable
from edged.mqtt.link import Link
from edged.ports.link import Delivery, LinkState
from edged.settings.schema import Settings

_SUSPICION_S = 60.0  # in which another daemon with our name will have spoken again


class Lookout:
    """For the main thread; `suspect` may be called in any."""

    def __init__(
        self,
        settings: Settings,
        *,
        identity: Identity,
        on_found: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """`on_found` is called, in a thread of the lookout's own, when it is time for `look`."""
        self._settings = settings
        self._identity = identity
        self._on_found = on_found
        self._clock = clock
        self._link: Link | None = None
        self._suspected_at = float("-inf")
        self._twin: str | None = None  # a box of another name with our client id
        self.has_namesake = False

    def suspect(self) -> None:
        """There was a word of another daemon with our name.

        Or of an earlier life of ours, kept by the broker, with a clock that has been set back since.
        """
        self._suspected_at = self._clock()

    def look(self, link: LinkState) -> None:
        """Look out while there is a doubt; `link` is our connection.

        Raises:
            BrokerUnavailable: another daemon lives with our name or our client id, and it is for us to give way.
        """
        if link.contended or self._clock() - self._suspected_at < _SUSPICION_S:
            self._start()
        else:
            self.stop()
        client_id = self._settings.client_id
        if self._twin is not None or (link.taken_over and self._settings.mqtt.client_id is not None):
            who = f"the box {self._twin}" if self._twin is not None else "another client"
            raise BrokerUnavailable(
                f"{who} connected to the broker as {client_id} too, and each takes the connection from the other; give "
                "one of them another EDGED_MQTT__CLIENT_ID, or none: then it is made of prefix and node"
            )
        if link.taken_over or self.has_namesake:
            raise BrokerUnavailable(
                f"another client connected to the broker as {client_id}: two daemons have one name; "
                "give one of them another EDGED_NODE"
            )

    def stop(self) -> None:
        """Look out no more."""
        if self._link is not None:
            self._link.stop(None, 1.0)
            self._link = None

    def _start(self) -> None:
        if self._link is None:
            self._link = self._make_link()
            self._link.start()

    def _make_link(self) -> Link:
        return Link(
            settings=self._settings.mqtt,
            client_id=f"edged-lookout-{uuid.uuid4().hex[:12]}",
            subscriptions=(f"{self._settings.prefix}/+/status",),
            will=None,
            receive_maximum=1000,
            on_delivery=self._on_delivery,
            on_change=lambda _: None,
            ephemeral=True,
        )

    def _on_delivery(self, delivery: Delivery) -> None:
        message = delivery.message
        if delivery.ticket is not None and self._link is not None:
            self._link.settle(delivery.ticket)
        if message.retain:  # said at some time, perhaps by a box that is no more
            return
        try:
            status = json.loads(message.payload)
        except (ValueError, RecursionError):
            return
        if isinstance(status, dict):
            self._hear(message.topic.split("/")[-2], status)

    def _hear(self, node: str, status: dict[str, Any]) -> None:
        """Take note of what a box says of itself now."""
        if not self._identity.is_rival(status):
            return
        if node == self._settings.node:
            self.has_namesake = True
        elif self._identity.has_our_client(status):
            self._twin = node
        self._on_found()
