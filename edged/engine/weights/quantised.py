"""A decoder's weights in 8 or 4 bits: which tensors of a checkpoint make which matrix, and the file that keeps them.

Rounding takes much longer than reading, so it is done once: a prepared file holds every matrix in the order of bytes
in which it is multiplied, and a start only maps it. The file is made of the checkpoint alone and may be deleted at
any time. Knows no kernel.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import structlog
import torch
from safetensors import SafetensorError, safe_open

from edged.engine.weights.packing import BLOCK, GROUP, Packed, QuantisedFormat, interleave, pack, packed_shape
from edged.engine.weights.shape import DecoderShape, GetTensor, HasTensor

log = structlog.get_logger(__name__)

_LAYOUT = "1"  # of the bytes; another one makes old prepared files void
_EMBEDDING_SCALE = "embedding_scale"
_ALIGNMENT = 64  # a cache line
_DTYPES = {"U8": torch.uint8, "F32": torch.float32}


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSizes:
    """How large what a matrix takes is, channel by channel: fp32, (inputs,)."""

    peak: torch.Tensor
    mean_square: torch.Tensor


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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """A vector or a matrix of ours, and the tensors of the checkpoint that it is made of.

    Attributes:
        parts: (Hugging Face name without its ending, outputs), stacked in this order.
        weight_format: of a matrix; None for a vector.
        inputs: of a matrix.
        norm: the piece whose outcome is all that the matrix takes, if any.
        in_turn: half a block of the first part and half a block of the second in turn.
        has_bias: whether any part has one.
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


def fits(shape: DecoderShape) -> bool:
    """Whether the sizes are those that packed matrices can have."""
    widths = (shape.hidden, shape.mlp, shape.heads * shape.head_dim)
    return all(width % GROUP == 0 for width in widths) and shape.head_dim % (BLOCK // 2) == 0


def packed_bytes(shape: DecoderShape, has: HasTensor, weight_format: QuantisedFormat) -> int:
    """How much memory the weights take."""
    return sum(_nbytes(entry) for entry in _entries(_pieces(shape, has, weight_format)).values())


def open_quantised(
    path: Path,
    shape: DecoderShape,
    weight_format: QuantisedFormat,
    *,
    tensor: GetTensor,
    has: HasTensor,
    folder: Path | None,
    sizes: Callable[[], Mapping[str, InputSizes]],
    smooth: bool,
) -> QuantisedWeights:
    """Map the prepared file, and make it before if it is not there; without a place for it, hold the weights.

    Args:
        path: the checkpoint.
        shape: its sizes, which `fits` accepts.
        weight_format: into which they are rounded.
        tensor: reads a tensor of the checkpoint by name and checks its shape; raises ModelUnavailable.
        has: whether the checkpoint has a tensor of that name.
        folder: where prepared files are kept.
        sizes: see `decoder.input_sizes`; called only when the weights are rounded.
        smooth: whether the activations will be rounded too, so that their outliers must go.

    Raises:
        ModelUnavailable: a tensor of the checkpoint is missing or broken.
    """
    pieces = _pieces(shape, has, weight_format)
    made = _fingerprint(path)
    kind = weight_format if smooth else f"{weight_format}-plain"
    file = None if folder is None else folder / _file_name(path, kind)
    tensors = None if file is None else _read(file, made)
    if tensors is None:
        log.info("preparing_weights", format=weight_format, once=file is not None)
        entries = _entries(pieces)
        seen = sizes()
        smoothing = _smoothing(pieces, seen) if smooth else {}
        if file is not None:
            try:
                _write(file, entries, _make(tensor, has, pieces, seen, smoothing), made)
                tensors = _read(file, made)
            except OSError as error:
                log.warning("weights_not_kept", file=str(file), reason=error.strerror or str(error))
        if tensors is None:
            tensors = dict(_make(tensor, has, pieces, seen, smoothing))
    counted = {piece.parts: piece.outputs * (piece.inputs + piece.has_bias or 1) for piece in pieces[1:]}
    parameters = sum(counted.values())
    return _assemble(tensors, shape, weight_format, parameters)


# ------------------------------------------------------------------------------------------------ which and what


def _pieces(shape: DecoderShape, has: HasTensor, weight_format: QuantisedFormat) -> list[_Piece]:
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

    def matrix(
        name: str, parts: Sequence[tuple[str, int]], inputs: int, *, norm: str | None = None, in_turn: bool = False
    ) -> _Piece:
        return _Piece(
            name=name,
            parts=tuple(parts),
            weight_format=weight_format,
            inputs=inputs,
            norm=norm,
            in_turn=in_turn,
            has_bias=any(has(f"{part}.bias") for part, _ in parts),
        )

    embed, own_head = "model.embed_tokens", shape.tied and weight_format == "int4"
    embedding = matrix("embedding", [(embed, shape.vocab)], shape.hidden)
    pieces = [
        # The one that is in no checkpoint stands first.
        _Piece(name=_EMBEDDING_SCALE, parts=(("", shape.hidden),)),
        # As input it is int8 always: of a mapped file only the rows that are looked up take memory.
        replace(embedding, weight_format="int8", norm="norm" if shape.tied and not own_head else None),
    ]
    for index in range(shape.layers):
        to, at = f"layers.{index}.", f"model.layers.{index}."
        attention, mlp = f"{at}self_attn.", f"{at}mlp."
        pieces += [
            _Piece(name=f"{to}attention_norm", parts=((f"{at}input_layernorm", shape.hidden),)),
            matrix(
                f"{to}qkv",
                [(f"{attention}q_proj", queries), (f"{attention}k_proj", keys), (f"{attention}v_proj", keys)],
                shape.hidden,
                norm=f"{to}attention_norm",
            ),
            *(
                _Piece(name=f"{to}{each}_norm", parts=((f"{attention}{each}_norm", shape.head_dim),))
                for each in ("q", "k")
                if has(f"{attention}{each}_norm.weight")
            ),
            matrix(f"{to}out", [(f"{attention}o_proj", shape.hidden)], queries),
            _Piece(name=f"{to}mlp_norm", parts=((f"{at}post_attention_layernorm", shape.hidden),)),
            matrix(
                f"{to}gate_up",
                [(f"{mlp}gate_proj", shape.mlp), (f"{mlp}up_proj", shape.mlp)],
                shape.hidden,
                norm=f"{to}mlp_norm",
                in_turn=True,
            ),
            matrix(f"{to}down", [(f"{mlp}down_proj", shape.hidden)], shape.mlp),
        ]
    pieces.append(_Piece(name="norm", parts=(("model.norm", shape.hidden),)))
    if own_head or not shape.tied:
        pieces.append(
            matrix("head", [("lm_head" if not shape.tied else embed, shape.vocab)], shape.hidden, norm="norm")
        )
    return pieces


def _entries(pieces: Sequence[_Piece]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of every tensor that `_make` makes, in the same order."""
    entries: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for piece in pieces:
        if piece.weight_format is None:
            entries[piece.name] = (torch.float32, (piece.outputs,))
            continue
        shape = packed_shape(piece.outputs, piece.inputs, piece.weight_format)
        entries[f"{piece.name}.blocks"] = (torch.uint8, shape)
        if piece.has_bias:
            entries[f"{piece.name}.bias"] = (torch.float32, (shape[0] * BLOCK,))
    return entries


def _make(
    tensor: GetTensor,
    has: HasTensor,
    pieces: Sequence[_Piece],
    sizes: Mapping[str, InputSizes],
    smoothing: Mapping[str, torch.Tensor],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Make every tensor of ours, one piece at a time: no more than that is held.

    What a norm in `smoothing` gives is divided by that, (hidden,), and the matrix behind it multiplied.
    """
    smoothed_embedding = smoothing and any(piece.name == "embedding" and piece.norm for piece in pieces)
    for piece in pieces:
        if piece.name == _EMBEDDING_SCALE:
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
            biases = [
                tensor(f"{name}.bias", (outputs,)).float() if has(f"{name}.bias") else torch.zeros(outputs)
                for name, outputs in piece.parts
            ]
            bias = interleave(*biases) if piece.in_turn else torch.cat(biases)
            yield f"{piece.name}.bias", torch.nn.functional.pad(bias, (0, -piece.outputs % BLOCK))


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
        embedding_scale=tensors[_EMBEDDING_SCALE],
        layers=[layer(f"layers.{index}.") for index in range(shape.layers)],
        norm=tensors["norm"],
        head=packed("head", shape.vocab) if has_head else embedding,
        parameters=parameters,
        nbytes=sum(each.nbytes for name, each in tensors.items() if not (has_head and name.startswith("embedding"))),
    )


def _smoothing(pieces: Sequence[_Piece], sizes: Mapping[str, InputSizes]) -> dict[str, torch.Tensor]:
    """How much of each channel's size goes from the activations into the weights (SmoothQuant, Xiao et al. 2022).

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


# ----------------------------------------------------------------------------------------------------- the file


def _file_name(model: Path, kind: str) -> str:
    place = hashlib.sha256(os.fsencode(model.resolve())).hexdigest()[:12]
    return f"{model.stem or 'model'}-{place}-{kind}.safetensors"


def _fingerprint(model: Path) -> str:
    """What tells one state of a checkpoint's files from another."""
    files = [model] if model.is_file() else sorted([*model.glob("*.safetensors"), model / "config.json"])
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([_LAYOUT, state]).encode()).hexdigest()


