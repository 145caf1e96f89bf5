"""Matrices in 8 and 4 bits: how they are rounded, and the order of bytes in which `native.cpp` reads them.

int8 has one scale for each output; int4 a scale and a minimum for each group of 32 inputs, as GGUF's Q4_1 has, so
that a matrix which came in such groups is not rounded a second time. Knows no model and no file.
"""

from dataclasses import dataclass
from typing import Literal

import torch

QuantisedFormat = Literal["int8", "int4"]
GROUP = 32  # inputs that share a scale
BLOCK = 32  # outputs that stand side by side; a matrix is filled up to a multiple of this

_GROUP_BYTES: dict[QuantisedFormat, int] = {"int8": BLOCK * GROUP, "int4": BLOCK * GROUP // 2 + 4 * BLOCK}
_SHRINKS = torch.linspace(1.0, 0.8, 9)  # of a group's range; cutting off its ends can make the rest more exact


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A matrix of (outputs, inputs) in 8 or 4 bits.

    Attributes:
        blocks: uint8, (outputs / 32, inputs / 32, bytes of a group), outputs rounded up to 32.
        scales: fp32, (outputs,), rounded up alike; for int8 only.
        outputs: how many there are without the filling.
    """

    blocks: torch.Tensor
    scales: torch.Tensor | None
    outputs: int

    @property
    def inputs(self) -> int:
        return self.blocks.shape[1] * GROUP

    @property
    def weight_format(self) -> QuantisedFormat:
        return "int4" if self.scales is None else "int8"

    @property
    def nbytes(self) -> int:
        return self.blocks.nbytes + (self.scales.nbytes if self.scales is not None else 0)


def packed_shape(outputs: int, inputs: int, weight_format: QuantisedFormat) -> tuple[int, int, int]:
    """The shape of `Packed.blocks`."""
    return -(-outputs // BLOCK), inputs // GROUP, _GROUP_BYTES[weight_format]


def pack(weight: torch.Tensor, weight_format: QuantisedFormat) -> Packed:
    """Round a matrix and put it in order.

    Args:
        weight: (outputs, inputs) of any float type; inputs a multiple of 32.
        weight_format: into which.
    """
    outputs = weight.shape[0]
    filled = torch.nn.functional.pad(weight.float(), (0, 0, 0, -outputs % BLOCK))
    if weight_format == "int8":
        scales = filled.abs().amax(dim=1).clamp_min(1e-30) / 127
        values = (filled / scales[:, None]).round().to(torch.int16) + 128
        return Packed(blocks=_order8(values.to(torch.uint8)), scales=scales, outputs=outputs)
    values, scale, minimum = _round4(filled.unflatten(1, (-1, GROUP)))
    return Packed(blocks=_order4(values.flatten(1), scale, minimum), scales=None, outputs=outputs)


def unpack(packed: Packed) -> torch.Tensor:
    """The matrix as it was rounded: fp32, (outputs, inputs)."""
    if packed.scales is not None:
        return ((values8(packed).float() - 128) * packed.scales[:, None])[: packed.outputs]
    values, scale, minimum = values4(packed)
    groups = values.float().unflatten(1, (-1, GROUP)) * scale.float()[..., None] + minimum.float()[..., None]
    return groups.flatten(1)[: packed.outputs]


def values8(packed: Packed) -> torch.Tensor:
    """The integers of an int8 matrix, plus 128: uint8, (outputs with filling, inputs)."""
    blocks, groups, _ = packed.blocks.shape
    ordered = packed.blocks.view(blocks, groups, GROUP // 4, BLOCK, 4).permute(0, 3, 1, 2, 4)
    return ordered.reshape(blocks * BLOCK, groups * GROUP)


def values4(packed: Packed) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The integers of an int4 matrix, (outputs with filling, inputs), and its scales and minima, (.., groups)."""
    blocks, groups, _ = packed.blocks.shape
    nibbles = packed.blocks[..., : BLOCK * GROUP // 2].reshape(blocks, groups, GROUP // 8, BLOCK, 1, 4)
    values = torch.cat((nibbles & 15, nibbles >> 4), dim=4)  # (blocks, groups, eights, channels, 2, 4)
    ends = packed.blocks[..., BLOCK * GROUP // 2 :].contiguous().view(torch.bfloat16).view(blocks, groups, BLOCK, 2)
    scale, minimum = ends.permute(3, 0, 2, 1).reshape(2, blocks * BLOCK, groups)
    return values.permute(0, 3, 1, 2, 4, 5).reshape(blocks * BLOCK, groups * GROUP), scale, minimum


def interleave(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Put two matrices of as many outputs into one, half a block of each in turn."""
    pairs = torch.stack((first.unflatten(0, (-1, BLOCK // 2)), second.unflatten(0, (-1, BLOCK // 2))), dim=1)
    return pairs.flatten(0, 2)


def _round4(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find each group's scale and minimum by least squared error over a few ranges.

    Args:
        groups: fp32, (outputs, groups, 32).

    Returns:
        Integers 0..15 of the same shape, and scale and minimum in bf16, (outputs, groups).
    """
    low, high = groups.amin(dim=2), groups.amax(dim=2)
    best_error = torch.full_like(low, torch.inf)
    best_values = torch.empty_like(groups, dtype=torch.uint8)
    best_scale, best_minimum = torch.zeros_like(low), torch.zeros_like(low)
    for shrink in _SHRINKS:
        middle, reach = (low + high) / 2, (high - low) / 2 * shrink
        scale = (reach * 2 / 15).bfloat16().float()
        minimum = (middle - reach).bfloat16().float()
        values = ((groups - minimum[..., None]) / scale.clamp_min(1e-30)[..., None]).round_().clamp_(0, 15)
        error = (values * scale[..., None] + minimum[..., None] - groups).square_().sum(dim=2)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale, best_minimum = torch.where(better, scale, best_scale), torch.where(better, minimum, best_minimum)
        best_values = torch.where(better[..., None], values.to(torch.uint8), best_values)
    return best_values, best_scale.bfloat16(), best_minimum.bfloat16()


def _order8(values: torch.Tensor) -> torch.Tensor:
    quadruples = values.unflatten(1, (-1, GROUP // 4, 4)).unflatten(0, (-1, BLOCK))
    return quadruples.permute(0, 2, 3, 1, 4).flatten(2).contiguous()


def _order4(values: torch.Tensor, scale: torch.Tensor, minimum: torch.Tensor) -> torch.Tensor:
    eights = values.unflatten(1, (-1, GROUP // 8, 2, 4)).unflatten(0, (-1, BLOCK))
    nibbles = (eights[..., 0, :] | eights[..., 1, :] << 4).permute(0, 2, 3, 1, 4).flatten(2)
    ends = torch.stack((scale, minimum), dim=2).unflatten(0, (-1, BLOCK)).permute(0, 2, 1, 3).flatten(2)
    return torch.cat((nibbles, ends.contiguous().view(torch.uint8)), dim=2)
