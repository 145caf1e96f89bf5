"""What the built-in tasks need to be asked in a language. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edged.tasks.text import Language


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguagePrompts:
    """The prompts of `sentiment` and `reply` in one language.

    `positive`, `negative` and `neutral` are the canonical labels, which stand for a label in `names`, `said` and the
    examples.

    Attributes:
        language: its code (ISO 639-1).
        names: of the labels, as results have them.
        said: the words whose probability is read for each label, see `specs.Label`.
        case: the form of a case, see `specs.ClassifyPrompt`.
        positive: examples of a good feeling; as many as `negative`. Prompts show them in turn, a negative one first.
        negative: examples of a bad feeling.
        neutral_texts: texts that favour no label.
        reply: the system prompt of a reply.
        shown: what the examples show for each label; without it, the first of the words.
        role: what stands before the examples.
    """

    language: Language
    names: Mapping[str, str]
    said: Mapping[str, tuple[str, ...]]
    case: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    neutral_texts: tuple[str, ...]
    reply: str
    shown: Mapping[str, str] = field(default_factory=dict)
    role: str = ""
