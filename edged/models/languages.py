"""Which languages a model reads, as its makers say. Pure."""

import re
from collections.abc import Mapping, Sequence

from edged.tasks.text import Language

_EUROPE = "bg ca cs da de el en es fi fr hr hu it nl no pl pt ro ru sk sl sr sv uk"
_ASIA = "ar bn fa he hi id ja ko ms ta te th tl tr ur vi zh"
# By how the names of a family begin, from the makers' cards. Where a card counts languages and names no more than some,
# those that it names and the large ones of its count.
READS: Mapping[str, tuple[Language, ...]] = {
    name: tuple(languages.split())
    for name, languages in {
        "smollm2": "en",
        "qwen1.5": "ar de en es fr id it ja ko pt ru th vi zh",
        "qwen2.5": "ar de en es fr it ja ko pt ru th vi zh",
        "qwen3": f"{_EUROPE} {_ASIA}",
        "gemma-3": f"{_EUROPE} {_ASIA}",
        "llama-3.2": "de en es fr hi it pt th",
    }.items()
}


# Families for which the prompts in other languages than English and Chinese were measured, and on which they take
# little memory: deploy/MEASUREMENTS.md, "languages".
_ASKED = ("gemma-3",)


def languages_of(model: str, stated: Sequence[Language] | None = None) -> tuple[Language, ...]:
    """The languages that a model reads; empty where that is not known.

    Args:
        model: a preset, an id of the hub, or where a folder or file is that has the name of one.
        stated: what the operator says, which counts before all else.
    """
    return tuple(stated) if stated is not None else READS.get(_family(model), ())


def asked_languages_of(model: str, stated: Sequence[Language] | None = None) -> tuple[Language, ...]:
    """The languages in which a model is asked beside English and Chinese, where there are prompts; see `languages_of`.

    Each takes memory and a part of the start, so it is those that the operator states, and all on a few families.
    """
    return tuple(stated) if stated is not None else READS[family] if (family := _family(model)) in _ASKED else ()


def _family(model: str) -> str:
    last = re.split(r"/|--", model.rstrip("/").lower())[-1]  # owner/name, owner--name@revision, name.Q4_1.gguf
    found = [name for name in READS if re.match(rf"{re.escape(name)}([-_.@]|$)", last)]
    return found[0] if found else ""
