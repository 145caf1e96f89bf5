"""What a task is: its kind, labels, prompts and languages. Pure.

Each kind of task is a class here, with everything that differs by kind: how the model's answer reads in a result, its
JSON Schema, what is streamed, whether it keeps a conversation. To add a kind, write its class and add it to `PartSpec`;
mypy then shows what the engines and the settings lack. The built-in tasks are in `built_in.py`, those of the settings
in `own.py`.
"""

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, Protocol
from urllib.parse import quote

from edged.errors import ModelError
from edged.tasks.conversation import Turn
from edged.tasks.outputs import Answer, Classification, Extraction, Reply, Scored, Written
from edged.tasks.prose import headings, prose
from edged.tasks.text import LANGUAGES, Language


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """One answer of a classification.

    Attributes:
        canonical: its name on the wire, the same in every language.
        emoji: shown beside it; may be empty.
        names: its name in each prompt language.
        said: by prompt language, the words whose probability is read; as many words for every label. The first words of
            all labels are one reading, the second words another, and the evidence of all readings is added up. Without
            words, the name is read.
        shown: by prompt language, what the examples show for the label; without it, the first of the words.
    """

    canonical: str
    names: Mapping[Language, str]
    emoji: str = ""
    said: Mapping[Language, tuple[str, ...]] = field(default_factory=dict)
    shown: Mapping[Language, str] = field(default_factory=dict)

    def words(self, language: Language) -> tuple[str, ...]:
        """The words whose probability is read in a prompt of this language."""
        return self.said.get(language) or (self.names[language],)

    def example(self, language: Language) -> str:
        """What the examples of a prompt of this language show for the label."""
        return self.shown.get(language) or self.words(language)[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A case with its answer, shown in the prompt."""

    text: str
    label: str  # canonical


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifyPrompt:
    """The prompt of a classification in one language.

    The prompt is the role, then each example as a `case` with its label, then a `case` with the text up to where the
    label would come; the model tells how probable each label is there. Everything before the text is the same for every
    request, so its keys and values are computed once.

    Attributes:
        role: tells the model who it is and what it judges.
        case: the form of a case, with `{text}` and, after it, `{label}`.
        examples: cases with their answers, as many of each label.
        neutral_texts: texts that favour no label, or all labels equally. The mean label probability over them is the
            prompt's own bias, which is taken out of the scores (contextual calibration: Zhao et al. 2021,
            domain-context calibration: Fei et al. 2023).
        plain_texts: texts without a feeling, and `clear_texts` texts that each have one. The model's readings of them
            show how the two kinds differ, where the task has a neutral label and two others.
        plain_words: words that a model finds probable in the place of the label after a text without a feeling. They
            are read beside the labels, where each of them is one token.
        signal_words: further words that are read so. What they show is learned from `plain_texts` and `clear_texts`.
    """

    role: str
    case: str
    examples: tuple[Example, ...]
    neutral_texts: tuple[str, ...]
    plain_texts: tuple[str, ...] = ()
    clear_texts: tuple[str, ...] = ()
    plain_words: tuple[str, ...] = ()
    signal_words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifySpec:
    """Scores the labels for a text: one forward pass for each prompt, and nothing is generated.

    Attributes:
        neutral: the label of a text that favours none of the others. Its probability is learned from the prompt's
            `plain_texts`. Where nothing was learned, it wins where the probabilities of the best two labels are nearer
            than `neutral_margin`.
        further: by language, other prompts that ask the same: tasks with other names and the same labels in the same
            order, perhaps with other words for them.
        doubt: a further prompt is asked while the probabilities of the best two labels, by all prompts so far, are
            nearer than this. Where one prompt is sure, further prompts hardly ever change the answer.
        neutral_doubt: where the neutral label has a learned probability, a further prompt is asked while the best two
            of all labels are nearer than this, or, of a text that is more likely not neutral, the best two of the
            others are nearer than `polar_doubt`.
        knows_instruments: whether lines of instruments count as plain, see `tasks/instruments.py`.
        is_prose: whether the text is read as prose, see `tasks/prose.py`.
        window_tokens: by language, how long a text may be that is judged as a whole; a longer one is judged in windows
            of at most so many tokens, see `tasks/windows.py`, and the mean of their evidence counts. In a language
            without a number, this is as much as the model's context has room for. Without any, no text is cut.
    """

    name: str
    labels: tuple[Label, ...]
    prompts: Mapping[Language, ClassifyPrompt]
    neutral: Label | None = None
    neutral_margin: float = 0.0
    further: Mapping[Language, tuple["ClassifySpec", ...]] = field(default_factory=dict)
    doubt: float = 0.0
    neutral_doubt: float = 0.0
    polar_doubt: float = 0.0
    knows_instruments: bool = False
    is_prose: bool = False
    window_tokens: Mapping[Language, int] = field(default_factory=dict)

    kind: ClassVar[str] = "classify"
    keeps_history: ClassVar[bool] = False
    streams_words: ClassVar[bool] = False
    precedes_words: ClassVar[bool] = True  # in a stream: one chunk, before the words of any other part
    output_schema: ClassVar[Mapping[str, Any]] = {"$ref": "#/$defs/Classification"}
    chunk_schema: ClassVar[Mapping[str, Any]] = {"$ref": "#/$defs/Classification"}

    def output(self, answer: Answer, language: Language) -> Classification:
        """The most probable label; the neutral one has a probability like the others."""
        if not isinstance(answer, Scored):
            raise TypeError(f"task {self.name} was answered without scores")
        scores = self._with_neutral(answer.scores)
        best = max(scores, key=lambda name: scores[name])
        label = next(each for each in self._all_labels if each.canonical == best)
        return Classification(
            label=label.canonical,
            name=label.names[language],
            emoji=label.emoji,
            score=round(scores[best], 4),
            scores={name: round(value, 4) for name, value in scores.items()},
        )

    def read(self, text: str, language: Language) -> str:
        """A normalised text as the model is to see it."""
        if not self.is_prose:
            return text
        names = {name for label in self._all_labels for name in (label.canonical, *label.names.values())}
        opinions = self.opinions(language)
        words = {word for each in opinions for label in each.labels for word in label.words(language)}
        cases = [each.prompts[language].case for each in opinions]
        shown = [label.example(language) for each in opinions for label in each.labels]
        return prose(text, names=names, words=words, headings=headings("\n".join((*cases, *shown))))

    @property
    def languages(self) -> tuple[Language, ...]:
        """Those in which it can be asked."""
        return tuple(self.prompts)

    @property
    def _all_labels(self) -> tuple[Label, ...]:
        return (*self.labels, *([self.neutral] if self.neutral else []))

    def _with_neutral(self, scores: Mapping[str, float]) -> Mapping[str, float]:
        """The scores, with one for the neutral label.

        Without a learned probability it gets one by the margin of the best two: it is the most probable label where the
        margin is below `neutral_margin`, and has a probability of 0 where the best label has 1.
        """
        if self.neutral is None or self.neutral.canonical in scores:
            return scores
        first, second = sorted(scores.values(), reverse=True)[:2]
        weight = first * ((1 - (first - second)) / (1 - self.neutral_margin)) ** 2
        return {name: value / (1 + weight) for name, value in scores.items()} | {
            self.neutral.canonical: weight / (1 + weight)
        }

    def summary(self) -> dict[str, Any]:
        """What `R/info` says of it."""
        labels = self._all_labels
        return {
            "kind": self.kind,
            "labels": [{"label": each.canonical, "names": dict(each.names), "emoji": each.emoji} for each in labels],
        }

    def question(self, language: Language) -> Hashable:
        """Everything that the bias of its own prompt depends on; another task with the same question has the same."""
        words = tuple((label.words(language), label.example(language)) for label in self.labels)
        return language, self.prompts[language], words

    def questions(self, language: Language) -> Hashable:
        """The questions of all prompts that may be asked about a text, with what is learned for them together."""
        return tuple(each.question(language) for each in self.opinions(language))

    def opinions(self, language: Language) -> tuple["ClassifySpec", ...]:
        """All prompts that may be asked about a text in this language, in order."""
        return (self, *self.further.get(language, ()))

    def is_in_doubt(self, probabilities: Iterable[float], neutral: float | None = None) -> bool:
        """Whether a further prompt is to be asked, after these probabilities of the labels.

        Args:
            probabilities: of the scored labels; they sum to 1.
            neutral: the probability of the neutral label, where it was learned.
        """
        first, second = sorted(probabilities, reverse=True)[:2]
        if neutral is None:
            return first - second < self.doubt
        best, next_best = sorted((neutral, (1 - neutral) * first, (1 - neutral) * second), reverse=True)[:2]
        return best - next_best < self.neutral_doubt or (neutral < 0.5 and first - second < self.polar_doubt)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionPrompt:
    """The prompt of a classification as text. The model would continue `text` with `space` and a label's word."""

    text: str
    space: str


