"""HTTP to an OpenAI-compatible server: JSON there and back, and events as they come. The one user of httpx2.

Knows nothing of tasks, prompts and retries; says of each fault whether another try may help.
"""

import contextlib
import functools
import socket
import ssl
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from edged.engine.remote.answers import Chunk
from edged.errors import ModelError, ModelUnavailable, RequestError, TooLong

_CONNECT_S = 5.0  # for TCP and TLS; nothing can be cut short there
_DONE = b"[DONE]"
_LONGEST_PAUSE_S = 86_400.0  # that a server may ask for

Form = TypeVar("Form", bound=BaseModel)


class Retry(Exception):
    """Another try may succeed; the message says what went wrong with this one.

    Attributes:
        after: seconds for which the server asks to be left alone.
    """

    def __init__(self, message: str, *, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class Malformed(Retry):
    """It answers in JSON of another form than OpenAI's."""


class Refused(Exception):
    """The server says that it is our fault."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def as_request_error(self) -> RequestError:
        if "context" in self.message.lower() or "too long" in self.message.lower():
            return TooLong("the text does not fit the context of the model's server", field="text")
        return ModelError(f"the model's server refuses: HTTP {self.status}")


class Connection:
    """One connection to the server, kept for the next request. For one thread at a time, but for `cut`.

    A thread that waits for a server cannot be told to stop; so each has a connection of its own, which can be ended
    under it.
    """

    def __init__(self, url: str, *, api_key: str | None) -> None:
        """Assign; the first request connects. `url` is where the API begins."""
        self._http = httpx2.Client(
            base_url=f"{url}/",
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            verify=_certificates(),
            limits=httpx2.Limits(max_connections=1),
        )
        self._socket: socket.socket | None = None

    def cut(self) -> None:
        """End the request in hand, if there is one: who waits for its answer gets Retry. From any thread."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Not close: that wakes nobody. Not the method of a TLS socket: its thread still reads from that.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def ask(
        self,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        form: type[Form],
        patience: float,
        is_wanted: Callable[[], bool],
    ) -> Form:
        """Get, or post `body`; gives the answer.

        Args:
            path: below the URL.
            body: None for a GET.
            form: of the answer.
            patience: seconds that the server may be silent.
            is_wanted: asked before the request is sent; False: Retry is raised instead.

        Raises:
            Retry: another try may help.
            Refused: none does.
            ModelUnavailable: the server takes no request of ours.
        """
        method = "GET" if body is None else "POST"
        with self._telling():
            response = self._http.request(
                method, path, json=body, timeout=_timeout(patience), extensions=self._watched(is_wanted)
            )
            if response.status_code != httpx2.codes.OK:
                _raise_for(response)
            return _read(response.content, form)

    def events(
        self, path: str, body: Mapping[str, Any], *, patience: float, is_wanted: Callable[[], bool]
    ) -> Generator[Chunk, None, None]:
        """Post `body`; gives the chunks of the answer as they come. To be closed; see `ask` for the rest."""
        with (
            self._telling(),
            self._http.stream(
                "POST", path, json=body, timeout=_timeout(patience), extensions=self._watched(is_wanted)
            ) as response,
        ):
            if response.status_code != httpx2.codes.OK:
                response.read()
                _raise_for(response)
            is_finished = False
            for data in event_data(response.iter_bytes()):
                if data == _DONE:
                    return
                chunk = _read(data, Chunk)
                if chunk.error is not None:  # not passed on: servers repeat the user's words in it
                    raise Retry("it broke off with a fault of its own")
                is_finished = is_finished or any(choice.finish_reason for choice in chunk.choices)
                yield chunk
            if not is_finished:
                raise Retry("its answer ended too early")

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """What goes wrong with the network is a Retry."""
        try:
            yield
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            raise Retry(str(error) or type(error).__name__) from None

    def _watched(self, is_wanted: Callable[[], bool]) -> dict[str, Any]:
        def trace(event: str, info: Mapping[str, Any]) -> None:
            if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
                self._socket = info["return_value"].get_extra_info("socket")
            # Here the socket is known: whoever takes his wish back from now on can cut it.
            elif event.endswith("send_request_headers.started") and not is_wanted():
                raise Retry("nobody wants it any more")

        return {"trace": trace}


def event_data(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The data of server-sent events, whatever pieces they come in.

    Lines end at a line feed alone: the texts in them may hold every other character that ends lines elsewhere.
    Source: html.spec.whatwg.org, "Server-sent events".
    """
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from _data_of(lines)
    yield from _data_of([rest])


def _data_of(lines: Iterable[bytes]) -> Iterator[bytes]:
    for line in lines:
        if line.startswith(b"data:") and (data := line.removeprefix(b"data:").strip()):
            yield data


def _read(raw: bytes, form: type[Form]) -> Form:
    try:
        return form.model_validate_json(raw)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
        if fault["type"] == "json_invalid":
            raise Retry("it answers what is no JSON") from None
        place = ".".join(str(part) for part in fault["loc"][:3]) or "answer"  # what lies deeper may be named by tokens
        raise Malformed(f"it answers in another form than OpenAI's ({place}: {fault['type']})") from None


def _raise_for(response: httpx2.Response) -> None:
    """Raise what a status other than 200 means."""
    status = response.status_code
    if status in {httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN}:
        raise ModelUnavailable(f"{response.url}: HTTP {status}: set EDGED_MODEL__API_KEY to a key that it takes")
    if (
        status in {httpx2.codes.TOO_MANY_REQUESTS, httpx2.codes.REQUEST_TIMEOUT}
        or status >= httpx2.codes.INTERNAL_SERVER_ERROR
    ):
        after = response.headers.get("Retry-After", "")
        raise Retry(f"HTTP {status}", after=min(float(after), _LONGEST_PAUSE_S) if after.isdecimal() else 0.0)
    if status == httpx2.codes.NOT_FOUND and response.url.path.endswith("/models"):
        raise ModelUnavailable(f"{response.url}: HTTP 404: model.url ends where the API begins, in /v1 as a rule")
    # Not passed on: servers repeat the user's words in it.
    raise Refused(status, response.text[:2000])


def _timeout(patience: float) -> httpx2.Timeout:
    return httpx2.Timeout(patience, connect=min(patience, _CONNECT_S))


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Of the system; read once for all connections."""
    return httpx2.create_ssl_context()
