"""Qwen1.5, Qwen2 and Qwen2.5: queries, keys and values always have a bias, nothing else has one."""

from edged.engine.weights.architectures.architecture import GGUF_NAMES, LLAMA_NAMES, Architecture, Biases, GgufForm

QWEN2 = Architecture(
    classes=frozenset({"Qwen2ForCausalLM"}),
    names=LLAMA_NAMES,
    biases=lambda _: Biases(qkv=True),
    gguf=GgufForm(
        architecture="qwen2",
        config="Qwen2Config",
        model="Qwen2ForCausalLM",
        names=GGUF_NAMES,
        fields=lambda *_: {},
    ),
)
