"""What a task is: its kind, labels, prompts and languages. Pure.

A kind of task is a class here, with all that is particular to it: how the model's answer reads in a result, its JSON
Schema, what is streamed, whether it keeps a conversation. To add one, write its class, name it in `PartSpec`, and let
mypy show the two engines and the settings what they miss. The built-in tasks are in `built_in.py`, an operator's in
`own.py`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, Protocol
from urllib.parse import quote

from edged.errors import ModelError
from edged.tasks.outputs import Answer, Classification, Extraction, Reply, Scored, Written
from edged.tasks.text import Language


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """One answer of a classification.

    Attributes:
        canonical: its name on the wire, the same in every language.
        emoji: shown beside it; may be empty.
        names: its name in each prompt language.
        said: the words whose probability is read, by prompt language, as many for each label. Each place in the list
            is a reading of its own, and the evidence of the readings is added up. Where there are none it is the name.
        shown: what stands in the examples, by prompt language; else the first of the words.
    """

    canonical: str
    names: Mapping[Language, str]
    emoji: str = ""
    said: Mapping[Language, tuple[str, ...]] = field(default_factory=dict)
    shown: Mapping[Language, str] = field(default_factory=dict)

    def words(self, language: Language) -> tuple[str, ...]:
        """What is read for it in a prompt of this language."""
        return self.said.get(language) or (self.names[language],)

    def example(self, language: Language) -> str:
        """What stands for it in the examples of a prompt of this language."""
        return self.shown.get(language) or self.words(language)[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A solved case shown in the prompt."""

    text: str
    label: str  # canonical


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifyPrompt:
    """The prompt of a classification in one language.

    It reads: role, then each example as `case` with its label's name, then `case` with the text, and the model
    is asked how probable each label's name is next. All before the text is the same for every request, so its
    KV cache is computed once.

    Attributes:
        role: who the model is and what it judges.
        case: one case with `{text}` and, at its end, `{label}`.
        examples: solved cases, as many of one label as of another.
        neutral_texts: texts that carry no polarity, or as much of one as of the other; the mean label probability
            over them is the prompt's own bias, and is taken out (contextual calibration: Zhao et al. 2021,
            domain-context calibration: Fei et al. 2023).
    """

    role: str
    case: str
    examples: tuple[Example, ...]
    neutral_texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifySpec:
    """Scores the labels of a text; one forward pass an opinion, nothing generated.

    Attributes:
        neutral: the label given when the best two labels are nearer than `neutral_margin`; it is not scored by
            the model itself.
        further: by language, the same question by other prompts: tasks with a name of their own and the same labels in
            the same order, perhaps said by other words. They are asked one after the other while the best two labels
            are nearer than `doubt` by the mean of the evidence: where one prompt is sure, more of them hardly ever
            change the answer.
    """

    name: str
    labels: tuple[Label, ...]
    prompts: Mapping[Language, ClassifyPrompt]
    neutral: Label | None = None
    neutral_margin: float = 0.0
    further: Mapping[Language, tuple["ClassifySpec", ...]] = field(default_factory=dict)
    doubt: float = 0.0

    kind: ClassVar[str] = "classify"
    keeps_history: ClassVar[bool] = False
    streams_words: ClassVar[bool] = False
    precedes_words: ClassVar[bool] = True  # in a stream it comes as one chunk, before the words of any other part
    output_schema: ClassVar[Mapping[str, Any]] = {"$ref": "#/$defs/Classification"}
    chunk_schema: ClassVar[Mapping[str, Any]] = {"$ref": "#/$defs/Classification"}

    def output(self, answer: Answer, language: Language) -> Classification:
        """Turn label probabilities into an answer: the most probable label, or the neutral one when it is a near tie.

        With a neutral label that the model does not score, `score` of it is 1 minus the distance of the best two.
        """
        if not isinstance(answer, Scored):
            raise TypeError(f"task {self.name} was answered without scores")
        scores = answer.scores
        first, second = sorted(scores, key=lambda name: scores[name], reverse=True)[:2]
        margin = scores[first] - scores[second]
        label = next(each for each in self.labels if each.canonical == first)
        score = scores[first]
        if self.neutral is not None and margin < self.neutral_margin:
            label, score = self.neutral, 1.0 - margin
        return Classification(
            label=label.canonical,
            name=label.names[language],
            emoji=label.emoji,
            score=round(score, 4),
            scores={name: round(value, 4) for name, value in scores.items()},
        )

    def summary(self) -> dict[str, Any]:
        """What `R/info` says of it."""
        labels = [*self.labels, *([self.neutral] if self.neutral else [])]
        return {
            "kind": self.kind,
            "labels": [{"label": each.canonical, "names": dict(each.names), "emoji": each.emoji} for each in labels],
        }

    def opinions(self, language: Language) -> tuple["ClassifySpec", ...]:
        """Every prompt that may be asked of a text in this language, in order."""
        return (self, *self.further.get(language, ()))

    def is_in_doubt(self, probabilities: Iterable[float]) -> bool:
        """Whether labels of these probabilities want a further opinion."""
        first, second = sorted(probabilities, reverse=True)[:2]
        return first - second < self.doubt


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionPrompt:
    """A classification as text: `text` to continue, by `space` and a label's word."""

    text: str
    space: str


