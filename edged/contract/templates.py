"""Templates and JSON Pointers: how a route names parts of a topic, of a payload and of a result. Pure.

In a template `{topic}` is the topic of the message, `{topic[1]}` one level of it (counted from 0), `{payload}` the
whole payload, and `{/a/b}` the value at a JSON Pointer (RFC 6901). `{{` and `}}` stand for braces.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_LEVEL = re.compile(r"topic\[(\d{1,3})\]")
_ESCAPES = re.compile(r"~(?![01])")
_IN_REQUEST = "request"


class TemplateError(ValueError):
    """A template has no value for a message. The message names the part that is missing, and no text of a user."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the placeholders of a template stand for.

    Attributes:
        result: the JSON of the result, where the template is for an answer; else pointers go into the payload.
    """

    topic: str
    payload: str
    result: Any = None
    is_answer: bool = False

    @cached_property
    def request(self) -> Any:
        """The payload as JSON.

        Raises:
            TemplateError: it is not JSON.
        """
        try:
            return json.loads(self.payload.lstrip("\ufeff"))
        except (ValueError, RecursionError):
            raise TemplateError("the payload is not JSON") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointer:
    """A JSON Pointer (RFC 6901), into the result or, with `in_request`, into the payload of the request."""

    path: tuple[str, ...]
    text: str
    in_request: bool = False

    @classmethod
    def parse(cls, text: str, *, in_request: bool = False) -> "Pointer":
        """Read a pointer.

        Raises:
            ValueError: it is none.
        """
        if not text.startswith("/") or _ESCAPES.search(text):
            raise ValueError(
                f"{text!r} is no JSON Pointer: it begins with '/', and '~' is written ~0, '/' in a name ~1"
            )
        path = tuple(part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/"))
        return cls(path=path, text=text, in_request=in_request)

    def value(self, source: Source) -> Any:
        of_answer = source.is_answer and not self.in_request
        at = source.result if of_answer else source.request
        for part in self.path:
            if isinstance(at, Mapping) and part in at:
                at = at[part]
            elif isinstance(at, list) and re.fullmatch(r"0|[1-9]\d{0,8}", part) and int(part) < len(at):
                at = at[int(part)]
            else:
                raise TemplateError(f"the {'result' if of_answer else 'payload'} has no {self.text}")
        return at


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """One level of the topic, counted from 0."""

    number: int

    def value(self, source: Source) -> str:
        levels = source.topic.split("/")
        if self.number >= len(levels):
            raise TemplateError(f"the topic has no level {self.number}")
        return levels[self.number]


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """The whole topic, or the whole payload."""

    name: str

    def value(self, source: Source) -> str:
        return source.topic if self.name == "topic" else source.payload


Place = Pointer | Level | Whole


def _place(name: str) -> Place:
    if (level := _LEVEL.fullmatch(name)) is not None:
        return Level(number=int(level[1]))
    if name in {"topic", "payload"}:
        return Whole(name=name)
    if name.startswith("/"):
        return Pointer.parse(name)
    if name.startswith(f"{_IN_REQUEST}/"):
        return Pointer.parse(name.removeprefix(_IN_REQUEST), in_request=True)
    raise ValueError(
        f"{{{name}}} stands for nothing: there are {{topic}}, {{topic[1]}}, {{payload}}, {{/a/b}} for a value of the "
        "JSON, and in an answer {request/a/b} for a value of the request's; braces are written {{ and }}"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A text with placeholders."""

    parts: tuple[str | Place, ...] = field(default_factory=tuple)

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Read a template.

        Raises:
            ValueError: a placeholder is not known, or a brace stands alone.
        """
        parts: list[str | Place] = []
        at = 0
        for match in _PLACE.finditer(text):
            parts.append(text[at : match.start()])
            at = match.end()
            if match[1] is not None:
                parts.append(_place(match[1]))
            elif match[0] in {"{{", "}}"}:
                parts.append(match[0][0])
            else:
                raise ValueError(f"{text!r} has a brace without its other half; braces are written {{{{ and }}}}")
        return cls(parts=tuple(part for part in (*parts, text[at:]) if part != ""))

    @classmethod
    def of_value(cls, text: str) -> "Template":
        """Read a template or, where the text begins with '/', a JSON Pointer.

        Raises:
            ValueError: it is neither.
        """
        return cls(parts=(Pointer.parse(text),)) if text.startswith("/") and "{" not in text else cls.parse(text)

    def value(self, source: Source) -> Any:
        """What it stands for; a single placeholder keeps the type of its value.

        Raises:
            TemplateError: a part is not there.
        """
        if len(self.parts) == 1 and not isinstance(self.parts[0], str):
            return self.parts[0].value(source)
        return self.render(source)

    def render(self, source: Source) -> str:
        """The text.

        Raises:
            TemplateError: a part is not there.
        """
        return "".join(part if isinstance(part, str) else _as_text(part.value(source)) for part in self.parts)

    def render_topic(self, source: Source) -> str:
        """The text as a topic, in which no value makes a level of its own.

        Raises:
            TemplateError: a part is not there, or cannot be in a level of a topic.
        """
        told: list[str] = []
        for part in self.parts:
            text = part if isinstance(part, str) else _as_text(part.value(source))
            is_level = isinstance(part, str) or part == Whole(name="topic") or (text and "/" not in text)
            if not is_level:
                raise TemplateError("a value for the topic is empty, or has a '/'")
            told.append(text)
        return "".join(told)

    def as_filter(self) -> str:
        """A topic filter of all topics that it may make."""
        marked = "".join(
            part if isinstance(part, str) else _ANY_LEVELS if part == _TOPIC else "\0" for part in self.parts
        )
        head, is_open, _ = marked.partition(_ANY_LEVELS)
        levels = ["+" if "\0" in level else level for level in head.split("/")]
        return "/".join([*levels[:-1], "#"]) if is_open else "/".join(levels)


_TOPIC = Whole(name="topic")
_ANY_LEVELS = "\1"


def _as_text(value: Any) -> str:
    if value is None:
        raise TemplateError("a value is null")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TemplateError("a value has half a character (a lone surrogate)") from None
    return text
