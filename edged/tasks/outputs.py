"""What comes of a task: the model's bare answer, and what a result says of it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

FinishReason = Literal["stop", "length", "deadline", "cancelled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """The model's answer where labels were scored: a probability for each of them, by canonical name."""

    scores: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The model's answer where it wrote text."""

    text: str
    finish_reason: FinishReason


Answer = Scored | Written


@dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """A label with its probability; `scores` has the labels that the model scored, by canonical name."""

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
    """What a text said, as JSON of the task's schema."""

    data: Mapping[str, Any]


Output = Classification | Reply | Extraction
