"""In which language a task is asked about a text, and whether the model reads the text's own. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from edged.tasks.text import LANGUAGES, Language, language_of

Unread = Literal["ignore", "mark", "say", "error"]  # what happens to a text that the model does not read


@dataclass(frozen=True, kw_only=True, slots=True)
class TextLanguage:
    """The language of a text.

    Attributes:
        found: None where that is not sure.
        prompts: in which tasks are asked about it, where they have prompts in it.
        is_unread: whether the model is known not to read it.
    """

    found: Language | None
    prompts: Language
    is_unread: bool = False


def in_use(prompts: Iterable[Language], *, asked: Collection[Language]) -> tuple[Language, ...]:
    """The languages among those of a task's prompts in which a model is asked: English, Chinese, and those `asked`."""
    return tuple(each for each in prompts if each in LANGUAGES or each in asked)


def text_language(
    text: str,
    found: Language | None,
    *,
    reads: Collection[Language],
    asked: Collection[Language],
    fixed: Language | None = None,
) -> TextLanguage:
    """Decide how a text is read.

    Args:
        text: of a request.
        found: its language, None where that is not sure.
        reads: the languages that the model reads; empty where that is not known.
        asked: those in which it is asked beside English and Chinese.
        fixed: the language of all prompts, if the operator chose one.
    """
    by_text = found if found is not None and found in asked else language_of(text)
    is_unread = bool(reads) and found is not None and found not in reads
    return TextLanguage(found=found, prompts=fixed or by_text, is_unread=is_unread)
