"""HTTP to an OpenAI-compatible server: JSON requests and answers, and streamed answers. Only this file uses httpx2.

It knows no tasks, prompts or retries. For each fault it says whether another attempt may help.
"""

import contextlib
import functools
import re
import socket
import ssl
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from edged.engine.remote.answers import Chunk
from edged.errors import ModelError, ModelUnavailable, RequestError, TooLong

_CONNECT_S = 5.0  # for TCP and TLS; `cut` cannot end that part early
_DONE = "[DONE]"
_LONGEST_PAUSE_S = 86_400.0  # that a server may ask for
# llama.cpp, SGLang and mistral.rs answer 500 where a chat template refuses the messages. Another attempt does not help.
_TEMPLATE_FAULT = re.compile(
    r"jinja|chat.?template|template.?error|roles? must|system role|roles? (are|is|not) ", re.IGNORECASE
)

Form = TypeVar("Form", bound=BaseModel)


class Retry(Exception):
    """Another attempt may succeed; the message says what went wrong with this one.

    Attributes:
        after: seconds for which the server asks not to be called.
        status: the HTTP status of a server that is there and fails; None if it may not be there.
    """

    def __init__(self, message: str, *, after: float = 0.0, status: int | None = None) -> None:
        super().__init__(message)
        self.after = after
        self.status = status


class Malformed(Retry):
    """The server answers in JSON of another form than OpenAI's."""


class Refused(Exception):
    """The server says that the request is wrong."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.message = message  # of the server; it may repeat the user's words

    def as_request_error(self) -> RequestError:
        if "context" in self.message.lower() or "too long" in self.message.lower():
            return TooLong("the text does not fit the context of the model's server", field="text")
        return ModelError(f"the model's server refuses: HTTP {self.status}")


class Connection:
    """One connection to the server, kept for the next request. One thread uses it; any thread may call `cut`.

    A thread that waits for a server cannot be told to stop. So each thread has its own connection, and `cut` ends the
    connection while the thread waits.
    """

    def __init__(self, url: str, *, api_key: str | None, uses_environment_proxy: bool) -> None:
        """Assign; the first request connects. `url` is where the API begins."""
        self._http = httpx2.Client(
            base_url=f"{url}/",
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            verify=_certificates(),
            limits=httpx2.Limits(max_connections=1),
            trust_env=uses_environment_proxy,
        )
        self._socket: socket.socket | None = None

    def cut(self) -> None:
        """End the request that runs, if one does: the thread that waits for its answer gets Retry."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # `close` would wake no thread. A TLS socket's own `shutdown` is not safe while its thread reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
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
        """Send a GET, or a POST of `body`, and return the answer.

        Args:
            path: below the URL.
            body: None for a GET.
            form: the form of the answer.
            patience: seconds that the server may be silent.
            is_wanted: called before the request is sent; if it returns False, Retry is raised instead.

        Raises:
            Retry: another attempt may help.
            Refused: no other attempt helps.
            ModelUnavailable: the server takes no request from us.
        """
        method = "GET" if body is None else "POST"
        with _network_faults_as_retry():
            response = self._http.request(
                method, path, json=body, timeout=_timeout(patience), extensions=self._watched(is_wanted)
            )
            if response.status_code != httpx2.codes.OK:
                _raise_for(response)
            return _read(response.content, form)

    def chunks(
        self, path: str, body: Mapping[str, Any], *, patience: float, is_wanted: Callable[[], bool]
    ) -> Generator[Chunk, None, None]:
        """Post `body` and yield the chunks of the streamed answer as they come. The caller closes the generator.

        Arguments and errors: see `ask`.
        """
        with (
            _network_faults_as_retry(),
            self._http.sse(
                path, method="POST", json=body, timeout=_timeout(patience), extensions=self._watched(is_wanted)
            ) as events,
        ):
            if events.response.status_code != httpx2.codes.OK:
                events.response.read()
                _raise_for(events.response)
            if events.response.headers.get("Content-Type", "").startswith("application/json"):
                yield _read(events.response.read(), Chunk)  # some servers never stream
                return
            is_finished = False
            for event in events:
                data = event.data.strip()
                if data == _DONE:
                    return
                if not data:
                    continue
                chunk = _read(data, Chunk)
                if chunk.error is not None:  # its text is not passed on: servers repeat the user's words in it
                    raise Retry("it broke off with an error", status=int(httpx2.codes.OK))
                is_finished = is_finished or any(choice.finish_reason for choice in chunk.choices)
                yield chunk
            if not is_finished:
                raise Retry("its answer ended too early", status=int(httpx2.codes.OK))

    def _watched(self, is_wanted: Callable[[], bool]) -> dict[str, Any]:
        def trace(event: str, info: Mapping[str, Any]) -> None:
            if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
                self._socket = info["return_value"].get_extra_info("socket")
            # From here on the socket is known, so `cut` works for a request that is cancelled later.
            elif event.endswith("send_request_headers.started") and not is_wanted():
                raise Retry("the request is not wanted any more")

        return {"trace": trace}


@contextlib.contextmanager
def _network_faults_as_retry() -> Iterator[None]:
    try:
        yield
    except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
        raise Retry(str(error) or type(error).__name__) from None


def _read(raw: bytes | str, form: type[Form]) -> Form:
    try:
        return form.model_validate_json(raw)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
        if fault["type"] == "json_invalid":
            raise Retry("its answer is no JSON") from None
        # Only the outer names: deeper ones may be tokens, and so the user's words.
        place = ".".join(str(part) for part in fault["loc"][:3]) or "answer"
        reason = f"it answers in another form than OpenAI's ({place}: {fault['type']})"
        raise Malformed(reason, status=int(httpx2.codes.OK)) from None


def _raise_for(response: httpx2.Response) -> None:
    """Raise what a status other than 200 means."""
    status = response.status_code
    text = response.text[:2000]
    if status in {httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN}:
        raise ModelUnavailable(f"{response.url}: HTTP {status}: set EDGED_MODEL__API_KEY to a key that it takes")
    if (
        status in {httpx2.codes.TOO_MANY_REQUESTS, httpx2.codes.REQUEST_TIMEOUT}
        or status >= httpx2.codes.INTERNAL_SERVER_ERROR
    ) and not (status == httpx2.codes.INTERNAL_SERVER_ERROR and _TEMPLATE_FAULT.search(text)):
        after = response.headers.get("Retry-After", "")
        pause = min(float(after), _LONGEST_PAUSE_S) if after.isdecimal() else 0.0
        raise Retry(f"HTTP {status}", after=pause, status=status)
    if status == httpx2.codes.NOT_FOUND and response.url.path.endswith("/models"):
        raise ModelUnavailable(f"{response.url}: HTTP 404: model.url ends where the API begins, in /v1 as a rule")
    raise Refused(status, text)


def _timeout(patience: float) -> httpx2.Timeout:
    return httpx2.Timeout(patience, connect=min(patience, _CONNECT_S))


@functools.cache
def _certificates() -> ssl.SSLContext:
    """The system's certificates; read once for all connections."""
    return httpx2.create_ssl_context()
