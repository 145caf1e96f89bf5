"""The link to the broker: stays connected, brings deliveries, sends publications and acks. Implements `ports.Link`.

One thread of its own does all that touches the network; the others leave their wishes in a queue and ring a bell.
How MQTT is spoken is in `exchange`; what is sent, handed over or tried next is decided in pure modules.
"""

import contextlib
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog

from edged.mqtt.connection import Connection, Identity
from edged.mqtt.exchange import Exchange
from edged.mqtt.faults import in_words
from edged.mqtt.inbox import Inbox
from edged.mqtt.outbox import Entry, Outbox
from edged.mqtt.reconnect import Backoff, VersionChoice, versions
from edged.ports.link import Delivery, LinkState, Outcome, Publication, Sent, Ticket
from edged.settings.schema import MqttSettings

HEARTBEAT = 1.0  # seconds between two turns of the thread when nothing happens
LEAVE_TIMEOUT = 2.0  # seconds for DISCONNECT to get out
SUSPICIOUS = 3  # connections in a row that ended soon after they were made
TAKEOVERS = 2  # in a row; a single one may be by an earlier CONNECT of ours that a bad network brought late
MAX_PACKET_SIZE = 268_435_455  # the most that paho can announce
JOIN_GRACE = 15.0  # seconds beyond the timeout of `stop`: an attempt to connect cannot be cut short

STOPPED = "the link has stopped"
TAKEN_OVER = "another client has connected with our client id"

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Drain:
    """The wish to take no more deliveries; with `keep_shared`, to have shared ones kept too."""

    keep_shared: bool


@dataclass(frozen=True, slots=True)
class _Share:
    """The wish to take from shared queues, or not to."""

    taking: bool


@dataclass(frozen=True, slots=True)
class _Stop:
    """The wish to end, at `at` at the latest."""

    at: float


_Wish = Entry | Ticket | _Drain | _Share | _Stop


