"""What a task is, and the built-in ones: prompts, labels, languages, as data. Pure.

Every prompt that the model ever sees is written here (or in the operator's settings, in the same form).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Protocol

from edged.text import Language


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """One answer of a classification.

    Attributes:
        canonical: its name on the wire, the same in every language.
        emoji: shown beside it; may be empty.
        names: its name in each prompt language.
        said: the words whose probability is read, by prompt language, as many for each label; the first stands in the
            examples. Each place in the list is a reading of its own, and the evidence of the readings is added up.
            Where there are none it is the name.
    """

    canonical: str
    names: Mapping[Language, str]
    emoji: str = ""
    said: Mapping[Language, tuple[str, ...]] = field(default_factory=dict)

    def words(self, language: Language) -> tuple[str, ...]:
        """What is said for it in a prompt of this language; the first word in the examples."""
        return self.said.get(language) or (self.names[language],)


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
    words = {label.canonical: label.words(language)[0] for label in spec.labels}
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
        sampling: what the task wants otherwise than the model's own sampling has it.
        whole_sentences: a text that a limit cuts short ends with its last whole sentence, if it has one.
        schema: a JSON Schema that holds the output, which then is JSON and no conversation; None: free text.
    """

    name: str
    system: Mapping[Language, str]
    sampling: SamplingWishes = SamplingWishes()
    max_tokens: int | None = None  # None: the engine's limit
    stop: tuple[str, ...] = ()  # strings that end the text and are not part of it
    whole_sentences: bool = False
    keeps_history: bool = True
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ComposeSpec:
    """Runs several tasks on the same text, side by side; each gives one key of the result."""

    name: str
    parts: tuple[str, ...]


TaskSpec = ClassifySpec | GenerateSpec | ComposeSpec
PartSpec = ClassifySpec | GenerateSpec


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

    def keeps_history(self, name: str) -> bool:
        """Whether turns of a session are read and written by this task."""
        return any(isinstance(part, GenerateSpec) and part.keeps_history for part in self.parts(name))


# The words, cases and examples of the English prompt were chosen by what they gave on the SST-2 development set; see
# deploy/MEASUREMENTS.md, "accuracy".
POSITIVE = Label(
    canonical="positive", names={"zh": "正面", "en": "positive"}, emoji="😄", said={"en": ("good", "love")}
)
NEGATIVE = Label(canonical="negative", names={"zh": "负面", "en": "negative"}, emoji="😢", said={"en": ("bad", "hate")})
NEUTRAL = Label(canonical="neutral", names={"zh": "中性", "en": "neutral"}, emoji="😐")

_SENTIMENT_EN = ClassifyPrompt(
    role="",  # the cases say it all; a role before them cost SmolLM2 accuracy
    case="Comment: {text}\nFeeling: {label}\n\n",
    examples=(
        Example(text="It arrived early and works like a charm.", label="positive"),
        Example(text="A waste of money and time.", label="negative"),
        Example(text="The plot makes no sense and nobody cares.", label="negative"),
        Example(text="A gripping story with a superb lead.", label="positive"),
        Example(text="I passed my exam, I am so happy!", label="positive"),
        Example(text="My train was late again and I missed the meeting.", label="negative"),
        Example(text="It broke after a week and nobody answered my emails.", label="negative"),
        Example(text="The battery lasts for days and the screen is gorgeous.", label="positive"),
    ),
    neutral_texts=(
        "",
        "N/A",
        "The device is on the table.",
        "It was delivered on Tuesday.",
        "The film runs for two hours.",
        "The hotel has forty rooms and a car park.",
        "The good parts and the bad parts are about even.",
        "I liked some of it and disliked the rest.",
    ),
)
_SENTIMENT_ZH = ClassifyPrompt(
    role="你是一个冷静、客观的情感分析师,只判断文本的情感极性。\n\n",
    case="评论:{text}\n评价:{label}\n\n",
    examples=(
        Example(text="电池很耐用,屏幕也非常漂亮,我很满意。", label="positive"),
        Example(text="用了一个星期就坏了,客服也没有人理我。", label="negative"),
        Example(text="剧情沉闷,浪费时间,看到一半就想走。", label="negative"),
        Example(text="服务员很热情,房间干净又舒服。", label="positive"),
        Example(text="我通过了考试,太开心了!", label="positive"),
        Example(text="火车又晚点了,错过了会议。", label="negative"),
        Example(text="物流很快,包装也很好。", label="positive"),
        Example(text="菜是凉的,又贵,再也不来了。", label="negative"),
    ),
    neutral_texts=(
        "酒店在市中心,离地铁站大约五百米,房间有二十平方米,早餐从七点到十点,停车需要另外付费。",
        "这本书一共三百页,分为十二章,讲的是一个家庭从五十年代到九十年代的经历,附有地图和年表。",
        "电脑是上个月买的,十四寸屏幕,八个G的内存,用来上网和写文档,系统是自己安装的。",
        "房间比较大,但是隔音一般;服务员态度还可以,不过办理入住等了一会儿。总的来说有好有坏。",
        "前半部分写得不错,后半部分就差一些了,有的人会喜欢,有的人可能不喜欢。",
        "优点是便宜、轻便,缺点是屏幕小、电池不耐用,买不买看自己的需要。",
        "我们一家三口周末去住了一晚,第二天早上退房,然后坐火车去了另一个城市。",
        "外观和图片上一样,颜色是黑色的,配了一个包和一个鼠标,说明书是中文的。",
        "位置不错,可是设施有点旧了;价格不算贵,也不算便宜。",
        "作者以前写过几本小说,这一本是去年出版的,出版社重新设计了封面。",
        "和朋友说的差不多,没有特别好的地方,也没有特别差的地方,一般吧。",
        "快递是星期三到的,包装是纸箱,里面有发票和保修卡,第二天试用了一下。",
    ),
)

SENTIMENT = ClassifySpec(
    name="sentiment",
    labels=(POSITIVE, NEGATIVE),
    prompts={"en": _SENTIMENT_EN, "zh": _SENTIMENT_ZH},
    neutral=NEUTRAL,
    neutral_margin=0.1,
)
REPLY = GenerateSpec(
    name="reply",
    system={
        "en": "You are a warm, empathetic assistant. You understand how the user feels and answer kindly, "
        "sincerely and briefly, in two or three sentences.",
        "zh": "你是一个温暖、有同理心的助手。你理解用户的感受,用真诚、友善的语气简短地回答,不超过三句话。",
    },
)
MESSAGE = ComposeSpec(name="message", parts=("sentiment", "reply"))

BUILT_IN = Tasks((MESSAGE, SENTIMENT, REPLY))
