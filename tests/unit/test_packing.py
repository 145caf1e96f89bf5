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


def test_int4_takes_four_and_a_half_bits_a_weight_and_a_factor_an_output() -> None:
    packed = pack(matrix(64, 96), "int4")
    assert packed.factors is not None
    assert packed.blocks.nbytes * 8 == 64 * 96 * 4.5
    assert packed.factors.shape == (64,)


def test_a_group_that_is_small_beside_the_others_of_its_output_keeps_its_values() -> None:
    sizes = torch.tensor([1.0, 0.1, 0.02]).repeat_interleave(32)
    weight = matrix(64, 96) * sizes
    error = (unpack(pack(weight, "int4")) - weight).view(64, 3, 32).square().mean(dim=(0, 2)).sqrt()
    assert (error / torch.tensor([1.0, 0.1, 0.02]) < torch.tensor([0.1, 0.1, 0.2])).all()


def on_a_grid(scales: torch.Tensor, lowest: torch.Tensor) -> torch.Tensor:
    """(32, 32 a group): in each group all sixteen steps of its scale, twice, from so many steps below zero on."""
    steps = torch.stack([torch.arange(32)[torch.randperm(32)] % 16 for _ in range(32 * len(scales))])
    return ((steps.view(32, -1, 32) - lowest[:, None]) * scales[:, None]).flatten(1)


def test_a_matrix_of_four_bits_and_scales_alone_comes_back_as_it_was_but_for_its_scales() -> None:
    scales = torch.tensor([1.0, 0.93, 0.71, 0.52])
    weight = on_a_grid(scales, torch.full((4,), 8.0))
    error = (unpack(pack(weight, "int4")) - weight).abs().view(32, 4, 32) / scales[:, None]
    assert error.max() <= 8 * 0.5 / (255 - 24) / 0.52  # at most half a step of the scale's byte, eight steps from zero


def test_a_zero_point_is_as_fine_in_a_small_group_as_in_a_large_one() -> None:
    scales, lowest = torch.tensor([1.0, 0.2, 0.04]), torch.tensor([7 + 3 / 16, 9 + 11 / 16, 4 + 1 / 16])
    weight = on_a_grid(scales, lowest)
    assert (unpack(pack(weight, "int4")) - weight).abs().max() < 1e-5


def test_the_factor_is_one_by_which_the_scales_are_whole_numbers() -> None:
    weight = on_a_grid(torch.tensor([1.0, 0.5, 0.25]), torch.full((3,), 8.0))  # of 255 the half is none, of 252 it is
    assert (unpack(pack(weight, "int4")) - weight).abs().max() < 1e-5


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
