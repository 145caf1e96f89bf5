"""Which of the models with a short name suit a box, and why. Pure.

Decoding a token reads all weights once, so the box's memory bandwidth over the model's size bounds how many tokens a
second it writes; the rest of the rule is memory and languages.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from edged.models.presets import Card

_MIB = 1 << 20
_BYTES_A_WEIGHT = {"int8": 1.0625, "int4": 0.6}  # with the scales of groups
_BESIDE_MIB = 350  # the process, keys and values, and the prefix cache of a small context
_OF_MEMORY = 0.7  # of what is free: the box has other work
_OF_BANDWIDTH = 0.7  # that a step reaches
LEAST_TOKENS_PER_S = 8.0  # faster than most people read


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """What a box has.

    Attributes:
        free_mib: memory that is available now.
        bandwidth: of its memory, in bytes a second, with the threads of the engine.
    """

    free_mib: int
    bandwidth: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """What is thought of a model on a box.

    Attributes:
        fits: whether there is memory for it, it reads the languages, and it is fast enough.
        weight_format: in which it would run.
        tokens_per_s: at most, for one conversation.
        reasons: why it does not fit, or what is to be known of it.
    """

    name: str
    fits: bool
    weight_format: str
    needs_mib: int
    tokens_per_s: float
    reasons: tuple[str, ...]


def advise(cards: Mapping[str, Card], box: Box, languages: Collection[str]) -> list[Advice]:
    """Judge all models for a box; those that fit come first, the most capable one at the head.

    Args:
        cards: of the models, by name.
        box: see there.
        languages: that must be read, by ISO 639-1.
    """
    judged = [_judge(name, card, box, languages) for name, card in cards.items()]
    by_size = sorted(judged, key=lambda each: -_rank(cards[each.name]))
    return sorted(by_size, key=lambda each: not each.fits)


def _rank(card: Card) -> float:
    """More parameters answer better; a model that was not made to follow instructions writes no replies."""
    return card.parameters - (10_000 if not card.writes else 0)


def _judge(name: str, card: Card, box: Box, languages: Collection[str]) -> Advice:
    room = box.free_mib * _OF_MEMORY
    weight_format = (
        "int8" if _needs(card, "int8") <= room and _speed(card, "int8", box) >= LEAST_TOKENS_PER_S else "int4"
    )
    needs, speed = _needs(card, weight_format), _speed(card, weight_format, box)
    unread = sorted(set(languages) - set(card.languages))
    against = []
    if needs > room:
        against.append(f"needs {needs} MiB, and {box.free_mib} MiB are free")
    if speed < LEAST_TOKENS_PER_S:
        against.append(f"writes at most {speed:.1f} tokens a second here")
    if unread:
        against.append(f"is not known to read {', '.join(unread)}")
    notes = []
    if not card.writes:
        notes.append("for sentiment and other choices only: it was not made to write replies")
    if card.is_gated:
        notes.append("the hub asks for an account that agreed to its licence (HF_TOKEN)")
    return Advice(
        name=name,
        fits=not against,
        weight_format=weight_format,
        needs_mib=needs,
        tokens_per_s=speed,
        reasons=(*against, *notes),
    )


def _needs(card: Card, weight_format: str) -> int:
    return round(card.parameters * 1e6 * _BYTES_A_WEIGHT[weight_format] / _MIB) + _BESIDE_MIB


def _speed(card: Card, weight_format: str, box: Box) -> float:
    return _OF_BANDWIDTH * box.bandwidth / (card.parameters * 1e6 * _BYTES_A_WEIGHT[weight_format])


def report(judged: list[Advice], cards: Mapping[str, Card], box: Box) -> str:
    """Put it into words: the best one first, then a line for each model."""
    lines = [f"this box: {box.free_mib} MiB of memory are free, and are read at {box.bandwidth / 1e9:.1f} GB/s"]
    best = next((each for each in judged if each.fits), None)
    if best is None:
        lines.append("no model with a short name suits it; a server of models could be asked instead (model.url)")
    else:
        card = cards[best.name]
        lines.append(f"take {best.name} ({card.licence}): edged models pull {best.name}")
    for each in judged:
        card = cards[each.name]
        said = [f"{each.weight_format}, {each.needs_mib} MiB, up to {each.tokens_per_s:.0f} tokens/s", *each.reasons]
        lines.append(f"{'yes' if each.fits else 'no ':4}{each.name:24} {'; '.join(said)}; {card.licence}")
    return "\n".join(lines)
