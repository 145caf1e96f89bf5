"""SmolLM3: Llama, but the queries and keys of every fourth layer are not rotated."""

from typing import TYPE_CHECKING

from edged.engine.weights.architectures.architecture import (
    GGUF_NAMES,
    LLAMA_NAMES,
    Architecture,
    GgufForm,
    Kinds,
    LayerKind,
)
from edged.engine.weights.architectures.llama import biases_of, gguf_biases

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def _kinds(config: "PretrainedConfig") -> Kinds:
    layers = tuple(LayerKind(rope=0 if rotates else 1) for rotates in config.no_rope_layers[: config.num_hidden_layers])
    return Kinds(ropes=(config.rope_parameters, {"rope_type": "none"}), layers=layers)


SMOLLM3 = Architecture(
    classes=frozenset({"SmolLM3ForCausalLM"}),
    names=LLAMA_NAMES,
    biases=biases_of,
    kinds=_kinds,
    is_plain=lambda config: not config.use_sliding_window,
    gguf=GgufForm(
        architecture="smollm3",
        config="SmolLM3Config",
        model="SmolLM3ForCausalLM",
        names=GGUF_NAMES,
        fields=lambda said, rope: {**gguf_biases(said, rope), "pad_token_id": None},  # its default fits one vocabulary
        reorders_heads=True,
        may_lack_biases=True,
    ),
)
