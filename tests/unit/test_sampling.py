import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edged.engine.sampling import largest, make_generator, sample
from edged.tasks.specs import Sampling


@given(size=st.integers(1, 1000), count=st.integers(1, 1200), seed=st.integers(0, 10))
def test_the_largest_are_those_of_a_full_sort(size: int, count: int, seed: int) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    values, places = largest(logits, count)
    assert torch.equal(values, logits.sort(descending=True).values[:count])
    assert torch.equal(logits[places], values)


def test_temperature_zero_takes_the_most_probable() -> None:
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    drawn = sample(logits.clone(), how=Sampling(temperature=0), said=[], generator=make_generator(0))
    assert drawn == int(logits.argmax())


@pytest.mark.parametrize("how", [Sampling(top_k=1), Sampling(top_p=1e-6, top_k=0)])
def test_a_narrow_choice_leaves_one(how: Sampling) -> None:
    logits = torch.randn(3000, generator=torch.Generator().manual_seed(2))
    drawn = {sample(logits.clone(), how=how, said=[], generator=make_generator(seed)) for seed in range(20)}
    assert drawn == {int(logits.argmax())}


def test_what_was_said_is_said_less() -> None:
    logits = torch.tensor([2.0, 1.9, -1.0])
    how = Sampling(temperature=0, repetition_penalty=1.5)
    assert sample(logits.clone(), how=how, said=[0], generator=make_generator(0)) == 1
