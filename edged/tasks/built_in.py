"""Where the prompts of the built-in tasks are written: message, sentiment and reply. Pure.

English and Chinese are here, other languages in `languages/`. The sentiment prompts were chosen by measurement: the
English ones on reviews, tweets and short statements with SmolLM2-135M, those of other languages with Gemma-3-270M. The
English replies were chosen with SmolLM2-135M too. What was tried is in `deploy/MEASUREMENTS.md`, "accuracy",
"languages" and "replies".
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain

from edged.tasks import reply_examples
from edged.tasks.languages.record import LanguagePrompts
from edged.tasks.languages.shipped import SHIPPED
from edged.tasks.plain_texts import CLEAR, PLAIN, SIGNAL_WORDS
from edged.tasks.specs import ClassifyPrompt, ClassifySpec, ComposeSpec, Example, GenerateSpec, Label, Tasks
from edged.tasks.text import Language

# ------------------------------------------------------------------------------------------------------ sentiment


def _labels(*, positive: tuple[str, ...], negative: tuple[str, ...], shown: tuple[str, str]) -> tuple[Label, Label]:
    """The two labels: the English words that are scored for each, and (`shown`) what English examples show for each."""
    return (
        Label(
            canonical="positive",
            names={"zh": "正面", "en": "positive"},
            emoji="😄",
            said={"zh": ("好", "喜欢"), "en": positive},
            shown={"en": shown[0]},
        ),
        Label(
            canonical="negative",
            names={"zh": "负面", "en": "negative"},
            emoji="😢",
            said={"zh": ("差", "讨厌"), "en": negative},
            shown={"en": shown[1]},
        ),
    )


_NEUTRAL = Label(canonical="neutral", names={"zh": "中性", "en": "neutral"}, emoji="😐")

_ARRIVED = Example(text="It arrived early and works like a charm.", label="positive")
_BATTERY = Example(text="The battery lasts for days and the screen is gorgeous.", label="positive")
_EXAM = Example(text="I passed my exam, I am so happy!", label="positive")
_GRIPPING = Example(text="A gripping story with a superb lead.", label="positive")
_PRESENT = Example(text="Best present I have ever had, thank you!", label="positive")
_BROKE = Example(text="It broke after a week and nobody answered my emails.", label="negative")
_DULL = Example(text="a dull film without wit or heart", label="negative")
_FATHER = Example(text="My father is ill and I am so worried.", label="negative")
_FRIEND = Example(text="My best friend moved away and I am so sad.", label="negative")
_LAZY = Example(text="a lazy sequel that nobody needed", label="negative")
_PLOT = Example(text="The plot makes no sense and nobody cares.", label="negative")
_TRAIN = Example(text="My train was late again and I missed the meeting.", label="negative")
_TEDIOUS = Example(text="tedious , clumsy and much too long", label="negative")
_WASTE = Example(text="A waste of money and time.", label="negative")

_NEUTRAL_TEXTS_EN = (
    "",
    "N/A",
    "The device is on the table.",
    "It was delivered on Tuesday.",
    "The film runs for two hours.",
    "The hotel has forty rooms and a car park.",
    "The good parts and the bad parts are about even.",
    "I liked some of it and disliked the rest.",
    "The meeting starts at nine.",
    "I am on the bus to work.",
    "She said it would be ready by Friday.",
    "The report has twelve pages.",
    "He lives in a small town near the river.",
    "We had lunch and then went home.",
    "The price is the same as last year.",
    "The new version was released in March.",
    "There is a shop next to the station.",
    "I wrote to them this morning.",
    "The box contains a cable and a manual.",
    "They moved the date to next week.",
    "What time is it?",
    "Watching the game with my brother.",
    "Just got home.",
    "The company said it would open two offices.",
    "It comes in black and white.",
    "The road was closed on Monday.",
    "I need to buy some milk.",
    "My phone number has changed.",
    "The museum is open every day except Monday.",
    "He asked whether the train had left.",
)


def _cases(case: str, *examples: Example) -> ClassifyPrompt:
    """An English prompt without a role: with a role before the examples, SmolLM2 was less accurate.

    Beside _EXAM, each prompt has an example of the writer's own sadness. Without it, "I am so ..." counts as positive
    whatever follows.
    """
    return ClassifyPrompt(
        role="",
        case=case,
        examples=examples,
        neutral_texts=_NEUTRAL_TEXTS_EN,
        plain_texts=PLAIN["en"],
        clear_texts=CLEAR["en"],
        plain_words=("question", "information"),
        signal_words=SIGNAL_WORDS["en"],
    )


_COMMENT = "Comment: {text}\nFeeling: {label}\n\n"
_REVIEW = "Review: {text}\nSentiment: {label}\n\n"
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

# Examples show a feeling and the verdict that follows from it.
_BOTH_LINES = ("good\nVerdict: positive", "bad\nVerdict: negative")

_FURTHER_EN = (
    ClassifySpec(
        name="sentiment/2",
        labels=_labels(
            positive=("positive", "Positive", "happy"), negative=("negative", "Negative", "sad"), shown=("good", "bad")
        ),
        is_prose=True,
        prompts={"en": _cases(_COMMENT, _LAZY, _ARRIVED, _EXAM, _WASTE, _FRIEND, _PRESENT, _DULL, _GRIPPING)},
    ),
    ClassifySpec(
        name="sentiment/3",
        labels=_labels(positive=("good", "positive"), negative=("bad", "negative"), shown=_BOTH_LINES),
        is_prose=True,
        prompts={"en": _cases(_REVIEW, _ARRIVED, _EXAM, _TEDIOUS, _FATHER, _GRIPPING, _BATTERY, _PLOT, _TRAIN)},
    ),
)

_SENTIMENT = ClassifySpec(
    name="sentiment",
    labels=_labels(positive=("positive", "Positive"), negative=("negative", "Negative"), shown=_BOTH_LINES),
    prompts={
        "en": _cases(_COMMENT, _FRIEND, _EXAM, _TRAIN, _GRIPPING, _BROKE, _BATTERY, _ARRIVED, _PLOT),
        "zh": _SENTIMENT_ZH,
    },
    neutral=_NEUTRAL,
    neutral_margin=0.3,
    further={"en": _FURTHER_EN},
    doubt=0.48,
    neutral_doubt=0.06,
    polar_doubt=0.48,
    knows_instruments=True,
    is_prose=True,
    window_tokens={"en": 64},
)

# --------------------------------------------------------------------------------------------- replies, and both

# Parameters. Below, replies are only short and general (deploy/MEASUREMENTS.md, "replies"); from there on a model
# follows a role, and examples would make it answer like them.
SMALL = 300_000_000
_REPLY = GenerateSpec(
    name="reply",
    system={
        "en": "You are a warm, empathetic assistant. You answer messages kindly and briefly. You can only write: you "
        "cannot do, send, order or see anything.",
        "zh": "你是一个温暖、有同理心的助手。你理解用户的感受,用真诚、友善的语气简短地回答,不超过三句话。",
    },
    examples={"en": reply_examples.OF_ALL_KINDS},
    examples_of_kind={"en": reply_examples.OF_KIND},
    feeling=_SENTIMENT,
    examples_below=SMALL,
    is_checked=True,
)
MESSAGE = ComposeSpec(name="message", parts=("sentiment", "reply"))


def in_languages(prompts: Iterable[LanguagePrompts]) -> Tasks:
    """The built-in tasks with the prompts of further languages; of two for one language, the later one counts."""
    by_language = {each.language: each for each in prompts}
    sentiment = _sentiment_in(by_language)
    return Tasks((MESSAGE, sentiment, _reply_in(by_language, sentiment)))


def _sentiment_in(languages: Mapping[Language, LanguagePrompts]) -> ClassifySpec:
    return replace(
        _SENTIMENT,
        labels=tuple(_label_in(each, languages.values()) for each in _SENTIMENT.labels),
        neutral=_label_in(_NEUTRAL, languages.values()),
        prompts={**_SENTIMENT.prompts, **{code: _prompt(each) for code, each in languages.items()}},
        further={code: further for code, further in _SENTIMENT.further.items() if code not in languages},
    )


def _reply_in(languages: Mapping[Language, LanguagePrompts], sentiment: ClassifySpec) -> GenerateSpec:
    system = {**_REPLY.system, **{code: each.reply for code, each in languages.items()}}
    return replace(_REPLY, system=system, feeling=sentiment)


def _label_in(label: Label, languages: Iterable[LanguagePrompts]) -> Label:
    names, said = dict(label.names), dict(label.said)
    shown = dict(label.shown)
    for each in languages:
        names[each.language] = each.names[label.canonical]
        said[each.language] = each.said.get(label.canonical, ())
        shown[each.language] = each.shown.get(label.canonical, "")
    return replace(label, names=names, said=said, shown=shown)


def _prompt(language: LanguagePrompts) -> ClassifyPrompt:
    pairs = zip(language.negative, language.positive, strict=True)
    return ClassifyPrompt(
        role=language.role,
        case=language.case,
        examples=tuple(
            chain(*((Example(text=bad, label="negative"), Example(text=good, label="positive")) for bad, good in pairs))
        ),
        neutral_texts=language.neutral_texts,
    )


_SHIPPED = {each.language: each for each in SHIPPED}
SENTIMENT = _sentiment_in(_SHIPPED)
REPLY = _reply_in(_SHIPPED, SENTIMENT)
BUILT_IN = Tasks((MESSAGE, SENTIMENT, REPLY))
