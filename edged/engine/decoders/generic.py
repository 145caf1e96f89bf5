"""Runs every other causal language model through transformers' own forward: slower, but correct for all of them.

Sequences run one after the other. Built by `generic_loading.py`.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from edged.engine.decoders.interface import Span, refuse_unknown_tokens

_SPREAD = 128  # tokens over which the memory of a recurrent state is counted


@dataclass(slots=True)
class GenericKV:
    """What a model keeps of one sequence.

    Attributes:
        past: the model's own cache; None for one that makes it itself, before its first step.
        tokens: those that the sequence holds.
        computed: how many of them are in `past`; None after a step that failed half-way.
        has_begun: whether `past` holds any token.
    """

    past: Any
    bytes_per_token: int
    tokens: list[int] = field(default_factory=list)
    computed: int | None = 0
    has_begun: bool = False

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        return self.length * self.bytes_per_token


@dataclass(frozen=True, kw_only=True, slots=True)
class PastKind:
    """How a model keeps the past of a sequence.

    Attributes:
        argument: the name of forward's argument for it, and of the output's field.
        make: gives an empty one.
        can_be_cut: whether a sequence can be cut short: where every layer has keys and values of all tokens.
    """

    argument: str
    make: Callable[[], Any]
    can_be_cut: bool


class GenericModel:
    """A model of transformers; see `CausalModel`.

    One whose past cannot be cut (with recurrent layers) computes a prompt as a whole when its logits are asked for,
    and later tokens one at a time, as `generate` does: in several architectures, transformers' recurrent layers
    forget what came before where more than one token follows.
    """

    def __init__(self, model: PreTrainedModel, kind: PastKind, *, bytes_per_token: int = 1) -> None:
        self.vocab_size: int = model.config.get_text_config().vocab_size
        self.bytes_per_token = bytes_per_token
        self.shares_prefixes = kind.can_be_cut
        self._model = model
        self._kind = kind
        self._keeps_few = "logits_to_keep" in inspect.signature(model.forward).parameters

    def allocate(self, capacity: int) -> GenericKV:  # noqa: ARG002 - transformers grows the cache itself
        return GenericKV(past=self._kind.make(), bytes_per_token=self.bytes_per_token)

    def fork(self, source: GenericKV, length: int, capacity: int, *, borrow: bool = False) -> GenericKV:
        del borrow  # transformers changes a cache in place
        kv = self.allocate(capacity)
        kv.tokens = source.tokens[:length]
        if self.shares_prefixes and source.computed is not None:
            kv.past = copy.deepcopy(source.past)
            cut(kv.past, length)
            kv.computed, kv.has_begun = min(length, source.computed), source.has_begun
        return kv

    def forward(self, spans: Sequence[Span[GenericKV]]) -> torch.Tensor:
        refuse_unknown_tokens(spans, self.vocab_size)
        ends: list[int] = []
        logits: list[torch.Tensor] = []
        for span in spans:
            computes = self.shares_prefixes or bool(span.wanted)
            logits += self._run_span(span) if computes else []
            ends.append(span.kv.length + len(span.tokens) if computes else span.kv.computed or 0)
        for span, end in zip(spans, ends, strict=True):
            span.kv.tokens += span.tokens
            span.kv.computed = end
        return torch.stack(logits) if logits else torch.empty((0, self.vocab_size))

    def _run_span(self, span: Span[GenericKV]) -> list[torch.Tensor]:
        """Give the logits of the span's wanted rows. Each branch is run as a line of its own and taken back."""
        kv, count = span.kv, len(span.tokens)
        self._recover(kv)
        waiting = [*kv.tokens[kv.computed or 0 :], *span.tokens]
        kept = max(count - min(span.wanted, default=count - 1), 1)
        kv.computed = None
        tail = self._extend(kv, waiting, keep=kept)
        rows = dict(enumerate(tail, start=count - len(tail)))
        end = kv.length + count
        lines: list[list[int]] = []
        for index, (parent, token) in enumerate(span.branches):
            at = parent - count
            if at < 0 and parent != count - 1:
                raise ValueError("a branch grows from the last token or from another branch")
            lines.append([*(lines[at] if at >= 0 else []), token])
            rows[count + index] = self._branch(kv, lines[-1], end)
        return [rows[i] for i in span.wanted]

    def _recover(self, kv: GenericKV) -> None:
        """Undo what a step that failed left behind, or what a fork could not take over."""
        if kv.computed is None and self.shares_prefixes:
            cut(kv.past, kv.length)
            kv.computed = kv.length
        elif kv.computed is None:
            kv.past, kv.computed, kv.has_begun = self._kind.make(), 0, False

    def _branch(self, kv: GenericKV, line: Sequence[int], end: int) -> torch.Tensor:
        """Give the logits after a line of tokens that is forgotten again."""
        if self.shares_prefixes:
            logits = self._extend(kv, line, keep=1)[0]
            cut(kv.past, end)
            return logits
        aside = GenericKV(past=copy.deepcopy(kv.past), bytes_per_token=0, has_begun=True)
        return self._extend(aside, line, keep=1)[0]

    def _extend(self, kv: GenericKV, tokens: Sequence[int], *, keep: int) -> torch.Tensor:
        """Extend `past` by `tokens`: logits of the last `keep` rows, (keep, vocab), fp32 on the CPU."""
        if self.shares_prefixes or not kv.has_begun:
            return self._run(kv, tokens, keep=keep)
        return torch.cat([self._run(kv, [token], keep=1) for token in tokens])[-keep:]

    def _run(self, kv: GenericKV, tokens: Sequence[int], *, keep: int) -> torch.Tensor:
        ids = torch.tensor([list(tokens)], device=self._model.device)
        more = {} if kv.past is None else {self._kind.argument: kv.past}
        if self._keeps_few:
            more["logits_to_keep"] = keep
        output = self._model(input_ids=ids, use_cache=True, **more)
        kv.has_begun = True
        if not isinstance(kv.past, DynamicCache):  # the model made it
            kv.past = output[self._kind.argument]
        logits: torch.Tensor = output.logits[0]
        return logits[-keep:].float().cpu()


def cut(cache: DynamicCache, length: int) -> None:
    """Shorten every layer to `length` tokens; after a step that failed half-way they differ in length."""
    for layer in cache.layers:
        if isinstance(layer, DynamicLayer) and layer.get_seq_length() > length:
            layer.crop(length - layer.get_seq_length())


def memory_of(past: Any) -> int:
    """Give the bytes of all tensors in a cache."""
    if isinstance(past, torch.Tensor):
        return past.nbytes
    if isinstance(past, DynamicCache):
        return sum(memory_of(vars(layer)) for layer in past.layers)
    if isinstance(past, dict):
        return sum(map(memory_of, past.values()))
    if isinstance(past, list | tuple):
        return sum(map(memory_of, past))
    return 0


def measured_bytes_per_token(model: GenericModel) -> int:
    """Run two steps, and give the memory that a sequence takes for each token, its share of a recurrent state
    included.
    """
    kv = model.allocate(3)
    sizes: list[int] = []
    for tokens in ([0, 0], [0]):
        model.forward([Span(kv=kv, tokens=tokens, wanted=(0,))])
        sizes.append(memory_of(kv.past))
    growth = max(sizes[1] - sizes[0], 0)
    return max(growth + max(sizes[0] - 2 * growth, 0) // _SPREAD, 1)
