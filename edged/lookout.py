"""A look at the other boxes by a connection of its own, while there may be another with our client id or our name.

Two boxes with one client id take the connection from each other, and not every broker says so. What comes by ours
tells nothing then: whoever has the client id has the session, and so is brought what he publishes himself, and what
was said long ago and kept for the session.
"""

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from edged.mqtt.link import Link
from edged.mqtt.settlement import Delivery
from edged.settings import Settings


class Lookout:
    """For the main thread; `hear` is called in a thread of the lookout's own."""

    def __init__(self, settings: Settings, *, hear: Callable[[str, Mapping[str, Any]], None]) -> None:
        """`hear` gets the node and the status of each box that tells its own now."""
        self._settings = settings
        self._hear = hear
        self._link: Link | None = None

    def watch(self, *, wanted: bool) -> None:
        """Look out while it is wanted."""
        if wanted and self._link is None:
            self._link = self._make_link()
            self._link.start()
        elif not wanted and self._link is not None:
            self._link.stop(None, 1.0)
            self._link = None

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
