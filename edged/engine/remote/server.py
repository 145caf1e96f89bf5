"""Sends requests to the server, with retries after a fault, deadlines and cancellation.

Every thread has its own connection. What a request means is not known here.
"""

import contextlib
import functools
import math
import random
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

from edged.engine.remote import proxy
from edged.engine.remote.answers import Chunk
from edged.engine.remote.connection import Connection, Form, Retry
from edged.engine.remote.work import OpenWork
from edged.errors import Cancelled, Expired, ModelError, ShuttingDown
from edged.settings.schema import ModelSettings

_PAUSE_S = 0.2  # before the first retry; doubled for each further one
_AGAIN_MS = 5000  # after which a caller may try again
_SHORTEST_WAIT_S = 0.05  # for an answer, however near the deadline is


class Away(ModelError):
    """The server failed, and not because of the request.

    Attributes:
        status: see `Retry`.
    """

    def __init__(self, fault: Retry) -> None:
        super().__init__(f"the model's server: {fault}", retry_after_ms=round(1000 * fault.after) or _AGAIN_MS)
        self.status = fault.status


class ModelServer:
    """One server, asked by many threads.

    Attributes:
        model: the server's name for the model; the start of the engine sets it.
        stopping: set by `stop`; no request begins after that.
    """

    def __init__(self, settings: ModelSettings, *, clock: Callable[[], float]) -> None:
        self.model = settings.id
        self.stopping = threading.Event()
        self._settings = settings
        self._clock = clock
        self._own = threading.local()  # each thread's connection
        self._lock = threading.Lock()  # guards the list
        self._connections: list[Connection] = []

    @property
    def url(self) -> str:
        return str(self._settings.url)

    @functools.cached_property
    def _uses_environment_proxy(self) -> bool:
        return proxy.uses_environment(self._settings)

    def stop(self) -> None:
        """End every request that runs, and let none begin."""
        self.stopping.set()
        with self._lock:
            for connection in self._connections:
                connection.cut()

    def close(self) -> None:
        """Close the connections. No thread may use them any more."""
        for connection in self._connections:
            connection.close()

    def connection(self) -> Connection:
        """The connection of the thread that calls."""
        if not hasattr(self._own, "connection"):
            key = self._settings.api_key
            self._own.connection = Connection(
                self.url,
                api_key=None if key is None else key.get_secret_value(),
                uses_environment_proxy=self._uses_environment_proxy,
            )
            with self._lock:
                self._connections.append(self._own.connection)
        own: Connection = self._own.connection
        return own

    # ------------------------------------------------------------------------------------------- one attempt

    def get(self, path: str, form: type[Form]) -> Form:
        """Ask once, without a body. Errors: see `Connection.ask`."""
        return self._ask(None, path, None, form)

    def post_once(self, path: str, body: Mapping[str, Any], form: type[Form]) -> Form:
        """Post once. Errors: see `Connection.ask`."""
        return self._ask(None, path, {"model": self.model, **body}, form)

    def chunks_once(
        self, path: str, body: Mapping[str, Any], work: OpenWork | None = None
    ) -> Generator[Chunk, None, None]:
        """Post once and yield the chunks of the streamed answer. Errors: see `Connection.ask`."""
        return self.connection().chunks(
            path, {"model": self.model, **body}, patience=self._patience(work), is_wanted=self._is_wanted(work)
        )

    # ------------------------------------------------------------------------------------ as often as it may help

    def post(self, work: OpenWork, path: str, body: Mapping[str, Any], form: type[Form]) -> Form:
        """Post, and again where that may help.

        Raises:
            Away: every attempt failed.
            RequestError: the request is not wanted any more.
            Refused: the server says that the request is wrong.
        """
        for pause in self._pauses():
            self.check(work)
            try:
                return self._ask(work, path, {"model": self.model, **body}, form)
            except Retry as error:
                self._rest(work, pause, error)
        raise AssertionError("the last attempt returns or raises")

    def chunks(self, work: OpenWork, path: str, body: Mapping[str, Any]) -> Generator[Chunk, None, None]:
        """Post and yield the chunks of the streamed answer; again where that may help.

        An answer of which a chunk has come is not asked for again. Errors: see `post`.
        """
        has_begun = False
        for pause in self._pauses():
            self.check(work)
            try:
                with contextlib.closing(self.chunks_once(path, body, work)) as chunks:
                    for chunk in chunks:
                        self.check(work)
                        has_begun = True
                        yield chunk
            except Retry as error:
                self._rest(work, None if has_begun else pause, error)
            else:
                return

    def check(self, work: OpenWork) -> None:
        """Raise if the answer is not wanted any more."""
        if self.stopping.is_set():
            raise ShuttingDown("the daemon is shutting down")
        if work.cancelled.is_set():
            raise Cancelled("the request was cancelled before there was an answer")
        if work.work.deadline is not None and self._clock() >= work.work.deadline:
            raise Expired("the deadline passed before there was an answer")

    def _ask(self, work: OpenWork | None, path: str, body: Mapping[str, Any] | None, form: type[Form]) -> Form:
        return self.connection().ask(
            path, body, form=form, patience=self._patience(work), is_wanted=self._is_wanted(work)
        )

    def _pauses(self) -> Iterator[float | None]:
        """Seconds to wait after each attempt; None after the last."""
        for attempt in range(self._settings.retries):
            yield _PAUSE_S * 2**attempt * random.uniform(0.5, 1.5)
        yield None

    def _rest(self, work: OpenWork, pause: float | None, fault: Retry) -> None:
        """Wait before the next attempt, as long as the server asks for; cancelling ends the wait.

        Raises:
            RequestError: there is no next attempt.
        """
        self.check(work)  # a connection that `cut` ended looks like a fault
        if pause is None or fault.after > self._settings.timeout:
            raise Away(fault) from None
        pause = max(pause, fault.after)
        deadline = work.work.deadline
        work.cancelled.wait(pause if deadline is None else min(pause, max(0.0, deadline - self._clock())))

    def _is_wanted(self, work: OpenWork | None) -> Callable[[], bool]:
        return lambda: not (self.stopping.is_set() or (work is not None and work.cancelled.is_set()))

    def _patience(self, work: OpenWork | None) -> float:
        """Seconds that the server may be silent."""
        deadline = None if work is None else work.work.deadline
        left = math.inf if deadline is None else deadline - self._clock()
        return max(_SHORTEST_WAIT_S, min(self._settings.timeout, left))
