"""Requests for tasks: `decode` makes a `Request` or a `Rejected` of an MQTT message, once, where it comes in.

Pure: sends nothing, knows no broker and no clock.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from edged.contract.names import MAX_NAME_CHARS, Name, is_name
from edged.contract.owners import OwnerRule, conversation_of
from edged.contract.rules import Shape
from edged.contract.senders import SenderRule
from edged.contract.topics import TaskRoute, Topics, is_publishable, topic_matches
from edged.errors import BadEncoding, BadRequest, Busy, ForbiddenTopic, RequestError, TooLarge, UnknownTask
from edged.ports.caller import Caller
from edged.ports.engine import Params
from edged.ports.link import Message
from edged.tasks.conversation import Turn
from edged.tasks.shorten import MIN_BYTES
from edged.tasks.specs import PartSpec, Tasks
from edged.tasks.text import normalise

MAX_HISTORY_TURNS = 256
PRIORITY = 4  # of a request that says nothing of it
_LENIENT_BYTES = 1 << 20
_MAX_DIGITS = 20  # of a number that is read; Python refuses to read very long ones
_OPENS_OBJECT = re.compile(rb"(?:\xef\xbb\xbf|[ \t\r\n])*\{")  # after any byte order marks and white space


def _one_or_many(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


_Stop = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
    Field(max_length=8),
    BeforeValidator(_one_or_many, json_schema_input_type=str | list[str]),
]
_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ParamsBody(BaseModel):
    """How the reply is sampled, as the caller wants it; values that are left out are the task's own."""

    model_config = _STRICT

    max_tokens: Annotated[int, Field(ge=1, le=32768)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1000)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.5, le=2)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: _Stop = ()
    whole_sentences: bool | None = Field(
        None, description="Whether a reply that a limit cuts short ends with its last whole sentence, if it has one."
    )


class TurnBody(BaseModel):
    """One turn of a conversation that the caller keeps itself."""

    model_config = _STRICT

    role: Literal["user", "assistant"]
    content: str


