"""Finds out whether another daemon has our client id or our name. While that is in doubt, a second connection listens.

Two boxes with one client id take the connection from each other, and not every broker says so. Our own connection
tells nothing then: the box that holds the client id holds the session, so it receives its own publications, and old
messages that the broker kept for the session. The second connection has a client id of its own and no session.
"""

import json
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from edged.contract.results import encode
from edged.contract.status import Identity, State
from edged.errors import BrokerUnavailable, NameTaken
from edged.mqtt.link import Link
from edged.ports.link import Delivery, LinkState, Publication
from edged.settings.schema import Settings

_CONNECT_S = 2.0  # for the broker to take the second connection
_RETAINED_S = 0.3  # after that, for the retained status to come, if there is one
_ANSWER_S = 5.0  # for a daemon that lives to correct a status that is not its own; it looks once a second
_TURN_S = 0.1
_LIVE = {State.LOADING, State.READY, State.DEGRADED}
_ECHO = "asked-"
_SUSPICION_S = 60.0  # in which another daemon with our name will have published its status again


class NameCheck:
    """Finds out, before the daemon takes the session of its client id, whether a daemon of its name runs.

    What the status topic retains may be old: the last will of a daemon that lost its power comes late. So the same
    status is published again under another boot id, not retained: a daemon that lives corrects it at once.
    """

    def __init__(self, settings: Settings, *, status_topic: str, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._status_topic = status_topic
        self._clock = clock
        self._news = threading.Event()
        self._retained: dict[str, Any] | None = None
        self._heard: dict[str, Any] | None = None  # the last status that came while we listened
        self._link = Link(
            settings=settings.mqtt,
            client_id=f"edged-lookout-{uuid.uuid4().hex[:12]}",
            subscriptions=(status_topic,),
            will=None,
            receive_maximum=1000,
            on_delivery=self._on_delivery,
            on_change=lambda _: self._news.set(),
            ephemeral=True,
        )

    def run(self, *, ended: str | None, is_stopping: Callable[[], bool]) -> None:
        """Look, for some seconds at most. If the broker cannot be reached now, the daemon starts all the same.

        Args:
            ended: the boot id of a process that is known to have ended, whatever its status says.
            is_stopping: whether to give up.

        Raises:
            NameTaken: such a daemon runs.
        """
        self._link.start()
        try:
            self._wait(lambda: is_stopping() or self._link.state().connected_since is not None, _CONNECT_S)
            if self._link.state().connected_since is None:
                return
            self._wait(lambda: is_stopping() or self._retained is not None, _RETAINED_S)
            if self._retained is None or not _claims_life(self._retained) or self._retained.get("boot_id") == ended:
                return
            echo = {name: value for name, value in self._retained.items() if name not in {"boot_id", "started"}}
            body = encode(echo | {"boot_id": f"{_ECHO}{uuid.uuid4().hex[:12]}"})
            self._link.publish(Publication(topic=self._status_topic, payload=body))
            self._wait(lambda: is_stopping() or self._heard is not None, _ANSWER_S)
            if self._heard is not None and _claims_life(self._heard):
                raise NameTaken(
                    f"a daemon named {self._settings.prefix}/{self._settings.node} runs already with this broker, on "
                    "this box or another. It goes on. Stop it first, or give this one another EDGED_NODE"
                )
        finally:
            self._link.stop(None, 1.0)

    def _wait(self, is_over: Callable[[], bool], seconds: float) -> None:
        until = self._clock() + seconds
        while not is_over() and (left := until - self._clock()) > 0:
            self._news.wait(min(left, _TURN_S))
            self._news.clear()

    def _on_delivery(self, delivery: Delivery) -> None:
        message = delivery.message
        if delivery.ticket is not None:
            self._link.settle(delivery.ticket)
        status = _json_object(message.payload)
        if message.retain:
            self._retained = status
        elif not str(status.get("boot_id", "")).startswith(_ECHO):
            self._heard = status
        self._news.set()


def _claims_life(status: Mapping[str, Any]) -> bool:
    return isinstance(status.get("boot_id"), str) and status.get("state") in _LIVE


class NameWatch:
    """Watches for another daemon while this one runs. For the main thread; `suspect` may be called in any thread.

    Attributes:
        has_namesake: whether another daemon lives with our name, and is not the one to give way.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        identity: Identity,
        on_found: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """`on_found` is called in the thread of the second connection when it is time for `look`."""
        self._settings = settings
        self._identity = identity
        self._on_found = on_found
        self._clock = clock
        self._link: Link | None = None
        self._suspected_at = float("-inf")
        self._twin: str | None = None  # a box of another name with our client id
        self.has_namesake = False

    def suspect(self) -> None:
        """Note that a status was heard that seems to be another daemon's with our name.

        It may also be of an earlier process of this box, kept by the broker, if the clock has been set back since.
        """
        self._suspected_at = self._clock()

    def look(self, link: LinkState) -> None:
        """Listen while there is a doubt; `link` is our connection.

        Raises:
            BrokerUnavailable: another daemon lives with our name or our client id, and this one must give way.
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
        """End the second connection, if there is one."""
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
        if message.retain:  # retained: of unknown age, perhaps from a box that has ended since
            return
        self._hear(message.topic.split("/")[-2], _json_object(message.payload))

    def _hear(self, node: str, status: dict[str, Any]) -> None:
        """Take in the status that a box has just published."""
        if not self._identity.is_rival(status):
            return
        if node == self._settings.node:
            self.has_namesake = True
        elif self._identity.has_our_client(status):
            self._twin = node
        self._on_found()


def _json_object(payload: bytes) -> dict[str, Any]:
    """Read a payload; an empty object if it is not a JSON object."""
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
