"""Lean decoders made of a checkpoint's tensors, or of prepared weights in 8 or 4 bits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from edged.engine.decoders.interface import Span
from edged.engine.decoders.kv_cache import KVShape
from edged.engine.decoders.lean import Decoder, Layer
from edged.engine.decoders.linear import Dense, Linear, compute_dtype, padded_rows, quantised_linear
from edged.engine.weights.architectures.architecture import SPARE_POSITIONS, DecoderShape, GetTensor
from edged.engine.weights.architectures.table import decoder_shape
from edged.engine.weights.formats import DenseFormat
from edged.engine.weights.packing import apart, as_tensor, rows
from edged.engine.weights.pieces import InputSizes
from edged.engine.weights.quantised import LayerWeights, Matrix, QuantisedWeights, Vector
from edged.engine.weights.rope import Rope, ropes_of


def load(
    config: PretrainedConfig,
    *,
    tensor: GetTensor,
    weight_format: DenseFormat,
    device: torch.device,
    max_context_tokens: int,
) -> tuple[Decoder, int]:
    """Build a decoder from a checkpoint, tensor by tensor: beside the model, only one layer is ever held.

    Args:
        config: one that `architectures.table.supports` accepts.
        tensor: reads a tensor by name and checks its shape; raises ModelUnavailable.
        weight_format: how the matrices are held.
        device: where.
        max_context_tokens: positions to prepare.

    Returns:
        The decoder, and its number of parameters (a tied head counted once).
    """
    shape = decoder_shape(config)
    reader = _Reader(tensor=tensor, dtype=compute_dtype(weight_format), device=device, shape=shape)
    embedding = reader.read(f"{shape.names.embedding}.weight", (shape.vocab, shape.hidden))
    layers = [_load_layer(reader, shape, index) for index in range(shape.layers)]
    norm = reader.norm(shape.names.norm, shape.hidden)
    head = embedding
    if not shape.tied:
        head = reader.read(f"{shape.names.head}.weight", (shape.vocab, shape.hidden))
    kv_shape = KVShape(
        layers=shape.layers, kv_heads=shape.kv_heads, head_dim=shape.head_dim, dtype=reader.dtype, device=device
    )
    # Branches of a last step may stand a few positions past the limit.
    rope = _rope_tables(ropes_of(config, shape), max_context_tokens + SPARE_POSITIONS, reader.dtype).to(device)
    decoder = Decoder(
        shape=shape,
        kv_shape=kv_shape,
        embed=lambda tokens: embedding[tokens] * shape.embedding_scale,
        layers=layers,
        norm=norm,
        head=Dense(head),
        rope=rope,
        pad=lambda rows: padded_rows(rows, weight_format, device),
    )
    return decoder, reader.parameters


def input_sizes(config: PretrainedConfig, *, tensor: GetTensor, tokens: Sequence[int]) -> dict[str, InputSizes]:
    """Run a prompt in fp32, with one layer in memory at a time, and see how large the matrices' inputs become.

    Returns:
        By the matrix's name, as `pieces.py` has it.
    """
    shape = decoder_shape(config)
    reader = _Reader(tensor=tensor, dtype=torch.float32, device=torch.device("cpu"), shape=shape)
    kv_shape = KVShape(
        layers=shape.layers, kv_heads=shape.kv_heads, head_dim=shape.head_dim, dtype=reader.dtype, device=reader.device
    )
    sizes: dict[str, InputSizes] = {}

    def watched(name: str, linear: Linear) -> Linear:
        def run(x: torch.Tensor) -> torch.Tensor:
            sizes[name] = InputSizes(peak=x.abs().amax(dim=0), mean_square=x.square().mean(dim=0))
            return linear(x)

        return run

    def layers() -> Iterator[Layer]:
        for index in range(shape.layers):
            at = f"layers.{index}."
            layer = _load_layer(reader, shape, index)
            layer.qkv, layer.out = watched(f"{at}qkv", layer.qkv), watched(f"{at}out", layer.out)
            layer.gate_up, layer.down = watched(f"{at}gate_up", layer.gate_up), watched(f"{at}down", layer.down)
            yield layer

    embedding = tensor(f"{shape.names.embedding}.weight", (shape.vocab, shape.hidden))
    decoder = Decoder(
        shape=shape,
        kv_shape=kv_shape,
        embed=lambda tokens: embedding[tokens].float() * shape.embedding_scale,
        layers=layers(),
        norm=reader.norm(shape.names.norm, shape.hidden),
        head=watched("head", lambda x: x),
        rope=_rope_tables(ropes_of(config, shape), len(tokens), reader.dtype),
    )
    decoder.forward([Span(kv=decoder.allocate(len(tokens)), tokens=tokens, wanted=range(len(tokens)))])
    return sizes


def of_quantised(
    shape: DecoderShape, weights: QuantisedWeights, ropes: Sequence[Rope], *, max_context_tokens: int
) -> Decoder:
    """Build a decoder of prepared weights on torch's own kernels, for boxes where `native` cannot be built."""
    dtype = compute_dtype(weights.weight_format)
    scale = as_tensor(weights.embedding_scale)
    kv_shape = KVShape(
        layers=shape.layers,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        dtype=dtype,
        device=torch.device("cpu"),
    )
    return Decoder(
        shape=shape,
        kv_shape=kv_shape,
        embed=lambda tokens: (rows(weights.embedding, tokens) * scale).to(dtype),
        layers=[_quantised_layer(layer, dtype) for layer in weights.layers],
        norm=as_tensor(weights.norm).to(dtype),
        head=quantised_linear(weights.head, None, dtype),
        rope=_rope_tables(ropes, max_context_tokens + SPARE_POSITIONS, dtype),
    )


