"""The operator's own tasks: what `[tasks.NAME]` of the settings may contain, and the specs made from it. Pure.

A task with the name of a built-in task replaces it, in compositions too.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from edged.tasks.built_in import in_languages
from edged.tasks.languages.own import LanguageCode, LanguageSettings, check_case
from edged.tasks.languages.shipped import SHIPPED
from edged.tasks.shorten import MIN_BYTES
from edged.tasks.specs import (
    ClassifyPrompt,
    ClassifySpec,
    ComposeSpec,
    Example,
    ExtractSpec,
    GenerateSpec,
    Label,
    PartSpec,
    SamplingWishes,
    Tasks,
    TaskSpec,
)
from edged.tasks.text import LANGUAGES, Language, asked_in

T = TypeVar("T")

# The keys of a result that do not come from a task; no task may have such a name.
RESERVED = frozenset(
    {
        "id",
        "task",
        "session",
        "status",
        "node",
        "model",
        "time",
        "usage",
        "timings",
        "error",
        "seq",
        "history",
        "duplicate",
        "language_supported",
    }
)
_AS_JSON: Mapping[Language, str] = {
    "en": "Answer only with JSON of this schema: ",
    "zh": "只用符合此模式的 JSON 回答:",
}
_CASE: Mapping[Language, str] = {"en": "Text: {text}\nAnswer: {label}\n\n", "zh": "文本:{text}\n回答:{label}\n\n"}
# Texts without content: the labels that they get show the prompt's own bias (see ClassifyPrompt).
_NEUTRAL_TEXTS: Mapping[Language, tuple[str, ...]] = {
    "en": ("", "N/A", "The text is here.", "It is what it is.", "Something about something."),
    "zh": ("", "无", "这是一段文字。", "就是这样。", "关于某件事的内容。"),
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _as_it_is_read(text: str) -> str:
    """Refuse white space around a label's words, which end a line of the prompt: it would change the tokens."""
    if text != text.strip() or len(text.splitlines()) != 1:
        raise ValueError("white space at its ends, or a line break in it")
    return text


_Text = Annotated[str, Field(min_length=1)]
_Words = Annotated[_Text, AfterValidator(_as_it_is_read)]
_ByLanguage = _Text | Annotated[dict[LanguageCode, _Text], Field(min_length=1)]


class LabelSettings(_Part):
    """One answer of a task that classifies."""

    label: _Words = Field(description="The name of the label in results.")
    emoji: str = ""
    en: _Words | None = Field(None, description="Its name in English prompts; the label itself by default.")
    zh: _Words | None = Field(None, description="Its name in Chinese prompts; the label itself by default.")
    names: dict[LanguageCode, _Words] = Field({}, description="Its names in prompts of other languages.")
    words: tuple[_Words, ...] | dict[LanguageCode, tuple[_Words, ...]] = Field(
        (),
        description="Words that prompts use instead of the name, as many for every label. Examples show the first; the "
        "probabilities of all are read and combined, at no further cost.",
    )


class ExampleSettings(_Part):
    """A text with its label, shown to the model."""

    text: _Text
    label: _Text


