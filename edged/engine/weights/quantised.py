"""A decoder's weights in 8 or 4 bits: opened from their prepared file, which is made at the first start.

Rounding takes much longer than reading, so it is done once; later starts only map the file. Knows no kernel.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import structlog
import torch

from edged.engine.weights.architectures.architecture import DecoderShape, GetTensor, tensors_of
from edged.engine.weights.packing import BLOCK, GROUP, Packed, QuantisedFormat
from edged.engine.weights.pieces import EMBEDDING_SCALE, InputSizes, entries_of, make, pieces_of, smoothing_of
from edged.engine.weights.prepared_file import file_name, fingerprint, nbytes, read, write

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """A matrix and what is added to its outputs: `bias` is fp32, (outputs with filling,)."""

    packed: Packed
    bias: torch.Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerWeights:
    """One layer; the vectors are fp32. `gate_up` has half a block of gate and half a block of up in turn."""

    attention_norm: torch.Tensor
    qkv: Matrix
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    out: Matrix
    mlp_norm: torch.Tensor
    gate_up: Matrix
    down: Matrix


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
    embedding_scale: torch.Tensor
    layers: list[LayerWeights]
    norm: torch.Tensor
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


def open_quantised(
    path: Path,
    shape: DecoderShape,
    weight_format: QuantisedFormat,
    *,
    tensor: GetTensor,
    folder: Path | None,
    sizes: Callable[[], Mapping[str, InputSizes]],
    smooth: bool,
) -> QuantisedWeights:
    """Map the prepared file, and make it first if it is not there. Without a folder for it, hold the weights in memory.

    Args:
        path: the checkpoint.
        shape: its sizes, which `fits` accepts.
        weight_format: into which they are rounded.
        tensor: reads a tensor of the checkpoint by name and checks its shape; raises ModelUnavailable.
        folder: where prepared files are kept.
        sizes: see `lean_loading.input_sizes`; called only when the weights are rounded.
        smooth: whether the activations will be rounded too, so that outliers among them must be made smaller.

    Raises:
        ModelUnavailable: a tensor of the checkpoint is missing or broken.
    """
    pieces = pieces_of(shape, weight_format)
    made = fingerprint(path)
    kind = weight_format if smooth else f"{weight_format}-plain"
    file = None if folder is None else folder / file_name(path, kind)
    entries = entries_of(pieces)
    tensors = None if file is None else read(file, made)
    if tensors is None or tensors.keys() != entries.keys():
        log.info("preparing_weights", format=weight_format, once=file is not None)
        tensors = None
        seen = sizes()
        smoothing = smoothing_of(pieces, seen) if smooth else {}
        if file is not None:
            try:
                write(file, entries, make(tensor, pieces, seen, smoothing), made)
                tensors = read(file, made)
            except OSError as error:
                log.warning("weights_not_kept", file=str(file), reason=error.strerror or str(error))
        if tensors is None:
            tensors = dict(make(tensor, pieces, seen, smoothing))
    parameters = sum(prod(each) for each in tensors_of(shape).values())
    return _assemble(tensors, shape, weight_format, parameters)


def _assemble(
    tensors: Mapping[str, torch.Tensor], shape: DecoderShape, weight_format: QuantisedFormat, parameters: int
) -> QuantisedWeights:
    queries = shape.heads * shape.head_dim

    def packed(name: str, outputs: int) -> Packed:
        return Packed(blocks=tensors[f"{name}.blocks"], outputs=outputs)

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
