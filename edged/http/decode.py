"""Makes a `Request` or a `Rejected` of an OpenAI request, once, where it comes in. Pure.

A model's name is a task of this daemon (`edged/sentiment`), or the model itself: then the caller brings the system
prompt, the conversation and the form of the answer, and nothing of it is kept here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from edged.contract.names import MAX_NAME_CHARS
from edged.contract.requests import Address, Contract, Rejected, Request, checked_text
from edged.errors import BadRequest, RequestError, UnknownTask
from edged.http.bodies import ChatBody, CompletionBody, Message, read_chat, read_completion
from edged.ports.caller import Caller
from edged.ports.engine import Params
from edged.tasks.conversation import Turn
from edged.tasks.specs import GenerateSpec, PartSpec
from edged.tasks.text import LANGUAGES

PREFIX = "edged/"  # before the name of a task
ALIAS = "edged"  # the model, whatever it is
_SEED_BITS = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """How the answer is to be written.

    Attributes:
        model: the name by which the caller asked.
        parts: what the model does for the answer, in order.
        is_stream: whether the text is sent while it is written.
        has_usage: whether a stream ends with the number of tokens.
        logprobs: how many alternatives are told for each token; None: log probabilities are not wanted.
    """

    model: str
    parts: tuple[PartSpec, ...]
    is_stream: bool
    has_usage: bool
    logprobs: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request that came in; `form` is None where it is rejected."""

    request: Request | Rejected
    form: Form | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Border:
    """What a request is checked against.

    Attributes:
        contract: tasks and limits.
        model: the id of the model.
    """

    contract: Contract
    model: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Who asks.

    Attributes:
        caller: waits for the answer.
        host: the address; the requests of one address share the model's time with others as those of one sender.
        key: the caller's Idempotency-Key: the same request under the same key gets the same answer.
    """

    caller: Caller
    host: str = ""
    key: str | None = None


Decode = Callable[..., Asked]


def decode_chat(payload: bytes, *, border: Border, origin: Origin, new_id: str) -> Asked:
    """Read a request for /v1/chat/completions.

    Args:
        payload: the body.
        border: what is allowed.
        origin: who asks.
        new_id: the id of the request, if the caller gave none.

    Returns:
        The request, or the reason for rejecting it. Never raises, whatever the bytes are.
    """
    return _decode(partial(_chat, payload), border=border, origin=origin, new_id=new_id)


def decode_completion(payload: bytes, *, border: Border, origin: Origin, new_id: str) -> Asked:
    """Read a request for /v1/completions; see `decode_chat`."""
    return _decode(partial(_completion, payload), border=border, origin=origin, new_id=new_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    """What both kinds of requests come to; `spec` is None where a task answers."""

    task: str
    spec: GenerateSpec | None
    text: str
    turns: tuple[Turn, ...]
    logprobs: int | None
    body: ChatBody | CompletionBody


def _decode(read: Callable[[Border], _Question], *, border: Border, origin: Origin, new_id: str) -> Asked:
    address, key = Address(topic="", qos=0, caller=origin.caller), origin.key
    try:
        if key is not None and not (0 < len(key) <= MAX_NAME_CHARS and key.isprintable()):
            raise BadRequest(f"the Idempotency-Key has 1 to {MAX_NAME_CHARS} printable characters")
        question = read(border)
    except RequestError as error:
        return Asked(request=Rejected(id=new_id, task="", address=address, error=error), form=None)
    body = question.body
    request = Request(
        id=key or new_id,
        sender=f"http:{origin.host}",
        has_own_id=key is not None,
        is_recorded=key is not None,
        task=question.task,
        text=question.text,
        address=address,
        stream=body.stream,
        params=Params(
            max_tokens=body.limit,
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            repetition_penalty=body.repetition_penalty,
            seed=None if body.seed is None else body.seed & _SEED_BITS,
            stop=body.stop,
        ),
        history=question.turns,
        spec=question.spec,
        logprobs=question.logprobs,
    )
    parts = (question.spec,) if question.spec is not None else border.contract.tasks.parts(question.task)
    form = Form(
        model=body.model or border.model,
        parts=parts,
        is_stream=body.stream,
        has_usage=body.has_usage,
        logprobs=question.logprobs,
    )
    return Asked(request=request, form=form)


def _chat(payload: bytes, border: Border) -> _Question:
    body = read_chat(payload)
    task = _task_of(body.model, border)
    *earlier, last = body.messages
    schema = None if body.response_format is None else body.response_format.schema_of
    if task is not None and schema is not None:
        raise BadRequest("a task has a form of its own; ask the model itself", field="response_format")
    spec = None
    if task is None:
        system = _system(body.messages, border.contract)
        spec = GenerateSpec(
            name="reply", system={} if system is None else dict.fromkeys(LANGUAGES, system), schema=schema
        )
    return _Question(
        task=task or "chat",
        spec=spec,
        text=checked_text(last.content, border.contract, field=f"messages.{len(earlier)}.content"),
        turns=_turns(earlier, border.contract),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        body=body,
    )


def _completion(payload: bytes, border: Border) -> _Question:
    body = read_completion(payload)
    task = _task_of(body.model, border)
    return _Question(
        task=task or "completion",
        spec=GenerateSpec(name="reply", system={}, keeps_history=False, is_raw=True) if task is None else None,
        text=checked_text(body.prompt, border.contract, field="prompt"),
        turns=(),
        logprobs=body.logprobs,
        body=body,
    )


def _task_of(model: str | None, border: Border) -> str | None:
    """The task that is meant; None: the model itself.

    Raises:
        UnknownTask: there is neither a task nor a model of this name.
    """
    if model in {None, "", border.model, ALIAS}:
        return None
    name = (model or "").removeprefix(PREFIX)
    if name == model or name not in border.contract.tasks:
        raise UnknownTask(f"there is no such model; there are: {', '.join(model_names(border))}", field="model")
    return name


def model_names(border: Border) -> tuple[str, ...]:
    """The names that a request may have for its model: the model's own first."""
    return (border.model, ALIAS, *(f"{PREFIX}{name}" for name in border.contract.tasks.names))


def _system(messages: Sequence[Message], contract: Contract) -> str | None:
    """What the messages tell the model about itself, wherever they stand; None if there is nothing."""
    said = [
        checked_text(each.content, contract, field=f"messages.{i}.content")
        for i, each in enumerate(messages)
        if each.role in {"system", "developer"} and each.content.strip()
    ]
    return "\n\n".join(said) or None


def _turns(messages: Sequence[Message], contract: Contract) -> tuple[Turn, ...]:
    """The conversation before the last message; an empty turn of the assistant is left out."""
    turns: list[Turn] = []
    for i, each in enumerate(messages):
        if each.role == "user" or (each.role == "assistant" and each.content.strip()):
            content = checked_text(each.content, contract, field=f"messages.{i}.content")
            turns.append(Turn(role="user" if each.role == "user" else "assistant", content=content))
    return tuple(turns)
