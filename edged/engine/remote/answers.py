"""What an OpenAI-compatible server answers, form by form. Pure; what is in none of these forms is refused whole.

Servers differ: what they leave out or say null for is taken as not told, and what nobody reads here is let be.

Source: platform.openai.com/docs/api-reference; the differences are noted where they matter.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edged.ports.engine import NO_USAGE, Usage

_LEAST = -100.0  # less likely is as good as never; llama.cpp says -3.4e38 of what it rules out
_MOST = 0.01  # of a probability of 1 after rounding

_Count = Annotated[int, Field(ge=0, lt=1 << 53)]
_LogProbability = Annotated[float, Field(le=_MOST), AfterValidator(lambda value: max(value, _LEAST))]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Model(_Form):
    id: str


class Models(_Form):
    """Of `models`."""

    data: list[_Model] | None = None  # null: Ollama, where there is none yet

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.data or ()]


class _Details(_Form):
    cached_tokens: _Count | None = None


class _Usage(_Form):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None


class _Spent(_Form):
    usage_: _Usage | None = Field(None, alias="usage")

    @property
    def usage(self) -> Usage:
        """Tokens that it took; zeros where the server does not tell."""
        told = self.usage_
        if told is None:
            return NO_USAGE
        details = told.prompt_tokens_details
        return Usage(
            prompt_tokens=told.prompt_tokens or 0,
            cached_tokens=(details and details.cached_tokens) or 0,
            completion_tokens=told.completion_tokens or 0,
        )


class _Token(_Form):
    token: str
    logprob: _LogProbability


class _Position(_Form):
    top_logprobs: list[_Token] | None = None


class _LogProbabilities(_Form):
    content: list[_Position] | None = None  # the form of chat completions; llama.cpp has it here too
    top_logprobs: list[dict[str, _LogProbability] | None] | None = None


class _Text(_Form):
    logprobs: _LogProbabilities | None = None


class Completion(_Spent):
    """Of `completions`."""

    choices: list[_Text] = Field(min_length=1)

    @property
    def next_tokens(self) -> dict[str, float]:
        """The most probable first tokens as text, with their log-probabilities; empty where none are told."""
        told = self.choices[0].logprobs
        if told is None:
            return {}
        if told.content:
            return {each.token: each.logprob for each in told.content[0].top_logprobs or ()}
        return (told.top_logprobs or [None])[0] or {}


class _Message(_Form):
    content: str | None = None


class _Said(_Form):
    message: _Message


class ChatCompletion(_Spent):
    """Of `chat/completions`."""

    choices: list[_Said] = Field(min_length=1)

    @property
    def text(self) -> str:
        return self.choices[0].message.content or ""


class _Piece(_Form):
    delta: _Message | None = None
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        return (self.delta and self.delta.content) or ""


class Chunk(_Spent):
    """Of `chat/completions`, streamed: the last ones have `finish_reason` and the usage."""

    choices_: list[_Piece] | None = Field(None, alias="choices")
    error: Any = None

    @property
    def choices(self) -> list[_Piece]:
        return self.choices_ or []
