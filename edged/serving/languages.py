"""Tells the language of a request's text, and what follows from it."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from edged.serving.identify import identify
from edged.settings.schema import Settings
from edged.tasks.reading import TextLanguage, Unread, text_language
from edged.tasks.specs import PartSpec
from edged.tasks.text import Language, asked_in


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageRule:
    """How the settings have texts read.

    Attributes:
        fixed: the language of all prompts; None: each text's own decides.
        unread: what happens to a text that the model does not read.
    """

    fixed: Language | None = None
    unread: Unread = "say"

    @classmethod
    def of_settings(cls, settings: Settings) -> "LanguageRule":
        return cls(fixed=settings.prompt_language, unread=settings.unread_language)

    def of(self, text: str, *, reads: Collection[Language]) -> TextLanguage:
        """How a text is read by a model that reads these languages; none: that is not known."""
        told = text_language(text, identify(text), reads=reads, fixed=self.fixed)
        return replace(told, is_unread=False) if self.unread == "ignore" else told


def language_asked_in(text: str, spec: PartSpec, *, reads: Collection[Language], fixed: Language | None) -> Language:
    """The language in which a task is asked about a text."""
    return asked_in(LanguageRule(fixed=fixed).of(text, reads=reads).prompts, spec.languages)