def solved_cases(spec: ClassifySpec, language: Language) -> str:
    """The prompt's examples as text."""
    prompt = spec.prompts[language]
    words = {label.canonical: label.example(language) for label in spec.labels}
    return "".join(prompt.case.format(text=each.text, label=words[each.label]) for each in prompt.examples)


def completion_prompt(spec: ClassifySpec, *, text: str, language: Language) -> CompletionPrompt:
    """The whole prompt as text, for a server that takes text and not tokens."""
    prompt = spec.prompts[language]
    question, _, _ = prompt.case.partition("{label}")
    before, _, after = question.partition("{text}")
    whole = prompt.role + solved_cases(spec, language) + before + text + after
    bare = whole.rstrip(" ")
    return CompletionPrompt(text=bare, space=whole[len(bare) :])


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the next token is drawn (temperature 0 takes the most probable one).

    The default values are for models without recommended values; see deploy/MEASUREMENTS.md, "replies".
    """

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 40
    repetition_penalty: float = 1.1


class Wishes(Protocol):
    """Values that replace those of a `Sampling`; None leaves the value as it is."""

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
    """The values that a model's makers, a preset or a task recommend; see `Wishes`."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None


def sampling_of(below: Sampling, *wishes: Wishes) -> Sampling:
    """Replace values of a sampling by wishes, one after the other: the last has the most weight."""
    for each in wishes:
        chosen = {name: getattr(each, name) for name in _SAMPLING if getattr(each, name) is not None}
        below = replace(below, **chosen)
    return below


