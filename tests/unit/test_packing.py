import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.engine.weights.formats import QUANTISED, QuantisedFormat, packed_shape
from edged.engine.weights.packing import apart, interleave, pack, rows, unpack

WORST_STEPS = {"int8": 1 / 127, "int4": 1 / 7}  # of a group's largest value: half a step, and the scale's own rounding


def matrix(outputs: int, inputs: int, *, seed: int = 0, spread: float = 1.0) -> torch.Tensor:
    return torch.randn((outputs, inputs), generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize("weight_format", QUANTISED)
@settings(deadline=None, max_examples=30)
@given(blocks=st.integers(1, 3), filling=st.integers(0, 31), groups=st.integers(1, 4), exponent=st.integers(-20, 20))
def test_what_is_packed_comes_back_nearly(
    weight_format: QuantisedFormat, blocks: int, filling: int, groups: int, exponent: int
) -> None:
    weight = matrix(32 * blocks - filling, 32 * groups, seed=exponent, spread=2.0**exponent)
    packed = pack(weight, weight_format)
    assert packed.blocks.shape == packed_shape(weight.shape[0], weight.shape[1], weight_format)
    assert (packed.weight_format, packed.inputs) == (weight_format, weight.shape[1])
    largest = weight.unflatten(1, (-1, 32)).abs().amax(dim=2, keepdim=True)  # type: ignore[no-untyped-call]
    error = (unpack(packed) - weight).abs().unflatten(1, (-1, 32))  # type: ignore[no-untyped-call]
    assert (error <= largest * WORST_STEPS[weight_format]).all()


@pytest.mark.parametrize("weight_format", QUANTISED)
def test_a_matrix_of_nothing_stays_nothing(weight_format: QuantisedFormat) -> None:
    assert not unpack(pack(torch.zeros((40, 64)), weight_format)).any()


@pytest.mark.parametrize("weight_format", QUANTISED)
def test_what_was_rounded_before_is_not_rounded_again(weight_format: QuantisedFormat) -> None:
    once = unpack(pack(matrix(64, 96), weight_format))
    assert (unpack(pack(once, weight_format)) - once).abs().max() < 0.01 * once.abs().mean()


def test_int4_takes_four_and_a_half_bits_a_weight_and_two_numbers_an_output() -> None:
    packed = pack(matrix(64, 96), "int4")
    assert packed.factors is not None
    assert packed.blocks.nbytes * 8 == 64 * 96 * 4.5
    assert packed.factors.shape == (2, 64)


def test_a_group_that_is_small_beside_the_others_of_its_output_keeps_its_values() -> None:
    sizes = torch.tensor([1.0, 0.1, 0.02]).repeat_interleave(32)
    weight = matrix(64, 96) * sizes
    error = (unpack(pack(weight, "int4")) - weight).view(64, 3, 32).square().mean(dim=(0, 2)).sqrt()
    assert (error / torch.tensor([1.0, 0.1, 0.02]) < torch.tensor([0.1, 0.1, 0.2])).all()


def on_a_grid(scales: torch.Tensor, lowest: torch.Tensor) -> torch.Tensor:
    """(32, 32 a group): in each group all sixteen steps of its scale, twice, from so many steps below zero on."""
    steps = torch.stack([(torch.arange(32) * 7 + row) % 16 for row in range(32 * len(scales))])
    return ((steps.view(32, -1, 32) - lowest[:, None]) * scales[:, None]).flatten(1)


@pytest.mark.parametrize("lowest", [(8, 8, 8, 8), (7.2, 9.7, 4.1, 12.4), (-3, 20, 0, 15)])
def test_what_came_in_groups_of_four_bits_is_hardly_rounded_again(lowest: tuple[float, ...]) -> None:
    weight = on_a_grid(torch.tensor([1.0, 0.93, 0.71, 0.52]), torch.tensor(lowest, dtype=torch.float32))
    error = (unpack(pack(weight, "int4")) - weight).abs()
    assert error.max() < 0.1 * 0.52  # of the finest step


def test_the_factor_is_searched_for() -> None:
    weight = on_a_grid(torch.tensor([1.0, 0.5]), torch.tensor([8.0, 8.0]))  # the half of 255 is no whole number
    assert (unpack(pack(weight, "int4")) - weight).abs().max() < 0.005


def test_values_on_one_side_of_zero_are_rounded_too() -> None:
    weight = torch.cat((matrix(64, 32).abs() + 1, -matrix(64, 32).abs() - 1), dim=1)
    error = (unpack(pack(weight, "int4")) - weight).abs()
    assert (error <= weight.abs().amax() / 15).all()


@pytest.mark.parametrize("weight_format", QUANTISED)
def test_rows_are_those_of_the_whole(weight_format: QuantisedFormat) -> None:
    packed = pack(matrix(70, 64), weight_format)
    index = torch.tensor([69, 0, 31, 32, 0])
    assert torch.equal(rows(packed, index), unpack(packed)[index])


def test_two_matrices_in_turn_come_apart_again() -> None:
    first, second = matrix(48, 32), matrix(48, 32, seed=1)
    stacked = interleave(first, second)
    assert torch.equal(stacked[16:32], second[:16])
    assert all(torch.equal(a, b) for a, b in zip(apart(stacked), (first, second), strict=True))
