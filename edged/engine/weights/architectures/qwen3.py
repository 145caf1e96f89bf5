"""Qwen3: queries and keys are normalised head by head, and the size of a head is a field of its own."""

from edged.engine.weights.architectures.architecture import GGUF_NAMES, LLAMA_NAMES, Architecture, Biases, GgufForm

QWEN3 = Architecture(
    classes=frozenset({"Qwen3ForCausalLM"}),
    names=LLAMA_NAMES,
    biases=lambda config: Biases(qkv=bool(config.attention_bias), out=bool(config.attention_bias)),
    normalises_heads=True,
    gguf=GgufForm(
        architecture="qwen3",
        config="Qwen3Config",
        model="Qwen3ForCausalLM",
        names=GGUF_NAMES,
        fields=lambda said, _: {"attention_bias": "blk.0.attn_q.bias" in said.tensors},
    ),
)
