"""Which kind of message a text is, told by its form. Pure; the rules are for English.

A small model answers as the most similar example is answered, so a reply shows it examples of the message's own kind.
The rules look at how a text begins and at few words. Where none holds, the text is a statement: its kind is told by its
feeling, which needs the model.
"""

import re
from typing import Literal

from edged.tasks.text import Language

# "unseen": a question that only somebody at the place and the time can answer: "Is the door locked?"
MessageKind = Literal["question", "unseen", "order", "thanks", "statement"]

_ASKS = r"(?:is|are|am|was|were|do|does|did|can|could|should|would|will|has|have)"
_ASKED = r"(?:who|what|which|whose|where|why|how)"
_QUESTION = re.compile(
    # "How long does it take", "what day is it"; but not "What a day".
    rf"{_ASKED}(?:'?s)?\b(?! an? )(?:(?: \S+){{0,3}}? (?:{_ASKS}|to)\b|.*\?)"
    rf"|(?:what|who|where|how)'?s\b"
    rf"|when {_ASKS}\b"
    rf"|{_ASKS}(?:n'?t)?\b.*\?",
    re.IGNORECASE | re.DOTALL,
)
_OURS = r"(?:the|my|our|your|there|any ?one|any ?body|some ?one|some ?body|he|she|they|we|i|it(?<!is it))"
_UNSEEN = re.compile(
    rf"(?:is|are|was|were|did|has|have|will|does)(?:n'?t)? {_OURS}\b"
    r"|where(?:'?s| is| are| did| do)? (?:my|the|our|i|we|is|are)\b"
    r"|when (?:is|does|will|do)\b"
    r"|(?:what'?s?|what is) the (?:time|date|temperature|weather)\b|what (?:time|day|date) is it"
    r"|who(?:'?s| is) (?:at|in|there|on)\b"
    r"|how (?:cold|warm|hot|late|full|humid) is\b"
    r"|.*\b(?:right now|tomorrow|tonight|today)\b.*\?",
    re.IGNORECASE | re.DOTALL,
)
_POLITELY = r"(?:(?:please|pls|hey|hi|hello|ok|now|then|and|(?:can|could|would|will) (?:you|u))[,!]? )*"
# Words that begin an order, and those that do so only before its object: "Water the plants", but "Water drips".
_DO = (
    r"(?:turn|switch|unlock|skip|resume|mute|raise|lower|increase|decrease|send|forward|buy|bring|cancel|reschedule|"
    r"remind|wake|add|remove|delete|activate|deactivate|enable|disable|disarm)"
)
_DO_TO = (
    r"(?:set|start|stop|open|close|shut|lock|play|pause|dim|call|phone|ring|text|message|e?mail|order|get|book|reserve|"
    r"put|take|heat|cool|clean|wash|feed|water|fix|repair|check|arm|print|show|record|make|note)"
)
_OBJECT = r"(?:the|an?|my|our|me|us|him|her|it|them|all|every|everything|some|more|this|that|in|for|timer|alarm|\d+)"
_ORDER = re.compile(
    rf"{_POLITELY}(?:{_DO}|{_DO_TO} {_OBJECT})\b"
    rf"|(?:please|pls)\b|.*\b(?:please|pls)[.!]*$"
    rf"|(?:i|we)(?:'d| would) like to {_DO_TO}\b"
    rf"|(?:\w+ )?\w+ (?:on|off)[.!]*$",
    re.IGNORECASE | re.DOTALL,
)
_THANKS = re.compile(
    r".{0,40}\b(?:thanks|thank (?:you|u)|thx|ty|cheers|grateful|appreciate)\b", re.IGNORECASE | re.DOTALL
)
# Thanks that something else follows: "Thank you, but the lamp is still broken."
_YET = re.compile(r"\b(?:but|still|not|no|nothing|never|however|broken)\b|n't\b|\?", re.IGNORECASE)


def has_kinds(language: Language) -> bool:
    """Whether the kinds of texts in this language can be told."""
    return language == "en"


def kind_of(text: str) -> MessageKind:
    """The kind of an English text."""
    plain = text.strip().replace("\u2019", "'")
    if _THANKS.match(plain) and not _YET.search(plain):
        return "thanks"
    if _ORDER.match(plain):
        return "order"
    if _QUESTION.match(plain):
        return "unseen" if _UNSEEN.match(plain) else "question"
    return "statement"
