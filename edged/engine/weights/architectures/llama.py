"""Llama, and what is built as it is: Mistral, SmolLM2, TinyLlama."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edged.engine.weights.architectures.architecture import (
    GGUF_NAMES,
    LLAMA_NAMES,
    Architecture,
    Biases,
    GgufForm,
    GgufSaid,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def biases_of(config: "PretrainedConfig") -> Biases:
    """Mistral's config has neither field, and Mistral no bias."""
    attention = bool(getattr(config, "attention_bias", False))
    return Biases(qkv=attention, out=attention, mlp=bool(getattr(config, "mlp_bias", False)))


def gguf_biases(said: GgufSaid, _: Mapping[str, Any]) -> Mapping[str, Any]:
    """Tell by the tensors which matrices have a bias."""
    return {"attention_bias": "blk.0.attn_q.bias" in said.tensors, "mlp_bias": "blk.0.ffn_down.bias" in said.tensors}


LLAMA = Architecture(
    classes=frozenset({"LlamaForCausalLM", "MistralForCausalLM"}),
    names=LLAMA_NAMES,
    biases=biases_of,
    gguf=GgufForm(
        architecture="llama",
        config="LlamaConfig",
        model="LlamaForCausalLM",
        names=GGUF_NAMES,
        fields=gguf_biases,
        reorders_heads=True,
        may_lack_biases=True,
    ),
)