class ClassifySettings(_Part):
    """A task that gives one of its labels, with a probability for each."""

    kind: Literal["classify"]
    labels: tuple[LabelSettings, ...] = Field(min_length=2, max_length=100)
    role: _ByLanguage = Field(description="Tells the model who it is and what it judges.")
    case: _ByLanguage | None = Field(None, description="The form of a case: contains {text}, and {label} after it.")
    examples: tuple[ExampleSettings, ...] | dict[LanguageCode, tuple[ExampleSettings, ...]] = ()
    neutral_texts: tuple[str, ...] | dict[LanguageCode, tuple[str, ...]] | None = Field(
        None,
        description="Texts that favour no label; they show the prompt's own bias, which is taken out of the scores.",
    )
    neutral: LabelSettings | None = Field(None, description="The label given when the best two labels are nearly tied.")
    neutral_margin: float = Field(0.1, ge=0, lt=1)

    @field_validator("labels", mode="before")
    @classmethod
    def _plain(cls, labels: object) -> object:
        """A label may be given as its name alone."""
        if not isinstance(labels, list | tuple):
            return labels
        return tuple({"label": each} if isinstance(each, str) else each for each in labels)

    @model_validator(mode="after")
    def _agrees(self) -> "ClassifySettings":
        names = [each.label for each in self.labels]
        if len({*names}) < len(names):
            raise ValueError("two labels have the same name")
        if self.neutral is not None and self.neutral.label in names:
            raise ValueError(f"{self.neutral.label} is already one of labels; neutral must be another one")
        for language in self.languages:
            words = [_label(each, self.languages).words(language) for each in self.labels]
            if len({*map(len, words)}) > 1:
                raise ValueError(f"every label must have the same number of words in {language} prompts")
            if len({*chain(*words)}) < len([*chain(*words)]):
                raise ValueError(f"two labels have the same name or word in {language} prompts")
            check_case(_in(language, self.case, _CASE))
            if not _in(language, self.neutral_texts, _NEUTRAL_TEXTS):
                raise ValueError('neutral_texts must have at least one text; the text may be ""')
            for each in _in(language, self.examples, {}) or ():
                if each.label not in names:
                    raise ValueError(f"the example {each.text[:30]!r} has a label not in labels: {each.label}")
        return self

    @property
    def languages(self) -> tuple[Language, ...]:
        """Those of its prompts: English, Chinese, and those in which it has something of its own."""
        return _languages(self.role, self.case, self.examples)

    def spec(self, name: str) -> ClassifySpec:
        """The task."""
        return ClassifySpec(
            name=name,
            labels=tuple(_label(each, self.languages) for each in self.labels),
            prompts={language: self._prompt(language) for language in self.languages},
            neutral=None if self.neutral is None else _label(self.neutral, self.languages),
            neutral_margin=self.neutral_margin if self.neutral is not None else 0.0,
        )

    def _prompt(self, language: Language) -> ClassifyPrompt:
        case = _in(language, self.case, _CASE)
        return ClassifyPrompt(
            role=_in(language, self.role, {}).rstrip() + "\n\n",
            case=case + "\n\n"
            if case.endswith("{label}")
            else case,  # else the next case would follow in the same word
            examples=tuple(
                Example(text=each.text, label=each.label) for each in _in(language, self.examples, {}) or ()
            ),
            neutral_texts=_in(language, self.neutral_texts, _NEUTRAL_TEXTS),
        )


class GenerateSettings(_Part):
    """A task that writes text, by the chat template of the model."""

    kind: Literal["generate"]
    system: _ByLanguage = Field(description="Tells the model who it is and how to answer.")
    temperature: float | None = Field(
        None, ge=0, le=2, description="Default of this and the next three: best for the model."
    )
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1000)
    repetition_penalty: float | None = Field(None, ge=0.5, le=2)
    max_tokens: int | None = Field(None, ge=1, le=32768, description="Longest answer; at most engine.max_new_tokens.")
    stop: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field((), max_length=8)
    whole_sentences: bool = Field(
        False,
        description="Whether an answer that max_tokens or a deadline cuts short ends with its last whole sentence. A "
        "stream then comes sentence by sentence.",
    )
    max_bytes: int | None = Field(
        None, ge=MIN_BYTES, description="The most bytes of an answer; it is cut after a sentence or a word."
    )
    history: bool = Field(False, description="Whether it is a conversation, in which the model sees the earlier turns.")

    def spec(self, name: str) -> GenerateSpec:
        """The task."""
        return GenerateSpec(
            name=name,
            system={language: _in(language, self.system, {}) for language in _languages(self.system)},
            sampling=SamplingWishes(
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=self.top_k,
                repetition_penalty=self.repetition_penalty,
            ),
            max_tokens=self.max_tokens,
            keeps_history=self.history,
            stop=self.stop,
            whole_sentences=self.whole_sentences,
            max_bytes=self.max_bytes,
        )


