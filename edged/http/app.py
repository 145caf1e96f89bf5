"""The HTTP application: OpenAI's paths, the check of the key, limits, and what happens when a caller hangs up.

Every request for an answer goes to the worker, as those of MQTT do; nothing is decided here about its order. Nothing
here allows requests from other origins (CORS), so a web page of a stranger cannot use the model.
"""

import asyncio
import contextlib
import math
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from edged.contract import requests
from edged.contract.requests import Contract
from edged.contract.status import State
from edged.errors import ModelError
from edged.http.answers import DONE, SIGN_OF_LIFE, AnswerWriter, Fault, Kind, event, fault, fault_of
from edged.http.decode import Border, Decode, Origin, decode_chat, decode_completion, model_names
from edged.http.waiting import Brought, HttpCaller
from edged.ports.caller import Caller

_HUNG_UP = 499  # nginx's status for a caller who hung up; nobody reads it
_SILENT_S = 15.0  # of a stream; then a comment shows that the connection is alive, because proxies cut silent ones
_BODY_S = 30.0  # for the whole body of a request
_LOADING_MS = 5000
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_JSON = "application/json"


class Answering(Protocol):
    """The part that answers requests, from any thread."""

    def ask(self, asked: requests.Request | requests.Rejected) -> None:
        """Take in a request; its answer goes to the caller of its address."""
        ...

    def hang_up(self, caller: Caller) -> None:
        """The caller waits no longer."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """What the application asks of the daemon, from its own thread.

    Attributes:
        worker: answers requests.
        contract: tasks and limits in force.
        model: the id of the model. Raises ModelError while there is none.
        state: of the daemon.
        metrics: what `/metrics` says.
        node: the name of this box.
        token: the key that callers must have; None: none.
    """

    worker: Answering
    contract: Callable[[], Contract]
    model: Callable[[], str]
    state: Callable[[], State]
    metrics: Callable[[], bytes]
    node: str
    token: str | None


class _Refused(Exception):
    """The request gets this error, and no answer."""

    def __init__(self, refusal: Fault) -> None:
        super().__init__(refusal.status)
        self.fault = refusal


def application(sources: Sources) -> Starlette:
    """Make the application."""
    paths = _Paths(sources)
    post, get = ["POST"], ["GET"]
    chat = partial(paths.complete, kind="chat", decode=decode_chat)
    completion = partial(paths.complete, kind="completion", decode=decode_completion)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", _guarded(sources, chat), methods=post),
            Route("/v1/completions", _guarded(sources, completion), methods=post),
            Route("/v1/models", _guarded(sources, paths.models), methods=get),
            Route("/v1/models/{name:path}", _guarded(sources, paths.model), methods=get),
            Route("/metrics", _guarded(sources, paths.metrics), methods=get),
            Route("/health", paths.health, methods=get),
        ],
        exception_handlers={HTTPException: _not_served},
    )


Endpoint = Callable[[Request], Awaitable[Response]]


def _guarded(sources: Sources, endpoint: Endpoint) -> Endpoint:
    """The endpoint for callers that have the key. Errors are told in OpenAI's form."""

    async def checked(request: Request) -> Response:
        try:
            _check_caller(request, sources.token)
            return await endpoint(request)
        except _Refused as refused:
            return _refusal(refused.fault)

    return checked


def _check_caller(request: Request, token: str | None) -> None:
    """Check the key. Without one, check that the caller is a program of this box, and no web page in its browser.

    A page could send a form, or have its own name resolve to this box (DNS rebinding).
    """
    if token is not None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), token.encode()):
            raise _Refused(fault(401, "the key (Authorization: Bearer) is missing or wrong", code="invalid_api_key"))
        return
    host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
    if host.lower() not in _LOOPBACK_NAMES:
        raise _Refused(fault(403, "without a key, only localhost is served", code="forbidden_host"))
    if request.method == "POST" and request.headers.get("content-type", "").partition(";")[0].strip() != _JSON:
        raise _Refused(fault(415, f"the Content-Type must be {_JSON}", code="unsupported_media_type"))


async def _not_served(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: "there is nothing at this path", 405: "this path does not take this method"}
    return _refusal(fault(status, words.get(status, "this cannot be served"), code="not_found"))


def _refusal(refused: Fault) -> Response:
    headers = {}
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refused.retry_after_ms is not None:
        headers |= {
            "Retry-After": str(math.ceil(refused.retry_after_ms / 1000)),
            "Retry-After-Ms": str(refused.retry_after_ms),
        }
    return JSONResponse(refused.body, status_code=refused.status, headers=headers)


