"""The link to the broker, for all threads: implements `ports.Link` by commands to the network thread."""

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from edged.mqtt.commands import CommandQueue, Drain, Listen, Share, Stop
from edged.mqtt.delivery import Entry
from edged.mqtt.events import Identity
from edged.mqtt.network_thread import STOPPED, Callbacks, NetworkThread
from edged.mqtt.reconnect import Backoff
from edged.mqtt.subscriptions import Filters
from edged.ports.link import Delivery, LinkState, Outcome, Publication, Sent, Ticket
from edged.settings.schema import MqttSettings

__all__ = ["STOPPED", "Link"]

MAX_PACKET_SIZE = 268_435_455  # the most that paho can announce
JOIN_GRACE = 15.0  # seconds beyond the timeout of `stop`: an attempt to connect cannot be cut short

log = structlog.get_logger(__name__)


class Link:
    """See `edged.ports.link.Link`. `on_delivery`, `on_change` and every `on_done` are called in the network thread."""

    def __init__(
        self,
        *,
        settings: MqttSettings,
        client_id: str,
        subscriptions: tuple[str, ...],
        temporary: tuple[str, ...] = (),
        at_qos_0: tuple[str, ...] = (),
        shared: tuple[str, ...] = (),
        will: Publication | None,
        receive_maximum: int,
        maximum_packet_size: int = MAX_PACKET_SIZE,
        on_delivery: Callable[[Delivery], None],
        on_change: Callable[[LinkState], None],
        ephemeral: bool = False,
        clock: Callable[[], float] = time.monotonic,
        backoff: Backoff | None = None,
    ) -> None:
        """Assign; `start` connects.

        Args:
            settings: the broker and how to speak to it.
            client_id: names our session at the broker.
            subscriptions: topic filters, at QoS 1.
            temporary: those of them that `unsubscribe` ends at the broker, as it does with shared ones: what comes
                there is of no use later.
            at_qos_0: those of them at QoS 0, for messages that the next one makes useless: the broker keeps none of
                them for us, and they do not wait for our acks of other messages.
            shared: topic filters of shared subscriptions; in force while `share` says so.
            will: what the broker publishes when our connection is lost.
            receive_maximum: QoS 1 messages that are handed over and not acked, at most; see `announce`.
            maximum_packet_size: bytes of the largest packet that the broker may send us (MQTT 5 only).
            on_delivery: takes what arrives; must be quick. If it raises, the message is settled.
            on_change: called when a connection is made or lost, and with each new fault.
            ephemeral: keep no session and get retained messages: for commands, not for daemons.
            clock: monotonic seconds.
            backoff: how long to wait between attempts to connect.
        """
        self._clock = clock
        self._commands = CommandQueue()
        self._network = NetworkThread(
            settings=settings,
            identity=Identity(
                client_id=client_id,
                will=will,
                receive_maximum=receive_maximum,
                maximum_packet_size=min(maximum_packet_size, MAX_PACKET_SIZE),
                ephemeral=ephemeral,
            ),
            filters=Filters(own=subscriptions, at_qos_0=at_qos_0, temporary=temporary, shared=shared),
            commands=self._commands,
            callbacks=Callbacks(on_delivery=on_delivery, on_change=on_change),
            backoff=backoff or Backoff(),
            clock=clock,
        )
        self._thread: threading.Thread | None = None

    def start(self, *, unsubscribe_from: Sequence[str] = ()) -> None:
        """Connect, and stay connected until `stop`.

        Args:
            unsubscribe_from: topic filters that our session at the broker may have from an earlier process, and that
                are to end.
        """
        self._network.subscriptions.unsubscribe_from(unsubscribe_from)
        self._commands.wakeup.open()
        self._thread = threading.Thread(target=self._network.run, name="edged-mqtt", daemon=True)
        self._thread.start()

    def stop(self, final: Publication | None = None, timeout: float = 5.0) -> None:
        """Send what is left and then `final`, wait for the PUBACKs, and send DISCONNECT, so that no will is published.

        After `timeout` seconds what has not ended ends as DROPPED. If `final` is not confirmed, the connection is cut
        without a DISCONNECT, so that the broker publishes the will. Not to be called in a callback of the link.
        """
        if self._thread is None:
            return
        self._commands.put(Stop(at=self._clock() + timeout, final=final))
        self._thread.join(timeout + JOIN_GRACE)
        if self._thread.is_alive():
            log.error("link_did_not_stop", timeout=timeout)

    def publish(self, publication: Publication, on_done: Callable[[Outcome], None] | None = None) -> None:
        """Send, or keep until it can be sent (QoS 1).

        `on_done` is called once, in the network thread; on a link that has stopped, at once in the caller's thread.
        """
        if not self._commands.put(Entry(publication, on_done)) and on_done is not None:
            on_done(Outcome(sent=Sent.DROPPED, reason=STOPPED))

    def settle(self, ticket: Ticket) -> None:
        """Ack a delivery as soon as the order of arrival allows; void tickets are ignored."""
        self._commands.put(ticket)

    def unsubscribe(self, *, keep_shared: bool = False) -> None:
        """Take no further deliveries; the broker keeps what comes for our session.

        UNSUBSCRIBE would have the broker throw away what comes while no process runs. So it is sent only for the
        temporary subscriptions and, unless `keep_shared`, for the shared ones, whose work then goes to other boxes.
        Of the rest, QoS 1 messages are not handed over and stay unacked. QoS 0 messages, which the broker does not
        keep, are handed over, so that their senders can be answered.
        """
        self._commands.put(Drain(keep_shared=keep_shared))

    def share(self, *, taking: bool) -> None:
        """Take from the shared subscriptions, or leave what comes there to other boxes.

        Before the first call, the session at the broker stays as an earlier process left it.
        """
        self._commands.put(Share(taking=taking))

    def listen(self, filters: Sequence[str], *, at_qos_0: Sequence[str] = ()) -> None:
        """Subscribe to these filters instead of those of the last call, beside those of the constructor."""
        self._commands.put(Listen(filters=tuple(filters), at_qos_0=tuple(at_qos_0)))

    def announce(self, receive_maximum: int) -> None:
        """Have the broker send, from the next connection on, no more QoS 1 messages at once (MQTT 5).

        Should it send more, they are taken, up to the `receive_maximum` of the constructor. MQTT 3.1.1 has no such
        limit, and mosquitto 2.0.11 sends again, beyond it, all that was in flight on the connection before.
        """
        self._network.announce(receive_maximum)

    def state(self) -> LinkState:
        """The link at a glance."""
        return self._network.state()