class ExtractSettings(_Part):
    """A task that gives what it finds in a text as JSON of a schema; the output never has another form."""

    kind: Literal["extract"]
    system: _ByLanguage = Field(description="Tells the model what to find in the text.")
    json_schema: dict[str, Any] = Field(alias="schema", description="A JSON Schema of an object.")
    max_tokens: int = Field(256, ge=1, le=32768, description="Room for the JSON; if it needs more, that is an error.")

    @field_validator("json_schema")
    @classmethod
    def _object(cls, schema: dict[str, Any]) -> dict[str, Any]:
        if schema.get("type") != "object" or not schema.get("properties"):
            raise ValueError('it must be a JSON Schema with type = "object" and properties')
        try:
            json.dumps(schema, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"it has a value that JSON cannot hold: {error}") from None
        return schema

    def spec(self, name: str) -> ExtractSpec:
        """The task."""
        shown = json.dumps(self.json_schema, ensure_ascii=False, separators=(",", ":"))
        return ExtractSpec(
            name=name,
            system={
                each: f"{_in(each, self.system, {})}\n{_AS_JSON[asked_in(each, _AS_JSON)]}{shown}"
                for each in _languages(self.system)
            },
            max_tokens=self.max_tokens,
            schema=self.json_schema,
        )


class ComposeSettings(_Part):
    """A task that runs several others on one text at the same time."""

    kind: Literal["compose"]
    parts: tuple[_Text, ...] = Field(min_length=1, max_length=16)

    def spec(self, name: str) -> ComposeSpec:
        """The task."""
        return ComposeSpec(name=name, parts=self.parts)


OwnTask = ClassifySettings | GenerateSettings | ExtractSettings | ComposeSettings
TaskSettings = Annotated[OwnTask, Field(discriminator="kind")]
# A name is one level of a topic and a key of a result.
TaskName = Annotated[str, Field(pattern=r"^[^/+#$\x00-\x1f\x7f][^/+#\x00-\x1f\x7f]*$", max_length=64)]

EXAMPLE = """\
# Your own tasks, in addition to the built-in ones (message, sentiment, reply) or, with the same name, instead of them.
# A message to R/in/<name> is a request. Any text may be one for all languages, or one for each:
# role = { en = "…", zh = "…", de = "…" }.
#
#[tasks.urgency]
#kind = "classify"                    # gives one of the labels, with a probability for each
#labels = [                           # or only names: ["urgent", "routine"]
#    { label = "urgent", emoji = "🚨", words = ["urgent", "emergency", "danger"] },
#    { label = "routine", words = ["routine", "request", "question"] },
#]
#role = "You judge how urgent a message to a building's caretaker is."
#case = "Message: {text}\\nUrgency: {label}\\n\\n"
#examples = [
#    { text = "A pipe broke and the flat is under water.", label = "urgent" },
#    { text = "Could you oil the hinge some time?", label = "routine" },
#    { text = "The paint in the hall is a bit old.", label = "routine" },
#    { text = "It smells of burning in the stairwell.", label = "urgent" },
#    { text = "A woman is hurt in the yard.", label = "urgent" },
#    { text = "My name on the bell is spelled wrong.", label = "routine" },
#    { text = "The garage door does not open and I cannot get out.", label = "urgent" },
#    { text = "I will be away next week.", label = "routine" },
#]
#neutral_texts = ["", "A message.", "It is about the building.", "Hello, this is flat number four.",
#    "The door on the second floor.", "The lamp is on.", "Something in the kitchen."]
#
#[tasks.summary]
#kind = "generate"                    # writes
#system = \"\"\"Extract and present the main key point of the input text in one very short sentence, including \\
#essential details like dates or locations if necessary.\"\"\"
#temperature = 0.0                    # by default, sampling is as is best for the model
#max_tokens = 40
#stop = ["\\n"]
#whole_sentences = true               # an answer that is cut short ends with its last whole sentence
#
#[tasks.order]
#kind = "extract"                     # JSON of a schema, never anything else; needs pip install 'edged[extract]'
#system = '''
#You copy the item and the number from an order. Examples:
#"two bowls of rice": {"item":"bowl of rice","count":2}
#"I want one blue shirt": {"item":"blue shirt","count":1}
#"Please send 40 nails": {"item":"nails","count":40}
#"six small lamps": {"item":"small lamps","count":6}
#"ten roses for my wife": {"item":"roses","count":10}
#"a dozen spoons": {"item":"spoons","count":12}'''
#schema.type = "object"
#schema.required = ["item", "count"]
#schema.additionalProperties = false
#schema.properties.item = { type = "string", maxLength = 40 }
#schema.properties.count = { type = "integer", minimum = 1, maximum = 99 }
#
#[tasks.ticket]
#kind = "compose"                     # several tasks on one text
#parts = ["urgency", "summary", "sentiment"]
"""