def solved_cases(spec: ClassifySpec, language: Language) -> str:
    """The prompt's examples as text."""
    prompt = spec.prompts[language]
    words = {label.canonical: label.example(language) for label in spec.labels}
    return "".join(prompt.case.format(text=each.text, label=words[each.label]) for each in prompt.examples)


def completion_prompt(spec: ClassifySpec, *, text: str, language: Language) -> CompletionPrompt:
    """The whole prompt as text, for a model that is reached by text."""
    prompt = spec.prompts[language]
    question, _, _ = prompt.case.partition("{label}")
    before, _, after = question.partition("{text}")
    whole = prompt.role + solved_cases(spec, language) + before + text + after
    bare = whole.rstrip(" ")
    return CompletionPrompt(text=bare, space=whole[len(bare) :])


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the next token is drawn (temperature 0 takes the most probable one).

    The values here are for models of which nothing better is known; see deploy/MEASUREMENTS.md, "replies".
    """

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 40
    repetition_penalty: float = 1.1


class Wishes(Protocol):
    """Somebody's choice of some values of `Sampling`; None leaves what is below."""

    @property
    def temperature(self) -> float | None: ...
    @property
    def top_p(self) -> float | None: ...
    @property
    def top_k(self) -> int | None: ...
    @property
    def repetition_penalty(self) -> float | None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingWishes:
    """What a model's makers, a preset or a task say of `Sampling`; see `Wishes`."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None


def sampling_of(below: Sampling, *wishes: Wishes) -> Sampling:
    """Lay wishes over a sampling, the strongest last."""
    for each in wishes:
        chosen = {name: getattr(each, name) for name in _SAMPLING if getattr(each, name) is not None}
        below = replace(below, **chosen)
    return below


_SAMPLING = tuple(each.name for each in fields(Sampling))


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateSpec:
    """Writes text through the model's own chat template.

    Attributes:
        sampling: the values that the task wants in place of the model's own.
        max_tokens: None means the engine's limit.
        stop: strings that end the text and are not part of it.
        whole_sentences: a text that a limit cuts short ends with its last whole sentence, if it has one.
        keeps_history: whether it is a conversation, whose earlier turns the model sees.
    """

    name: str
    system: Mapping[Language, str]
    sampling: SamplingWishes = SamplingWishes()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    whole_sentences: bool = False
    keeps_history: bool = True

    kind: ClassVar[str] = "generate"
    schema: ClassVar[None] = None
    streams_words: ClassVar[bool] = True
    precedes_words: ClassVar[bool] = False
    output_schema: ClassVar[Mapping[str, Any]] = {"$ref": "#/$defs/Reply"}
    chunk_schema: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "required": ["delta"],
        "properties": {"delta": {"type": "string"}},
        "additionalProperties": False,
    }

    def output(self, answer: Answer, language: Language) -> Reply:  # noqa: ARG002 - every kind has this form
        """The text as it is."""
        written = _written(answer, self.name)
        return Reply(text=written.text, finish_reason=written.finish_reason)

    def summary(self) -> dict[str, Any]:
        """What `R/info` says of it."""
        return {"kind": self.kind, "history": self.keeps_history}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractSpec:
    """Puts what a text says into JSON of a schema; the engine holds the output to it.

    Attributes:
        schema: a JSON Schema of an object.
        max_tokens: room for the JSON; None means the engine's limit.
    """

    name: str
    system: Mapping[Language, str]
    schema: Mapping[str, Any]
    sampling: SamplingWishes = SamplingWishes(temperature=0.0, repetition_penalty=1.0)
    max_tokens: int | None = None

    kind: ClassVar[str] = "extract"
    stop: ClassVar[tuple[str, ...]] = ()
    whole_sentences: ClassVar[bool] = False
    keeps_history: ClassVar[bool] = False
    streams_words: ClassVar[bool] = False
    precedes_words: ClassVar[bool] = False
    chunk_schema: ClassVar[None] = None

    @property
    def output_schema(self) -> Mapping[str, Any]:
        """The JSON Schema of its part of a result. The task's own schema gets a name: its `$ref: "#/…"` stay within."""
        data = {"$id": f"urn:edged:{quote(self.name)}", **self.schema}
        return {"type": "object", "required": ["data"], "properties": {"data": data}}

    def output(self, answer: Answer, language: Language) -> Extraction:  # noqa: ARG002 - every kind has this form
        """Read the JSON that the model wrote.

        Raises:
            ModelError: it cannot be sent on. A schema bounds the form of a number and not its size: 1e999 is JSON, and
                no float.
        """
        text = _written(answer, self.name).text
        try:
            data = json.loads(text)
            json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise ModelError("the model's output is no JSON that can be sent; give numbers of the schema a maximum")
        return Extraction(data=data)

    def summary(self) -> dict[str, Any]:
        """What `R/info` says of it."""
        return {"kind": self.kind, "schema": dict(self.schema)}