class RequestBody(BaseModel):
    """A request as JSON. A payload that is no JSON object is taken as the bare text."""

    model_config = _STRICT

    text: str
    id: Name | None = None
    session: Name | None = None
    stream: bool = False
    reply_to: Annotated[str, Field(min_length=1)] | None = None
    deadline_ms: Annotated[int, Field(ge=1, le=86_400_000)] | None = None
    params: ParamsBody = ParamsBody()
    history: Annotated[tuple[TurnBody, ...], Field(max_length=MAX_HISTORY_TURNS)] | None = None
    turn: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_bytes: Annotated[int, Field(ge=MIN_BYTES, lt=2**31)] | None = Field(
        None, description="The most bytes of the reply's text; it is cut after a sentence or a word."
    )
    compact: bool = Field(
        False,
        description="Whether the result has only its id and status and, for each part, the label, text or data.",
    )
    attempt: Annotated[int, Field(ge=1, lt=2**31)] = 1
    priority: Annotated[int, Field(ge=0, le=9)] = Field(
        PRIORITY,
        description="Among the requests of one sender, higher values first; a level is worth half a minute of waiting.",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where an answer goes: to a topic, with the request's Correlation Data, or to a caller in this process.

    Attributes:
        errors: where an error goes instead.
        is_in_parts: whether an answer is several messages, see `contract.rules.parts_of`.
        caller: waits for the answer in this process; then the other fields mean nothing.
    """

    topic: str
    qos: int
    correlation_data: bytes | None = None
    retain: bool = False
    content_type: str = "application/json"
    user_properties: tuple[tuple[str, str], ...] = ()
    errors: "Address | None" = None
    is_in_parts: bool = False
    caller: Caller | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request in the form of the contract.

    Attributes:
        id: the caller's, or one made for it.
        owner: whose the session is, where sessions belong to somebody.
        has_own_id: whether the caller gave `id`, so that it may repeat the request under it.
        history: the caller's own turns; then nothing of the session is stored. None: the session's turns count.
        turn: the number of this turn in its conversation, counted by the caller from 1; None if the caller gave none.
        attempt: how often the caller has asked this, counted from 1.
        is_shared: whether it came by the queue of a group.
        time_left_ms: the nearer of the message's expiry and the request's deadline, counted from receipt.
        max_bytes: of each text that the model writes for it.
        compact: whether the result has only what was found.
        sender: whose share of the model's time it takes.
        priority: 0 to 9; among the requests of one sender, higher values first.
        shape: how its answer is written, if it came by a route of the settings.
        spec: what the model does for it, if that is no task of this daemon; `task` is then a name for logs.
        logprobs: how many alternatives the result names for each token, with log probabilities; None: it tells none.
        is_recorded: whether the answer is recorded, for the case that the same request comes again.
    """

    id: str
    has_own_id: bool
    task: str
    text: str
    address: Address
    session: str | None = None
    owner: str | None = None
    stream: bool = False
    params: Params = Params()
    history: tuple[Turn, ...] | None = None
    turn: int | None = None
    attempt: int = 1
    is_shared: bool = False
    time_left_ms: int | None = None
    max_bytes: int | None = None
    compact: bool = False
    sender: str = ""
    priority: int = PRIORITY
    shape: Shape | None = None
    spec: PartSpec | None = None
    logprobs: int | None = None
    is_recorded: bool = True

    @property
    def conversation(self) -> str | None:
        """The name by which the turns of its session are kept."""
        return None if self.session is None else conversation_of(self.session, self.owner)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A message that is not a valid request: why, and where the error goes."""

    id: str
    task: str
    address: Address
    error: RequestError
    session: str | None = None
    rule: str | None = None  # the route of the settings by which it came


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """The limits and names that `decode` checks a message against.

    Attributes:
        reply_topics: filters.
        sender: where the name of a sender stands.
        owners: whose a session is.
        requests_per_minute: of each sender; 0: any number. So is `tokens_per_day`.
        hide_senders: whether figures have hashes instead of the senders' names.
    """

    topics: Topics
    tasks: Tasks
    reply_topics: tuple[str, ...]
    payload_bytes: int
    text_chars: int
    sender: SenderRule = field(default_factory=SenderRule)
    owners: OwnerRule = field(default_factory=OwnerRule)
    requests_per_minute: int = 0
    tokens_per_day: int = 0
    hide_senders: bool = False


def decode(message: Message, route: TaskRoute, *, contract: Contract, new_id: str) -> Request | Rejected:
    """Read a request for a task.

    Args:
        message: as it came.
        route: of the message's topic.
        contract: what is allowed.
        new_id: the id to use when neither the JSON nor the Correlation Data gives one.

    Returns:
        The request, or the reason for rejecting it. Never raises, whatever the bytes are.
    """
    address = Address(topic=route.out, qos=min(message.qos, 1), correlation_data=message.correlation_data)
    request_id = _id_of(message.correlation_data)
    try:
        if message.response_topic is not None:
            address = redirect(address, message.response_topic, contract, field="response_topic")
        body = _read_body(message, contract)
        if body.id is not None:
            request_id = body.id
        if body.reply_to is not None:
            address = redirect(address, body.reply_to, contract, field="reply_to")
        session, owner = contract.owners.session(message, in_topic=route.session, in_body=body.session)
        return Request(
            id=request_id or new_id,
            has_own_id=request_id is not None,
            task=_known(route, contract.tasks),
            text=checked_text(body.text, contract, field="text"),
            address=address,
            session=session,
            owner=owner,
            stream=body.stream,
            params=Params(**body.params.model_dump()),
            history=_history(body.history, contract),
            turn=body.turn,
            max_bytes=body.max_bytes,
            compact=body.compact,
            attempt=body.attempt,
            sender=contract.sender.sender(message, session=owner or session, answer_topic=address.topic),
            priority=body.priority,
            is_shared=route.is_shared,
            time_left_ms=_nearer(message.expiry_s, body.deadline_ms),
        )
    except RequestError as error:
        request_id, address = _return_address(message, contract, request_id, address)
        session = route.session if len(route.session or "") <= MAX_NAME_CHARS else None
        return Rejected(id=request_id or new_id, task=route.task, address=address, error=error, session=session or None)


def _return_address(
    message: Message, contract: Contract, request_id: str | None, address: Address
) -> tuple[str | None, Address]:
    """The id and the address for an error: from the JSON where these fields are valid, even if other fields are not."""
    body = read_leniently(message.payload, limit=contract.payload_bytes) if _is_json(message) else {}
    own_id, reply_to = body.get("id"), body.get("reply_to")
    if _is_name(own_id):
        request_id = own_id
    if isinstance(reply_to, str) and REPLACEMENT not in reply_to:
        with contextlib.suppress(ForbiddenTopic):
            address = redirect(address, reply_to, contract, field="reply_to")
    return request_id, address


def _is_name(value: object) -> TypeGuard[str]:
    return is_name(value) and REPLACEMENT not in str(value)


REPLACEMENT = "\ufffd"  # stands for bytes that are not UTF-8


def read_leniently(payload: bytes, *, limit: int) -> Mapping[str, object]:
    """The JSON object of a payload that was refused, to tell its sender why; empty when it cannot be read.

    Bytes that are not UTF-8 become `REPLACEMENT`. A payload over `limit` is read only if it has at most 1 MiB.
    """
    if len(payload) > max(limit, _LENIENT_BYTES):
        return {}
    try:
        body = json.loads(payload.decode(errors="replace").lstrip("\ufeff"), parse_int=_short_int)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _short_int(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MAX_DIGITS else None


def _id_of(correlation_data: bytes | None) -> str | None:
    """Correlation Data as an id: itself where it is a printable name, else in hex; if that is too long, its hash."""
    if not correlation_data:
        return None
    try:
        name = correlation_data.decode()
    except UnicodeDecodeError:
        name = ""
    if name.isprintable() and 0 < len(name) <= MAX_NAME_CHARS:
        return name
    name = correlation_data.hex()
    return name if len(name) <= MAX_NAME_CHARS else hashlib.blake2b(correlation_data).hexdigest()


def redirect(address: Address, topic: str, contract: Contract, *, field: str) -> Address:
    """Send the answer to the topic that the caller asked for.

    Raises:
        ForbiddenTopic: the daemon may not publish there.
    """
    allowed = (
        is_publishable(topic)
        and any(topic_matches(pattern, topic) for pattern in contract.reply_topics)
        and not contract.topics.speaks_for_a_daemon(topic)
    )
    if not allowed:
        raise ForbiddenTopic(
            "an answer may go only to a topic without wildcards that matches mqtt.reply_topics "
            f"({', '.join(contract.reply_topics)}) and is no daemon's own",
            field=field,
        )
    return Address(topic=topic, qos=address.qos, correlation_data=address.correlation_data)


def _read_body(message: Message, contract: Contract) -> RequestBody:
    if message.retain:
        raise BadRequest("a retained request would be answered at every start; publish it without the retain flag")
    if len(message.payload) > contract.payload_bytes:
        raise TooLarge(f"the payload has {len(message.payload)} bytes; at most {contract.payload_bytes} are taken")
    try:
        text = message.payload.decode()
    except UnicodeDecodeError as error:
        raise BadEncoding(f"the payload is not UTF-8 (byte {error.start})") from error
    if not _is_json(message):
        return RequestBody(text=text)
    try:
        return RequestBody.model_validate_json(text.lstrip("\ufeff"))
    except ValidationError as error:
        raise _bad_request(error) from error


def _is_json(message: Message) -> bool:
    kind = (message.content_type or "").partition(";")[0].strip().lower()
    if kind in {"application/json", "text/plain"}:
        return kind == "application/json"
    return _OPENS_OBJECT.match(message.payload) is not None


def _bad_request(error: ValidationError) -> BadRequest:
    """The first fault in words, with no part of the user's input but the name of a field of the contract."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "json_invalid":
        return BadRequest(f"the payload is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    if first["type"] == "extra_forbidden":
        return BadRequest("this key is not known", field=".".join(path)[:MAX_NAME_CHARS])
    if first["type"] == "string_pattern_mismatch":  # of all fields, names alone have a pattern
        return BadRequest("a name may not have /, +, # or control characters in it", field=".".join(path))
    return BadRequest(first["msg"], field=".".join(path)[:MAX_NAME_CHARS] or None)


def _known(route: TaskRoute, tasks: Tasks) -> str:
    if not route.is_ours:
        raise Busy(
            "this box takes no work from this topic any more; send it again, and another box answers",
            retry_after_ms=1000,
        )
    if route.task not in tasks:
        raise UnknownTask(f"there is no such task; there are: {', '.join(tasks.names)}")
    return route.task


def checked_text(text: str, contract: Contract, *, field: str) -> str:
    """The text, if a model may be asked about it.

    Raises:
        BadRequest: it is empty, or has a NUL.
        TooLarge: it is too long.
    """
    if "\0" in text:
        raise BadRequest("the text has a NUL character", field=field)
    if len(text) > contract.text_chars:
        raise TooLarge(f"the text has {len(text)} characters; at most {contract.text_chars} are taken", field=field)
    if not normalise(text, half_width=False):
        raise BadRequest("the text is empty", field=field)
    return text


def _history(turns: tuple[TurnBody, ...] | None, contract: Contract) -> tuple[Turn, ...] | None:
    if turns is None:
        return None
    return tuple(
        Turn(role=turn.role, content=checked_text(turn.content, contract, field=f"history.{i}.content"))
        for i, turn in enumerate(turns)
    )


def _nearer(expiry_s: int | None, deadline_ms: int | None) -> int | None:
    limits = [limit for limit in (None if expiry_s is None else 1000 * expiry_s, deadline_ms) if limit is not None]
    return min(limits, default=None)


def request_schema() -> dict[str, Any]:
    """The JSON Schema of a request."""
    return RequestBody.model_json_schema()
