"""Tells lines that instruments write: a quantity with its unit, `key=value`, the state of a thing. Pure.

Such a line is seldom an opinion, and a small language model knows few of them. The rule counts as evidence for neutral
and does not decide alone: "battery at 3 %, I hate it" keeps its label.
"""

import re

EVIDENCE = 0.5  # nats that a reading adds to the odds of neutral

_UNIT = (
    "%|percent|°|°?[CFK]|m?V|m?A|k?W|k?Wh|VA|Hz|[kMG]Hz|rpm|ppm|ppb|lux|lx|dB|bar|h?Pa|psi|[mkc]?m|km/h|m/s|k?g|l|ml|"
    "l/min|m³|m3|µg/m³|s|ms|min|h|[kMGT]i?B|kbit/s|Mbit/s"
)
_QUANTITY = re.compile(rf"(?<![\w.])[-+]?\d+(?:[.,]\d+)?\s?(?:{_UNIT})(?![\w/])")
_PAIR = re.compile(r"(?<!\S)[A-Za-z][\w.-]*=[^\s=]+")
_STATE = re.compile(
    r"[:\s](?:on|off|open|closed|shut|idle|running|stopped|online|offline|up|down|ok|active|inactive|standby|charging|"
    r"locked|unlocked|connected|disconnected|detected|\d[\d:.,]*)(?![\w'])",
    re.IGNORECASE,
)
_COLON = re.compile(r"^[A-Za-z][\w -]{0,30}:\s")
_PERSON = re.compile(
    r"\b(?:I|me|my|mine|we|us|our|you|your|he|him|his|she|her|they|them|their|who|why)\b|[!?]|n't\b", re.IGNORECASE
)
_LONGEST = 12  # words


def is_reading(text: str) -> bool:
    """Whether a text is a line of an instrument: short, without a person, with a quantity, a pair or a state."""
    if len(text) > 160 or len(text.split()) > _LONGEST or _PERSON.search(text):
        return False
    return bool(_QUANTITY.search(text) or _PAIR.search(text) or (_COLON.match(text) and _STATE.search(text)))
