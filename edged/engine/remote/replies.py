"""Replies and JSON of a task, written by a server's chat and taken in while they come."""

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from edged.engine.remote.answers import Chunk
from edged.engine.remote.chat import Chat, held_to
from edged.engine.remote.reasoning import AnswerFilter
from edged.engine.remote.server import ModelServer
from edged.engine.remote.work import OpenWork
from edged.engine.reply_text import reply_text
from edged.errors import BadRequest, Cancelled, Expired, ModelError, TooLong
from edged.models.presets import preset_sampling
from edged.ports.engine import NO_USAGE, Generated, Work
from edged.settings.schema import EngineSettings
from edged.tasks.conversation import Turn, trim
from edged.tasks.outputs import FinishReason
from edged.tasks.specs import Sampling, TextSpec, sampling_of
from edged.tasks.text import normalise

_STOPS = 4  # stop strings that OpenAI takes; `ReplyText` looks for the others
_BYTES_PER_TOKEN = 3.0  # a low guess, because the tokenizer is on the server; English has 4 to 5, Chinese about 4
_TOKENS_AROUND_A_TURN = 8


class _Incoming:
    """The text of one reply while its chunks come: without reasoning, and shown as far as it is certain."""

    def __init__(self, work: OpenWork, spec: TextSpec, *, begins_inside: bool) -> None:
        self.finish = "stop"
        self.usage = NO_USAGE
        self.pieces = 0  # with text of the answer in them; about as many as its tokens
        self.has_reasoned = False
        self._work = work
        self._spec = spec
        self._answer = AnswerFilter(begins_inside=begins_inside)
        self.text = reply_text(spec, work.work.params)

    @property
    def was_unmarked(self) -> bool:
        return self._answer.was_unmarked

    def add(self, chunk: Chunk, now: Callable[[], float]) -> None:
        self.usage = chunk.usage if chunk.usage != NO_USAGE else self.usage
        for choice in chunk.choices:
            self.finish = choice.finish_reason or self.finish
            self.has_reasoned = self.has_reasoned or bool(choice.reasoning)
            if choice.text:
                self._add(choice.text, now)

    def _add(self, piece: str, now: Callable[[], float]) -> None:
        was_unmarked = self._answer.was_unmarked
        found = self._answer.add(piece)
        if self._answer.was_unmarked and not was_unmarked:
            # The text so far was reasoning and not the answer. The result is right, but the chunks sent so far are not.
            self.text = reply_text(self._spec, self._work.work.params)
            self.pieces = 0
        if found:
            self.pieces += 1
            self._work.first = self._work.first or now()
            self._work.show(self.text.add(found))

    def end(self, *, is_cut: bool) -> None:
        self.has_reasoned = self.has_reasoned or self._answer.has_seen_reasoning or self._answer.is_reasoning
        if not self.text.stopped:
            self._work.show(self.text.add(self._answer.finish(is_cut=is_cut)))
        self._work.show(self.text.finish(is_cut=is_cut))


