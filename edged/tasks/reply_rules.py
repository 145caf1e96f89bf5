"""What a reply of a small model should not say, by rules on one sentence and the user's words. English only. Pure.

A model of this size was trained on letters and on talks with assistants that can act. So it writes placeholders of
letters ("[Your Name]"), promises what it cannot do ("I'll turn it off"), condoles where nobody died, or says the user's
own words again. The rules are careful: a fault may be missed, but a good sentence is seldom taken for one.
"""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal

from edged.tasks.text import Language

Fault = Literal["placeholder", "condolence", "claim", "echo"]

_PLACEHOLDER = re.compile(
    r"\[(?:(?:your|my|the|insert|recipient|sender|customer|company|date|name|user|number|address|product|order)\b"
    r"[^\]\n]{0,40}|[A-Z][A-Za-z']*(?: [A-Za-z']+){0,3})\](?!\()"
    r"|\{(?:your|insert)?[ _]?name\}|<(?:your|insert)?[ _]?name>",
    re.IGNORECASE,
)
_CONDOLENCE = re.compile(
    r"\b(?:sorry|sad|sadness|saddened|sympath\w+)\b[^.!?]{0,40}\bloss\b"
    r"|\b(?:my|our|deepest|sincere|heartfelt) condolences\b|\bcondolences\b"
    r"|\byour (?:recent |great |terrible )?loss\b|\bloss of (?:your|a) (?:loved|dear)\b"
    r"|\brest in peace\b|\bpassed away\b|\blov(?:ed|ing) one\b[^.!?]{0,30}\b(?:lost|gone|memory)\b",
    re.IGNORECASE,
)
_DEATH = re.compile(
    r"\b(?:die[sd]?|dying|dead|deaths?|deceased|killed|murdered|suicide|drowned|funeral|burial|buried|grave|cremat\w+|"
    r"coffin|obituary|widow\w*|orphan\w*|griev\w+|grief|mourn\w*|bereave\w*|condolences?|late (?:husband|wife|father|"
    r"mother)|pass(?:ed|ing)? (?:away|on)|put (?:down|to sleep)|miscarriage|miscarried|stillborn|terminal|hospice|"
    r"my loss|lost (?:my|our|his|her|their|a|the) (?:\w+ )?(?:mother|mum|mom|father|dad|parents?|wife|husband|partner|"
    r"son|daughter|child|baby|brother|sister|twin|aunt|uncle|cousin|grand\w+|nan|granny|friend|dog|cat|pet|puppy|kitten|"
    r"horse|rabbit|bird|hamster))\b",
    re.IGNORECASE,
)
# What only somebody with hands, an account or eyes can do.
_ACT = (
    r"(?:turn (?:\w+ )?(?:on|off|up|down)|turn (?:the|your)|switch|set (?:an?|the|your|up)|start (?:the|your)|stop the|"
    r"open|close|lock|unlock|adjust|activate|deactivate|play|pause|add|write (?:it|that) down|remind|wake|call|"
    r"phone|e-?mail|text you|send|forward|mail|deliver|ship|bring|get back|get (?:you|someone)|fetch|pick (?:it )?up|"
    r"buy|order|place|pay|refund|replace|repair|fix|clean|remove|book|reserve|schedule|reschedule|cancel|arrange|process|"
    r"confirm|check|look into|investigate|review|contact|reach out|notify|inform|update|report|follow up|let you know|"
    r"keep you|make sure|ensure|see to|take care|come|visit|meet|be (?:there|right|over)|prepare|cook|attach|resolve|"
    r"transfer|upgrade|reset|restart|reboot|install)"
)
_DONE = (
    r"(?:turned|switched|set|started|stopped|opened|closed|locked|unlocked|adjusted|activated|added|noted|reminded|"
    r"called|phoned|e-?mailed|sent|forwarded|mailed|delivered|shipped|brought|fetched|bought|ordered|placed|paid|"
    r"refunded|replaced|repaired|fixed|cleaned|removed|booked|reserved|scheduled|rescheduled|cancell?ed|arranged|"
    r"processed|confirmed|checked|looked into|investigated|contacted|reached out|notified|informed|updated|reported|"
    r"followed up|taken care|made sure|prepared|attached|received your|resolved|transferred|upgraded|reset|restarted)"
)
_DOING = (
    r"(?:turning|switching|setting|starting|opening|closing|locking|adjusting|adding|calling|e-?mailing|sending|"
    r"forwarding|delivering|shipping|bringing|ordering|placing|refunding|replacing|repairing|fixing|booking|reserving|"
    r"scheduling|cancell?ing|arranging|processing|checking|looking into|investigating|contacting|notifying|working on)"
)
_QUICKLY = r"(?:also |just |now |already |gladly |happily |certainly |definitely |personally |immediately |quickly )*"
_THING = (
    r"(?:order|refund|booking|reservation|table|appointment|request|ticket|parcel|package|delivery|item|invoice|alarm|"
    r"reminder|timer|light|lights|lamp|door|heating|payment|message|e-?mail|replacement)"
)
_CLAIM = re.compile(
    rf"\b(?:I|we)(?:'ll| will| shall|'m going to| am going to|'re going to| are going to| can| could)"
    rf" {_QUICKLY}(?:try to |go ahead and |help (?:you )?)?{_ACT}\b"
    rf"|\b(?:I|we)(?:'ve| have|) {_QUICKLY}{_DONE}\b"
    rf"|\b(?:I'm|I am|we're|we are) {_QUICKLY}{_DOING}\b"
    rf"|\blet me {_QUICKLY}{_ACT}\b"
    rf"|\b(?:your|the) (?:\w+ )?{_THING} (?:(?:has|have) been|(?:is|are)(?: being)?|will be) "
    rf"(?:now |just |already )*(?:{_DONE}|booked|on its way|on the way|ready)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_WHOSE = {
    **dict.fromkeys(("i", "me", "you", "we", "us", "i'm", "you're", "we're"), "you"),
    **dict.fromkeys(("my", "your", "our", "mine", "yours", "ours"), "your"),
    **dict.fromkeys(("am", "are", "is"), "is"),
    **dict.fromkeys(("was", "were"), "was"),
}
_ECHO_WORDS = 4  # fewer words in a row may be the same by chance
_ECHO_SHARE = 0.8
# How a sentence begins that may be a fault; others need not be held back while they are written.
_HARMLESS = r"(?!\s+(?:hope|wish|understand|cannot|(?:am|are) (?:very |so )?(?:happy|glad|sure|proud))\s)"
_SUSPECT = re.compile(
    rf"\W*(?:(?:i|we)\b{_HARMLESS}|(?:let|my|our|your|please|the|sure|okay|ok|yes|best|sincerely|dear|kind)\b|\[)",
    re.IGNORECASE,
)


