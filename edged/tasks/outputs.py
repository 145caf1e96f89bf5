"""The answers of the model to a task, and the outputs that a result has for them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

FinishReason = Literal["stop", "length", "deadline", "cancelled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """The model's answer to a classification: a probability for each label, by canonical name."""

    scores: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprob:
    """A token that the model wrote, and how probable it was: natural logarithms of the model's own probabilities.

    These are the probabilities before sampling changes them by temperature, penalties and limits.

    Attributes:
        token: its text; `\ufffd` stands for a part of a character.
        top: the most probable tokens at this place, by text; the most probable first.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The model's answer to a task that writes text; `logprobs` are there if they were asked for."""

    text: str
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] = ()


Answer = Scored | Written


@dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """A label with its probability; `scores` has one for each label, also for neutral; they sum to 1."""

    label: str
    name: str
    emoji: str
    score: float
    scores: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A generated text and why it ended."""

    text: str
    finish_reason: FinishReason


@dataclass(frozen=True, kw_only=True, slots=True)
class Extraction:
    """The data found in a text, as JSON of the task's schema."""

    data: Mapping[str, Any]


Output = Classification | Reply | Extraction
