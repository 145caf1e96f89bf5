"""A TCP proxy that can be cut, stalled, torn and slowed, and that notes the MQTT packets that pass."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.support.broker import free_port
from tests.support.packets import Packet, split

Observer = Callable[[int, Packet], None]


class Proxy:
    """Forwards a port of 127.0.0.1 to another. A context manager.

    Attributes:
        packets: what passed, if it is plain MQTT and not MQTT in WebSocket frames or in TLS.
        delay_s: how long each piece of a stream is held up.
    """

    def __init__(self, target: int, *, is_plain: bool = True, observe: Observer | None = None) -> None:
        """With `observe`, packets are not kept: it is called with each, and with the number of its connection."""
        self._is_plain = is_plain
        self.port = 0
        self.packets: list[Packet] = []
        self.delay_s = 0.0
        self._observe = observe or (lambda _, packet: self.packets.append(packet))
        self._target = target
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._numbers = itertools.count()
        self._flows = {True: threading.Event(), False: threading.Event()}  # to the broker, and back
        self._tears = threading.Event()
        self.resume()

    def __enter__(self) -> Self:
        self.restore()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cut()
        for thread in self._threads:
            thread.join()

    def restore(self) -> None:
        """Let connections through."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that who sends soon feels a `pause`
        listener.bind(("127.0.0.1", self.port or free_port()))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._threads = [each for each in self._threads if each.is_alive()]
        self._spawn(self._accept, listener)

    def cut(self) -> None:
        """Close all connections without an MQTT DISCONNECT, and accept no new ones."""
        self.resume()
        with self._lock:
            sockets = [*self._sockets, *([self._listener] if self._listener is not None else [])]
            self._sockets.clear()
            self._listener = None
        for each in sockets:
            _close(each)

    def pause(self, *, to_broker: bool = True, from_broker: bool = True) -> None:
        """Forward nothing and close nothing, in both directions or in one."""
        for is_meant, direction in ((to_broker, True), (from_broker, False)):
            if is_meant:
                self._flows[direction].clear()

    def resume(self) -> None:
        for flow in self._flows.values():
            flow.set()

    def tear(self) -> None:
        """Forward half of the next bytes, then close their connection: a packet breaks in its middle."""
        self._tears.set()

    def sent(self, kind: int, *, to_broker: bool) -> list[Packet]:
        """The packets of one kind and direction that passed so far."""
        return [each for each in list(self.packets) if each.kind == kind and each.to_broker is to_broker]

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    broker = socket.create_connection(("127.0.0.1", self._target))
                except ConnectionRefusedError:  # the broker is down: the client's connection is closed
                    _close(client)
                    continue
                with self._lock:
                    is_cut = self._listener is not listener
                    if not is_cut:
                        self._sockets |= {client, broker}
                if is_cut:
                    _close(client)
                    _close(broker)
                    return
                number = next(self._numbers)
                self._spawn(self._pump, client, broker, number, True)
                self._spawn(self._pump, broker, client, number, False)

    def _pump(self, source: socket.socket, target: socket.socket, number: int, to_broker: bool) -> None:
        buffer = bytearray()
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flows[to_broker].wait()
                time.sleep(self.delay_s)
                is_torn = len(data) > 1 and self._tears.is_set()
                if is_torn:
                    self._tears.clear()
                    data = data[: len(data) // 2]
                if self._is_plain:
                    buffer += data
                    for packet in split(buffer):
                        self._observe(number, Packet(to_broker, *packet))
                target.sendall(data)
                if is_torn:
                    break
        for each in (source, target):
            with self._lock:
                self._sockets.discard(each)
            _close(each)

    def _spawn(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()


def _close(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it, which close() does not
    each.close()