def _read(file: Path, made: str) -> dict[str, torch.Tensor] | None:
    """Map a prepared file; None when there is none that was made of the checkpoint as it is now."""
    try:
        with safe_open(file, framework="pt") as mapped:
            if (mapped.metadata() or {}).get("made_of") != made:
                return None
            return {name: mapped.get_tensor(name) for name in mapped.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        log.warning("prepared_weights_unreadable", file=str(file), reason=" ".join(str(error).split()))
        return None


def _write(
    file: Path,
    entries: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    tensors: Iterator[tuple[str, torch.Tensor]],
    made: str,
) -> None:
    """Write a safetensors file tensor by tensor, beside its place, and rename it into place last.

    The library's own `save_file` wants all tensors in memory at once, and does not align them to cache lines.
    """
    names = {dtype: name for name, dtype in _DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"made_of": made}}
    offset = 0
    for name, entry in entries.items():
        dtype, shape = entry
        header[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": (offset, offset + _nbytes(entry))}
        offset += _nbytes(entry)
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(f".{os.getpid()}.part")
    try:
        with half.open("wb") as opened:
            opened.write(len(text).to_bytes(8, "little") + text)
            for _, each in tensors:
                opened.write(each.contiguous().numpy().data)
            opened.flush()
            os.fsync(opened.fileno())
        half.replace(file)
    finally:
        half.unlink(missing_ok=True)


def _nbytes(entry: tuple[torch.dtype, tuple[int, ...]]) -> int:
    dtype, shape = entry
    return prod(shape) * dtype.itemsize