class ReplyWriter:
    """Writes by a server's chat."""

    def __init__(
        self,
        server: ModelServer,
        chat: Chat,
        *,
        limits: EngineSettings,
        half_width: bool,
        clock: Callable[[], float],
    ) -> None:
        self._server = server
        self._chat = chat
        self._limits = limits
        self._half_width = half_width
        self._clock = clock

    @property
    def endpoint(self) -> str:
        """The endpoint that replies depend on."""
        return self._chat.endpoint

    def write(self, work: OpenWork, spec: TextSpec) -> Generated:
        """Write, and show the text while it comes.

        A request that brought no text is sent again if that may help. After the first text it is not sent again.

        Raises:
            Refused: the server does not take the request.
            RequestError: there is no text.
        """
        if spec.is_raw:
            raise BadRequest("the model is on a server, by its chat alone: send messages instead of a prompt")
        limit = self._limits.max_new_tokens
        wanted = min(work.work.params.max_tokens or spec.max_tokens or limit, limit)
        dialect = self._chat.dialect
        incoming = _Incoming(work, spec, begins_inside=dialect.begins_inside)
        reason = self._take_in(work, spec, wanted, incoming)
        incoming.end(is_cut=reason in {"length", "deadline"})
        if incoming.was_unmarked:
            self._chat.dialect = replace(dialect, reasons=True, begins_inside=True)
        text = incoming.text.text
        if not text:
            _check_empty(
                incoming, wanted=wanted, may_stop=reason == "stop" and bool(spec.stop or work.work.params.stop)
            )
        if spec.schema is not None and (spec.must_be_whole or reason == "stop"):
            _check_json(text, incoming.finish)
        counted = incoming.usage.completion_tokens or max(1, round(len(text.encode()) / _BYTES_PER_TOKEN))
        return Generated(
            key=work.work.key,
            text=text,
            finish_reason=reason,
            usage=replace(incoming.usage, completion_tokens=counted),
            timings=work.timings(self._clock()),
        )

    def _take_in(self, work: OpenWork, spec: TextSpec, wanted: int, incoming: _Incoming) -> FinishReason:
        """Take the text in as it comes; returns why it ended."""
        # The limit sent to the server includes tokens for reasoning, so the answer may get longer than wanted.
        has_allowance = self._chat.dialect.reasoning_tokens(wanted) > 0
        turns = self._turns(work.work, spec, wanted)
        fields = self._fields(work.work, spec, wanted)
        try:
            with contextlib.closing(
                self._chat.chunks(work, spec.system.get(work.work.language), turns, **fields)
            ) as chunks:
                for chunk in chunks:
                    incoming.add(chunk, self._clock)
                    if incoming.text.stopped:
                        return "stop"  # which closes the response, so that the server stops writing
                    if has_allowance and spec.schema is None and incoming.pieces >= wanted:
                        return "length"
        except (Cancelled, Expired) as error:
            if not incoming.text.has_begun or spec.must_be_whole:
                raise
            return "cancelled" if isinstance(error, Cancelled) else "deadline"
        return "length" if incoming.finish == "length" else "stop"

    def _fields(self, work: Work, spec: TextSpec, wanted: int) -> Mapping[str, Any]:
        params = work.params
        sampling = sampling_of(Sampling(), preset_sampling(self._server.model), spec.sampling, params)
        fields: dict[str, Any] = {
            "max_tokens": wanted,
            "seed": (params.seed if params.seed is not None else work.seed) % (1 << 32),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "repeat_penalty": sampling.repetition_penalty,  # the name of llama.cpp and Ollama
            "repetition_penalty": sampling.repetition_penalty,  # the name of vLLM
        }
        if spec.schema is not None:
            fields["response_format"] = held_to(spec.name, spec.schema)
        # A model that reasons may write a stop string in its reasoning.
        elif (stops := [*spec.stop, *params.stop]) and not self._chat.dialect.reasons:
            fields["stop"] = stops[:_STOPS]
        return fields

    def _turns(self, work: Work, spec: TextSpec, max_tokens: int) -> list[Turn]:
        """The conversation as far as it fits, and the user's words."""

        def clean(turn: Turn) -> Turn:
            return replace(turn, content=normalise(turn.content, half_width=self._half_width))

        asked = clean(Turn(role="user", content=work.text))
        system = Turn(role="system", content=spec.system.get(work.language, ""))
        most = self._limits.max_context_tokens
        reasoning = min(self._chat.dialect.reasoning_tokens(max_tokens), most // 2)
        budget = most - max_tokens - reasoning - _tokens_of(asked) - _tokens_of(system)
        return [*trim([clean(turn) for turn in work.turns], count=_tokens_of, budget=budget), asked]


def _tokens_of(turn: Turn) -> int:
    return _TOKENS_AROUND_A_TURN + math.ceil(len(turn.content.encode()) / _BYTES_PER_TOKEN)


def _check_empty(incoming: _Incoming, *, wanted: int, may_stop: bool) -> None:
    """Raise if there should be text. `may_stop`: a stop string may have ended it before its first character."""
    if may_stop or (incoming.has_reasoned and wanted == 1):  # see `Dialect.reasoning_tokens`
        return
    raise ModelError(
        "the model used up its tokens for reasoning; raise max_tokens, or take a model that does not reason"
        if incoming.has_reasoned
        else "the model's server wrote nothing"
    )


def _check_json(text: str, finish: str) -> None:
    if finish == "length":
        raise TooLong("the JSON is not complete at the length limit; ask about less, or raise max_tokens of the task")
    try:
        json.loads(text)
    except ValueError:
        raise ModelError("the server did not keep to the schema of the task") from None
