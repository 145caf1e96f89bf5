"""Which fields of a chat request a server accepts, and the request in that form. Pure.

OpenAI's form is the same everywhere; the rest differs. Fields that a server does not know are ignored by most and
refused by some. Some models have no system role, and some want the user and the assistant to take turns.

Sources: docs.ollama.com/api/openai-compatibility (reasoning_effort); the README of llama.cpp's server and vLLM's
documentation of reasoning outputs (chat_template_kwargs); Ollama's own API (think).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from edged.tasks.conversation import Turn

# Each of these keeps a model from reasoning before it answers, on some servers: Ollama, LM Studio and newer others;
# proxies before Ollama's own API; llama.cpp, vLLM and SGLang. The others ignore it.
_NO_REASONING: Mapping[str, Any] = {
    "reasoning_effort": "none",
    "think": False,
    "chat_template_kwargs": {"enable_thinking": False},
}
_SAMPLING = frozenset({"top_k", "repeat_penalty", "repetition_penalty"})  # not in OpenAI's form
_OWN = frozenset({"temperature", "top_p", "seed", "stop", "stream_options"})  # in it, and yet refused by some models
_OPTIONAL = frozenset({*_NO_REASONING, *_SAMPLING, *_OWN})
_ALWAYS = frozenset({"temperature", "seed", "stream_options"})  # in every streamed request
_REASONING_TOKENS = 1024  # for a model that cannot be kept from reasoning
_BLANK = "\n\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How one server wants a chat request.

    Attributes:
        without: fields that it refuses.
        folds_system: there is no system role: the instruction goes before the user's first words.
        alternates: the first turn must be the user's.
        max_tokens: its name for the limit of tokens.
        reasons: the model reasons even if it is told not to.
        begins_inside: the text begins with reasoning that has no opening mark.
    """

    without: frozenset[str] = frozenset()
    folds_system: bool = False
    alternates: bool = False
    max_tokens: str = "max_tokens"
    reasons: bool = False
    begins_inside: bool = False

    def reasoning_tokens(self, max_tokens: int) -> int:
        """Tokens to allow for reasoning beside the `max_tokens` of the answer.

        None if a single token is wanted: that request only tests whether any token comes, and a token of reasoning is
        enough.
        """
        return _REASONING_TOKENS if self.reasons and max_tokens > 1 else 0

    def body(self, *, max_tokens: int, **fields: Any) -> dict[str, Any]:
        """A request with these fields, but for those that the server refuses."""
        fields = {**_NO_REASONING, **fields}
        limit = max_tokens + self.reasoning_tokens(max_tokens)
        taken = {name: value for name, value in fields.items() if name not in self.without}
        return {**taken, self.max_tokens: limit}

    def messages(self, system: str | None, turns: Sequence[Turn]) -> list[dict[str, str]]:
        """The instruction and the conversation. Turns of the same side one after the other become one."""
        merged = [
            Turn(role=role, content=_BLANK.join(turn.content for turn in same))
            for role, same in groupby(turns, key=lambda turn: turn.role)
        ]
        begins_with_user = not merged or merged[0].role == "user"
        if system is None:
            return _as_messages(merged)
        if self.folds_system or (self.alternates and not begins_with_user):
            if begins_with_user and merged:
                first, *rest = merged
                merged = [Turn(role="user", content=f"{system}{_BLANK}{first.content}".strip()), *rest]
            else:
                merged = [Turn(role="user", content=system), *merged]
        else:
            merged = [Turn(role="system", content=system), *merged]
        return _as_messages(merged)


def _as_messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def further_dialects(dialect: Dialect, refusal: str) -> list[Dialect]:
    """Dialects to try after a server refused a request in `dialect`, the most probable first.

    Args:
        dialect: what was tried.
        refusal: the server's words, of a request without user text only: user text may contain names of fields.
    """
    if "max_completion_tokens" in refusal and dialect.max_tokens == "max_tokens":
        return [replace(dialect, max_tokens="max_completion_tokens")]
    named = {name for name in _OPTIONAL - dialect.without if re.search(rf"(?<!\w){name}(?!\w)", refusal)}
    if named and not named >= _ALWAYS:  # else it repeats the whole request
        return [replace(dialect, without=dialect.without | named | (_SAMPLING if named & _SAMPLING else set()))]
    folded = replace(dialect, folds_system=True)
    further = _one_thing_less() if dialect == Dialect() else []
    if re.search(r"\broles?\b|system", refusal, re.IGNORECASE):
        return [folded, *further]
    return further


def _one_thing_less() -> list[Dialect]:
    """Dialects to try if the server does not say what is wrong: each leaves one thing out."""
    plain = Dialect(without=frozenset(_NO_REASONING) | _SAMPLING)
    return [
        *(Dialect(without=frozenset({name})) for name in _NO_REASONING),
        Dialect(without=_SAMPLING),
        Dialect(folds_system=True),
        plain,
        replace(plain, folds_system=True),
    ]