class _Paths:
    """What is at each path."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._started = int(time.time())

    async def complete(self, request: Request, *, kind: Kind, decode: Decode) -> Response:
        """Answer a request for text, whole or as a stream."""
        border = self._border()
        payload = await _body(request, limit=border.contract.payload_bytes)
        caller = HttpCaller(asyncio.get_running_loop())
        origin = Origin(
            caller=caller,
            host="" if request.client is None else request.client.host,
            key=request.headers.get("idempotency-key"),
        )
        asked = decode(payload, border=border, origin=origin, new_id=uuid.uuid4().hex)
        line = _Line(caller, request.receive, partial(self._sources.worker.hang_up, caller))
        self._sources.worker.ask(asked.request)
        is_stream = False
        try:
            first = await line.next(_SILENT_S if asked.form is not None and asked.form.is_stream else None)
            if first is not None and first.body.get("status") == "error":
                return _refusal(fault_of(first.body["error"]))
            if asked.form is None:
                raise RuntimeError("a rejected request got a result")
            writer = AnswerWriter(kind=kind, form=asked.form, created=int(time.time()))
            is_stream = asked.form.is_stream
            if first is None or is_stream:
                return _EventStream(line, writer, first)
            return JSONResponse(writer.whole(first.body))
        except ClientDisconnect:
            return Response(status_code=_HUNG_UP)
        finally:
            if not is_stream:
                line.end()

    async def models(self, _: Request) -> Response:
        """List the names that a request may have for its model."""
        names = model_names(self._border())
        return JSONResponse({"object": "list", "data": [self._described(name) for name in names]})

    async def model(self, request: Request) -> Response:
        """Tell of one of them."""
        name = request.path_params["name"]
        if name not in model_names(self._border()):
            raise _Refused(fault(404, "there is no such model", code="model_not_found", param="model"))
        return JSONResponse(self._described(name))

    def _described(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "edged"}

    async def health(self, _: Request) -> Response:
        """Tell whether requests are answered. Everybody may ask."""
        state = self._sources.state()
        serves = state in {State.READY, State.DEGRADED}
        body = {"status": "ok" if serves else "unavailable", "state": state, "node": self._sources.node}
        return JSONResponse(body, status_code=200 if serves else 503)

    async def metrics(self, _: Request) -> Response:
        """The figures of `R/health` for Prometheus."""
        text = await asyncio.to_thread(self._sources.metrics)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    def _border(self) -> Border:
        if self._sources.state() is not State.LOADING:
            with contextlib.suppress(ModelError):
                return Border(contract=self._sources.contract(), model=self._sources.model())
        raise _Refused(fault(503, "the model is being loaded", code="loading", retry_after_ms=_LOADING_MS))


async def _body(request: Request, *, limit: int) -> bytes:
    """The whole body of the request."""
    refusal = fault(413, f"the body has more than {limit} bytes", code="too_large")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and len(declared) < 20 and int(declared) > limit:
        raise _Refused(refusal)
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise _Refused(refusal)
    except TimeoutError:
        raise _Refused(fault(408, f"the body took more than {_BODY_S:g} s", code="timeout")) from None
    return bytes(body)


class _Line:
    """The connection of one request whose body was read: what the worker brings for it, until the caller hangs up."""

    def __init__(self, caller: HttpCaller, receive: Receive, hang_up: Callable[[], None]) -> None:
        self._caller = caller
        self._hang_up = hang_up
        self._has_answer = False
        self._gone = asyncio.ensure_future(_until_gone(receive))

    async def next(self, patience_s: float | None = None) -> Brought | None:
        """Wait for the next chunk, or the answer; None: nothing came in `patience_s`.

        Raises:
            ClientDisconnect: the caller has hung up.
        """
        bringing = asyncio.ensure_future(self._caller.next())
        try:
            both = {bringing, self._gone}
            await asyncio.wait(both, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if not bringing.done():
                if self._gone.done():
                    raise ClientDisconnect
                return None
            brought = await bringing
        finally:
            bringing.cancel()
        self._has_answer = brought.is_answer
        return brought

    def end(self) -> None:
        """Nobody waits any more; what is not answered yet is cancelled."""
        self._gone.cancel()
        if not self._has_answer:
            self._hang_up()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _EventStream(Response):
    """A stream of server-sent events: the answer while it is written."""

    media_type = "text/event-stream"

    def __init__(self, line: _Line, writer: AnswerWriter, first: Brought | None) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._line = line
        self._writer = writer
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the line receives
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for piece in self._pieces():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientDisconnect:
            return
        finally:
            self._line.end()

    async def _pieces(self) -> AsyncIterator[bytes]:
        brought = self._first
        while brought is None or not brought.is_answer:
            if brought is None:
                yield SIGN_OF_LIFE
            else:
                for body in self._writer.chunks(brought.body):
                    yield event(body)
            brought = await self._line.next(_SILENT_S)
        if brought.body["status"] == "error":
            yield event(fault_of(brought.body["error"]).body)
        else:
            for body in self._writer.end(brought.body):
                yield event(body)
        yield DONE
