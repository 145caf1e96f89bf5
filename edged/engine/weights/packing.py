"""Matrices in 8 and 4 bits: how they are rounded, and the order of bytes in which `native.cpp` reads them.

Each group of 32 inputs of an output has its own scale, as in GGUF's Q8_0, and for int4 a minimum too, as in Q4_1: a
matrix which came in such groups is hardly rounded a second time. int4's scales and minima are themselves rounded to a
byte each: a scale is a byte times a factor of the output, as in GGUF's Q4_K, and a minimum lies a byte times a few such
factors below a base, which is the highest minimum of the output. Knows no model and no file.
"""

from typing import Any

import numpy.typing as npt
import torch

from edged.engine.weights.formats import BLOCK, GROUP, Packed, QuantisedFormat, packed_shape

_ROWS_AT_ONCE = 2048
_SHRINKS = (1.0, 0.9, 0.75)  # of a group's range: cutting off its ends can make the rest more exact
_MINIMUM_STEP = 6  # of int4's minima, in steps of its scales
_FACTORS = 24  # that are tried for an output of int4


def as_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """Give an array to torch; one that may not be written to, as a mapped file's, is copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def pack(weight: torch.Tensor, weight_format: QuantisedFormat, *, importance: torch.Tensor | None = None) -> Packed:
    """Round a matrix and put it in order.

    Args:
        weight: (outputs, inputs) of any float type; inputs a multiple of 32.
        weight_format: into which.
        importance: (inputs,), how much an error in each input's weights counts: its mean square, which makes the
            error of the product least (as llama.cpp's importance matrix does). For int4 only.
    """
    outputs, inputs = weight.shape
    shape = packed_shape(outputs, inputs, weight_format)
    blocks = torch.empty(shape, dtype=torch.uint8)
    factors = torch.empty(2, shape[0] * BLOCK) if weight_format == "int4" else None
    counts = torch.ones(inputs) if importance is None else importance / importance.mean()
    counts = counts.clamp_min(1e-6).view(-1, GROUP)
    # A part at a time: a vocabulary's matrix is hundreds of megabytes, and rounding takes several copies of it.
    for start in range(0, outputs, _ROWS_AT_ONCE):
        part = weight[start : start + _ROWS_AT_ONCE].float()
        part = torch.nn.functional.pad(part, (0, 0, 0, -part.shape[0] % BLOCK))
        groups = _split(part, 1, GROUP)
        if factors is None:
            values, scale = _round8(groups)
            ordered = torch.cat((_order8(values.flatten(1)), _order_ends(scale)), dim=2)
        else:
            values, scale, minimum, factor = _round4(groups, counts)
            ordered = torch.cat((_order4(values.flatten(1)), _order_ends(scale), _order_ends(minimum)), dim=2)
            factors[:, start : start + factor.shape[1]] = factor
        blocks[start // BLOCK : start // BLOCK + ordered.shape[0]] = ordered
    return Packed(blocks=blocks.numpy(), outputs=outputs, factors=None if factors is None else factors.numpy())


def unpack(packed: Packed) -> torch.Tensor:
    """The matrix as it was rounded: fp32, (outputs, inputs)."""
    if packed.weight_format == "int8":
        values, scale = _values8(packed)
        groups = _split(values.float() - 128, 1, GROUP) * scale.float()[..., None]
    else:
        values, scale, minimum = values4(packed)
        groups = _split(values.float(), 1, GROUP) * scale[..., None] + minimum[..., None]
    return groups.flatten(1)[: packed.outputs]


def rows(packed: Packed, index: torch.Tensor) -> torch.Tensor:
    """A few rows of the matrix as it was rounded: fp32, (len(index), inputs)."""
    block = (index // BLOCK).numpy()
    factors = None if packed.factors is None else packed.factors.reshape(2, -1, BLOCK)[:, block].reshape(2, -1)
    picked = unpack(Packed(blocks=packed.blocks[block], outputs=BLOCK * len(index), factors=factors))
    return picked.view(len(index), BLOCK, -1)[torch.arange(len(index)), index % BLOCK]


def _values8(packed: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    """The integers of an int8 matrix, plus 128, (outputs with filling, inputs), and its scales, (.., groups)."""
    stored = as_tensor(packed.blocks)
    blocks, groups, _ = stored.shape
    quadruples = stored[..., : BLOCK * GROUP].reshape(blocks, groups, GROUP // 4, BLOCK, 4)
    values = quadruples.permute(0, 3, 1, 2, 4).reshape(blocks * BLOCK, groups * GROUP)
    return values, _ends(stored[..., BLOCK * GROUP :].contiguous().view(torch.bfloat16))


def values4(packed: Packed) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The integers of an int4 matrix, (outputs with filling, inputs), its scales and minima in fp32, (.., groups)."""
    if packed.factors is None:
        raise ValueError("an int4 matrix has factors")
    stored, (factor, base) = as_tensor(packed.blocks), as_tensor(packed.factors)[..., None]
    blocks, groups, _ = stored.shape
    nibbles = stored[..., : BLOCK * GROUP // 2].reshape(blocks, groups, GROUP // 8, BLOCK, 1, 4)
    values = torch.cat((nibbles & 15, nibbles >> 4), dim=4)  # (blocks, groups, eights, channels, 2, 4)
    ends = stored[..., BLOCK * GROUP // 2 :]
    scale, minimum = _ends(ends[..., :BLOCK]).float(), _ends(ends[..., BLOCK:]).float()
    ordered = values.permute(0, 3, 1, 2, 4, 5).reshape(blocks * BLOCK, groups * GROUP)
    return ordered, scale * factor, base - minimum * (_MINIMUM_STEP * factor)


def interleave(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Put two matrices of as many outputs into one, half a block of each in turn."""
    pairs = torch.stack((_split(first, 0, BLOCK // 2), _split(second, 0, BLOCK // 2)), dim=1)
    return pairs.flatten(0, 2)


def apart(stacked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Undo `interleave`."""
    first, second = _split(stacked, 0, 2, BLOCK // 2).unbind(1)
    return first.flatten(0, 1), second.flatten(0, 1)


def _round8(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round symmetrically about zero.

    Args:
        groups: fp32, (outputs, groups, 32).

    Returns:
        Integers -127..127, plus 128, of the same shape, and scales in bf16, (outputs, groups).
    """
    scale = (groups.abs().amax(dim=2) / 127).bfloat16()
    values = (groups / scale.float().clamp_min(1e-30)[..., None]).round_().clamp_(-127, 127)
    return (values + 128).to(torch.uint8), scale


def _round4(
    groups: torch.Tensor, importance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find each group's scale and minimum by least squared error, and round them too.

    First the best ones as if they were not rounded; they give the factor and the base. Then the integers are chosen
    anew for the scale as it was rounded, and the minimum for those integers.

    Args:
        groups: fp32, (outputs, groups, 32).
        importance: (groups, 32).

    Returns:
        Integers 0..15 of the same shape; scale and minimum in bytes, (outputs, groups); factor and base, (2, outputs).
        A value is base + factor * (scale * integer - 6 * minimum).
    """
    weight = importance / importance.sum(dim=1, keepdim=True)
    scale, minimum = _fit4(groups, weight)
    mean = (groups * weight).sum(dim=2)
    variance = ((groups - mean[..., None]).square_() * weight).sum(dim=2)
    factor = _factor_of(scale, minimum, mean, variance, importance.sum(dim=1))[:, None]
    step = factor * _MINIMUM_STEP
    base = minimum.amax(dim=1, keepdim=True) + step
    scales = (scale / factor).round_().clamp_(0, 255)
    scale = scales * factor
    least = torch.full_like(scale, torch.inf)
    best, minima = torch.empty_like(groups, dtype=torch.uint8), torch.empty_like(scale, dtype=torch.uint8)
    for refit in (False, True):
        if refit:
            minimum = mean - scale * (best * weight).sum(dim=2)
        rounded = ((base - minimum) / step).round_().clamp_(0, 255)
        values = _round_to(groups, scale, base - rounded * step)
        better, least = _improve(least, _error(values, groups, weight, scale, base - rounded * step))
        minima = torch.where(better, rounded.to(torch.uint8), minima)
        best = torch.where(better[..., None], values.to(torch.uint8), best)
    return best, scales.to(torch.uint8), minima, torch.stack((factor[:, 0], base[:, 0]))


def _factor_of(
    scale: torch.Tensor, minimum: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, importance: torch.Tensor
) -> torch.Tensor:
    """The factor of each output, (outputs,), with which its scales and minima are rounded to bytes at the least cost.

    Args:
        scale: of each group before it is rounded, (outputs, groups).
        minimum: likewise.
        mean: of the values of each group, (outputs, groups).
        variance: of those values.
        importance: of each group, (groups,).
    """
    high, largest = minimum.amax(dim=1), scale.amax(dim=1)
    span = (high - minimum.amin(dim=1)) / _MINIMUM_STEP
    smallest = torch.maximum(largest / 255, span / 253).clamp_min(1e-30)  # a refitted minimum may move by a step
    relative = variance / scale.square().clamp_min(1e-30)
    level = (mean - minimum) / scale.clamp_min(1e-30)  # the mean of the integers
    least = torch.full_like(smallest, torch.inf)
    best = smallest
    for less in range(_FACTORS):  # the largest scale comes out as it is
        byte = ((largest / smallest + 1e-3).floor_() - less).clamp_min_(1)
        factor = torch.maximum(largest / byte, smallest)[:, None]
        step = factor * _MINIMUM_STEP
        off = scale - (scale / factor).round_().mul_(factor)
        below = (high[:, None] - minimum - off * level) / step
        below.sub_(below.round()).mul_(step)
        better, least = _improve(least, ((off.square_() * relative + below.square_()) * importance).sum(dim=1))
        best = torch.where(better, factor[:, 0], best)
    return best


def _fit4(groups: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The best scale and minimum of each group, fp32, (outputs, groups).

    From a few ranges, each refitted once: the best scale and minimum for the integers that it gave, in closed form.
    """
    low, high = groups.amin(dim=2), groups.amax(dim=2)
    mean = (groups * weight).sum(dim=2)
    least = torch.full_like(low, torch.inf)
    scales, minima = torch.zeros_like(low), torch.zeros_like(low)
    values = torch.empty_like(groups)
    for shrink in _SHRINKS:
        middle, reach = (low + high) / 2, (high - low) / 2 * shrink
        scale, minimum = reach * 2 / 15, middle - reach
        for refit in (False, True):
            if refit:
                values_mean = (values * weight).sum(dim=2)
                spread = values.sub_(values_mean[..., None])
                variance = (spread.square() * weight).sum(dim=2)
                scale = (spread * groups * weight).sum(dim=2) / variance.clamp_min(1e-12)
                minimum = mean - scale * values_mean
            values = _round_to(groups, scale, minimum)
            better, least = _improve(least, _error(values, groups, weight, scale, minimum))
            scales, minima = torch.where(better, scale, scales), torch.where(better, minimum, minima)
    return scales, minima


def _round_to(groups: torch.Tensor, scale: torch.Tensor, minimum: torch.Tensor) -> torch.Tensor:
    """The integers 0..15 that come next to the groups' values."""
    return ((groups - minimum[..., None]) / scale.clamp_min(1e-30)[..., None]).round_().clamp_(0, 15)


def _error(
    values: torch.Tensor, groups: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, minimum: torch.Tensor
) -> torch.Tensor:
    """The squared error of each group, (outputs, groups)."""
    off = (values * scale[..., None]).add_(minimum[..., None]).sub_(groups)
    return off.square_().mul_(weight).sum(dim=2)


def _improve(least: torch.Tensor, error: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where an error is less than the least so far, and what is the least now."""
    return error < least, torch.minimum(error, least)


def _split(x: torch.Tensor, dim: int, *inner: int) -> torch.Tensor:
    """Make several dimensions of one, all but the first of these sizes."""
    return x.reshape(*x.shape[:dim], -1, *inner, *x.shape[dim + 1 :])


def _order8(values: torch.Tensor) -> torch.Tensor:
    quadruples = _split(_split(values, 1, GROUP // 4, 4), 0, BLOCK)
    return quadruples.permute(0, 2, 3, 1, 4).flatten(2)


def _order4(values: torch.Tensor) -> torch.Tensor:
    eights = _split(_split(values, 1, GROUP // 8, 2, 4), 0, BLOCK)
    return (eights[..., 0, :] | eights[..., 1, :] << 4).permute(0, 2, 3, 1, 4).flatten(2)


def _order_ends(ends: torch.Tensor) -> torch.Tensor:
    """The bytes that stand behind the integers of a group, one number for each channel. From (outputs, groups)."""
    return _split(ends, 0, BLOCK).transpose(1, 2).contiguous().view(torch.uint8)


def _ends(stored: torch.Tensor) -> torch.Tensor:
    """Undo `_order_ends`: (outputs with filling, groups)."""
    return stored.transpose(1, 2).flatten(0, 1)
