"""Writes results, chunks and errors of this daemon in the form of OpenAI's API. Pure.

What the API has no place for (the scores of a sentiment, timings) stands below the key `edged`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edged.http.decode import Form
from edged.tasks.specs import GenerateSpec

Json = dict[str, Any]
Kind = Literal["chat", "completion"]

_FINISH = {"stop": "stop", "length": "length", "deadline": "length", "cancelled": "stop"}
_LEAST = 1e-9  # the logarithm of 0 is no number
_STATUS = {
    "bad_request": 400,
    "bad_encoding": 400,
    "too_long": 400,
    "unread_language": 400,
    "forbidden_topic": 400,
    "unknown_task": 404,
    "expired": 408,
    "cancelled": 409,
    "too_large": 413,
    "busy": 429,
    "model_error": 500,
    "shutting_down": 503,
}
_CODE = {"unknown_task": "model_not_found", "too_long": "context_length_exceeded", "busy": "rate_limit_exceeded"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """An error as HTTP tells it."""

    status: int
    body: Json
    retry_after_ms: int | None = None


def fault_of(error: Mapping[str, Any]) -> Fault:
    """The error of a payload of this daemon; see `encode_error`."""
    code = str(error["code"])
    return fault(
        _STATUS.get(code, 500),
        str(error["message"]),
        code=_CODE.get(code, code),
        param=error.get("field"),
        retry_after_ms=error.get("retry_after_ms"),
    )


def fault(
    status: int, message: str, *, code: str, param: str | None = None, retry_after_ms: int | None = None
) -> Fault:
    """An error with these words."""
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status, "invalid_request_error")
    error = {
        "message": message,
        "type": kind if status < 500 else "server_error",
        "param": param,
        "code": code,
    }
    return Fault(status=status, body={"error": error}, retry_after_ms=retry_after_ms)


@dataclass(slots=True, kw_only=True)
class AnswerWriter:
    """Writes the answer to one request, whole or as a stream.

    Attributes:
        kind: which of the two APIs is served.
        form: what the caller wants.
        created: seconds since the epoch.
    """

    kind: Kind
    form: Form
    created: int
    _begun: bool = False
    _sent: int = 0  # characters of the text
    _told: int = 0  # log probabilities

    def whole(self, result: Json) -> Json:
        """The answer of a request without a stream."""
        content, finish = self._content(result)
        logprobs = self._logprobs(_tokens(result, self._writer), result, offset=0)
        if self.kind == "chat":
            message = {"role": "assistant", "content": content, "refusal": None}
            choice: Json = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}
        else:
            choice = {"index": 0, "text": content, "logprobs": logprobs, "finish_reason": finish}
        return self._head(result, is_chunk=False) | {
            "choices": [choice],
            "usage": _usage(result),
            "edged": _more(result, self.form),
        }

    def chunks(self, chunk: Json) -> Iterator[Json]:
        """The events for a chunk of the stream. A chunk may come that has nothing for the caller."""
        if (part := self._writer) is not None and part in chunk:
            text = chunk[part]["delta"]
            tokens = chunk[part].get("logprobs", [])
            logprobs = self._logprobs(tokens, None, offset=self._sent)
            self._sent += len(text)
            self._told += len(tokens)
            yield self._event(chunk, text, logprobs=logprobs)
            return
        values = {name: value for name, value in chunk.items() if name not in {"id", "seq"}}
        yield self._event(chunk, "") | {"edged": values}

    def end(self, result: Json) -> Iterator[Json]:
        """The events for the result, which has all that the stream lacks."""
        content, finish = self._content(result)
        rest, tokens = content[self._sent :], _tokens(result, self._writer)[self._told :]
        if rest or tokens or not self._begun:
            logprobs = self._logprobs(tokens, result, offset=self._sent)
            yield self._event(result, rest, logprobs=logprobs)
        yield self._event(result, None, finish=finish) | {"edged": _more(result, self.form)}
        if self.form.has_usage:
            yield self._head(result, is_chunk=True) | {"choices": [], "usage": _usage(result)}

    def _event(
        self, source: Json, text: str | None, *, logprobs: Json | None = None, finish: str | None = None
    ) -> Json:
        choice: Json = {"index": 0, "logprobs": logprobs, "finish_reason": finish}
        if self.kind == "chat":
            delta: Json = {} if self._begun else {"role": "assistant"}
            choice["delta"] = delta if text is None else delta | {"content": text}
        else:
            choice["text"] = text or ""
        self._begun = True
        return self._head(source, is_chunk=True) | {"choices": [choice]}

    def _head(self, source: Json, *, is_chunk: bool) -> Json:
        names = {"chat": ("chatcmpl", "chat.completion"), "completion": ("cmpl", "text_completion")}
        prefix, kind = names[self.kind]
        return {
            "id": f"{prefix}-{source['id']}",
            "object": f"{kind}.chunk" if is_chunk and self.kind == "chat" else kind,
            "created": self.created,
            "model": self.form.model,
        }

    @property
    def _writer(self) -> str | None:
        """The part whose text is the content; None where the content is not a text of the model."""
        writing = [part.name for part in self.form.parts if isinstance(part, GenerateSpec)]
        return writing[0] if len(writing) == 1 else None

    def _content(self, result: Json) -> tuple[str, str]:
        """The content of the answer, and why it ended."""
        if (part := self._writer) is not None:
            return result[part]["text"], _FINISH[result[part]["finish_reason"]]
        values = {part.name: result[part.name] for part in self.form.parts}
        if len(values) > 1:
            return _compact(values), "stop"
        (value,) = values.values()
        return value["label"] if "label" in value else _compact(value["data"]), "stop"

    def _logprobs(self, tokens: list[Json], result: Json | None, *, offset: int) -> Json | None:
        """The log probabilities of these tokens; of a label, its own and those of the others."""
        if self.form.logprobs is None:
            return None
        if self._writer is None:
            tokens = [] if result is None else _label_as_token(result, self.form)
        if not tokens:
            return None
        if self.kind == "chat":
            return {"content": [_chat_token(each, self.form.logprobs) for each in tokens], "refusal": None}
        return _legacy_tokens(tokens, offset=offset)


def _tokens(result: Json, part: str | None) -> list[Json]:
    tokens: list[Json] = result.get("logprobs", {}).get(part, [])
    return tokens


def _label_as_token(result: Json, form: Form) -> list[Json]:
    values = [result[part.name] for part in form.parts]
    if len(values) != 1 or "label" not in values[0]:
        return []
    value = values[0]
    top = [[label, _log(score)] for label, score in sorted(value["scores"].items(), key=lambda each: -each[1])]
    return [{"token": value["label"], "logprob": _log(value["score"]), "top": top}]


def _log(probability: float) -> float:
    return round(math.log(max(probability, _LEAST)), 5)


def _chat_token(token: Json, top: int) -> Json:
    named = [_named(text, logprob) for text, logprob in token["top"][:top]]
    return _named(token["token"], token["logprob"]) | {"top_logprobs": named}


def _named(text: str, logprob: float) -> Json:
    # A token that is a part of a character cannot be told by its bytes: the tokenizer gives none.
    return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}


def _legacy_tokens(tokens: list[Json], *, offset: int) -> Json:
    offsets = []
    for each in tokens:
        offsets.append(offset)
        offset += len(each["token"])
    return {
        "tokens": [each["token"] for each in tokens],
        "token_logprobs": [each["logprob"] for each in tokens],
        "top_logprobs": [dict(each["top"]) for each in tokens],
        "text_offset": offsets,
    }


def _usage(result: Json) -> Json:
    usage = result["usage"]
    return {
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
        "prompt_tokens_details": {"cached_tokens": usage["cached_tokens"]},
    }


def _more(result: Json, form: Form) -> Json:
    """What OpenAI's API has no place for."""
    values = {part.name: result[part.name] for part in form.parts if not isinstance(part, GenerateSpec)}
    return {"node": result["node"], "task": result["task"], **values, "timings": result["timings"]}


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def event(body: Json) -> bytes:
    """A server-sent event (HTML Living Standard, section 9.2)."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
SIGN_OF_LIFE = b": waiting\n\n"  # a comment, which readers leave out