_SAMPLING = tuple(each.name for each in fields(Sampling))


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateSpec:
    """Writes text, by the chat template of the model.

    Attributes:
        sampling: values that the task uses instead of the model's own.
        max_tokens: of one answer; None means the engine's limit.
        stop: strings that end the text and are not part of it.
        whole_sentences: whether a text that a limit cuts short ends with its last whole sentence, if it has one.
        keeps_history: whether the task is a conversation, so that the model sees the earlier turns.
        max_bytes: of the text; a longer one is cut after a sentence or a word.
        schema: a JSON Schema to which the engine holds the text. A limit may cut such a text short.
        is_raw: whether the model continues the text as it is, without the chat template and without a system prompt.
        examples: by language, turns that the model sees before the conversation: messages and how to answer them. They
            belong to the beginning that all prompts share, so they are computed once.
        examples_of_kind: by language, examples that a message without earlier turns is shown instead, by its kind: one
            of `tasks/message_kinds.py`, and for a statement the label that `feeling` gives it. Where there are none
            for its kind, it is shown `examples`.
        feeling: the classification that tells the kind of a statement.
        examples_below: models with so many parameters or more are shown no examples; None: all models are shown them.
        is_checked: whether the text is held to the rules of `tasks/reply_rules.py`.
    """

    name: str
    system: Mapping[Language, str]
    sampling: SamplingWishes = SamplingWishes()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    whole_sentences: bool = False
    keeps_history: bool = True
    max_bytes: int | None = None
    schema: Mapping[str, Any] | None = None
    is_raw: bool = False
    examples: Mapping[Language, tuple[Turn, ...]] = field(default_factory=dict)
    examples_of_kind: Mapping[Language, Mapping[str, tuple[Turn, ...]]] = field(default_factory=dict)
    feeling: ClassifySpec | None = None
    examples_below: int | None = None
    is_checked: bool = False

    kind: ClassVar[str] = "generate"
    must_be_whole: ClassVar[bool] = False
    streams_words: ClassVar[bool] = True
    precedes_words: ClassVar[bool] = False
    output_schema: ClassVar[Mapping[str, Any]] = {"$ref": "#/$defs/Reply"}
    chunk_schema: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "required": ["delta"],
        "properties": {"delta": {"type": "string"}},
        "additionalProperties": False,
    }

    @property
    def languages(self) -> tuple[Language, ...]:
        """Those in which it can be asked."""
        return tuple(self.system) or LANGUAGES

    def for_model(self, parameters: int) -> "GenerateSpec":
        """The task as a model of this size is asked it."""
        if self.examples_below is None or parameters < self.examples_below:
            return self
        return replace(self, examples={}, examples_of_kind={}, feeling=None)

    def output(self, answer: Answer, language: Language) -> Reply:  # noqa: ARG002 - every kind has this form
        """The text, unchanged."""
        written = _written(answer, self.name)
        return Reply(text=written.text, finish_reason=written.finish_reason)

    def summary(self) -> dict[str, Any]:
        """What `R/info` says of it."""
        return {"kind": self.kind, "history": self.keeps_history}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractSpec:
    """Finds data in a text and gives it as JSON of a schema, to which the engine holds the output.

    Attributes:
        schema: a JSON Schema of an object.
        max_tokens: of the JSON; None means the engine's limit.
    """

    name: str
    system: Mapping[Language, str]
    schema: Mapping[str, Any]
    sampling: SamplingWishes = SamplingWishes(temperature=0.0, repetition_penalty=1.0)
    max_tokens: int | None = None

    kind: ClassVar[str] = "extract"
    must_be_whole: ClassVar[bool] = True  # a part of the JSON is of no use
    is_raw: ClassVar[bool] = False
    is_checked: ClassVar[bool] = False
    examples: ClassVar[Mapping[Language, tuple[Turn, ...]]] = MappingProxyType({})
    examples_of_kind: ClassVar[Mapping[Language, Mapping[str, tuple[Turn, ...]]]] = MappingProxyType({})
    feeling: ClassVar[None] = None
    stop: ClassVar[tuple[str, ...]] = ()
    whole_sentences: ClassVar[bool] = False
    keeps_history: ClassVar[bool] = False
    streams_words: ClassVar[bool] = False
    precedes_words: ClassVar[bool] = False
    chunk_schema: ClassVar[None] = None

    @property
    def languages(self) -> tuple[Language, ...]:
        """Those in which it can be asked."""
        return tuple(self.system)

    @property
    def output_schema(self) -> Mapping[str, Any]:
        """The JSON Schema of its part of a result. Its own schema gets an `$id`, to which its `$ref: "#/…"` refer."""
        data = {"$id": f"urn:edged:{quote(self.name)}", **self.schema}
        return {"type": "object", "required": ["data"], "properties": {"data": data}}

    def output(self, answer: Answer, language: Language) -> Extraction:  # noqa: ARG002 - every kind has this form
        """Read the JSON that the model wrote.

        Raises:
            ModelError: the JSON cannot be sent. A schema limits the form of a number and not its size, and a number
                such as 1e999 is valid JSON but not a float.
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
    """Runs several tasks on the same text at the same time; each gives one key of the result."""

    name: str
    parts: tuple[str, ...]

    kind: ClassVar[str] = "compose"


TextSpec = GenerateSpec | ExtractSpec  # the kinds that the model answers by writing
PartSpec = ClassifySpec | TextSpec  # the kinds that the model answers
TaskSpec = PartSpec | ComposeSpec  # all kinds


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
        """The names, in the order of the specs."""
        return tuple(self._specs)

    def parts(self, name: str) -> tuple[PartSpec, ...]:
        """The tasks that the model runs for `name`: the task itself, or the parts of a composition in order.

        Raises:
            KeyError: no such task.
        """
        spec = self._specs[name]
        if not isinstance(spec, ComposeSpec):
            return (spec,)
        return tuple(part for each in spec.parts for part in self.parts(each))

    @property
    def all_parts(self) -> Iterator[PartSpec]:
        """The parts of all tasks; a part of several tasks comes several times."""
        return (part for name in self.names for part in self.parts(name))