def tasks_of(
    own: Mapping[str, OwnTask], languages: Mapping[Language, LanguageSettings] = MappingProxyType({})
) -> Tasks:
    """Put together the built-in tasks, in the languages of the settings too, and those of the settings.

    Raises:
        ValueError: the tasks do not fit together; the message names the task that is wrong.
    """
    built_in = in_languages([*SHIPPED, *(each.prompts(language) for language, each in languages.items())])
    specs: dict[str, TaskSpec] = {each.name: each for each in built_in}
    specs |= {name: each.spec(name) for name, each in own.items()}
    for name in specs:
        if name in RESERVED:
            raise ValueError(f"tasks.{name}: results have a field of this name; choose another name")
        parts = [*_parts(name, specs, ())]
        if len({each.name for each in parts}) < len(parts):
            raise ValueError(f"tasks.{name}: it has a part twice")
        talking = [each.name for each in parts if each.keeps_history]
        if len(talking) > 1:
            raise ValueError(f"tasks.{name}: {' and '.join(talking)} each keep a conversation; only one part may")
    return Tasks(specs.values())


def _parts(name: str, specs: Mapping[str, TaskSpec], above: tuple[str, ...]) -> Iterator[PartSpec]:
    if name in above:
        raise ValueError(f"tasks.{above[0]}: it is a part of itself ({' → '.join((*above, name))})")
    spec = specs.get(name)
    if spec is None:
        raise ValueError(f"tasks.{above[-1]}: its part {name} is not a task; the tasks are {', '.join(specs)}")
    if not isinstance(spec, ComposeSpec):
        yield spec
        return
    for part in spec.parts:
        yield from _parts(part, specs, (*above, name))


def _languages(*given: object) -> tuple[Language, ...]:
    """English, Chinese, and all that have an entry of their own in one of the values given."""
    own = chain(*(each for each in given if isinstance(each, dict)))
    return tuple(dict.fromkeys((*LANGUAGES, *own)))


def _label(label: LabelSettings, languages: Iterable[Language]) -> Label:
    words = label.words if isinstance(label.words, dict) else dict.fromkeys(languages, label.words)
    return Label(
        canonical=label.label,
        emoji=label.emoji,
        names={language: _named(label, language) for language in languages},
        said=words,
    )


def _named(label: LabelSettings, language: Language) -> str:
    return {"en": label.en, "zh": label.zh, **label.names}.get(language) or label.label


def _in(language: Language, given: T | dict[Language, T] | None, default: Mapping[Language, T]) -> T:
    """The value for a language: its own, or the first one that is given, or the default (that of English)."""
    if given is None or given == {}:
        return default[asked_in(language, default)]
    if isinstance(given, dict):
        return given.get(language, next(iter(given.values())))
    return given
