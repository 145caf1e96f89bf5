"""What the lean decoders must know of a family of models: its sizes, its tensors' names, what a step computes.

Each family has a file beside this one, and a row in `table.py`. Knows no weights.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

GetTensor = Callable[[str, tuple[int, ...]], "torch.Tensor"]  # by Hugging Face name; checks the shape
Activation = Literal["silu", "gelu_tanh"]
SPARE_POSITIONS = 64  # branches of a last step may stand a few positions past the limit


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerNames:
    """The names of one layer's tensors, without their endings `.weight` and `.bias`; empty where there is none."""

    attention_norm: str
    q: str
    k: str
    v: str
    q_norm: str
    k_norm: str
    out: str
    mlp_norm: str
    gate: str
    up: str
    down: str
    attention_out_norm: str = ""
    mlp_out_norm: str = ""

    def below(self, prefix: str) -> "LayerNames":
        """The same names behind a prefix."""
        return LayerNames(**{each.name: prefix + getattr(self, each.name) for each in fields(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorNames:
    """The names of a model's tensors in one kind of file.

    Attributes:
        layers: of all layers; a layer's number and its own names follow.
        norms_less_one: whether the weights of its norms are kept less one.
    """

    embedding: str
    layers: str
    in_layer: LayerNames
    norm: str
    head: str
    norms_less_one: bool = False

    def layer(self, index: int) -> LayerNames:
        return self.in_layer.below(f"{self.layers}.{index}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Biases:
    """Which matrices have a bias."""

    qkv: bool = False
    out: bool = False
    mlp: bool = False


class GgufSaid(Protocol):
    """What a GGUF file says of its model."""

    @property
    def tensors(self) -> Container[str]:
        """Their names."""
        ...

    def number(self, key: str, default: float | None = None) -> float:
        """Give a number of the metadata, without the architecture's name before it.

        Raises:
            ModelUnavailable: it is no number, or it is missing and there is no default.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufForm:
    """How GGUF files hold a family.

    Attributes:
        architecture: what they call it.
        config: the name of transformers' class for its config, and `model` for the model.
        names: of the tensors.
        fields: further fields of the config, by what the file says, and the rotary embedding in the config's words.
        reorders_heads: whether the rows of each query and key head are in llama.cpp's order.
        may_lack_biases: whether a bias that the config means may be left out where it is zero.
    """

    architecture: str
    config: str
    model: str
    names: TensorNames
    fields: Callable[[GgufSaid, Mapping[str, Any]], Mapping[str, Any]]
    reorders_heads: bool = False
    may_lack_biases: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerKind:
    """How the attention of one layer differs from that of others.

    Attributes:
        rope: the number of its rotary embedding among those of the model.
        window: how many positions a row sees, its own included; 0 for all before it.
    """

    rope: int = 0
    window: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Kinds:
    """The kinds of layers that a model has.

    Attributes:
        ropes: the parameters of each rotary embedding, in the config's words.
        layers: the kind of each layer, in order.
    """

    ropes: tuple[Mapping[str, Any], ...]
    layers: tuple[LayerKind, ...]


def one_kind(config: "PretrainedConfig") -> Kinds:
    """All layers are alike, and a row sees all rows before it."""
    return Kinds(ropes=(config.rope_parameters,), layers=(LayerKind(),) * config.num_hidden_layers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A family of models that the lean decoders compute.

    Attributes:
        classes: the names of transformers' classes that compute the same.
        names: of the tensors, by Hugging Face.
        biases: which matrices have one, by the config.
        gguf: how GGUF files hold it.
        normalises_heads: whether queries and keys are normalised before they are rotated.
        normalises_outputs: whether the outputs of attention and MLP are normalised before they are added.
        scales_embedding: whether an embedding is multiplied by the root of its size where it is taken as input.
        activation: the config's name of what stands between gate and up, and ours.
        kinds: of layers, by the config.
        is_plain: whether a config has nothing that only a few models of the family have and that is not computed.
    """

    classes: frozenset[str]
    names: TensorNames
    biases: Callable[["PretrainedConfig"], Biases]
    gguf: GgufForm
    normalises_heads: bool = False
    normalises_outputs: bool = False
    scales_embedding: bool = False
    activation: tuple[str, Activation] = ("silu", "silu")
    kinds: Callable[["PretrainedConfig"], Kinds] = one_kind
    is_plain: Callable[["PretrainedConfig"], bool] = lambda _: True


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderShape:
    """The sizes of one decoder-only transformer with grouped-query attention, and what its layers have.

    Attributes:
        tied: whether the head is the embedding.
        normalises_heads, normalises_outputs, activation: see `Architecture`.
        embedding_scale: the factor of an embedding that is taken as input.
        attention_scale: the factor of scores.
        layer_kinds: one for each layer.
    """

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    eps: float
    tied: bool
    normalises_heads: bool
    normalises_outputs: bool
    activation: Activation
    embedding_scale: float
    attention_scale: float
    layer_kinds: tuple[LayerKind, ...]
    biases: Biases
    names: TensorNames

    @property
    def windows(self) -> frozenset[int]:
        """Of all layers."""
        return frozenset(kind.window for kind in self.layer_kinds)


# As Llama's makers named them, and most others after them.
LLAMA_NAMES = TensorNames(
    embedding="model.embed_tokens",
    layers="model.layers",
    in_layer=LayerNames(
        attention_norm="input_layernorm",
        q="self_attn.q_proj",
        k="self_attn.k_proj",
        v="self_attn.v_proj",
        q_norm="self_attn.q_norm",
        k_norm="self_attn.k_norm",
        out="self_attn.o_proj",
        mlp_norm="post_attention_layernorm",
        gate="mlp.gate_proj",
        up="mlp.up_proj",
        down="mlp.down_proj",
    ),
    norm="model.norm",
    head="lm_head",
)
# As llama.cpp names the same tensors.
GGUF_NAMES = TensorNames(
    embedding="token_embd",
    layers="blk",
    in_layer=LayerNames(
        attention_norm="attn_norm",
        q="attn_q",
        k="attn_k",
        v="attn_v",
        q_norm="attn_q_norm",
        k_norm="attn_k_norm",
        out="attn_output",
        mlp_norm="ffn_norm",
        gate="ffn_gate",
        up="ffn_up",
        down="ffn_down",
    ),
    norm="output_norm",
    head="output",
)


def shape_of(architecture: Architecture, config: "PretrainedConfig") -> DecoderShape:
    """Give the sizes that a config of this family means."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return DecoderShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        mlp=config.intermediate_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        vocab=config.vocab_size,
        eps=config.rms_norm_eps,
        tied=bool(config.tie_word_embeddings),
        normalises_heads=architecture.normalises_heads,
        normalises_outputs=architecture.normalises_outputs,
        activation=architecture.activation[1],
        embedding_scale=config.hidden_size**0.5 if architecture.scales_embedding else 1.0,
        attention_scale=(getattr(config, "query_pre_attn_scalar", None) or head_dim) ** -0.5,
        layer_kinds=architecture.kinds(config).layers,
        biases=architecture.biases(config),
        names=architecture.names,
    )


def tensors_of(shape: DecoderShape) -> dict[str, tuple[int, ...]]:
    """Give name and shape of every tensor that a checkpoint of this shape has."""
    names, hidden = shape.names, shape.hidden
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    expected: dict[str, tuple[int, ...]] = {
        f"{names.embedding}.weight": (shape.vocab, hidden),
        f"{names.norm}.weight": (hidden,),
    }
    if not shape.tied:
        expected[f"{names.head}.weight"] = (shape.vocab, hidden)
    for index in range(shape.layers):
        layer = names.layer(index)
        vectors = [(layer.attention_norm, hidden), (layer.mlp_norm, hidden)]
        if shape.normalises_heads:
            vectors += [(layer.q_norm, shape.head_dim), (layer.k_norm, shape.head_dim)]
        if shape.normalises_outputs:
            vectors += [(layer.attention_out_norm, hidden), (layer.mlp_out_norm, hidden)]
        matrices = [
            (layer.q, queries, hidden, shape.biases.qkv),
            (layer.k, keys, hidden, shape.biases.qkv),
            (layer.v, keys, hidden, shape.biases.qkv),
            (layer.out, hidden, queries, shape.biases.out),
            (layer.gate, shape.mlp, hidden, shape.biases.mlp),
            (layer.up, shape.mlp, hidden, shape.biases.mlp),
            (layer.down, hidden, shape.mlp, shape.biases.mlp),
        ]
        expected |= {f"{name}.weight": (size,) for name, size in vectors}
        expected |= {f"{name}.weight": (outputs, inputs) for name, outputs, inputs, _ in matrices}
        expected |= {f"{name}.bias": (outputs,) for name, outputs, _, has_bias in matrices if has_bias}
    return expected
