"""The lean decoder: the forward pass of the families in `weights/architectures/`, on torch.

The rows of all sequences go through the linear layers as one flat batch, so that each step reads the weights once;
only attention looks at sequences. Equal to transformers' own forward (a test holds it to that). Built by
`lean_loading.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.nn import functional as F  # noqa: N812 - the name that everybody knows it by

from edged.engine.decoders.cuda_graphs import Attend, Steps
from edged.engine.decoders.interface import Logits, Span, refuse_unknown_tokens
from edged.engine.decoders.kv_cache import KVShape, SequenceKV
from edged.engine.decoders.linear import Linear
from edged.engine.decoders.slab import Slab
from edged.engine.weights.architectures.architecture import DecoderShape


@dataclass(slots=True)
class Layer:
    attention_norm: torch.Tensor  # (hidden,)
    qkv: Linear  # hidden -> (heads + 2 kv_heads) x head_dim
    q_norm: torch.Tensor | None  # (head_dim,), Qwen3
    k_norm: torch.Tensor | None
    out: Linear  # heads x head_dim -> hidden
    mlp_norm: torch.Tensor
    gate_up: Linear  # hidden -> 2 mlp
    down: Linear  # mlp -> hidden
    attention_out_norm: torch.Tensor | None  # (hidden,)
    mlp_out_norm: torch.Tensor | None


@dataclass(slots=True)
class _Rows:
    """One span's place in the flat batch of a step.

    Attributes:
        first: its first row; `count` rows belong to it.
        masks: for each window that a layer has (0: none), what is added to the scores, (1, 1, group x count, past +
            count); None where every row sees all.
    """

    kv: SequenceKV
    first: int
    count: int
    past: int
    masks: Mapping[int, torch.Tensor | None]


class Decoder:
    """A loaded model; see `CausalModel`."""

    shares_prefixes = True

    def __init__(
        self,
        *,
        shape: DecoderShape,
        kv_shape: KVShape,
        embed: Callable[[torch.Tensor], torch.Tensor],
        layers: Iterable[Layer],
        norm: torch.Tensor,
        head: Linear,
        rope: torch.Tensor,
        pad: Callable[[int], int] = lambda rows: rows,
    ) -> None:
        """Take the parts of a model.

        Args:
            shape: its sizes.
            kv_shape: those of keys and values.
            embed: takes tokens (rows,) to (rows, hidden).
            layers: in order; run through once in each step.
            norm: of what the last layer gives.
            head: hidden -> vocab.
            rope: (ropes, 2, positions, head_dim): cosines and sines of each rotary embedding; the sines of the left
                half are negative.
            pad: gives the number of rows that a step of so many rows should have.
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
        """Take memory for so many tokens at once, so that the steps of all sequences run together: for a GPU."""
        self._steps = Steps(Slab(self._kv_shape, tokens), self._step, self._shape)

    def allocate(self, capacity: int) -> SequenceKV:
        kv = None if self._steps is None else self._steps.slab.allocate(capacity)
        return self._kv_shape.allocate(capacity) if kv is None else kv

    @torch.inference_mode()
    def fork(self, source: SequenceKV, length: int, capacity: int, *, borrow: bool = False) -> SequenceKV:
        del borrow  # torch's attention wants keys and values in one piece
        kv = self.allocate(capacity)
        kv.begin_with(source, length)
        return kv

    @torch.inference_mode()
    def forward(self, spans: Sequence[Span[SequenceKV]]) -> Logits:
        refuse_unknown_tokens(spans, self.vocab_size)
        steps = [span for span in spans if _is_step(span)]
        if self._steps is None or not steps:
            logits = self._run(spans)
        else:
            logits = self._steps.run([span.tokens[0] for span in steps], [span.kv for span in steps])
            if others := [span for span in spans if not _is_step(span)]:
                logits = _in_order(spans, iter(logits), iter(self._run(others)))
        for span in spans:
            span.kv.length += len(span.tokens)
        return logits.numpy()

    def _run(self, spans: Sequence[Span[SequenceKV]]) -> torch.Tensor:
        """Run spans of any kind; gives the logits of their wanted rows."""
        device = self._kv_shape.device
        tokens = [t for span in spans for t in (*span.tokens, *(token for _, token in span.branches))]
        positions = [p for span in spans for p in _positions(span)]
        rows = self._lay_out(spans)
        wanted = [r.first + i for r, span in zip(rows, spans, strict=True) for i in span.wanted]
        num_wanted = len(wanted)
        # Rows that belong to no sequence; their results are not looked at.
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
        rope = self._rope[:, :, positions].unsqueeze(3)  # (ropes, 2, T, 1, head_dim)
        for index, (layer, kind) in enumerate(zip(self._layers, s.layer_kinds, strict=True)):
            qkv = layer.qkv(self._rms_norm(x, layer.attention_norm)).view(x.shape[0], keys + s.kv_heads, s.head_dim)
            qk, v = qkv[:, :keys], qkv[:, keys:]
            if layer.q_norm is not None and layer.k_norm is not None:
                q, k = qk[:, : s.heads], qk[:, s.heads :]
                qk = torch.cat((self._rms_norm(q, layer.q_norm), self._rms_norm(k, layer.k_norm)), dim=1)
            qk = _rotate(qk, *rope[kind.rope])
            mixed = attend(index, qk[:, : s.heads], qk[:, s.heads :], v)
            x = x + self._normed(layer.out(mixed), layer.attention_out_norm)
            gate, up = layer.gate_up(self._rms_norm(x, layer.mlp_norm)).chunk(2, dim=-1)
            gate = F.silu(gate) if s.activation == "silu" else F.gelu(gate, approximate="tanh")
            x = x + self._normed(layer.down(gate * up), layer.mlp_out_norm)
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
                attn_mask=r.masks[s.layer_kinds[index].window],
                scale=s.attention_scale,
            )
            answer = answer.view(s.kv_heads, group, r.count, s.head_dim).permute(2, 0, 1, 3)
            answers.append(answer.reshape(r.count, s.heads * s.head_dim))
        padding = q.shape[0] - sum(r.count for r in rows)
        return torch.cat((*answers, q.new_zeros((padding, s.heads * s.head_dim))))

    def _lay_out(self, spans: Sequence[Span[SequenceKV]]) -> list[_Rows]:
        counts = [len(span.tokens) + len(span.branches) for span in spans]
        firsts = [0, *accumulate(counts)]
        return [
            _Rows(kv=span.kv, first=first, count=count, past=span.kv.length, masks=self._masks(span))
            for span, first, count in zip(spans, firsts, counts, strict=False)
        ]

    def _masks(self, span: Span[SequenceKV]) -> Mapping[int, torch.Tensor | None]:
        windows = self._shape.windows
        if len(span.tokens) == 1 and not span.branches and all(not w or span.kv.length < w for w in windows):
            return dict.fromkeys(windows)
        here = visibility(len(span.tokens), span.branches)
        sees = torch.cat((here.new_ones((here.shape[0], span.kv.length)), here), dim=1)  # (count, past + count)
        own = torch.tensor(_positions(span))
        ago = own[:, None] - torch.cat((torch.arange(span.kv.length), own))
        return {window: self._mask(sees & (ago < window) if window else sees) for window in windows}

    def _mask(self, sees: torch.Tensor) -> torch.Tensor | None:
        if sees.all():
            return None
        sees = sees.repeat(self._shape.heads // self._shape.kv_heads, 1)  # (group x count, past + count)
        mask = torch.zeros(sees.shape, dtype=self._kv_shape.dtype).masked_fill_(~sees, float("-inf"))
        return mask[None, None].to(self._kv_shape.device)

    def _normed(self, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        return x if weight is None else self._rms_norm(x, weight)

    def _rms_norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self._shape.eps)


def _is_step(span: Span[SequenceKV]) -> bool:
    """Tell whether a span is one token of a sequence in the slab, and its logits are asked for."""
    return span.kv.start is not None and len(span.tokens) == 1 and not span.branches and len(span.wanted) == 1


def _in_order(
    spans: Sequence[Span[SequenceKV]], steps: Iterator[torch.Tensor], others: Iterator[torch.Tensor]
) -> torch.Tensor:
    """Join the rows of those spans that are steps and of the others, as `spans` has them."""
    return torch.stack([next(steps if _is_step(span) else others) for span in spans for _ in span.wanted])


def visibility(tokens: int, branches: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Tell which row of a span sees which: (rows, rows) booleans. A branch row sees its parent's line and itself."""
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

    `sin` has the sign of each half already.
    """
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((right, left), dim=-1) * sin
