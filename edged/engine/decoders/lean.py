"""The lean decoder: the forward pass of Qwen2, Qwen3, Llama, Mistral and SmolLM2, and no more.

All rows of a step, of whatever sequence, go through the linear layers as one flat batch, so the weights are read
once; only attention looks at sequences. Equal to transformers' own forward (a test holds it to that).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.nn import functional as F  # noqa: N812 - the name that everybody knows it by
from transformers import PretrainedConfig

from edged.engine.decoders.cuda_graphs import Attend, Steps
from edged.engine.decoders.interface import Span
from edged.engine.decoders.kv_cache import KVShape, SequenceKV
from edged.engine.decoders.linear import Dense, DenseFormat, Linear, compute_dtype, padded_rows, quantised_linear
from edged.engine.decoders.slab import Slab
from edged.engine.weights.packing import apart, rows
from edged.engine.weights.quantised import InputSizes, LayerWeights, Matrix, QuantisedWeights
from edged.engine.weights.shape import SPARE_POSITIONS, DecoderShape, GetTensor, HasTensor, rope_angles


@dataclass(slots=True)
class _Layer:
    attention_norm: torch.Tensor  # (hidden,)
    qkv: Linear  # hidden -> (heads + 2 kv_heads) x head_dim
    q_norm: torch.Tensor | None  # (head_dim,), Qwen3
    k_norm: torch.Tensor | None
    out: Linear  # heads x head_dim -> hidden
    mlp_norm: torch.Tensor
    gate_up: Linear  # hidden -> 2 mlp
    down: Linear  # mlp -> hidden


@dataclass(slots=True)
class _Rows:
    """One span's place in the flat batch of a step.

    Attributes:
        first: its first row; `count` rows belong to it.
        mask: (1, 1, group x count, past + count), added to the scores; None where every row sees all.
    """

    kv: SequenceKV
    first: int
    count: int
    past: int
    mask: torch.Tensor | None


class Decoder:
    """A loaded model; see `edged.engine.model.CausalModel`."""

    shares_prefixes = True

    def __init__(
        self,
        *,
        shape: DecoderShape,
        kv_shape: KVShape,
        embed: Callable[[torch.Tensor], torch.Tensor],
        layers: Iterable[_Layer],
        norm: torch.Tensor,
        head: Linear,
        rope: torch.Tensor,
        pad: Callable[[int], int] = lambda rows: rows,
    ) -> None:
        """`embed` takes tokens (rows,) to (rows, hidden); `rope` is (2, positions, head_dim): cosines and sines.

        `pad` says how many rows a step of so many should have.
        """
        self.vocab_size = shape.vocab
        self.bytes_per_token = kv_shape.bytes_per_token
        self._shape = shape
        self._kv_shape = kv_shape
        self._embed = embed
        self._layers = layers
        self._norm = norm
        self._head = head
        self._rope = rope
        self._padded = pad
        self._steps: Steps | None = None

    def reserve(self, tokens: int) -> None:
        """Take memory for so many tokens at once, so that sequences' steps run together: for a GPU."""
        self._steps = Steps(Slab(self._kv_shape, tokens), self._step)

    def allocate(self, capacity: int) -> SequenceKV:
        kv = None if self._steps is None else self._steps.slab.allocate(capacity)
        return self._kv_shape.allocate(capacity) if kv is None else kv

    def fork(self, source: SequenceKV, length: int, capacity: int, *, borrow: bool = False) -> SequenceKV:
        del borrow  # torch's attention wants them in one piece
        kv = self.allocate(capacity)
        kv.begin_with(source, length)
        return kv

    def forward(self, spans: Sequence[Span[SequenceKV]]) -> torch.Tensor:
        steps = [span for span in spans if _is_step(span)]
        if self._steps is None or not steps:
            logits = self._run(spans)
        else:
            logits = self._steps.run([span.tokens[0] for span in steps], [span.kv for span in steps])
            if others := [span for span in spans if not _is_step(span)]:
                logits = _in_order(spans, iter(logits), iter(self._run(others)))
        for span in spans:
            span.kv.length += len(span.tokens)
        return logits

    def _run(self, spans: Sequence[Span[SequenceKV]]) -> torch.Tensor:
        """Run spans of any kind; gives the logits of their wanted rows."""
        device = self._kv_shape.device
        tokens = [t for span in spans for t in (*span.tokens, *(token for _, token in span.branches))]
        positions = [p for span in spans for p in _positions(span)]
        rows = self._lay_out(spans)
        wanted = [r.first + i for r, span in zip(rows, spans, strict=True) for i in span.wanted]
        num_wanted = len(wanted)
        # Rows that belong to no sequence; what they compute is not looked at.
        tokens += [0] * (self._padded(len(tokens)) - len(tokens))
        positions += [0] * (len(tokens) - len(positions))
        wanted += [0] * (self._padded(num_wanted) - num_wanted)

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return self._attend(index, q, k, v, rows)

        x = self._through(torch.tensor(tokens, device=device), torch.tensor(positions, device=device), attend)
        if not num_wanted:  # a prompt that goes on in the next step needs no head
            return torch.empty((0, self.vocab_size))
        return self._logits(x[wanted])[:num_wanted].float().cpu()

    def _step(self, tokens: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        return self._logits(self._through(tokens, positions, attend))

    def _through(self, tokens: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Run the layers: (T,) and (T,) -> (T, hidden)."""
        s = self._shape
        keys = s.heads + s.kv_heads
        x = self._embed(tokens)
        cos, sin = self._rope[:, positions].unsqueeze(2)  # each (T, 1, head_dim)
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(self._rms_norm(x, layer.attention_norm)).view(x.shape[0], keys + s.kv_heads, s.head_dim)
            qk, v = qkv[:, :keys], qkv[:, keys:]
            if layer.q_norm is not None and layer.k_norm is not None:
                q, k = qk[:, : s.heads], qk[:, s.heads :]
                qk = torch.cat((self._rms_norm(q, layer.q_norm), self._rms_norm(k, layer.k_norm)), dim=1)
            qk = _rotate(qk, cos, sin)
            x = x + layer.out(attend(index, qk[:, : s.heads], qk[:, s.heads :], v))
            gate, up = layer.gate_up(self._rms_norm(x, layer.mlp_norm)).chunk(2, dim=-1)
            x = x + layer.down(F.silu(gate) * up)
        return x

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        return self._head(self._rms_norm(x, self._norm))

    def _attend(
        self, index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Sequence[_Rows]
    ) -> torch.Tensor:
        """Attention of every sequence over its own keys; see `Attend`."""
        s = self._shape
        group = s.heads // s.kv_heads
        answers = []
        for r in rows:
            here = slice(r.first, r.first + r.count)
            end = r.past + r.count
            r.kv.keys[index, :, r.past : end] = k[here].transpose(0, 1)
            r.kv.values[index, :, r.past : end] = v[here].transpose(0, 1)
            # The query heads that share a key head become rows of one matrix: no key is copied for them.
            queries = q[here].view(r.count, s.kv_heads, group, s.head_dim).permute(1, 2, 0, 3)
            answer = F.scaled_dot_product_attention(
                queries.reshape(1, s.kv_heads, group * r.count, s.head_dim),
                r.kv.keys[index, None, :, :end],
                r.kv.values[index, None, :, :end],
                attn_mask=r.mask,
            )
            answer = answer.view(s.kv_heads, group, r.count, s.head_dim).permute(2, 0, 1, 3)
            answers.append(answer.reshape(r.count, s.heads * s.head_dim))
        padding = q.shape[0] - sum(r.count for r in rows)
        return torch.cat((*answers, q.new_zeros((padding, s.heads * s.head_dim))))

    def _lay_out(self, spans: Sequence[Span[SequenceKV]]) -> list[_Rows]:
        counts = [len(span.tokens) + len(span.branches) for span in spans]
        firsts = [0, *accumulate(counts)]
        group = self._shape.heads // self._shape.kv_heads
        return [
            _Rows(kv=span.kv, first=first, count=count, past=span.kv.length, mask=self._mask(span, group))
            for span, first, count in zip(spans, firsts, counts, strict=False)
        ]

    def _mask(self, span: Span[SequenceKV], group: int) -> torch.Tensor | None:
        sees = visibility(len(span.tokens), span.branches)
        if sees.shape[0] == 1:
            return None
        past = sees.new_ones((sees.shape[0], span.kv.length))
        sees = torch.cat((past, sees), dim=1).repeat(group, 1)  # (group x count, past + count)
        mask = torch.zeros(sees.shape, dtype=self._kv_shape.dtype).masked_fill_(~sees, float("-inf"))
        return mask[None, None].to(self._kv_shape.device)

    def _rms_norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self._shape.eps)


def _is_step(span: Span[SequenceKV]) -> bool:
    """Whether a span is one token of a sequence in the slab, and its logits are asked for."""
    return span.kv.start is not None and len(span.tokens) == 1 and not span.branches and len(span.wanted) == 1


def _in_order(
    spans: Sequence[Span[SequenceKV]], steps: Iterator[torch.Tensor], others: Iterator[torch.Tensor]
) -> torch.Tensor:
    """Join the rows of those spans that are steps and of the others, as `spans` has them."""
    return torch.stack([next(steps if _is_step(span) else others) for span in spans for _ in span.wanted])


def visibility(tokens: int, branches: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Which row of a span sees which: (rows, rows) booleans; a branch row sees its parent's line and itself."""
    count = tokens + len(branches)
    sees = torch.ones((count, count), dtype=torch.bool).tril()
    for row, (parent, _) in enumerate(branches, start=tokens):
        sees[row] = sees[parent]
        sees[row, row] = True
    return sees


def _positions(span: Span[SequenceKV]) -> list[int]:
    positions = list(range(span.kv.length, span.kv.length + len(span.tokens)))
    for parent, _ in span.branches:
        positions.append(positions[parent] + 1)
    return positions


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding, halves form (Su et al. 2021, as in GPT-NeoX): x is (T, heads, head_dim).

    `sin` has the sign of each half already; see `_rope_table`.
    """
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((right, left), dim=-1) * sin


def load(
    config: PretrainedConfig,
    *,
    tensor: GetTensor,
    has: HasTensor,
    weight_format: DenseFormat,
    device: torch.device,
    max_context_tokens: int,
) -> tuple[Decoder, int]:
    """Build a decoder from a checkpoint, tensor by tensor: beside the model, only one layer is ever held.

    Args:
        config: one that `supports` accepts.
        tensor: reads a tensor by name and checks its shape; raises ModelUnavailable.
        has: whether the checkpoint has a tensor of that name.
        weight_format: how the matrices are held.
        device: where.
        max_context_tokens: positions to prepare.

    Returns:
        The decoder, and its number of parameters (a tied head counted once).
    """
    reader = _Reader(tensor=tensor, has=has, dtype=compute_dtype(weight_format), device=device)
    shape = DecoderShape.of(config, has_head=has("lm_head.weight"))
    embedding = reader.read("model.embed_tokens.weight", (shape.vocab, shape.hidden))
    layers = [_load_layer(reader, shape, f"model.layers.{index}.") for index in range(shape.layers)]
    norm = reader.read("model.norm.weight", (shape.hidden,))
    head = Dense(embedding if shape.tied else reader.read("lm_head.weight", (shape.vocab, shape.hidden)))
    kv_shape = KVShape(
        layers=shape.layers, kv_heads=shape.kv_heads, head_dim=shape.head_dim, dtype=reader.dtype, device=device
    )
    # Branches of a last step may stand a few positions past the limit.
    rope = _rope_table(config, shape, max_context_tokens + SPARE_POSITIONS, reader.dtype).to(device)
    decoder = Decoder(
        shape=shape,
        kv_shape=kv_shape,
        embed=lambda tokens: embedding[tokens],
        layers=layers,
        norm=norm,
        head=head,
        rope=rope,
        pad=lambda rows: padded_rows(rows, weight_format, device),
    )
    return decoder, reader.parameters


def input_sizes(
    config: PretrainedConfig, *, tensor: GetTensor, has: HasTensor, tokens: Sequence[int]
) -> dict[str, InputSizes]:
    """Run a prompt in fp32, with one layer in memory at a time, and see how large what the matrices take becomes.

    Returns:
        By the matrix's name, as `quantised` has it.
    """
    reader = _Reader(tensor=tensor, has=has, dtype=torch.float32, device=torch.device("cpu"))
    shape = DecoderShape.of(config, has_head=has("lm_head.weight"))
    kv_shape = KVShape(
        layers=shape.layers, kv_heads=shape.kv_heads, head_dim=shape.head_dim, dtype=reader.dtype, device=reader.device
    )
    sizes: dict[str, InputSizes] = {}

    def watched(name: str, linear: Linear) -> Linear:
        def run(x: torch.Tensor) -> torch.Tensor:
            sizes[name] = InputSizes(peak=x.abs().amax(dim=0), mean_square=x.square().mean(dim=0))
            return linear(x)

        return run

    def layers() -> Iterator[_Layer]:
        for index in range(shape.layers):
            at = f"layers.{index}."
            layer = _load_layer(reader, shape, f"model.{at}")
            layer.qkv, layer.out = watched(f"{at}qkv", layer.qkv), watched(f"{at}out", layer.out)
            layer.gate_up, layer.down = watched(f"{at}gate_up", layer.gate_up), watched(f"{at}down", layer.down)
            yield layer

    embedding = tensor("model.embed_tokens.weight", (shape.vocab, shape.hidden))
    decoder = Decoder(
        shape=shape,
        kv_shape=kv_shape,
        embed=lambda tokens: embedding[tokens].float(),
        layers=layers(),
        norm=reader.read("model.norm.weight", (shape.hidden,)),
        head=watched("head", lambda x: x),
        rope=_rope_table(config, shape, len(tokens), reader.dtype),
    )
    decoder.forward([Span(kv=decoder.allocate(len(tokens)), tokens=tokens, wanted=range(len(tokens)))])
    return sizes


def of_quantised(config: PretrainedConfig, weights: QuantisedWeights, *, max_context_tokens: int) -> Decoder:
    """Build a decoder of prepared weights on torch's own kernels, for boxes where `native` cannot be built."""
    shape = DecoderShape.of(config, has_head=weights.head is not weights.embedding)
    dtype = compute_dtype(weights.weight_format)
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
        embed=lambda tokens: (rows(weights.embedding, tokens) * weights.embedding_scale).to(dtype),
        layers=[_quantised_layer(layer, dtype) for layer in weights.layers],
        norm=weights.norm.to(dtype),
        head=quantised_linear(weights.head, None, dtype),
        rope=_rope_table(config, shape, max_context_tokens + SPARE_POSITIONS, dtype),
    )


def _quantised_layer(layer: LayerWeights, dtype: torch.dtype) -> _Layer:
    def linear(matrix: Matrix) -> Linear:
        return quantised_linear(matrix.packed, matrix.bias, dtype)

    def stacked(gate_up: Linear) -> Linear:  # its outputs come in turn; the decoder wants gate first, then up
        return lambda x: torch.cat(apart(gate_up(x).T.contiguous())).T

    return _Layer(
        attention_norm=layer.attention_norm.to(dtype),
        qkv=linear(layer.qkv),
        q_norm=None if layer.q_norm is None else layer.q_norm.to(dtype),
        k_norm=None if layer.k_norm is None else layer.k_norm.to(dtype),
        out=linear(layer.out),
        mlp_norm=layer.mlp_norm.to(dtype),
        gate_up=stacked(linear(layer.gate_up)),
        down=linear(layer.down),
    )


def _rope_table(config: PretrainedConfig, shape: DecoderShape, positions: int, dtype: torch.dtype) -> torch.Tensor:
    """Cosines and sines for every position, the sines of the left half negative: (2, positions, head_dim)."""
    angles, scale = rope_angles(config, shape, positions)
    cos, sin = angles.cos() * scale, angles.sin() * scale
    return torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))).to(dtype)


