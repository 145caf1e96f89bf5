"""The forms of an OpenAI-compatible server's answers. Pure. An answer that has none of these forms is refused whole.

Servers differ: a field that is missing or null counts as not told, and fields that are not read here are ignored.

Source: platform.openai.com/docs/api-reference; the differences are noted where they matter.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edged.ports.engine import NO_USAGE, Usage

_LEAST = -100.0  # a lower one counts as impossible; llama.cpp gives -3.4e38 to tokens that it rules out
_MOST = 0.01  # a probability of 1, and rounding

_Count = Annotated[int, Field(ge=0, lt=1 << 53)]
_LogProbability = Annotated[float, Field(le=_MOST), AfterValidator(lambda value: max(value, _LEAST))]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Model(_Form):
    id: str


class Models(_Form):
    """The answer of `models`."""

    data: list[_Model] | None = None  # Ollama says null where it has no model yet

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
        """The tokens that the request took; zeros where the server does not tell."""
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
    content: list[_Position] | None = None  # the form of chat completions, which llama.cpp uses here too
    top_logprobs: list[dict[str, _LogProbability] | None] | None = None


class _Text(_Form):
    logprobs: _LogProbabilities | None = None


class Completion(_Spent):
    """The answer of `completions`."""

    choices: list[_Text] = Field(min_length=1)

    @property
    def next_tokens(self) -> dict[str, float]:
        """The most probable first tokens as text, with their log-probabilities; empty where the server tells none."""
        told = self.choices[0].logprobs
        if told is None:
            return {}
        if told.content:
            return {each.token: each.logprob for each in told.content[0].top_logprobs or ()}
        return (told.top_logprobs or [None])[0] or {}


class _Message(_Form):
    content: str | None = None
    reasoning_content: str | None = None  # llama.cpp, SGLang, LM Studio, older vLLM
    reasoning: str | None = None  # Ollama, newer vLLM
    thinking: str | None = None  # proxies before Ollama's own API


class _Said(_Form):
    message: _Message


class ChatCompletion(_Spent):
    """The answer of `chat/completions`."""

    choices: list[_Said] = Field(min_length=1)

    @property
    def text(self) -> str:
        return self.choices[0].message.content or ""


class _Piece(_Form):
    delta: _Message | None = None
    message: _Message | None = None  # of a server that does not stream
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        said = self.delta or self.message
        return (said and said.content) or ""

    @property
    def reasoning(self) -> str:
        """Reasoning that the server kept apart from the text."""
        said = self.delta or self.message
        return (said and (said.reasoning_content or said.reasoning or said.thinking)) or ""


class Chunk(_Spent):
    """A part of the streamed answer of `chat/completions`; the last ones have `finish_reason` and the usage.

    A server that does not stream gives the whole answer as one.
    """

    choices_: list[_Piece] | None = Field(None, alias="choices")
    error: Any = None

    @property
    def choices(self) -> list[_Piece]:
        return self.choices_ or []
