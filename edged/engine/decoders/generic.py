"""Every other causal language model, through transformers' own forward. Slower, and right for all of them.

Sequences run one after the other. `accelerate` places what does not fit one device.
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from edged.engine.decoders.interface import Span
from edged.engine.decoders.linear import DenseFormat, compute_dtype


@dataclass(slots=True)
class GenericKV:
    """The cache of one sequence; what it holds is the architecture's own affair."""

    cache: DynamicCache
    bytes_per_token: int
    length: int = 0

    @property
    def nbytes(self) -> int:
        return self.length * self.bytes_per_token


class GenericModel:
    """A model of transformers; see `edged.engine.model.CausalModel`."""

    def __init__(self, model: PreTrainedModel) -> None:
        text_config = model.config.get_text_config()
        heads = getattr(text_config, "num_key_value_heads", None) or text_config.num_attention_heads
        head_dim = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
        self.vocab_size: int = text_config.vocab_size
        self.bytes_per_token: int = 2 * text_config.num_hidden_layers * heads * head_dim * model.dtype.itemsize
        # Where every layer has keys and values, a sequence can be cut short; a recurrent state cannot.
        # (Configs without layer_types are of plain attention or, for the pure state-space ones, have no heads.)
        kinds = set(getattr(text_config, "layer_types", None) or ["full_attention"])
        self.shares_prefixes = kinds <= {"full_attention", "sliding_attention"}
        self._model = model
        # transformers 5.24 gave the argument another name; a call by the old one warns.
        arguments = inspect.signature(model.forward).parameters
        self._cache_argument = "cache" if "cache" in arguments else "past_key_values"

    def allocate(self, capacity: int) -> GenericKV:  # noqa: ARG002 - transformers grows the cache itself
        # Without the config, layers with a sliding window keep all keys too, so that `fork` can cut anywhere;
        # the window itself is kept by the model's masks.
        return GenericKV(cache=DynamicCache(), bytes_per_token=self.bytes_per_token)

    def fork(self, source: GenericKV, length: int, capacity: int, *, borrow: bool = False) -> GenericKV:
        del capacity, borrow  # transformers grows the cache itself, and changes it in place
        cache = copy.deepcopy(source.cache)
        _cut(cache, length)
        return GenericKV(cache=cache, bytes_per_token=self.bytes_per_token, length=length)

    def forward(self, spans: Sequence[Span[GenericKV]]) -> torch.Tensor:
        logits = [row for span in spans for row in self._run_span(span)]
        for span in spans:
            span.kv.length += len(span.tokens)
        return torch.stack(logits) if logits else torch.empty((0, self.vocab_size))

    def _run_span(self, span: Span[GenericKV]) -> list[torch.Tensor]:
        """Logits of the span's wanted rows; each branch is run as a line of its own and cut off again."""
        _cut(span.kv.cache, span.kv.length)  # what a failed step may have left behind
        kept = len(span.tokens) - min(span.wanted, default=len(span.tokens) - 1)
        tail = self._run(span.kv.cache, span.tokens, keep=max(kept, 1))
        rows = dict(enumerate(tail, start=len(span.tokens) - len(tail)))
        end = span.kv.length + len(span.tokens)
        lines: list[list[int]] = []
        for index, (parent, token) in enumerate(span.branches):
            at = parent - len(span.tokens)
            if at < 0 and parent != len(span.tokens) - 1:
                raise ValueError("a branch grows from the last token or from another branch")
            lines.append([*(lines[at] if at >= 0 else []), token])
            line_cache = copy.deepcopy(span.kv.cache) if not self.shares_prefixes else span.kv.cache
            rows[len(span.tokens) + index] = self._run(line_cache, lines[-1], keep=1)[0]
            if self.shares_prefixes:
                _cut(span.kv.cache, end)
        return [rows[i] for i in span.wanted]

    def _run(self, cache: DynamicCache, tokens: Sequence[int], *, keep: int) -> torch.Tensor:
        """Extend `cache` by `tokens`: logits of the last `keep` rows, (keep, vocab), fp32 on the CPU."""
        ids = torch.tensor([list(tokens)], device=self._model.device)
        output = self._model(input_ids=ids, use_cache=True, logits_to_keep=keep, **{self._cache_argument: cache})
        logits: torch.Tensor = output.logits[0]
        return logits.float().cpu()


def _cut(cache: DynamicCache, length: int) -> None:
    """Shorten every layer to `length` tokens; after a step that failed half-way they differ in length."""
    for layer in cache.layers:
        if isinstance(layer, DynamicLayer) and layer.get_seq_length() > length:
            layer.crop(length - layer.get_seq_length())


def load(
    path: Path, config: PretrainedConfig, *, weight_format: DenseFormat, device: torch.device
) -> tuple[GenericModel, int]:
    """Load a folder through transformers; gives the model and its number of parameters."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path,
        config=config,
        dtype=compute_dtype(weight_format),
        device_map="auto" if device.type == "cuda" else None,
        trust_remote_code=False,
        use_safetensors=True,
    )
    model.train(mode=False)
    return GenericModel(model), sum(parameter.numel() for parameter in model.parameters())
