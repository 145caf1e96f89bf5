"""Routes of the settings: what `[routes.NAME]` may contain, and the rules made of it. Pure."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from edged.contract.rules import Condition, Rule
from edged.contract.templates import Template
from edged.contract.topics import SPOKEN, filters_overlap, is_filter
from edged.tasks.shorten import MIN_BYTES, MOST_PARTS

T = TypeVar("T")

_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
_SHARED = "$share/"

EXAMPLE = """\
# [routes.NAME] takes text from any topic, for devices that know nothing of edged, and puts the answer where it helps.
# subscribe: one topic filter or several. text: a JSON Pointer into the payload, or a template with {topic}, {topic[1]}
# (levels count from 0), {payload} and {/a/b}; left out: the whole payload. task, publish (a template). Further keys:
# when (conditions), session (a template), payload (of the answer: a JSON Pointer into the result, a template, or a
# table with templates), errors (a topic; R/out/<task> if left out), retain, qos, subscribe_qos,
# max_bytes (of a reply's text), parts (of a longer one, numbered), rate (messages in a minute).
#[routes.remark]
#subscribe = "zigbee2mqtt/bridge/logging"
#text = "/message"
#task = "sentiment"
#publish = "home/zigbee/mood"
#when = [{ value = "/level", equals = "error" }]
#payload = "/sentiment/label"
"""


def _many(value: Any) -> Any:
    return (value,) if isinstance(value, str | Mapping) else tuple(value) if isinstance(value, list) else value


def _checked(read: Callable[[str], T], text: str) -> str:
    read(text)
    return text


class ConditionSettings(BaseModel):
    """A condition on a message: the value of a JSON Pointer or template, and what must hold for it."""

    model_config = _STRICT

    value: str = Field(min_length=1, description="A JSON Pointer into the payload, or a template.")
    equals: str | int | float | bool | None = Field(None, description="The value is this, of the same type.")
    matches: str | None = Field(None, description="A regular expression that is found in the value.")
    exists: bool | None = Field(None, description="Whether the value is there and not null.")

    @field_validator("value")
    @classmethod
    def _readable(cls, value: str) -> str:
        return _checked(Template.of_value, value)

    @field_validator("matches")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"it is no regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _one(self) -> "ConditionSettings":
        if sum(each is not None for each in (self.equals, self.matches, self.exists)) != 1:
            raise ValueError("a condition has exactly one of equals, matches and exists")
        return self

    def condition(self) -> Condition:
        """The condition."""
        return Condition(
            value=Template.of_value(self.value),
            equals=self.equals,
            matches=None if self.matches is None else re.compile(self.matches),
            exists=self.exists,
        )


class RouteSettings(BaseModel):
    """A route: which messages of other topics are requests, and where and how they are answered."""

    model_config = _STRICT

    subscribe: Annotated[tuple[str, ...], Field(min_length=1, max_length=64), BeforeValidator(_many)] = Field(
        description="Topic filters; $share/group/filter for one box of several."
    )
    subscribe_qos: Literal[0, 1] = Field(1, description="At QoS 1 nothing is lost that was sent at QoS 1.")
    text: str = Field("{payload}", min_length=1, description="A JSON Pointer into the payload, or a template.")
    when: Annotated[tuple[ConditionSettings, ...], Field(max_length=16), BeforeValidator(_many)] = Field(
        (), description="Conditions; a message for which one does not hold is not answered."
    )
    task: str = Field(min_length=1, description="The task that is asked for.")
    session: str | None = Field(None, min_length=1, description="A template: the conversation, one topic level.")
    publish: str = Field(min_length=1, description="A template: the topic of the answer.")
    payload: str | dict[str, Any] | None = Field(
        None, description="What is published: a JSON Pointer into the result, a template, or a table with templates."
    )
    errors: str | None = Field(None, min_length=1, description="A template: the topic of errors, else R/out/<task>.")
    max_bytes: int | None = Field(
        None, ge=MIN_BYTES, description="The most bytes of a reply's text; it is cut after a sentence or a word."
    )
    parts: int = Field(
        1,
        ge=1,
        le=MOST_PARTS,
        description="The most messages in which a text over max_bytes is sent, numbered 1/3, 2/3, 3/3; 1: it is cut.",
    )
    rate: int = Field(
        0, ge=0, le=1_000_000, description="Messages taken in a minute; beyond, an error busy is sent. 0: any number."
    )
    retain: bool = Field(False, description="Whether the broker keeps the answer.")
    qos: Literal[0, 1] = Field(1, description="Of the answer.")

    @field_validator("subscribe")
    @classmethod
    def _filters(cls, filters: tuple[str, ...]) -> tuple[str, ...]:
        for each in filters:
            if not is_filter(_bare(each)):
                raise ValueError(f"{each!r} is no topic filter: '+' and '#' stand alone in a level, '#' only last")
        return filters

    @field_validator("text", "session")
    @classmethod
    def _values(cls, text: str | None) -> str | None:
        return None if text is None else _checked(Template.of_value, text)

    @field_validator("publish", "errors")
    @classmethod
    def _topics(cls, text: str | None) -> str | None:
        if text is not None:
            made = Template.parse(text).as_filter()
            if not is_filter(made) or {"+", "#"} & set("".join(re.sub(r"\{[^{}]*\}", "", text))):
                raise ValueError("it is no topic to publish to: without '+' and '#', and '$' not at its beginning")
        return text

    @field_validator("payload")
    @classmethod
    def _payload(cls, payload: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        if payload is not None:
            _parsed(payload)
        return payload

    @model_validator(mode="after")
    def _parts_fit(self) -> "RouteSettings":
        if self.parts > 1 and self.max_bytes is None:
            raise ValueError("parts needs max_bytes: how many bytes a part may have")
        if self.parts > 1 and self.retain:
            raise ValueError("parts and retain do not go together: the broker would keep the last part alone")
        return self

    def rule(self, name: str) -> Rule:
        """The rule."""
        return Rule(
            name=name,
            filters=tuple(map(_bare, self.subscribe)),
            text=Template.of_value(self.text),
            when=tuple(each.condition() for each in self.when),
            task=self.task,
            session=None if self.session is None else Template.of_value(self.session),
            publish=Template.parse(self.publish),
            payload=None if self.payload is None else _parsed(self.payload),
            errors=None if self.errors is None else Template.parse(self.errors),
            retain=self.retain,
            qos=self.qos,
            max_bytes=self.max_bytes,
            rate=self.rate,
            parts=self.parts,
        )


def _bare(topic_filter: str) -> str:
    """The filter of a shared subscription; any other filter as it is."""
    return topic_filter.split("/", 2)[-1] if topic_filter.startswith(_SHARED) else topic_filter


def _parsed(value: Any) -> Any:
    """JSON with each text in it read as a template."""
    if isinstance(value, str):
        return Template.of_value(value)
    if isinstance(value, Mapping):
        return {key: _parsed(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return tuple(map(_parsed, value))
    if value is None or isinstance(value, bool | int | float):
        return value
    raise ValueError(f"it has a value that JSON cannot hold: {type(value).__name__}")


def rules_of(routes: Mapping[str, RouteSettings]) -> tuple[Rule, ...]:
    """The rules, in the order of the settings file."""
    return tuple(each.rule(name) for name, each in routes.items())


def check(routes: Mapping[str, RouteSettings], *, prefix: str, node: str, tasks: Collection[str]) -> None:
    """See that the routes fit the tasks, and that no answer can become a request.

    Raises:
        ValueError: they do not; the message names the route.
    """
    rules = rules_of(routes)
    daemons = [f"{prefix}/+/{each}/#" for each in SPOKEN]
    for rule in rules:
        name = f"routes.{rule.name}"
        if rule.task not in tasks:
            raise ValueError(f"{name}: there is no task {rule.task}; there are: {', '.join(tasks)}")
        for each in rule.filters:
            if any(filters_overlap(each, own) for own in (f"{prefix}/{node}/#", *daemons)):
                raise ValueError(f"{name}: {each} covers topics of daemons themselves; narrow it")
        for topic in filter(None, (rule.publish, rule.errors)):
            made = topic.as_filter()
            for other in rules:
                if any(filters_overlap(made, each) for each in other.filters):
                    raise ValueError(
                        f"{name}: an answer at {made} could come in again by routes.{other.name}; choose another topic"
                    )
            if any(filters_overlap(made, own) for own in daemons):
                raise ValueError(f"{name}: {made} covers topics where daemons listen or report; choose another topic")