@dataclass(slots=True)
class _Reader:
    """Reads tensors in the type and on the device where they will stay."""

    tensor: GetTensor
    has: HasTensor
    dtype: torch.dtype
    device: torch.device
    parameters: int = 0

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        value = self.tensor(name, shape)
        self.parameters += value.numel()
        return value.to(device=self.device, dtype=self.dtype, copy=True)

    def read_if_there(self, name: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        return self.read(name, shape) if self.has(name) else None

    def linear(self, parts: Sequence[tuple[str, int]], inputs: int) -> Linear:
        """Stack the matrices of `parts` (name, outputs) that share their input into one."""
        weight = torch.cat([self.read(f"{name}.weight", (outputs, inputs)) for name, outputs in parts])
        biases = [self.read_if_there(f"{name}.bias", (outputs,)) for name, outputs in parts]
        if all(bias is None for bias in biases):
            return Dense(weight)
        filled = [
            weight.new_zeros(outputs) if bias is None else bias
            for bias, (_, outputs) in zip(biases, parts, strict=True)
        ]
        return Dense(weight, torch.cat(filled))


def _load_layer(reader: _Reader, shape: DecoderShape, at: str) -> _Layer:
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention, mlp = f"{at}self_attn.", f"{at}mlp."
    return _Layer(
        attention_norm=reader.read(f"{at}input_layernorm.weight", (shape.hidden,)),
        qkv=reader.linear(
            [(f"{attention}q_proj", queries), (f"{attention}k_proj", keys), (f"{attention}v_proj", keys)],
            shape.hidden,
        ),
        q_norm=reader.read_if_there(f"{attention}q_norm.weight", (shape.head_dim,)),
        k_norm=reader.read_if_there(f"{attention}k_norm.weight", (shape.head_dim,)),
        out=reader.linear([(f"{attention}o_proj", shape.hidden)], queries),
        mlp_norm=reader.read(f"{at}post_attention_layernorm.weight", (shape.hidden,)),
        gate_up=reader.linear([(f"{mlp}gate_proj", shape.mlp), (f"{mlp}up_proj", shape.mlp)], shape.hidden),
        down=reader.linear([(f"{mlp}down_proj", shape.hidden)], shape.mlp),
    )
