"""How the vectors and matrices of a quantised decoder are made from a checkpoint's tensors, and how they are rounded.

Knows no file: `prepared_file.py` keeps what is made here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from edged.engine.weights.architectures.architecture import GetTensor
from edged.engine.weights.formats import BLOCK
from edged.engine.weights.layout import EMBEDDING_SCALE, Piece
from edged.engine.weights.packing import interleave, pack
from edged.engine.weights.prepared_file import Array


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSizes:
    """How large a matrix's inputs become, channel by channel: fp32, (inputs,)."""

    peak: torch.Tensor
    mean_square: torch.Tensor


def make(
    tensor: GetTensor,
    pieces: Sequence[Piece],
    sizes: Mapping[str, InputSizes],
    smoothing: Mapping[str, torch.Tensor],
) -> Iterator[tuple[str, Array]]:
    """Make every tensor of ours, one piece at a time, so that memory for one piece is enough.

    Where `smoothing` has a norm, its weights are divided by that, (hidden,), and the matrix after it is multiplied.
    """
    smoothed_embedding = smoothing and any(piece.name == "embedding" and piece.norm for piece in pieces)
    for piece in pieces:
        if piece.name == EMBEDDING_SCALE:
            scale = torch.full((piece.outputs,), piece.plus)
            yield piece.name, (scale / smoothing["norm"] if smoothed_embedding else scale).numpy()
            continue
        if piece.weight_format is None:
            (name, outputs), *_ = piece.parts
            vector = tensor(f"{name}.weight", (outputs,)).float() + piece.plus
            yield piece.name, (vector / smoothing[piece.name] if piece.name in smoothing else vector).numpy()
            continue
        weights = [tensor(f"{name}.weight", (outputs, piece.inputs)) for name, outputs in piece.parts]
        weight = interleave(*weights) if piece.in_turn else torch.cat(weights)
        if piece.norm is not None and piece.norm in smoothing:
            weight = (
                weight.float().mul_(smoothing[piece.norm])
                if weight.dtype != torch.float32
                else weight * smoothing[piece.norm]
            )
        size = sizes.get(piece.name)
        packed = pack(weight, piece.weight_format, importance=None if size is None else size.mean_square)
        yield f"{piece.name}.blocks", packed.blocks
        if packed.factors is not None:
            yield f"{piece.name}.factors", packed.factors
        if piece.has_bias:
            biases = [tensor(f"{name}.bias", (outputs,)).float() for name, outputs in piece.parts]
            bias = interleave(*biases) if piece.in_turn else torch.cat(biases)
            yield f"{piece.name}.bias", torch.nn.functional.pad(bias, (0, -piece.outputs % BLOCK)).numpy()


def smoothing_of(pieces: Sequence[Piece], sizes: Mapping[str, InputSizes]) -> dict[str, torch.Tensor]:
    """Tell how much of each channel's size goes from the activations into the weights (SmoothQuant, Xiao et al. 2022).

    A few channels are a hundred times larger than the rest, and one scale for 32 of them leaves the rest no digits.
    Not for int4, whose weights have none to spare.

    Returns:
        By the norm that gives the activations.
    """
    taken = {piece.norm: piece.name for piece in pieces if piece.norm and piece.weight_format == "int8"}
    if taken.get("norm") == "embedding":
        taken["norm"] = "head"  # which it is, too
    peaks = {norm: sizes[name].peak for norm, name in taken.items()}
    return {norm: (peak / peak.mean()).clamp_min(1e-4).sqrt() for norm, peak in peaks.items()}
