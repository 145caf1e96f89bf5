"""The bodies of OpenAI's requests, as far as they are understood here. Pure.

Source: OpenAI's API reference, "Chat completions" and "Completions"; `top_k` and `repetition_penalty` as vLLM has them,
`repeat_penalty` as llama.cpp's server has it. A field is refused if it asks for something that this model cannot do;
fields that are not known are left out, as other servers do.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from edged.contract.requests import MAX_HISTORY_TURNS
from edged.errors import BadRequest

B = TypeVar("B", bound=BaseModel)

_FORM = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
_FREE = (None, "auto", "none")  # choices of a tool that need no call of one
_MAX_TOP = 20
_MAX_LEGACY_TOP = 5


def _text_of(content: Any) -> Any:
    """The text of a message's content, which may be a list of parts."""
    if not isinstance(content, list):
        return "" if content is None else content
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        raise ValueError("this model reads text only: each part must have the type text")
    return "".join(part["text"] for part in content)


def _one_or_many(value: Any) -> Any:
    return [] if value is None else [value] if isinstance(value, str) else value


def _no_penalty(value: float | None) -> float | None:
    if value:
        raise ValueError("this model has no such penalty; repetition_penalty is the one that it has")
    return value


_NoPenalty = Annotated[float | None, AfterValidator(_no_penalty)]


class Message(BaseModel):
    """One message of a conversation."""

    model_config = _FORM

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text_of)] = ""


class JsonSchema(BaseModel):
    """The schema of `response_format`."""

    model_config = _FORM

    json_schema: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """The form of the answer: text, any JSON object, or JSON of a schema."""

    model_config = _FORM

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _whole(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("the type json_schema needs json_schema.schema")
        return self

    @property
    def schema_of(self) -> Mapping[str, Any] | None:
        """The JSON Schema of the answer; None for free text."""
        if self.json_schema is not None and self.type == "json_schema":
            return self.json_schema.json_schema
        return {"type": "object"} if self.type == "json_object" else None


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    model_config = _FORM

    include_usage: bool = False


class _Common(BaseModel):
    """What both kinds of requests have."""

    model_config = _FORM

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1000)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.5, le=2)] | None = Field(
        None, validation_alias=AliasChoices("repetition_penalty", "repeat_penalty")
    )
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
        Field(max_length=8),
        BeforeValidator(_one_or_many),
    ] = ()
    n: Literal[1] | None = None
    presence_penalty: _NoPenalty = None
    frequency_penalty: _NoPenalty = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None

    @field_validator("stream", mode="before")
    @classmethod
    def _no_stream(cls, stream: Any) -> Any:
        return False if stream is None else stream

    @property
    def has_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def limit(self) -> int | None:
        """The most tokens of the answer. Some clients ask for 0 or -1 tokens where they want no limit."""
        return self.max_tokens if self.max_tokens is not None and self.max_tokens > 0 else None


class ChatBody(_Common):
    """The body of /v1/chat/completions."""

    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=MAX_HISTORY_TURNS)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_MAX_TOP)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None

    @model_validator(mode="after")
    def _possible(self) -> "ChatBody":
        # Whoever leaves the choice to the model gets an answer in words. Home Assistant offers tools in any case.
        must_call = (self.tools and self.tool_choice not in _FREE) or (
            self.functions and self.function_call not in _FREE
        )
        if must_call:
            raise ValueError("tool_choice: this model calls no tools, and answers in words")
        if self.messages[-1].role != "user":
            raise ValueError("messages: the last message must be the user's")
        return self

    @property
    def limit(self) -> int | None:
        """The most tokens of the answer."""
        wanted = self.max_completion_tokens
        return wanted if wanted is not None and wanted > 0 else super().limit


class CompletionBody(_Common):
    """The body of /v1/completions."""

    prompt: Annotated[str, BeforeValidator(lambda value: value[0] if _is_single(value) else value)]
    logprobs: Annotated[int, Field(ge=0, le=_MAX_LEGACY_TOP)] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    best_of: Literal[1] | None = None


def _is_single(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1


_CHAT = TypeAdapter(ChatBody)
_COMPLETION = TypeAdapter(CompletionBody)


def read_chat(payload: bytes) -> ChatBody:
    """Read a body of /v1/chat/completions.

    Raises:
        BadRequest: it is not valid, or asks for what this model cannot do.
    """
    return _read(_CHAT, payload)


def read_completion(payload: bytes) -> CompletionBody:
    """Read a body of /v1/completions; errors as those of `read_chat`."""
    return _read(_COMPLETION, payload)


def _read(form: TypeAdapter[B], payload: bytes) -> B:
    try:
        return form.validate_json(payload)
    except ValidationError as error:
        raise _bad_request(error) from None


def _bad_request(error: ValidationError) -> BadRequest:
    """The first fault in words. Fields are named, but no part of the caller's text."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return BadRequest(f"the body is not valid JSON: {message.removeprefix('Invalid JSON: ')}")
    path = ".".join(str(part) for part in first["loc"])[:128]
    field, colon, rest = message.partition(": ")
    if not path and colon and field.isidentifier():
        return BadRequest(rest, field=field)
    return BadRequest(message, field=path or None)
