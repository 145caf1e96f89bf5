"""The commands of other threads to the network thread: a queue, and a socket that wakes the network thread up."""

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from edged.mqtt.delivery import Entry
from edged.ports.link import Publication, Ticket


@dataclass(frozen=True, kw_only=True, slots=True)
class Drain:
    """Take no further QoS 1 messages; with `keep_shared`, keep the shared subscriptions."""

    keep_shared: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Subscribe to the shared filters, or unsubscribe."""

    taking: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Send what is left, then `final`, and end at the time `at` at the latest, in the clock's seconds."""

    at: float
    final: Publication | None


Command = Entry | Ticket | Drain | Share | Stop  # an Entry is to be sent, a Ticket to be settled


class CommandQueue:
    """Commands from any thread to the network thread.

    The lock is never held while paho or a callback runs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._commands: deque[Command] = deque()
        self._wakeup = Wakeup()
        self._unfinished = 0
        self._is_closed = False

    @property
    def unfinished(self) -> int:
        """Publications that were put here and have not ended."""
        return self._unfinished

    @property
    def wakeup(self) -> "Wakeup":
        """What ends the network thread's wait."""
        return self._wakeup

    def put(self, command: Command) -> bool:
        """Queue a command for the network thread; gives False if that thread has ended."""
        with self._lock:
            if self._is_closed:
                return False
            self._unfinished += isinstance(command, Entry)
            self._commands.append(command)
            self._wakeup.set()
        return True

    def take(self) -> Iterator[Command]:
        """Remove the commands that are here now, one after the other; later ones wait for the next call."""
        for _ in range(len(self._commands)):
            yield self._commands.popleft()

    def ended(self) -> None:
        """Note that a publication has ended."""
        with self._lock:
            self._unfinished -= 1

    def close(self) -> None:
        """Take no more commands."""
        with self._lock:
            self._is_closed = True
            self._wakeup.close()


class Wakeup:
    """A pair of sockets: `set` makes the one readable that `fileno` names."""

    def __init__(self) -> None:
        self._sockets: tuple[socket.socket, socket.socket] | None = None

    def open(self) -> None:
        self._sockets = socket.socketpair()
        for each in self._sockets:
            each.setblocking(False)

    def fileno(self) -> int:
        return -1 if self._sockets is None else self._sockets[0].fileno()

    def set(self) -> None:
        if self._sockets is not None:
            with contextlib.suppress(BlockingIOError):  # it is readable already
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
