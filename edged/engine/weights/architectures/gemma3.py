"""Gemma 3, the models for text: norms on both sides of attention and MLP, and most layers see a short window only."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edged.engine.weights.architectures.architecture import (
    GGUF_NAMES,
    LLAMA_NAMES,
    Architecture,
    Biases,
    GgufForm,
    GgufSaid,
    Kinds,
    LayerKind,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_FULL, _SLIDING = "full_attention", "sliding_attention"
_27B_LAYERS = 62  # by which llama.cpp knows that model, whose scores have another scale


def _kinds(config: "PretrainedConfig") -> Kinds:
    ropes = tuple(config.rope_parameters[name] for name in (_FULL, _SLIDING))
    sliding = LayerKind(rope=1, window=config.sliding_window)
    return Kinds(ropes=ropes, layers=tuple(sliding if name == _SLIDING else LayerKind() for name in config.layer_types))


def _is_plain(config: "PretrainedConfig") -> bool:
    return (
        config.final_logit_softcapping is None
        and config.attn_logit_softcapping is None
        and not config.use_bidirectional_attention
    )


def _gguf_fields(said: GgufSaid, rope: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a file says nothing, as llama.cpp takes it (`llama_model_gemma3::load_arch_hparams`)."""
    layers, heads = int(said.number("block_count")), said.number("attention.head_count")
    hidden = said.number("embedding_length")
    window = int(said.number("attention.sliding_window", 0))
    period = max(int(said.number("attention.sliding_window_pattern", 6)), 1) if window else 1
    local = {"rope_type": "default", "rope_theta": said.number("rope.freq_base_swa", 10000.0)}
    per_head = hidden // heads
    return {
        "sliding_window": window or None,
        "layer_types": [_SLIDING if (index + 1) % period else _FULL for index in range(layers)],
        "rope_parameters": {_FULL: rope, _SLIDING: local},
        "query_pre_attn_scalar": int(
            per_head if layers == _27B_LAYERS else said.number("attention.key_length", per_head)
        ),
        "final_logit_softcapping": said.number("final_logit_softcapping", 0) or None,
    }


GEMMA3 = Architecture(
    classes=frozenset({"Gemma3ForCausalLM"}),
    names=replace(
        LLAMA_NAMES,
        in_layer=replace(
            LLAMA_NAMES.in_layer,
            attention_out_norm="post_attention_layernorm",
            mlp_norm="pre_feedforward_layernorm",
            mlp_out_norm="post_feedforward_layernorm",
        ),
        norms_less_one=True,
    ),
    biases=lambda config: Biases(qkv=bool(config.attention_bias), out=bool(config.attention_bias)),
    normalises_heads=True,
    normalises_outputs=True,
    scales_embedding=True,
    activation=("gelu_pytorch_tanh", "gelu_tanh"),
    kinds=_kinds,
    is_plain=_is_plain,
    gguf=GgufForm(
        architecture="gemma3",
        config="Gemma3TextConfig",
        model="Gemma3ForCausalLM",
        names=replace(
            GGUF_NAMES,
            in_layer=replace(
                GGUF_NAMES.in_layer, attention_out_norm="post_attention_norm", mlp_out_norm="post_ffw_norm"
            ),
        ),
        fields=_gguf_fields,
    ),
)
