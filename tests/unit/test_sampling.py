import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engine.decoders.interface import Logits
from edged.engine.sampling import Generator, largest, sample
from edged.tasks.specs import Sampling


def normal(size: int, seed: int) -> Logits:
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


@given(size=st.integers(1, 1000), count=st.integers(1, 1200), seed=st.integers(0, 10))
def test_the_largest_are_those_of_a_full_sort(size: int, count: int, seed: int) -> None:
    logits = normal(size, seed)
    values, places = largest(logits, count)
    assert np.array_equal(values, np.sort(logits)[::-1][:count])
    assert np.array_equal(logits[places], values)
    assert len(set(places.tolist())) == len(places)


def test_temperature_zero_takes_the_most_probable() -> None:
    logits = normal(1000, 1)
    drawn = sample(logits.copy(), how=Sampling(temperature=0), said=[], generator=Generator(0))
    assert drawn == int(logits.argmax())


@pytest.mark.parametrize("how", [Sampling(top_k=1), Sampling(top_p=1e-6, top_k=0)])
def test_a_narrow_choice_leaves_one(how: Sampling) -> None:
    logits = normal(3000, 2)
    drawn = {sample(logits.copy(), how=how, said=[], generator=Generator(seed)) for seed in range(20)}
    assert drawn == {int(logits.argmax())}


def test_what_was_said_is_said_less() -> None:
    logits = np.array([2.0, 1.9, -1.0], dtype=np.float32)
    how = Sampling(temperature=0, repetition_penalty=1.5)
    assert sample(logits.copy(), how=how, said=[0], generator=Generator(0)) == 1


def test_among_equal_logits_the_first_are_the_largest() -> None:
    logits = np.zeros(1000, dtype=np.float32)
    _, places = largest(logits, 5)
    assert places.tolist() == [0, 1, 2, 3, 4]


def test_tokens_come_as_often_as_their_probabilities_say() -> None:
    shares = {5: 0.5, 300: 0.3, 700: 0.15, 999: 0.05}
    logits = np.full(1000, -np.inf, dtype=np.float32)
    for token, share in shares.items():
        logits[token] = math.log(share)
    generator = Generator(3)
    for how, kept in ((Sampling(temperature=1, top_p=1.0, top_k=40), 4), (Sampling(temperature=1, top_p=0.79), 2)):
        drawn = Counter(sample(logits.copy(), how=how, said=[], generator=generator) for _ in range(4000))
        whole = sum(list(shares.values())[:kept])
        assert set(drawn) == set(list(shares)[:kept])
        assert all(abs(drawn[token] / 4000 - shares[token] / whole) < 0.03 for token in drawn)


@given(seed=st.integers(0, 20), top_p=st.sampled_from([0.5, 0.99, 1.0]), temperature=st.sampled_from([0.5, 100.0]))
def test_without_top_k_every_token_counts(seed: int, top_p: float, temperature: float) -> None:
    logits = normal(3000, seed)
    order = np.argsort(-logits, kind="stable")
    shares = np.exp((logits[order].astype(np.float64) - logits.max()) / temperature)
    ends = shares.cumsum()
    kept = ends[: np.count_nonzero(ends - shares < top_p * ends[-1] * (1 - 1e-12))]
    wanted = order[np.searchsorted(kept, Generator(seed).draw() * kept[-1], side="right")]
    how = Sampling(temperature=temperature, top_p=top_p, top_k=0)
    assert sample(logits.copy(), how=how, said=[], generator=Generator(seed)) == wanted


def test_a_seed_means_the_same_numbers_in_every_release() -> None:
    generator = Generator(42)
    assert [generator.draw() for _ in range(3)] == [0.8201981478608876, 0.18924562408645496, 0.8676608148821462]
    assert Generator(-1).draw() == Generator(2**64 - 1).draw()


def test_where_no_token_is_allowed_none_is_drawn() -> None:
    with pytest.raises(ValueError, match="no token"):
        sample(np.full(9, -np.inf, dtype=np.float32), how=Sampling(temperature=1), said=[], generator=Generator(0))
