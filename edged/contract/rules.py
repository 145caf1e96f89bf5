"""The rules of `[routes.NAME]`: which messages of other topics are requests, and how their answers are written. Pure.

A rule knows no broker and no settings file; `settings/routes.py` makes it, `serving/routes.py` uses it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edged.contract.templates import Source, Template, TemplateError
from edged.errors import BadRequest
from edged.tasks.shorten import split

MARK = "edged-by"  # a user property of MQTT 5: one for each route by which an answer came about
MAX_CHAIN = 4  # routes one after the other, on any boxes
_PART_END = b"\x1e"  # between the parts of an answer, as it is recorded: no JSON has this byte, and no text needs it


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What must hold for a message to be a request; exactly one of the three is set."""

    value: Template
    equals: Any = None
    matches: re.Pattern[str] | None = None
    exists: bool | None = None

    def holds(self, source: Source) -> bool:
        """Whether it holds. A value that is not there equals nothing and matches nothing."""
        try:
            value = self.value.value(source)
        except TemplateError:
            return self.exists is False
        if self.exists is not None:
            return self.exists is (value is not None)
        if self.matches is not None:
            return isinstance(value, str) and self.matches.search(value) is not None
        return type(value) is type(self.equals) and bool(value == self.equals)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One route of the settings.

    Attributes:
        filters: topic filters; a shared subscription without its `$share/group/`.
        when: all of them must hold; else the message is none of ours.
        publish: the topic of the answer.
        payload: what is published: None for the whole result, a template, or JSON with templates in it.
        max_bytes: of each text that the model writes.
        rate: messages that it takes in a minute; 0: any number.
        parts: the most messages in which a text over `max_bytes` is sent, each with its number before the text.
        errors: the topic of errors; None for that of other requests.
    """

    name: str
    filters: tuple[str, ...]
    text: Template
    when: tuple[Condition, ...]
    task: str
    session: Template | None
    publish: Template
    payload: "Template | Mapping[str, Any] | None"
    errors: Template | None
    retain: bool
    qos: int
    max_bytes: int | None = None
    rate: int = 0
    parts: int = 1

    @property
    def is_text(self) -> bool:
        """Whether answers are plain text, and not JSON."""
        return isinstance(self.payload, Template)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How the answer to one message of a rule is written."""

    rule: Rule
    source: Source = field(compare=False)

    def write(self, result: bytes) -> bytes:
        """The payload to publish, made of the JSON of the result; of an answer in parts, all of them, see `parts_of`.

        Raises:
            BadRequest: a template asks for what the result or the request does not have.
        """
        if self.rule.parts == 1 or self.rule.max_bytes is None:
            return result if self.rule.payload is None else self._written(json.loads(result))
        return _PART_END.join(
            self._written(each).replace(_PART_END, b" ")
            for each in _in_parts(json.loads(result), self.rule.max_bytes, self.rule.parts)
        )

    def _written(self, result: Mapping[str, Any]) -> bytes:
        payload = self.rule.payload
        source = Source(topic=self.source.topic, payload=self.source.payload, result=result, is_answer=True)
        try:
            if isinstance(payload, Template):
                return payload.render(source).encode()
            filled = result if payload is None else _filled(payload, source)
            return json.dumps(filled, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (TemplateError, UnicodeEncodeError) as error:
            raise BadRequest(
                f"the answer cannot be written: {error}", field=f"routes.{self.rule.name}.payload"
            ) from error


def parts_of(payload: bytes) -> list[bytes]:
    """The messages of an answer in parts, in order."""
    return payload.split(_PART_END)


def _in_parts(result: Mapping[str, Any], max_bytes: int, most: int) -> list[dict[str, Any]]:
    """The result, once for each part of its longest text."""
    texts = {
        name: split(value["text"], max_bytes, most)
        for name, value in result.items()
        if isinstance(value, dict) and isinstance(value.get("text"), str)
    }
    return [
        {**result}
        | {name: {**result[name], "text": parts[n] if n < len(parts) else ""} for name, parts in texts.items()}
        for n in range(max(map(len, texts.values()), default=1))
    ]


def _filled(value: Any, source: Source) -> Any:
    if isinstance(value, Template):
        return value.value(source)
    if isinstance(value, Mapping):
        return {key: _filled(each, source) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_filled(each, source) for each in value]
    return value
