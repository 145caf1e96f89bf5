"""Tells the language of a request's text, and what follows from it."""

from dataclasses import dataclass, replace

from edged.ports.engine import ModelInfo
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

    def of(self, text: str, model: ModelInfo | None) -> TextLanguage:
        """How a text is read by a model; None: it is not known yet, and no text is taken for unread."""
        reads, asked = ((), ()) if model is None else (model.languages, model.asked_languages)
        told = text_language(text, identify(text), reads=reads, asked=asked, fixed=self.fixed)
        return replace(told, is_unread=False) if self.unread == "ignore" else told


def language_asked_in(text: str, spec: PartSpec, model: ModelInfo, *, fixed: Language | None) -> Language:
    """The language in which a model is asked to do a task on a text."""
    return asked_in(LanguageRule(fixed=fixed).of(text, model).prompts, spec.languages)
