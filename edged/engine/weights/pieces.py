"""Which tensors of a checkpoint make which quantised matrix, and how they are rounded.

Knows no file: `prepared_file.py` keeps what is made here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from edged.engine.weights.architectures.architecture import DecoderShape, GetTensor
from edged.engine.weights.packing import BLOCK, QuantisedFormat, interleave, pack, packed_shape
from edged.engine.weights.prepared_file import Entry

EMBEDDING_SCALE = "embedding_scale"


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSizes:
    """How large a matrix's inputs become, channel by channel: fp32, (inputs,)."""

    peak: torch.Tensor
    mean_square: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A vector or a matrix of ours, and the tensors of the checkpoint from which it is made.

    Attributes:
        parts: (Hugging Face name without its ending, outputs), stacked in this order.
        weight_format: of a matrix; None for a vector.
        inputs: of a matrix.
        norm: the norm whose output is the only input of the matrix, if there is one.
        in_turn: its rows are half a block of the first part and half a block of the second in turn.
        has_bias: whether each part has one.
    """

    name: str
    parts: tuple[tuple[str, int], ...]
    weight_format: QuantisedFormat | None = None
    inputs: int = 0
    norm: str | None = None
    in_turn: bool = False
    has_bias: bool = False

    @property
    def outputs(self) -> int:
        return sum(outputs for _, outputs in self.parts)


def pieces_of(shape: DecoderShape, weight_format: QuantisedFormat) -> list[Piece]:
    """Give all vectors and matrices of a decoder, in the order in which they are kept."""
    names = shape.names

    def matrix(
        name: str,
        parts: Sequence[tuple[str, int]],
        inputs: int,
        *,
        norm: str | None = None,
        in_turn: bool = False,
        has_bias: bool = False,
    ) -> Piece:
        return Piece(
            name=name,
            parts=tuple(parts),
            weight_format=weight_format,
            inputs=inputs,
            norm=norm,
            in_turn=in_turn,
            has_bias=has_bias,
        )

    def layer(index: int) -> list[Piece]:
        to, at = f"layers.{index}.", names.layer(index)
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        head_norms = (("q_norm", at.q_norm), ("k_norm", at.k_norm)) if shape.normalises_heads else ()
        attention, mlp, biases = f"{to}attention_norm", f"{to}mlp_norm", shape.biases
        qkv = [(at.q, queries), (at.k, keys), (at.v, keys)]
        gate_up = [(at.gate, shape.mlp), (at.up, shape.mlp)]
        return [
            Piece(name=attention, parts=((at.attention_norm, shape.hidden),)),
            matrix(f"{to}qkv", qkv, shape.hidden, norm=attention, has_bias=biases.qkv),
            *(Piece(name=f"{to}{name}", parts=((theirs, shape.head_dim),)) for name, theirs in head_norms),
            matrix(f"{to}out", [(at.out, shape.hidden)], queries, has_bias=biases.out),
            Piece(name=mlp, parts=((at.mlp_norm, shape.hidden),)),
            matrix(f"{to}gate_up", gate_up, shape.hidden, norm=mlp, in_turn=True, has_bias=biases.mlp),
            matrix(f"{to}down", [(at.down, shape.hidden)], shape.mlp, has_bias=biases.mlp),
        ]

    has_own_head = shape.tied and weight_format == "int4"  # an int8 embedding is no head beside int4 matrices
    embedding = matrix("embedding", [(names.embedding, shape.vocab)], shape.hidden)
    pieces = [
        # The one that is in no checkpoint stands first.
        Piece(name=EMBEDDING_SCALE, parts=(("", shape.hidden),)),
        # As input it is int8 always: of a mapped file only the rows that are looked up take memory.
        replace(embedding, weight_format="int8", norm="norm" if shape.tied and not has_own_head else None),
        *(piece for index in range(shape.layers) for piece in layer(index)),
        Piece(name="norm", parts=((names.norm, shape.hidden),)),
    ]
    if has_own_head or not shape.tied:
        head = names.embedding if shape.tied else names.head
        pieces.append(matrix("head", [(head, shape.vocab)], shape.hidden, norm="norm"))
    return pieces


def entries_of(pieces: Sequence[Piece]) -> dict[str, Entry]:
    """Give type and shape of every tensor that `make` makes, in the same order."""
    entries: dict[str, Entry] = {}
    for piece in pieces:
        if piece.weight_format is None:
            entries[piece.name] = (torch.float32, (piece.outputs,))
            continue
        shape = packed_shape(piece.outputs, piece.inputs, piece.weight_format)
        entries[f"{piece.name}.blocks"] = (torch.uint8, shape)
        if piece.has_bias:
            entries[f"{piece.name}.bias"] = (torch.float32, (shape[0] * BLOCK,))
    return entries


def make(
    tensor: GetTensor,
    pieces: Sequence[Piece],
    sizes: Mapping[str, InputSizes],
    smoothing: Mapping[str, torch.Tensor],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Make every tensor of ours, one piece at a time, so that memory for one piece is enough.

    Where `smoothing` has a norm, its weights are divided by that, (hidden,), and the matrix after it is multiplied.
    """
    smoothed_embedding = smoothing and any(piece.name == "embedding" and piece.norm for piece in pieces)
    for piece in pieces:
        if piece.name == EMBEDDING_SCALE:
            yield piece.name, 1 / smoothing["norm"] if smoothed_embedding else torch.ones(piece.outputs)
            continue
        if piece.weight_format is None:
            (name, outputs), *_ = piece.parts
            vector = tensor(f"{name}.weight", (outputs,)).float()
            yield piece.name, vector / smoothing[piece.name] if piece.name in smoothing else vector
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
        if piece.has_bias:
            biases = [tensor(f"{name}.bias", (outputs,)).float() for name, outputs in piece.parts]
            bias = interleave(*biases) if piece.in_turn else torch.cat(biases)
            yield f"{piece.name}.bias", torch.nn.functional.pad(bias, (0, -piece.outputs % BLOCK))


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
