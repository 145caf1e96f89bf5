"""The operator's own languages: what `[languages.CODE]` of the settings may contain, and the prompts of it. Pure.

A language that edged has prompts for is replaced.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edged.tasks.languages.record import LanguagePrompts
from edged.tasks.text import Language

CODE = r"^[a-z]{2,3}$"
LanguageCode = Annotated[str, Field(pattern=CODE, description="ISO 639-1, as in pl.")]
_Text = Annotated[str, Field(min_length=1)]
_Word = Annotated[str, Field(pattern=r"^\S(.*\S)?$")]


class LanguageSettings(BaseModel):
    """A language in which sentiment and reply are asked, where the model reads it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[_Word, _Word, _Word] = Field(description="What positive, negative and neutral are called.")
    good: tuple[_Word, ...] = Field(min_length=1, description="Words for a good feeling; the first stands in examples.")
    bad: tuple[_Word, ...] = Field(min_length=1, description="As many words for a bad one.")
    case: str = Field(description="The form of an example: contains {text}, and {label} after it.")
    positive: tuple[_Text, ...] = Field(description="Texts with a good feeling, as examples.")
    negative: tuple[_Text, ...] = Field(description="As many texts with a bad one.")
    neutral_texts: tuple[str, ...] = Field(
        min_length=1, description="Texts without a feeling; they show the prompt's own bias."
    )
    reply: _Text = Field(description="Tells the model how to write replies.")
    role: str = ""

    @model_validator(mode="after")
    def _agrees(self) -> "LanguageSettings":
        if len(self.good) != len(self.bad) or {*self.good} & {*self.bad}:
            raise ValueError("good and bad must have the same number of words, and none in common")
        if len(self.positive) != len(self.negative):
            raise ValueError("positive and negative must have the same number of texts")
        check_case(self.case)
        return self

    def prompts(self, language: Language) -> LanguagePrompts:
        """The prompts of this language."""
        positive, negative, neutral = self.names
        return LanguagePrompts(
            language=language,
            names={"positive": positive, "negative": negative, "neutral": neutral},
            said={"positive": self.good, "negative": self.bad},
            case=self.case if not self.case.endswith("{label}") else self.case + "\n\n",
            positive=self.positive,
            negative=self.negative,
            neutral_texts=self.neutral_texts,
            reply=self.reply,
            role=self.role and self.role.rstrip() + "\n\n",
        )


def check_case(case: str) -> None:
    """Check the form of a case.

    Raises:
        ValueError: it is wrong; the message says how.
    """
    if case.count("{text}") != 1 or case.count("{label}") != 1 or case.index("{text}") > case.index("{label}"):
        raise ValueError("case must contain {text} once, and after it {label} once")
    others = case.replace("{text}", "").replace("{label}", "")
    if rest := others.count("{") + others.count("}"):
        raise ValueError(f"case has {rest} braces that do not belong to {{text}} or {{label}}")


EXAMPLE = """\
# Further languages of sentiment and reply, by code. They are used where the model reads them, see model.reads.
#
#[languages.pl]
#names = ["pozytywny", "negatywny", "neutralny"]
#good = ["dobrze", "radość"]          # words that are scored; examples show the first
#bad = ["źle", "smutek"]
#case = "Komentarz: {text}\\nNastrój: {label}\\n\\n"
#positive = ["Zdałem egzamin, jestem szczęśliwy!", "Bateria trzyma kilka dni, a ekran jest piękny."]
#negative = ["Pociąg znowu się spóźnił.", "Zepsuło się po tygodniu i nikt nie odpowiada."]
#neutral_texts = ["", "Urządzenie stoi na stole.", "Dostarczono we wtorek.", "Zebranie zaczyna się o dziewiątej."]
#reply = "Jesteś ciepłym, życzliwym asystentem. Odpowiadasz po polsku, krótko, w dwóch lub trzech zdaniach."
"""
