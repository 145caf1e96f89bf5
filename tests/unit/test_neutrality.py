"""How a plain text is known by a reading: learned from readings of plain texts and of clear ones."""

import random

import pytest

from edged.engine.neutrality import Neutrality, Reading, as_numbers, learn, learn_each, mean, of_numbers


def readings(kind: str, number: int, *, seed: int = 1) -> list[Reading]:
    """Clear texts have odds far from 0; plain ones lie between them and make the first word probable."""
    random_ = random.Random(f"{kind} {seed}")
    middles = {"plain": (1.0, 0.0, 2.0), "good": (6.0, -1.0, 0.0), "bad": (-5.0, -1.0, 0.0)}
    odds, plain, word = middles[kind]
    return [
        Reading(
            odds=random_.gauss(odds, 0.7),
            plain=random_.gauss(plain, 0.7),
            words=(random_.gauss(word, 0.7), random_.gauss(0, 0.7), random_.gauss(0, 0.7)),
        )
        for _ in range(number)
    ]


CLEAR = readings("good", 30) + readings("bad", 30)
PLAIN = readings("plain", 30)


def test_plain_texts_are_more_probably_plain_than_clear_ones() -> None:
    learned = learn(PLAIN, CLEAR)
    plain = [learned.probability(each) for each in readings("plain", 50, seed=2)]
    clear = [learned.probability(each) for kind in ("good", "bad") for each in readings(kind, 25, seed=2)]
    assert min(plain) > max(clear)
    assert all(0 < each < 1 for each in plain + clear)


def test_it_falls_on_both_sides() -> None:
    learned = learn(PLAIN, CLEAR)
    between, *sides = (
        learned.probability(Reading(odds=odds, plain=-0.5, words=(1.0, 0.0, 0.0))) for odds in (0.5, 9.0, -8.0)
    )
    assert all(between > side for side in sides)


def test_evidence_from_elsewhere_is_added_to_the_odds() -> None:
    learned, reading = learn(PLAIN, CLEAR), PLAIN[0]
    alone, more = learned.probability(reading), learned.probability(reading, further=1.0)
    assert more / (1 - more) == pytest.approx(2.718281828 * alone / (1 - alone))


def test_readings_that_never_differ_tell_nothing() -> None:
    same = [Reading(odds=0.0, plain=0.0, words=(0.0,))] * 4
    learned = learn(same, same)
    assert learned.weights == (0.0, 0.0, 0.0, 0.0)


def test_after_each_prompt_the_mean_of_all_so_far_is_judged() -> None:
    by_prompt = [
        PLAIN + CLEAR,
        readings("plain", 30, seed=3) + readings("good", 30, seed=3) + readings("bad", 30, seed=3),
    ]
    first, both = learn_each(by_prompt, plain=30)
    assert first == learn(PLAIN, CLEAR)
    means = [mean(each) for each in zip(*by_prompt, strict=True)]
    assert both == learn(means[:30], means[30:])
    assert mean([Reading(odds=1.0, plain=2.0, words=(3.0,)), Reading(odds=3.0, plain=0.0, words=(1.0,))]) == Reading(
        odds=2.0, plain=1.0, words=(2.0,)
    )


def test_a_file_gives_back_what_was_learned() -> None:
    found = (
        Neutrality(weights=(1.0, 2.0, 3.0), constant=4.0),
        Neutrality(weights=(5.0, 6.0, 7.0), constant=8.0),
    )
    assert of_numbers(as_numbers(found), prompts=2) == found
