"""The network thread: connects, carries messages, waits, connects again, until it is told to stop.

It alone touches the network. How MQTT is spoken on a connection is in `exchange`, what is acked and sent again in
`delivery`, when to connect again in `reconnect`.
"""

import select
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog

from edged.mqtt.commands import CommandQueue, Drain, Listen, Share, Stop
from edged.mqtt.connection import Connection
from edged.mqtt.delivery import Entry, Inbox, MessageFlow, Outbox
from edged.mqtt.events import Identity
from edged.mqtt.exchange import Exchange
from edged.mqtt.faults import in_words
from edged.mqtt.reconnect import Backoff, Contention, VersionChoice, versions
from edged.mqtt.subscriptions import Filters, Subscriptions
from edged.ports.link import Delivery, LinkState, Outcome, Sent, Ticket
from edged.settings.schema import MqttSettings

HEARTBEAT = 1.0  # seconds between two turns of the thread when nothing happens
LEAVE_TIMEOUT = 2.0  # seconds for DISCONNECT to get out

STOPPED = "the link has stopped"
TAKEN_OVER = "another client has connected with our client id"

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Callbacks:
    """What the network thread calls; see `Link`."""

    on_delivery: Callable[[Delivery], None]
    on_change: Callable[[LinkState], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Status:
    """How the connection is. The network thread replaces it as a whole: other threads never see half of a change."""

    last_progress: float
    connections: int = 0
    connected_since: float | None = None
    protocol: str | None = None
    receive_maximum: int | None = None  # what the broker was told on this connection
    fault: str | None = None
    taken_over: bool = False
    lacks: tuple[str, ...] = ()


class NetworkThread:
    """The work of the network thread. Other threads call `announce` and `state`, and leave commands in the queue."""

    def __init__(
        self,
        *,
        settings: MqttSettings,
        identity: Identity,
        filters: Filters,
        commands: CommandQueue,
        callbacks: Callbacks,
        backoff: Backoff,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._commands = commands
        self._callbacks = callbacks
        self._backoff = backoff
        self._clock = clock
        self._versions = VersionChoice(versions(settings.protocol))
        self._contention = Contention(lasting=backoff.lasting)
        self._status = _Status(last_progress=clock())
        self._flow = MessageFlow(
            inbox=Inbox(receive_maximum=identity.receive_maximum),
            outbox=Outbox(capacity=settings.outbox),
            deliver=self._deliver,
            end=self._end,
        )
        self.subscriptions = Subscriptions(filters, clock=clock)
        self._stop_at: float | None = None
        self._says_goodbye = True  # false: the connection is cut at the end, so that the will is published

    # -------------------------------------------------------------------------------------------- for all threads

    def announce(self, receive_maximum: int) -> None:
        """Use this Receive Maximum from the next connection on."""
        self._identity = replace(self._identity, receive_maximum=receive_maximum)

    def state(self) -> LinkState:
        """The link at a glance."""
        status = self._status
        since = status.connected_since
        return LinkState(
            connected_since=since,
            reconnects=max(0, status.connections - 1),
            unacked=self._flow.unacked,
            receive_maximum=None if since is None else status.receive_maximum,
            outbox=self._commands.unfinished,
            protocol=status.protocol,
            fault=status.fault,
            contended=self._contention.is_suspected(connected_for=None if since is None else self._clock() - since),
            taken_over=status.taken_over,
            last_progress=status.last_progress,
            lacks=status.lacks,
        )

    # -------------------------------------------------------------------------------------------------- the loop

    def run(self) -> None:
        """Work until a `Stop` command is done. The thread's target."""
        while not self._is_done():
            try:
                self._connect_once()
            except Exception:
                # Top of the thread. It must go on after any error in our code: without it nothing reaches the daemon.
                log.exception("link_thread_fault")
                self._pause(HEARTBEAT)
        self._commands.close()
        self._drop_all(STOPPED)
        self._change(replace(self._status, connected_since=None, fault=STOPPED))

    def _is_done(self) -> bool:
        if self._stop_at is None:
            return False
        return self._commands.unfinished == 0 or self._clock() >= self._stop_at

    def _connect_once(self) -> None:
        """One connection, from the attempt to make it until its loss, and the wait for the next."""
        if self._contention.is_certain:
            self._pause(HEARTBEAT)
            return
        identity, version = self._identity, self._versions.current  # another thread may change the identity meanwhile
        connection = Connection(settings=self._settings, identity=identity, version=version)
        told = identity.receive_maximum if version == "5" else None
        self._status = replace(self._status, receive_maximum=told)
        exchange = Exchange(connection=connection, subscriptions=self.subscriptions, flow=self._flow, clock=self._clock)
        try:
            fault = self._converse(connection, exchange)
        except OSError as error:
            fault = in_words(error, self._settings)
        except Exception as error:
            # An error in our code or paho's ends one connection, as a fault of the network does.
            fault = in_words(error, self._settings)
            log.exception("link_error")
        finally:
            connection.close()
        self._disconnected(exchange, fault)

    def _converse(self, connection: Connection, exchange: Exchange) -> str:
        """Stay connected; gives the reason why the connection ended."""
        exchange.open()
        while exchange.closed is None:
            readable, writable = self._wait(self._up_to_stop(HEARTBEAT), connection)
            # Commands come before the socket: after a `Drain` nothing is handed over that arrives later.
            self._obey()
            if self._is_done():
                self._leave(connection)
                return STOPPED
            exchange.turn(readable=readable, writable=writable)
            if exchange.is_up:
                self._connected(exchange)
        return exchange.closed.reason if exchange.rejected is None else exchange.rejected.reason

    def _connected(self, exchange: Exchange) -> None:
        """Note that the connection is up, and tell of refused subscriptions."""
        refused = ", ".join(f"{each} ({why})" for each, why in self.subscriptions.refused.items())
        fault = f"the broker refuses to subscribe us to {refused}" if refused else None
        status = replace(self._status, fault=fault, lacks=exchange.lacks)
        if status.connected_since is None:
            version, number = self._versions.current, status.connections + 1
            status = replace(status, protocol=version, connections=number, connected_since=self._clock())
            log.info("link_connected", protocol=version, reconnects=number - 1)
        self._change(status)

    def _leave(self, connection: Connection) -> None:
        if not self._says_goodbye:
            return
        connection.disconnect()
        until = self._clock() + LEAVE_TIMEOUT
        while connection.is_open and self._clock() < until:
            readable, writable = self._wait(until - self._clock(), connection)
            connection.turn(readable=readable, writable=writable)

    def _disconnected(self, exchange: Exchange, fault: str) -> None:
        """Clean up after a connection, and wait until it is time for the next."""
        closed = exchange.closed
        self.subscriptions.disconnected()
        self._flow.disconnected(by_broker=closed is not None and closed.by_broker)
        was_up = self._status.connected_since is not None
        lost = replace(self._status, connected_since=None)
        if self._is_done():
            return
        lived = 0.0 if exchange.accepted_at is None else self._clock() - exchange.accepted_at
        taken_over = closed is not None and closed.taken_over
        self._contention.ended(was_up=was_up, lived=lived, taken_over=taken_over)
        if self._contention.is_certain:
            self._drop_all(TAKEN_OVER)
            self._change(replace(lost, fault=TAKEN_OVER, taken_over=True))
            return
        if self._contention.is_suspected(connected_for=None):
            fault += f"; perhaps another client is connected as {self._identity.client_id!r}"
        if self._tries_another_version(exchange):
            # Not told as a fault yet: a command gives up at the first one, and the broker may know the other version.
            self._change(replace(lost, fault=self._status.fault))
            return
        is_news = self._change(replace(lost, fault=fault))
        wait = self._backoff.next(lived=lived)
        (log.warning if was_up or is_news else log.debug)("link_lost", fault=fault, retry_in=round(wait, 1))
        self._pause(wait)

    def _tries_another_version(self, exchange: Exchange) -> bool:
        """Whether to connect at once with another version of MQTT, because the broker seems not to know this one."""
        if exchange.rejected is not None and exchange.rejected.wrong_version:
            return self._versions.refused()
        if exchange.accepted_at is not None or exchange.rejected is not None:
            self._versions.understood()
            return False
        return exchange.connected_at is not None and self._versions.unanswered()

    # --------------------------------------------------------------------------------------------------- waiting

    def _pause(self, seconds: float) -> None:
        """Wait without a connection."""
        until = self._clock() + seconds
        while not self._is_done() and self._clock() < until:
            self._wait(self._up_to_stop(min(HEARTBEAT, until - self._clock())))
            self._obey()

    def _up_to_stop(self, seconds: float) -> float:
        return seconds if self._stop_at is None else min(seconds, self._stop_at - self._clock())

    def _wait(self, seconds: float, connection: Connection | None = None) -> tuple[bool, bool]:
        """Wait for a command or the socket; tells whether the socket can be read, and written if that is wanted."""
        wakeup = self._commands.wakeup
        poller = select.poll()
        poller.register(wakeup.fileno(), select.POLLIN)
        fileno = -1
        if connection is not None and connection.is_open:
            fileno = connection.fileno()
            poller.register(fileno, select.POLLIN | (select.POLLOUT if connection.is_congested else 0))
            seconds = 0 if connection.has_buffered else seconds
        ready = dict(poller.poll(max(0, 1000 * seconds)))
        wakeup.clear()
        self._status = replace(self._status, last_progress=self._clock())
        events = ready.get(fileno, 0)
        return bool(events & ~select.POLLOUT), bool(events & select.POLLOUT)

    # ------------------------------------------------------------------------------------ commands and callbacks

    def _obey(self) -> None:
        """Do what other threads asked for since the last turn."""
        for command in self._commands.take():
            match command:
                case Entry():
                    self._offer(command)
                case Ticket():
                    self._flow.settle(command)
                case Drain():
                    self._flow.drain()
                    self.subscriptions.drain(keep_shared=command.keep_shared)
                case Share():
                    self.subscriptions.share(taking=command.taking)
                case Listen():
                    self.subscriptions.listen(command.filters, at_qos_0=command.at_qos_0)
                case Stop():
                    self._stop(command)

    def _offer(self, entry: Entry) -> None:
        if self._contention.is_certain:
            self._end(entry, Outcome(sent=Sent.DROPPED, reason=TAKEN_OVER))
        else:
            self._flow.offer(entry)

    def _stop(self, command: Stop) -> None:
        self._stop_at = command.at
        if command.final is not None:
            self._says_goodbye = False
            self._commands.put(Entry(command.final, self._final_ended))

    def _final_ended(self, outcome: Outcome) -> None:
        self._says_goodbye = outcome.sent is Sent.CONFIRMED

    def _drop_all(self, reason: str) -> None:
        self._obey()
        self._flow.clear(reason)

    def _deliver(self, delivery: Delivery) -> bool:
        return _call("on_delivery", self._callbacks.on_delivery, delivery)

    def _end(self, entry: Entry, outcome: Outcome) -> None:
        self._commands.ended()
        if outcome.sent is not Sent.CONFIRMED:
            log.debug("publication_ended", topic=entry.publication.topic, sent=str(outcome.sent), reason=outcome.reason)
        if entry.on_done is not None:
            _call("on_done", entry.on_done, outcome)

    def _change(self, status: _Status) -> bool:
        """Set the status, and tell the daemon if the connection or the fault is new; tells whether it is."""
        before, self._status = self._status, status
        is_news = (before.connected_since, before.fault) != (status.connected_since, status.fault)
        if is_news:
            _call("on_change", self._callbacks.on_change, self.state())
        return is_news


def _call(name: str, callback: Callable[[T], None], argument: T) -> bool:
    """Call code of the daemon; tells whether it came to its end."""
    try:
        callback(argument)
    except Exception:
        # A callback that raises is an error in the daemon. It must not cost a connection that other requests need.
        log.exception("callback_failed", callback=name)
        return False
    return True
