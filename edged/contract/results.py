"""What goes out: results, errors and chunks of a stream, and their JSON. Pure."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from edged.errors import RequestError
from edged.ports.engine import Usage
from edged.tasks.outputs import Classification, Output, Reply, TokenLogprob
from edged.tasks.specs import Tasks


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultTimings:
    """Milliseconds of a request, from its receipt; tokens per second of its decoding."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    first_token_ms: float
    total_ms: float
    tokens_per_second: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """An answered request.

    Attributes:
        outputs: by part: `sentiment`, `reply`, or the name of an operator's own task.
        lacks_history: the conversation has earlier turns that this box did not know.
        may_be_double: another box of the group may have answered the same request.
        logprobs: by part, what the model thought of each token that it wrote, where the request asked for that.
    """

    id: str
    task: str
    session: str | None
    node: str
    model: str
    time: str  # RFC 3339, UTC
    outputs: Mapping[str, Output]
    usage: Usage
    timings: ResultTimings
    lacks_history: bool = False
    may_be_double: bool = False
    logprobs: Mapping[str, tuple[TokenLogprob, ...]] = field(default_factory=dict)


def rfc3339(seconds: float) -> str:
    """Wall-clock seconds since the epoch as UTC text, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode(value: Mapping[str, Any]) -> bytes:
    """Compact UTF-8 JSON.

    Raises:
        ValueError: a number is NaN or infinite, which JSON does not have.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def encode_result(result: Result) -> bytes:
    """The JSON of a result."""
    head: dict[str, Any] = {"id": result.id, "task": result.task, "status": "ok"}
    if result.session is not None:
        head["session"] = result.session
    if result.lacks_history:
        head["history"] = "missing"
    if result.may_be_double:
        head["duplicate"] = "possible"
    head |= {"node": result.node, "model": result.model, "time": result.time}
    head |= {name: asdict(output) for name, output in result.outputs.items()}
    if result.logprobs:
        head["logprobs"] = {part: [asdict(each) for each in tokens] for part, tokens in result.logprobs.items()}
    return encode(head | {"usage": asdict(result.usage), "timings": asdict(result.timings)})


def encode_compact(result: Result) -> bytes:
    """The JSON of a result with what was found alone, for devices that take few bytes."""
    head: dict[str, Any] = {"id": result.id, "status": "ok"}
    if result.lacks_history:
        head["history"] = "missing"
    if result.may_be_double:
        head["duplicate"] = "possible"
    return encode(head | {name: _found(output) for name, output in result.outputs.items()})


def _found(output: Output) -> Any:
    if isinstance(output, Classification):
        return output.label
    return output.text if isinstance(output, Reply) else output.data


def encode_error(
    *, request_id: str, task: str, session: str | None, node: str, time: str, error: RequestError
) -> bytes:
    """The JSON of an error."""
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.field is not None:
        body["field"] = error.field
    if error.retry_after_ms is not None:
        body["retry_after_ms"] = error.retry_after_ms
    head: dict[str, Any] = {"id": request_id, "task": task, "status": "error"}
    if session is not None:
        head["session"] = session
    return encode(head | {"node": node, "time": time, "error": body})


def encode_chunk(*, request_id: str, seq: int, part: str, value: Mapping[str, Any]) -> bytes:
    """The JSON of a stream's chunk `seq`: a whole classification, or `{"delta": …}` of a reply."""
    return encode({"id": request_id, "seq": seq, part: value})


_FLAGS: Mapping[str, Any] = MappingProxyType(
    {
        "history": {"const": "missing", "description": "Earlier turns of the conversation are not known here."},
        "duplicate": {"const": "possible", "description": "Another box may have answered this request too."},
    }
)


def result_schema(tasks: Tasks) -> dict[str, Any]:
    """The JSON Schema of a result."""
    parts: dict[str, Any] = {part.name: dict(part.output_schema) for part in tasks.all_parts}
    parts |= _FLAGS
    return _answer_schema(
        status={"const": "ok"},
        model={"type": "string"},
        usage={"$ref": "#/$defs/Usage"},
        timings={"$ref": "#/$defs/ResultTimings"},
        optional=parts,
    ) | {"$defs": _definitions(Classification, Reply, Usage, ResultTimings)}


def compact_schema(tasks: Tasks) -> dict[str, Any]:
    """The JSON Schema of a compact result."""
    return {
        "type": "object",
        "required": ["id", "status"],
        "properties": {"id": {"type": "string"}, "status": {"const": "ok"}, **_FLAGS}
        | {part.name: {"type": ["string", "object"]} for part in tasks.all_parts},
        "additionalProperties": False,
    }


def error_schema() -> dict[str, Any]:
    """The JSON Schema of an error."""
    codes = {"enum": sorted(each.code for each in RequestError.__subclasses__())}
    error = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {
            "code": codes,
            "message": {"type": "string"},
            "field": {"type": "string", "description": "The part of the request that is wrong."},
            "retry_after_ms": {
                "type": "integer",
                "description": "After how many milliseconds another attempt may succeed.",
            },
        },
        "additionalProperties": False,
    }
    return _answer_schema(status={"const": "error"}, error=error)


def chunk_schema(tasks: Tasks) -> dict[str, Any]:
    """The JSON Schema of a stream's chunk: one part, a classification as a whole or a reply by its next words."""
    parts = {part.name: dict(part.chunk_schema) for part in tasks.all_parts if part.chunk_schema is not None}
    return {
        "type": "object",
        "required": ["id", "seq"],
        "properties": {"id": {"type": "string"}, "seq": {"type": "integer", "minimum": 0}, **parts},
        "additionalProperties": False,
        "minProperties": 3,
        "maxProperties": 3,
        "$defs": _definitions(Classification),
    }


def _answer_schema(*, optional: Mapping[str, Any] = MappingProxyType({}), **required: Any) -> dict[str, Any]:
    head = {"id": {"type": "string"}, "task": {"type": "string"}, "node": {"type": "string"}}
    time = {"time": {"type": "string", "format": "date-time"}}
    return {
        "type": "object",
        "required": [*head, *time, *required],
        "properties": {**head, "session": {"type": "string"}, **time, **required, **optional},
        "additionalProperties": False,
    }


def _definitions(*kinds: type) -> dict[str, Any]:
    return {kind.__name__: TypeAdapter(kind).json_schema() for kind in kinds}
