"""Chat completions, in the form of request that this server accepts (its dialect).

`look` finds the dialect by test requests. Knows nothing of tasks and replies.
"""

import contextlib
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from edged.engine.remote.answers import ChatCompletion, Chunk
from edged.engine.remote.connection import Refused, Retry
from edged.engine.remote.dialect import Dialect, further_dialects
from edged.engine.remote.reasoning import AnswerFilter, answer_of
from edged.engine.remote.server import ModelServer
from edged.engine.remote.work import OpenWork
from edged.ports.engine import Usage
from edged.tasks.conversation import Turn

log = structlog.get_logger(__name__)

_PATH = "chat/completions"
_NOT_FOUND = 404
_MOST_DIALECTS = 20  # tried before the server counts as one that refuses every chat
_PROBE_TOKENS = 256  # enough to see whether a model reasons, and where its reasoning ends
_PROBE_S = 10.0  # tokens for the same on a slow server
_PROBE = "Answer with one word."
_QUESTION = Turn(role="user", content="Say OK.")
_GREETING = Turn(role="assistant", content="Hello.")
_SAMPLING = {"temperature": 0.0, "top_p": 1.0, "seed": 1, "top_k": 40}  # as in a reply: what a server may refuse
_SAMPLING |= {"repeat_penalty": 1.1, "repetition_penalty": 1.1}


class Chat:
    """The server's chat.

    Attributes:
        dialect: how the server wants its requests, as far as is known.
        endpoint: the endpoint's path.
    """

    def __init__(self, server: ModelServer) -> None:
        self.dialect = Dialect()
        self.endpoint = _PATH
        self._server = server

    # ------------------------------------------------------------------------------------------------- the start

    def look(self) -> None:
        """Find out how the server wants its requests, and whether its model reasons.

        Raises:
            Refused: the server refuses every form that is tried.
            Retry: the server cannot answer now.
        """
        found = self._first_that_answers()
        if not found.folds_system:
            found = self._with_order_of_turns(found)
        if found != self.dialect:
            log.info("remote_chat", url=self._server.url, dialect=_told(found))
        self.dialect = found

    def _first_that_answers(self) -> Dialect:
        first: Refused | Retry | None = None
        tries, tried = deque([Dialect()]), set[Dialect]()
        while tries and len(tried) < _MOST_DIALECTS and not self._server.stopping.is_set():
            dialect = tries.popleft()
            if dialect in tried:
                continue
            tried.add(dialect)
            try:
                return self._try(dialect)
            except (Refused, Retry) as fault:
                first = first or fault
                if not _may_be_the_request(fault):
                    break
                further = further_dialects(dialect, fault.message if isinstance(fault, Refused) else "")
                tries.extendleft(reversed(further))
        raise first or Retry("the daemon is shutting down")

    def _try(self, dialect: Dialect) -> Dialect:
        """Ask a short question; returns the dialect with what the answer told of the model's reasoning."""
        body = self._streamed(dialect, _PROBE, [_QUESTION], max_tokens=_PROBE_TOKENS, **_SAMPLING)
        answer = AnswerFilter()
        text, reasons, until = "", False, time.monotonic() + _PROBE_S
        with contextlib.closing(self._server.chunks_once(_PATH, body)) as chunks:
            for chunk in chunks:
                reasons = reasons or any(choice.reasoning for choice in chunk.choices)
                text += "".join(answer.add(choice.text) for choice in chunk.choices)
                if reasons or answer.has_seen_reasoning or time.monotonic() > until:
                    break
        reasons = reasons or answer.has_seen_reasoning
        if not reasons and not (text + answer.finish()).strip():
            raise Retry("it wrote nothing", status=200)
        return replace(dialect, reasons=reasons, begins_inside=answer.was_unmarked)

    def _with_order_of_turns(self, dialect: Dialect) -> Dialect:
        """Find out whether a conversation may begin with the assistant's turn."""
        body = self._streamed(dialect, _PROBE, [_GREETING, _QUESTION], max_tokens=1, **_SAMPLING)
        try:
            with contextlib.closing(self._server.chunks_once(_PATH, body)) as chunks:
                next(chunks, None)
        except (Refused, Retry) as fault:
            if not _may_be_the_request(fault):
                raise
            return replace(dialect, alternates=True)
        return dialect

    # -------------------------------------------------------------------------------------------------- the work

    def answer(
        self,
        work: OpenWork,
        *,
        system: str,
        turns: Sequence[Turn],
        max_tokens: int,
        name: str,
        schema: Mapping[str, Any],
    ) -> tuple[str, Usage]:
        """The whole answer, held to a JSON Schema by the server. Errors: see `ModelServer.post`."""
        dialect = self.dialect
        body = {
            "messages": dialect.messages(system, turns),
            **dialect.body(max_tokens=max_tokens, temperature=0, response_format=held_to(name, schema)),
        }
        answer = self._server.post(work, _PATH, body, ChatCompletion)
        return answer_of(answer.text, begins_inside=dialect.begins_inside), answer.usage

    def chunks(
        self, work: OpenWork, system: str | None, turns: Sequence[Turn], **fields: Any
    ) -> Generator[Chunk, None, None]:
        """The streamed answer. `fields` as OpenAI has them, with `max_tokens`. Errors: see `ModelServer.chunks`."""
        return self._server.chunks(work, _PATH, self._streamed(self.dialect, system, turns, **fields))

    def _streamed(self, dialect: Dialect, system: str | None, turns: Sequence[Turn], **fields: Any) -> dict[str, Any]:
        return {
            "messages": dialect.messages(system, turns),
            **dialect.body(stream_options={"include_usage": True}, **fields),
            "stream": True,
        }


def held_to(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The `response_format` that holds an answer to a JSON Schema."""
    return {"type": "json_schema", "json_schema": {"name": name, "schema": dict(schema)}}


def _may_be_the_request(fault: Refused | Retry) -> bool:
    """Whether another form of the request may succeed: some servers answer 500 to what they do not know."""
    if isinstance(fault, Refused):
        return fault.status != _NOT_FOUND
    return fault.status == 500


def _told(dialect: Dialect) -> dict[str, Any]:
    fields = {name: getattr(dialect, name) for name in dialect.__dataclass_fields__}
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in fields.items()}