def has_rules(language: Language) -> bool:
    """Whether there are rules for texts in this language."""
    return language == "en"


def is_suspect(beginning: str) -> bool:
    """Whether a sentence that begins so may turn out to have a fault.

    `beginning` has the first word at least. With more words the answer may become no, and then it stays so.
    """
    return _SUSPECT.match(beginning) is not None


def fault_of(sentence: str, asked: Sequence[str]) -> Fault | None:
    """The fault of a sentence of a reply, if it has one.

    Args:
        sentence: of the reply.
        asked: the user's words: the message, and those before it in the conversation.
    """
    plain = sentence.replace("\u2019", "'")
    if _PLACEHOLDER.search(plain) and not any(_PLACEHOLDER.search(each) for each in asked):
        return "placeholder"
    if _CONDOLENCE.search(plain) and not any(_DEATH.search(each) for each in asked):
        return "condolence"
    if _CLAIM.search(plain):
        return "claim"
    if asked and _is_echo(plain, asked[-1]):
        return "echo"
    return None


def _is_echo(sentence: str, asked: str) -> bool:
    """Whether most of a sentence is a run of the user's own words, told from the other side or not."""
    said, theirs = _words(sentence), _words(asked.replace("\u2019", "'"))
    if len(said) < _ECHO_WORDS:
        return False
    run = SequenceMatcher(None, said, theirs, autojunk=False).find_longest_match()
    return run.size >= _ECHO_WORDS and run.size >= _ECHO_SHARE * len(said)


def _words(text: str) -> list[str]:
    return [_WHOSE.get(word, word) for word in _WORD.findall(text.lower())]
