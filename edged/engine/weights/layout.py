"""Which vectors and matrices a quantised decoder has, their shapes, and the tensors of a checkpoint that make them.

Knows no file and no torch: `pieces.py` makes them, `prepared_file.py` keeps them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from edged.engine.weights.architectures.architecture import DecoderShape
from edged.engine.weights.formats import BLOCK, QuantisedFormat, packed_shape
from edged.engine.weights.prepared_file import Entry

EMBEDDING_SCALE = "embedding_scale"


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A vector or a matrix of ours, and the tensors of the checkpoint from which it is made.

    Attributes:
        parts: (Hugging Face name without its ending, outputs), stacked in this order.
        weight_format: of a matrix; None for a vector.
        inputs: of a matrix.
        norm: the norm whose output is the only input of the matrix, if there is one.
        plus: what is added to each number of a vector.
        in_turn: its rows are half a block of the first part and half a block of the second in turn.
        has_bias: whether each part has one.
    """

    name: str
    parts: tuple[tuple[str, int], ...]
    weight_format: QuantisedFormat | None = None
    inputs: int = 0
    norm: str | None = None
    plus: float = 0.0
    in_turn: bool = False
    has_bias: bool = False

    @property
    def outputs(self) -> int:
        return sum(outputs for _, outputs in self.parts)


def _matrix(
    weight_format: QuantisedFormat,
    name: str,
    parts: Sequence[tuple[str, int]],
    inputs: int,
    *,
    after: str | None = None,
    in_turn: bool = False,
    has_bias: bool = False,
) -> Piece:
    return Piece(
        name=name,
        parts=tuple(parts),
        weight_format=weight_format,
        inputs=inputs,
        norm=after,
        in_turn=in_turn,
        has_bias=has_bias,
    )


def pieces_of(shape: DecoderShape, weight_format: QuantisedFormat) -> list[Piece]:
    """Give all vectors and matrices of a decoder, in the order in which they are kept."""
    names = shape.names

    def norm(name: str, theirs: str, size: int) -> Piece:
        return Piece(name=name, parts=((theirs, size),), plus=1.0 if names.norms_less_one else 0.0)

    matrix = partial(_matrix, weight_format)

    def layer(index: int) -> list[Piece]:
        to, at = f"layers.{index}.", names.layer(index)
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        head_norms = (("q_norm", at.q_norm), ("k_norm", at.k_norm)) if shape.normalises_heads else ()
        out_norms = (
            (("attention_out_norm", at.attention_out_norm), ("mlp_out_norm", at.mlp_out_norm))
            if shape.normalises_outputs
            else ()
        )
        attention, mlp, biases = f"{to}attention_norm", f"{to}mlp_norm", shape.biases
        qkv = [(at.q, queries), (at.k, keys), (at.v, keys)]
        gate_up = [(at.gate, shape.mlp), (at.up, shape.mlp)]
        return [
            norm(attention, at.attention_norm, shape.hidden),
            matrix(f"{to}qkv", qkv, shape.hidden, after=attention, has_bias=biases.qkv),
            *(norm(f"{to}{name}", theirs, shape.head_dim) for name, theirs in head_norms),
            matrix(f"{to}out", [(at.out, shape.hidden)], queries, has_bias=biases.out),
            norm(mlp, at.mlp_norm, shape.hidden),
            matrix(f"{to}gate_up", gate_up, shape.hidden, after=mlp, in_turn=True, has_bias=biases.mlp),
            matrix(f"{to}down", [(at.down, shape.hidden)], shape.mlp, has_bias=biases.mlp),
            *(norm(f"{to}{name}", theirs, shape.hidden) for name, theirs in out_norms),
        ]

    has_own_head = shape.tied and weight_format == "int4"  # an int8 embedding is no head beside int4 matrices
    embedding = matrix("embedding", [(names.embedding, shape.vocab)], shape.hidden)
    pieces = [
        # The one that is in no checkpoint stands first.
        Piece(name=EMBEDDING_SCALE, parts=(("", shape.hidden),), plus=shape.embedding_scale),
        # As input it is int8 always: of a mapped file only the rows that are looked up take memory.
        replace(embedding, weight_format="int8", norm="norm" if shape.tied and not has_own_head else None),
        *(piece for index in range(shape.layers) for piece in layer(index)),
        norm("norm", names.norm, shape.hidden),
    ]
    if has_own_head or not shape.tied:
        head = names.embedding if shape.tied else names.head
        pieces.append(matrix("head", [(head, shape.vocab)], shape.hidden, after="norm"))
    return pieces


def entries_of(pieces: Sequence[Piece]) -> dict[str, Entry]:
    """Give type and shape of every tensor that `pieces.make` makes, in the same order."""
    entries: dict[str, Entry] = {}
    for piece in pieces:
        if piece.weight_format is None:
            entries[piece.name] = ("F32", (piece.outputs,))
            continue
        shape = packed_shape(piece.outputs, piece.inputs, piece.weight_format)
        entries[f"{piece.name}.blocks"] = ("U8", shape)
        if piece.weight_format == "int4":
            entries[f"{piece.name}.factors"] = ("F32", (2, shape[0] * BLOCK))
        if piece.has_bias:
            entries[f"{piece.name}.bias"] = ("F32", (shape[0] * BLOCK,))
    return entries