def _written(answer: Answer, task: str) -> Written:
    if not isinstance(answer, Written):
        raise TypeError(f"task {task} was answered without a text")
    return answer


@dataclass(frozen=True, kw_only=True, slots=True)
class ComposeSpec:
    """Runs several tasks on the same text, side by side; each gives one key of the result."""

    name: str
    parts: tuple[str, ...]

    kind: ClassVar[str] = "compose"


TextSpec = GenerateSpec | ExtractSpec  # what the model answers by writing
PartSpec = ClassifySpec | TextSpec  # what is asked of the model
TaskSpec = PartSpec | ComposeSpec  # what has a name


class Tasks:
    """The tasks this daemon knows, by name."""

    def __init__(self, specs: Iterable[TaskSpec]) -> None:
        self._specs: Mapping[str, TaskSpec] = MappingProxyType({spec.name: spec for spec in specs})

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __iter__(self) -> Iterator[TaskSpec]:
        return iter(self._specs.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order they were given."""
        return tuple(self._specs)

    def parts(self, name: str) -> tuple[PartSpec, ...]:
        """Give the tasks that the model runs for `name`: itself, or a composition's parts in order.

        Raises:
            KeyError: no such task.
        """
        spec = self._specs[name]
        if not isinstance(spec, ComposeSpec):
            return (spec,)
        return tuple(part for each in spec.parts for part in self.parts(each))

    @property
    def all_parts(self) -> Iterator[PartSpec]:
        """What the model is asked by any of the tasks; a part of several tasks comes as often."""
        return (part for name in self.names for part in self.parts(name))

    def keeps_history(self, name: str) -> bool:
        """Whether turns of a session are read and written by this task."""
        return any(part.keeps_history for part in self.parts(name))
