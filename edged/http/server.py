"""Serves the application at its port, by uvicorn in a thread of its own. The only module that knows uvicorn."""

import asyncio
import http.client
import json
import socket
import threading

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from edged.errors import SettingsError

log = structlog.get_logger(__name__)

_SILENT_S = 30.0  # a connection without a request, or whose reader takes nothing, is cut after this time
_KEEP_ALIVE_S = 60
_FINAL_S = 2  # for answers that are being sent when the daemon stops
_MAX_CONNECTIONS = 512
_MAX_HEADER_BYTES = 16 << 10
_ANSWER_S = 1.0  # for `/health` of a daemon on this box


class HttpServer:
    """Listens from its construction on; `start` begins to answer.

    Raises:
        SettingsError: it is not possible to listen at this address.
    """

    def __init__(self, app: ASGIApp, *, host: str, port: int) -> None:
        self._socket = listen(host, port)
        config = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level="error",  # its warnings are about what strangers send
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_FINAL_S,
            h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._main, name="http", daemon=True)
        self._is_running = False

    def start(self) -> None:
        """Answer requests."""
        host, port = self._socket.getsockname()[:2]
        self._is_running = True
        self._thread.start()
        log.info("http", url=f"http://{host}:{port}/v1")

    def stop(self) -> None:
        """Let answers that are on their way arrive, then close every connection."""
        self._is_running = False
        self._server.should_exit = True
        self._thread.join(2 * _FINAL_S + 1)

    def fault(self) -> str | None:
        """Why requests are not answered any more, in words; None while they are."""
        if self._is_running and not self._thread.is_alive():
            return "http: requests are not answered any more; the log says why, and a restart of the daemon mends it"
        return None

    def _main(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except Exception:
            # The top of the thread: MQTT goes on without HTTP, the log says why, and health finds the thread ended.
            log.exception("http_died")
        finally:
            self._socket.close()  # callers are refused, and do not wait for somebody who is gone


class _Connection(H11Protocol):
    """Cuts connections that only keep their place: without a request, or with a reader that takes nothing."""

    _cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self.loop.call_later(_SILENT_S, self._cut_silent)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._cut = self.loop.call_later(_SILENT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._cut is not None:
            self._cut.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._cut is not None:
            self._cut.cancel()

    def _cut_silent(self) -> None:
        if self.cycle is None:
            self.transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """Listen at an address.

    Raises:
        SettingsError: it is not possible.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        raise SettingsError(
            f"http.host, http.port: it is not possible to listen at {host}:{port}: {error.strerror}"
        ) from error


def is_served(host: str, port: int, *, node: str) -> bool:
    """Whether the daemon of this node serves HTTP there."""
    connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/health")
        body = json.loads(connection.getresponse().read(1 << 16))
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
    return isinstance(body, dict) and body.get("node") == node
