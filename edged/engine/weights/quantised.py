"""A decoder's weights in 8 or 4 bits, as the decoders take them. Knows no file, no kernel and no torch."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.engine.weights.architectures.architecture import DecoderShape
from edged.engine.weights.formats import BLOCK, GROUP, Packed, QuantisedFormat
from edged.engine.weights.layout import EMBEDDING_SCALE, entries_of, pieces_of
from edged.engine.weights.prepared_file import Array, nbytes

Vector = npt.NDArray[np.float32]

_ROWS_IN_USE = 4  # one in so many rows of an embedding that is not the head too; the kernel may take it back as well


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """A matrix and what is added to its outputs: `bias` is fp32, (outputs with filling,)."""

    packed: Packed
    bias: Vector | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerWeights:
    """One layer; the vectors are fp32. `gate_up` has half a block of gate and half a block of up in turn."""

    attention_norm: Vector
    qkv: Matrix
    q_norm: Vector | None
    k_norm: Vector | None
    out: Matrix
    mlp_norm: Vector
    gate_up: Matrix
    down: Matrix
    attention_out_norm: Vector | None
    mlp_out_norm: Vector | None


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantisedWeights:
    """All weights of a decoder.

    Attributes:
        embedding_scale: fp32, (hidden,): what a row of `embedding` is multiplied by where it is taken as input.
        head: the embedding itself where the two are tied and held alike.
        parameters: numbers in the checkpoint.
        nbytes: of what every step reads: all but an embedding that is not the head too.
    """

    weight_format: QuantisedFormat
    embedding: Packed
    embedding_scale: Vector
    layers: list[LayerWeights]
    norm: Vector
    head: Packed
    parameters: int
    nbytes: int


def fits(shape: DecoderShape) -> bool:
    """Tell whether packed matrices can have these sizes."""
    widths = (shape.hidden, shape.mlp, shape.heads * shape.head_dim)
    return all(width % GROUP == 0 for width in widths) and shape.head_dim % (BLOCK // 2) == 0


def packed_bytes(shape: DecoderShape, weight_format: QuantisedFormat) -> int:
    """Give the memory that the weights take."""
    return sum(nbytes(entry) for entry in entries_of(pieces_of(shape, weight_format)).values())


def resident_bytes(shape: DecoderShape, weight_format: QuantisedFormat) -> int:
    """Give the memory that mapped weights take: what every step reads, and the rows of the embedding in use."""
    entries = entries_of(pieces_of(shape, weight_format))
    looked_up = nbytes(entries["embedding.blocks"]) if "head.blocks" in entries else 0
    return sum(map(nbytes, entries.values())) - looked_up + looked_up // _ROWS_IN_USE


def assemble(
    tensors: Mapping[str, Array], shape: DecoderShape, weight_format: QuantisedFormat, parameters: int
) -> QuantisedWeights:
    """Sort prepared tensors, which have the names and shapes of `layout.entries_of`, into a decoder's weights."""
    queries = shape.heads * shape.head_dim

    def packed(name: str, outputs: int) -> Packed:
        return Packed(blocks=tensors[f"{name}.blocks"], outputs=outputs, factors=tensors.get(f"{name}.factors"))

    def matrix(name: str, outputs: int) -> Matrix:
        return Matrix(packed=packed(name, outputs), bias=tensors.get(f"{name}.bias"))

    def layer(at: str) -> LayerWeights:
        return LayerWeights(
            attention_norm=tensors[f"{at}attention_norm"],
            qkv=matrix(f"{at}qkv", queries + 2 * shape.kv_heads * shape.head_dim),
            q_norm=tensors.get(f"{at}q_norm"),
            k_norm=tensors.get(f"{at}k_norm"),
            out=matrix(f"{at}out", shape.hidden),
            mlp_norm=tensors[f"{at}mlp_norm"],
            gate_up=matrix(f"{at}gate_up", 2 * shape.mlp),
            down=matrix(f"{at}down", shape.hidden),
            attention_out_norm=tensors.get(f"{at}attention_out_norm"),
            mlp_out_norm=tensors.get(f"{at}mlp_out_norm"),
        )

    embedding = packed("embedding", shape.vocab)
    has_head = "head.blocks" in tensors
    return QuantisedWeights(
        weight_format=weight_format,
        embedding=embedding,
        embedding_scale=tensors[EMBEDDING_SCALE],
        layers=[layer(f"layers.{index}.") for index in range(shape.layers)],
        norm=tensors["norm"],
        head=packed("head", shape.vocab) if has_head else embedding,
        parameters=parameters,
        nbytes=sum(each.nbytes for name, each in tensors.items() if not (has_head and name.startswith("embedding"))),
    )
