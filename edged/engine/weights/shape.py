"""What a config means for the lean decoders: whether they compute it exactly, its sizes, its rotary angles.

Qwen2, Qwen3, Llama, Mistral and SmolLM2. Knows no weights.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

ARCHITECTURES = frozenset({"Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM"})
_STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
_KNOWN = re.compile(
    r"model\.(embed_tokens|norm)\.weight|lm_head\.weight"
    r"|model\.layers\.(?P<layer>\d+)\.("
    r"(input|post_attention)_layernorm\.weight|self_attn\.([qkvo]_proj\.(weight|bias)|[qk]_norm\.weight"
    r"|rotary_emb\.inv_freq)|mlp\.(gate|up|down)_proj\.(weight|bias))"
)
GetTensor = Callable[[str, tuple[int, ...]], torch.Tensor]  # by Hugging Face name; checks the shape
HasTensor = Callable[[str], bool]
SPARE_POSITIONS = 64  # branches of a last step may stand a few positions past the limit


def supports(config: PretrainedConfig, *, max_context_tokens: int) -> bool:
    """Whether the lean decoder computes exactly what this checkpoint means."""
    architecture = (config.architectures or [""])[0]
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return (
        architecture in ARCHITECTURES
        and config.hidden_act == "silu"
        and config.rope_parameters.get("rope_type", "default") in _STATIC_ROPE
        and (window is None or window >= max_context_tokens)
    )


def unknown_tensors(names: Iterable[str], config: PretrainedConfig) -> list[str]:
    """Which tensors of a checkpoint the lean decoders make no use of, as transformers makes none."""
    return [
        name
        for name in names
        if (match := _KNOWN.fullmatch(name)) is None or int(match["layer"] or 0) >= config.num_hidden_layers
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderShape:
    """The sizes of a decoder-only transformer with grouped-query attention."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    eps: float
    tied: bool  # the head is the embedding

    @classmethod
    def of(cls, config: PretrainedConfig, *, has_head: bool) -> "DecoderShape":
        """Give the sizes; `has_head`: the checkpoint has a head of its own."""
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            mlp=config.intermediate_size,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocab=config.vocab_size,
            eps=config.rms_norm_eps,
            tied=bool(config.tie_word_embeddings) or not has_head,
        )


def rope_angles(config: PretrainedConfig, shape: DecoderShape, positions: int) -> tuple[torch.Tensor, float]:
    """The angle of every position and frequency, (positions, head_dim / 2), and what cosine and sine are scaled by."""
    parameters = config.rope_parameters
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        frequencies, scale = 1.0 / parameters["rope_theta"] ** exponents, 1.0
    else:
        frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return torch.outer(torch.arange(positions, dtype=torch.float32), frequencies), scale