class Link:
    """See `edged.ports.Link`. `on_delivery`, `on_change` and every `on_done` are called in the network thread."""

    def __init__(
        self,
        *,
        settings: MqttSettings,
        client_id: str,
        subscriptions: tuple[str, ...],
        fleeting: tuple[str, ...] = (),
        lossy: tuple[str, ...] = (),
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
            fleeting: those of them that `unsubscribe` ends at the broker, as it does shared ones: what comes there
                is of no use later.
            lossy: those of them at QoS 0, for what is outdated by the next message: it is not kept for us, and neither
                waits for our acks of other messages.
            shared: further filters, of queues that others take from too; in force while `share` says so.
            will: what the broker publishes when we vanish.
            receive_maximum: QoS 1 deliveries that are handed over and not yet acked, at most; see `announce`.
            maximum_packet_size: bytes of a packet over which the broker is to keep it to itself (MQTT 5 alone).
            on_delivery: takes what arrives; must be quick. If it raises, the delivery is settled.
            on_change: told when a connection is made or lost, and of each new fault.
            ephemeral: keep no session and get retained messages: for commands, not for daemons.
            clock: monotonic seconds.
            backoff: how long to wait between attempts to connect.
        """
        self._settings = settings
        self._identity = Identity(
            client_id=client_id,
            will=will,
            receive_maximum=receive_maximum,
            maximum_packet_size=min(maximum_packet_size, MAX_PACKET_SIZE),
            ephemeral=ephemeral,
        )
        self._subscriptions = subscriptions
        self._fleeting = fleeting
        self._lossy = lossy
        self._shared = shared
        self._on_delivery = on_delivery
        self._on_change = on_change
        self._clock = clock

        # Between the threads. The lock guards these four; it is never held while paho or a callback runs.
        self._lock = threading.Lock()
        self._wishes: deque[_Wish] = deque()
        self._bell = _Bell()
        self._unfinished = 0  # publications without an end
        self._is_over = False  # no more wishes are taken
        self._thread: threading.Thread | None = None

        # The network thread's own; `state` reads some of it.
        self._inbox = Inbox(receive_maximum=receive_maximum)
        self._outbox = Outbox(capacity=settings.outbox)
        self._backoff = backoff or Backoff()
        self._versions = VersionChoice(versions(settings.protocol))
        self._has_subscribed = False
        self._leaving: tuple[str, ...] = ()
        self._told: int | None = None  # the Receive Maximum of this connection
        self._takes_shared: bool | None = None  # None: leave it at the broker as it was
        self._stop_at: float | None = None
        self._says_goodbye = True
        self._connections = 0
        self._short_lived = 0  # connections in a row
        self._takeovers = 0  # in a row
        self._protocol: str | None = None
        self._connected_since: float | None = None
        self._fault: str | None = None
        self._taken_over = False
        self._told_since: float | None = None
        self._last_progress = clock()

    # -------------------------------------------------------------------------------------------- for all threads

    def start(self, *, leaving: Sequence[str] = ()) -> None:
        """Connect, and stay connected until `stop`.

        Args:
            leaving: topic filters that the broker may have in our session of an earlier process, and that are to end.
        """
        self._leaving = tuple(leaving)
        self._bell.open()
        self._thread = threading.Thread(target=self._run, name="edged-mqtt", daemon=True)
        self._thread.start()

    def stop(self, final: Publication | None = None, timeout: float = 5.0) -> None:
        """Send what is left and then `final`, wait for the confirmations, and take leave, so that no will is sent.

        After `timeout` seconds what has no end yet ends as DROPPED. If `final` is not confirmed, the connection is
        cut instead, so that the will speaks for us. Not to be called in a callback of the link.
        """
        if self._thread is None:
            return
        if final is not None:
            self._says_goodbye = False
            self.publish(final, self._final_done)
        self._wish(_Stop(at=self._clock() + timeout))
        self._thread.join(timeout + JOIN_GRACE)
        if self._thread.is_alive():
            log.error("link_did_not_stop", timeout=timeout)

    def publish(self, publication: Publication, on_done: Callable[[Outcome], None] | None = None) -> None:
        """Send, or keep until it can be sent (QoS 1).

        `on_done` is called once, in the network thread; on a link that has stopped, at once in the caller's.
        """
        if not self._wish(Entry(publication, on_done)) and on_done is not None:
            on_done(Outcome(sent=Sent.DROPPED, reason=STOPPED))

    def settle(self, ticket: Ticket) -> None:
        """Ack a delivery as soon as the order of arrival allows; void tickets are ignored."""
        self._wish(ticket)

    def unsubscribe(self, *, keep_shared: bool = False) -> None:
        """Take no more deliveries; the broker keeps what comes for our session.

        UNSUBSCRIBE would have the broker throw away what comes while we are down. So only shared subscriptions end,
        for the work to go to others (unless `keep_shared`: there are none), and the fleeting ones. Of the rest, what
        comes at QoS 1 is not handed over and stays unacked; QoS 0, which nobody keeps, is handed over still, so that
        its sender can be told.
        """
        self._wish(_Drain(keep_shared))

    def share(self, *, taking: bool) -> None:
        """Take from the shared queues, or leave what is in them to others.

        Before the first wish, the broker's session stays as an earlier process left it.
        """
        self._wish(_Share(taking))

    def announce(self, receive_maximum: int) -> None:
        """Tell the broker, from the next connection on, to have no more deliveries at us without an ack (MQTT 5).

        What it sends beyond that is taken all the same, up to the bound of the constructor, as on MQTT 3.1.1 always:
        mosquitto 2.0.11 sends all again that it had in flight.
        """
        self._identity = replace(self._identity, receive_maximum=receive_maximum)

    def state(self) -> LinkState:
        """The link at a glance."""
        return LinkState(
            connected_since=self._connected_since,
            reconnects=max(0, self._connections - 1),
            unacked=self._inbox.unacked,
            receive_maximum=None if self._connected_since is None else self._told,
            outbox=self._unfinished,
            protocol=self._protocol,
            fault=self._fault,
            contended=self._is_contended(),
            taken_over=self._taken_over,
            last_progress=self._last_progress,
        )

    def _is_contended(self) -> bool:
        since = self._connected_since
        lasts = since is not None and self._clock() - since >= self._backoff.lasting
        return self._short_lived >= SUSPICIOUS and not lasts

    def _wish(self, wish: _Wish) -> bool:
        """Leave a wish for the network thread; gives False when it takes no more."""
        with self._lock:
            if self._is_over:
                return False
            self._unfinished += isinstance(wish, Entry)
            self._wishes.append(wish)
            self._bell.ring()
        return True

    def _final_done(self, outcome: Outcome) -> None:
        self._says_goodbye = outcome.sent is Sent.CONFIRMED

    # ----------------------------------------------------------------------------------- the network thread's loop

    def _run(self) -> None:
        while not self._is_done():
            try:
                self._attend()
            except Exception:
                # Top of the thread, which must outlive every mistake of ours: without it the daemon would be deaf.
                log.exception("link_thread_fault")
                self._pause(HEARTBEAT)
        self._finish()

    def _is_done(self) -> bool:
        if self._stop_at is None:
            return False
        return self._unfinished == 0 or self._clock() >= self._stop_at

    def _attend(self) -> None:
        """One connection, from the attempt to its loss, and the wait for the next."""
        if self._taken_over:
            self._pause(HEARTBEAT)
            return
        identity = self._identity  # another thread may change it meanwhile
        connection = Connection(settings=self._settings, identity=identity, version=self._versions.current)
        self._told = identity.receive_maximum if self._versions.current == "5" else None
        exchange = Exchange(
            connection=connection,
            subscriptions=self._subscriptions,
            fleeting=self._fleeting,
            lossy=self._lossy,
            shared=self._shared,
            leaving=self._leaving,
            takes_shared=self._takes_shared,
            has_subscribed=self._has_subscribed,
            inbox=self._inbox,
            outbox=self._outbox,
            deliver=self._deliver,
            end=self._end,
            clock=self._clock,
        )
        try:
            fault = self._converse(connection, exchange)
        except OSError as error:
            fault = in_words(error, self._settings)
        except Exception as error:
            # A mistake of ours or of paho's costs one connection, like any fault of the network.
            fault = in_words(error, self._settings)
            log.exception("link_error")
        finally:
            connection.close()
        self._disconnected(exchange, fault)

    def _converse(self, connection: Connection, exchange: Exchange) -> str:
        """Stay connected; gives why that ended."""
        exchange.open()
        while exchange.closed is None:
            readable, writable = self._wait(self._up_to_stop(HEARTBEAT), connection)
            # Wishes come before the socket: nothing is handed over that arrived after somebody wished for no more.
            self._take_wishes(exchange)
            if self._is_done():
                self._leave(connection)
                return STOPPED
            exchange.turn(readable=readable, writable=writable)
            exchange.flush()
            self._follow(exchange)
        return exchange.closed.reason if exchange.rejected is None else exchange.rejected.reason

    def _follow(self, exchange: Exchange) -> None:
        """Take note of how far the exchange has come."""
        if not exchange.is_up or exchange.closed is not None:
            return
        if self._connected_since is None:
            self._protocol = self._versions.current
            self._connections += 1
            self._connected_since = self._clock()
            log.info("link_connected", protocol=self._protocol, reconnects=self._connections - 1)
        self._has_subscribed = self._has_subscribed or exchange.is_subscribed
        refused = ", ".join(f"{each} ({why})" for each, why in exchange.refused.items())
        self._change(f"the broker refuses to subscribe us to {refused}" if refused else None)

    def _leave(self, connection: Connection) -> None:
        if not self._says_goodbye:
            return
        connection.disconnect()
        until = self._clock() + LEAVE_TIMEOUT
        while connection.is_open and self._clock() < until:
            readable, writable = self._wait(until - self._clock(), connection)
            connection.turn(readable=readable, writable=writable)

    def _disconnected(self, exchange: Exchange, fault: str) -> None:
        """Clear up after a connection, and wait for as long as it takes before the next."""
        closed = exchange.closed
        self._inbox.reset()
        for entry, outcome in self._outbox.disconnected(by_broker=closed is not None and closed.by_broker):
            self._end(entry, outcome)
        was_up, self._connected_since = self._connected_since is not None, None
        if self._is_done():
            return
        lived = 0.0 if exchange.accepted_at is None else self._clock() - exchange.accepted_at
        lasted = lived >= self._backoff.lasting
        self._short_lived = self._short_lived + 1 if was_up and not lasted else 0
        self._takeovers = (0 if lasted else self._takeovers) + (closed is not None and closed.taken_over)
        if self._takeovers >= TAKEOVERS:
            self._taken_over, fault = True, TAKEN_OVER
            self._drop_all(TAKEN_OVER)
        if self._is_contended() and not self._taken_over:
            # Only MQTT 5 can tell of a takeover, and mosquitto 2.0.11 does not even then.
            fault += f"; perhaps another client is connected as {self._identity.client_id!r}"
        is_news = self._change(fault)
        if self._taken_over or self._has_another_version(exchange):
            return
        wait = self._backoff.next(lived=lived)
        (log.warning if was_up or is_news else log.debug)("link_lost", fault=fault, retry_in=round(wait, 1))
        self._pause(wait)

    def _has_another_version(self, exchange: Exchange) -> bool:
        """Whether to try at once with the next version of MQTT: the broker seems not to speak this one."""
        if exchange.rejected is not None and exchange.rejected.wrong_version:
            return self._versions.refused()
        if exchange.accepted is not None or exchange.rejected is not None:
            self._versions.understood()
            return False
        return exchange.asked and self._versions.unanswered()

    def _pause(self, seconds: float) -> None:
        """Wait with no connection."""
        until = self._clock() + seconds
        while not self._is_done() and self._clock() < until:
            self._wait(self._up_to_stop(min(HEARTBEAT, until - self._clock())))
            self._take_wishes(None)

    def _up_to_stop(self, seconds: float) -> float:
        return seconds if self._stop_at is None else min(seconds, self._stop_at - self._clock())

    def _wait(self, seconds: float, connection: Connection | None = None) -> tuple[bool, bool]:
        """Wait for the bell or the socket; tells whether the socket can be read, and written if that is wanted."""
        poller = select.poll()
        poller.register(self._bell.fileno(), select.POLLIN)
        fileno = -1
        if connection is not None and connection.is_open:
            fileno = connection.fileno()
            poller.register(fileno, select.POLLIN | (select.POLLOUT if connection.is_congested else 0))
            seconds = 0 if connection.has_buffered else seconds
        ready = dict(poller.poll(max(0, 1000 * seconds)))
        self._bell.clear()
        self._last_progress = self._clock()
        events = ready.get(fileno, 0)
        return bool(events & ~select.POLLOUT), bool(events & select.POLLOUT)

    def _finish(self) -> None:
        with self._lock:
            self._is_over = True
            self._bell.close()
        self._drop_all(STOPPED)
        self._change(STOPPED)

    # --------------------------------------------------------------------------- the network thread and the others

    def _take_wishes(self, exchange: Exchange | None) -> None:
        """Do what the other threads asked for since the last turn."""
        for _ in range(len(self._wishes)):  # what is wished for meanwhile waits for the next turn
            match self._wishes.popleft():
                case Entry() as entry:
                    self._offer(entry)
                case Ticket() as ticket:
                    if exchange is not None:  # else it is void: its connection is gone
                        exchange.settle(ticket)
                case _Drain(keep_shared):
                    self._drain(exchange, keep_shared=keep_shared)
                case _Share(taking):
                    self._takes_shared = taking
                    if exchange is not None:
                        exchange.share(taking=taking)
                case _Stop(at):
                    self._stop_at = at

    def _drain(self, exchange: Exchange | None, *, keep_shared: bool) -> None:
        self._inbox.draining = True
        if not keep_shared:
            self._takes_shared = False
        if exchange is not None:
            exchange.unsubscribe(keep_shared=keep_shared)

    def _offer(self, entry: Entry) -> None:
        if self._taken_over:
            outcome: Outcome | None = Outcome(sent=Sent.DROPPED, reason=TAKEN_OVER)
        else:
            outcome = self._outbox.offer(entry)
        if outcome is not None:
            self._end(entry, outcome)

    def _drop_all(self, reason: str) -> None:
        self._take_wishes(None)
        for entry, outcome in self._outbox.clear(reason):
            self._end(entry, outcome)

    def _deliver(self, delivery: Delivery) -> None:
        if not _call("on_delivery", self._on_delivery, delivery) and delivery.ticket is not None:
            # Nobody will settle it, and all that comes after it would wait for its ack.
            self._wish(delivery.ticket)

    def _end(self, entry: Entry, outcome: Outcome) -> None:
        with self._lock:
            self._unfinished -= 1
        if outcome.sent is not Sent.CONFIRMED:
            log.debug("publication_ended", topic=entry.publication.topic, sent=str(outcome.sent), reason=outcome.reason)
        if entry.on_done is not None:
            _call("on_done", entry.on_done, outcome)

    def _change(self, fault: str | None) -> bool:
        """Tell of the connection or its fault, if there is news."""
        before = (self._told_since, self._fault)
        self._told_since, self._fault = self._connected_since, fault
        is_news = before != (self._told_since, self._fault)
        if is_news:
            _call("on_change", self._on_change, self.state())
        return is_news


def _call(name: str, callback: Callable[[T], None], argument: T) -> bool:
    """Call somebody else's code; tells whether it came to its end."""
    try:
        callback(argument)
    except Exception:
        # Callbacks must not raise. One that does is a bug, and must not cost a connection that others need.
        log.exception("callback_failed", callback=name)
        return False
    return True


class _Bell:
    """Ends the network thread's wait from any thread."""

    def __init__(self) -> None:
        self._sockets: tuple[socket.socket, socket.socket] | None = None

    def open(self) -> None:
        self._sockets = socket.socketpair()
        for each in self._sockets:
            each.setblocking(False)

    def fileno(self) -> int:
        return -1 if self._sockets is None else self._sockets[0].fileno()

    def ring(self) -> None:
        if self._sockets is not None:
            with contextlib.suppress(BlockingIOError):  # it rings already
                self._sockets[1].send(b"\0")

    def clear(self) -> None:
        if self._sockets is not None:
            with contextlib.suppress(BlockingIOError):
                self._sockets[0].recv(4096)

    def close(self) -> None:
        if self._sockets is not None:
            for each in self._sockets:
                each.close()
            self._sockets = None
