"""Which model suits a box."""

import pytest

from edged.models.advice import Box, advise, report
from edged.models.presets import CARDS, PRESETS, card_of

PI_4 = Box(free_mib=3200, bandwidth=4.4e9)
PI_3 = Box(free_mib=800, bandwidth=2e9)
MINI_PC = Box(free_mib=12_000, bandwidth=30e9)
TIGHT = Box(free_mib=500, bandwidth=30e9)


@pytest.mark.parametrize(
    ("box", "languages", "best"),
    [
        (MINI_PC, ["en"], "qwen2.5-1.5b-instruct"),
        (MINI_PC, ["hi"], "llama-3.2-1b-instruct"),
        (MINI_PC, ["en", "hi", "ja"], "qwen3-0.6b"),
        (PI_4, ["en"], "qwen3-0.6b"),
        (PI_3, ["de"], "gemma-3-270m-it"),
        (TIGHT, ["en"], None),
        (MINI_PC, ["xx"], None),
    ],
)
def test_the_most_capable_model_that_fits_is_taken(box: Box, languages: list[str], best: str | None) -> None:
    judged = advise(CARDS, box, languages)
    assert {each.name for each in judged} == set(CARDS)
    assert next((each.name for each in judged if each.fits), None) == best
    said = report(judged, CARDS, box)
    assert (f"take {best} " in said) if best else ("no model" in said)


def test_a_model_that_does_not_fit_says_why() -> None:
    reasons = {each.name: each.reasons for each in advise(CARDS, TIGHT, ["de"])}
    assert any("MiB are free" in each for each in reasons["qwen2.5-1.5b-instruct"])
    assert any("not known to read de" in each for each in reasons["smollm2-135m-instruct"])


def test_every_preset_has_a_card_and_every_card_a_preset() -> None:
    assert CARDS.keys() == PRESETS.keys()
    assert all(card.licence and card.languages for card in CARDS.values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gemma-3-270m-it", "gemma-3-270m-it"),
        ("google/gemma-3-270m", "gemma-3-270m"),
        ("/models/Qwen--Qwen3-0.6B@main", "qwen3-0.6b"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"),
        ("someone/else", None),
    ],
)
def test_a_card_is_found_by_the_models_name(name: str, expected: str | None) -> None:
    assert card_of(name) == (None if expected is None else CARDS[expected])