def _quantised_layer(layer: LayerWeights, dtype: torch.dtype) -> Layer:
    def linear(matrix: Matrix) -> Linear:
        bias = None if matrix.bias is None else as_tensor(matrix.bias)
        return quantised_linear(matrix.packed, bias, dtype)

    def vector(norm: Vector) -> torch.Tensor:
        return as_tensor(norm).to(dtype)

    def maybe(norm: Vector | None) -> torch.Tensor | None:
        return None if norm is None else vector(norm)

    def stacked(gate_up: Linear) -> Linear:  # its outputs are gate and up in turn; the decoder wants all of gate first
        return lambda x: torch.cat(apart(gate_up(x).T.contiguous())).T

    return Layer(
        attention_norm=vector(layer.attention_norm),
        qkv=linear(layer.qkv),
        q_norm=maybe(layer.q_norm),
        k_norm=maybe(layer.k_norm),
        out=linear(layer.out),
        mlp_norm=vector(layer.mlp_norm),
        gate_up=stacked(linear(layer.gate_up)),
        down=linear(layer.down),
        attention_out_norm=maybe(layer.attention_out_norm),
        mlp_out_norm=maybe(layer.mlp_out_norm),
    )


def _rope_tables(ropes: Sequence[Rope], positions: int, dtype: torch.dtype) -> torch.Tensor:
    """Give cosines and sines of every position, the left half's sines negative: (ropes, 2, positions, head_dim)."""
    tables = []
    for rope in ropes:
        cos, sin = torch.from_numpy(rope.table(positions))
        tables.append(torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))))
    return torch.stack(tables).to(dtype)


@dataclass(slots=True)
class _Reader:
    """Reads tensors in the type and on the device where they will stay."""

    tensor: GetTensor
    dtype: torch.dtype
    device: torch.device
    shape: DecoderShape
    parameters: int = 0

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        value = self.tensor(name, shape)
        self.parameters += value.numel()
        return value.to(device=self.device, dtype=self.dtype, copy=True)

    def norm(self, name: str, size: int) -> torch.Tensor:
        less_one = self.shape.names.norms_less_one
        value = self.tensor(f"{name}.weight", (size,)).float() + (1.0 if less_one else 0.0)
        self.parameters += size
        return value.to(device=self.device, dtype=self.dtype)

    def linear(self, parts: Sequence[tuple[str, int]], inputs: int, *, has_bias: bool) -> Linear:
        """Stack the matrices of `parts` (name, outputs), which share their input, into one."""
        weight = torch.cat([self.read(f"{name}.weight", (outputs, inputs)) for name, outputs in parts])
        if not has_bias:
            return Dense(weight)
        return Dense(weight, torch.cat([self.read(f"{name}.bias", (outputs,)) for name, outputs in parts]))


def _load_layer(reader: _Reader, shape: DecoderShape, index: int) -> Layer:
    names, hidden, biases = shape.names.layer(index), shape.hidden, shape.biases
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    qkv = [(names.q, queries), (names.k, keys), (names.v, keys)]
    gate_up = [(names.gate, shape.mlp), (names.up, shape.mlp)]

    def head_norm(name: str) -> torch.Tensor | None:
        return reader.norm(name, shape.head_dim) if shape.normalises_heads else None

    def out_norm(name: str) -> torch.Tensor | None:
        return reader.norm(name, hidden) if shape.normalises_outputs else None

    return Layer(
        attention_norm=reader.norm(names.attention_norm, hidden),
        qkv=reader.linear(qkv, hidden, has_bias=biases.qkv),
        q_norm=head_norm(names.q_norm),
        k_norm=head_norm(names.k_norm),
        out=reader.linear([(names.out, hidden)], queries, has_bias=biases.out),
        mlp_norm=reader.norm(names.mlp_norm, hidden),
        gate_up=reader.linear(gate_up, hidden, has_bias=biases.mlp),
        down=reader.linear([(names.down, hidden)], shape.mlp, has_bias=biases.mlp),
        attention_out_norm=out_norm(names.attention_out_norm),
        mlp_out_norm=out_norm(names.mlp_out_norm),
    )
