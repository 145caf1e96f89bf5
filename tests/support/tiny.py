"""Tiny random models, made on the spot: the real architectures and code paths, no weights to fetch."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from edged.engine.decoders.interface import CausalModel, Span

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 512,
}
_NO_NAMES: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
CONFIGS: dict[str, PretrainedConfig] = {
    "qwen2": Qwen2Config(**_SIZES, tie_word_embeddings=True),
    "qwen2_untied": Qwen2Config(**_SIZES, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**_SIZES, head_dim=32, tie_word_embeddings=True),
    "llama": LlamaConfig(**_SIZES, tie_word_embeddings=True),
    "llama_biases": LlamaConfig(**_SIZES, attention_bias=True, mlp_bias=False, tie_word_embeddings=False),
    "llama3_rope": LlamaConfig(
        **_SIZES,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "gemma3": Gemma3TextConfig(
        **{**_SIZES, "num_key_value_heads": 1},
        head_dim=32,
        query_pre_attn_scalar=24,
        initializer_range=0.2,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "smollm3": SmolLM3Config(**_SIZES, **_NO_NAMES, no_rope_layers=[1, 0, 1], tie_word_embeddings=True),
    "mistral": MistralConfig(**_SIZES, sliding_window=None, tie_word_embeddings=False),
}


def make(config: PretrainedConfig, *, seed: int = 0) -> PreTrainedModel:
    """A model with random weights; norms and biases are random too, so that none can be left out unseen."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    mean = 0.0 if "gemma" in config.model_type else 1.0  # the weights of Gemma's norms are kept less one
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.normal_(mean, 0.3)
    model.config.architectures = [type(model).__name__]
    model.train(mode=False)
    return model


def save(model: PreTrainedModel, folder: Path) -> Path:
    """A checkpoint folder, as the hub has them."""
    model.save_pretrained(folder)
    return folder


def random_tokens(count: int, vocab_size: int, *, seed: int = 0) -> list[int]:
    """Tokens that mean nothing."""
    generator = torch.Generator().manual_seed(seed)
    tokens: Iterable[int] = torch.randint(0, vocab_size, (count,), generator=generator).tolist()
    return list(tokens)


def run(model: CausalModel[Any], spans: Sequence[Span[Any]]) -> torch.Tensor:
    """Run one step; gives a copy of the logits, which the next step does not overwrite."""
    return torch.tensor(model.forward(spans))
