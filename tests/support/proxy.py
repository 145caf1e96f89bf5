"""A TCP proxy that can be cut like a cable, and that notes the MQTT packets that pass."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from tests.support.packets import Packet, split


class Proxy:
    """Forwards a port of 127.0.0.1 to another. A context manager.

    Attributes:
        packets: what passed, if it is plain MQTT and not MQTT in WebSocket frames or in TLS.
    """

    def __init__(self, target: int, *, is_plain: bool = True) -> None:
        self._is_plain = is_plain
        self.port = 0
        self.packets: list[Packet] = []
        self._target = target
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._flows = threading.Event()
        self._flows.set()

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
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._spawn(self._accept, listener)

    def cut(self) -> None:
        """End all connections without a word, and take no more."""
        self._flows.set()
        with self._lock:
            sockets = [*self._sockets, *([self._listener] if self._listener is not None else [])]
            self._sockets.clear()
            self._listener = None
        for each in sockets:
            _close(each)

    def pause(self) -> None:
        """Take no bytes from anybody, and cut nothing."""
        self._flows.clear()

    def resume(self) -> None:
        self._flows.set()

    def sent(self, kind: int, *, to_broker: bool) -> list[Packet]:
        """The packets of one kind and direction that passed so far."""
        return [each for each in list(self.packets) if each.kind == kind and each.to_broker is to_broker]

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                broker = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    is_cut = self._listener is not listener
                    if not is_cut:
                        self._sockets |= {client, broker}
                if is_cut:
                    _close(client)
                    _close(broker)
                    return
                self._spawn(self._pump, client, broker, True)
                self._spawn(self._pump, broker, client, False)

    def _pump(self, source: socket.socket, target: socket.socket, to_broker: bool) -> None:
        buffer = bytearray()
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self._is_plain:
                    buffer += data
                    self.packets.extend(Packet(to_broker, *each) for each in split(buffer))
                self._flows.wait()
                target.sendall(data)
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
