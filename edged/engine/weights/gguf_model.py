"""What a GGUF file says of its model, in Hugging Face's terms: config, names of tensors, order of their rows.

Reads the families of `architectures/table.py`. What cannot be read exactly is refused: a model that is read almost
right answers nonsense.
"""

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig

from edged.engine.weights.architectures.architecture import Architecture, LayerNames, TensorNames
from edged.engine.weights.architectures.table import ARCHITECTURES
from edged.engine.weights.gguf_file import GgufFile
from edged.errors import ModelUnavailable

# The import of some config classes takes a second; so the table has their names, and one alone is imported.
_FORMS: Mapping[str, Architecture] = {each.gguf.architecture: each for each in ARCHITECTURES}
_ROPE_FACTORS = "rope_freqs.weight"
# Llama 3.1's scaling, of which a GGUF file holds only the outcome.
_LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """A tensor in the file.

    Attributes:
        name: of the file.
        heads: the rows of so many heads are in llama.cpp's order; None where they are in the usual one.
        plus_one: whether it is a norm to whose weights one was added.
    """

    name: str
    heads: int | None = None
    plus_one: bool = False


def config_of(file: GgufFile) -> PretrainedConfig:
    """Give the config that the file's metadata mean.

    Raises:
        ModelUnavailable: the architecture, or something that it has, is not known here.
    """
    architecture = file.metadata.get("general.architecture")
    if architecture not in _FORMS:
        raise ModelUnavailable(
            f"{file.path} is of architecture {architecture}; GGUF files of {', '.join(_FORMS)} are read: "
            "use the model's folder of safetensors"
        )
    form = _FORMS[str(architecture)].gguf
    config_class: type[PretrainedConfig] = getattr(transformers, form.config)
    said = _Said(file, str(architecture))
    if said.number("expert_count", 0):
        raise said.refused("it is a mixture of experts")
    if "token_embd.weight" not in file.tensors:
        raise said.refused("it has no token_embd.weight")
    heads = int(said.number("attention.head_count"))
    hidden = int(said.number("embedding_length"))
    said_fields: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": int(said.number("feed_forward_length")),
        "num_hidden_layers": int(said.number("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(said.number("attention.head_count_kv", heads)),
        "head_dim": int(said.number("attention.key_length", hidden // heads)),
        "rms_norm_eps": said.number("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": int(said.number("context_length")),
        "vocab_size": file.tensors["token_embd.weight"].shape[0],  # with rows of padding, if any
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.metadata.get("tokenizer.ggml.eos_token_id"),
        "architectures": [form.model],
    }
    rope = _rope(said, said_fields["head_dim"])
    said_fields |= {"rope_parameters": rope, **form.fields(said, rope)}
    try:
        return config_class(**said_fields)
    except Exception as error:  # transformers' checks raise classes that it does not export
        raise said.refused(f"its metadata contradict each other ({' '.join(str(error).split())})") from error


def tensors_of(file: GgufFile, config: PretrainedConfig) -> dict[str, StoredTensor]:
    """Find each tensor by its Hugging Face name.

    Raises:
        ModelUnavailable: the file has a tensor that nobody would read; without it the model would be another.
    """
    family = _FORMS[str(file.metadata["general.architecture"])]
    # llama.cpp's converter reorders Llama's query and key rows for ggml's way to rotate them, and no other's.
    in_layer = family.gguf.names.in_layer
    heads = {in_layer.q: config.num_attention_heads, in_layer.k: config.num_key_value_heads}
    found: dict[str, StoredTensor] = {}
    for name in file.tensors:
        if name == _ROPE_FACTORS:
            continue  # part of the config
        part = name.split(".")[-2] if "." in name else name
        found[_hf_name(file, name, family)] = StoredTensor(
            name=name,
            heads=heads.get(part) if family.gguf.reorders_heads else None,
            plus_one=part.endswith("norm") and family.names.norms_less_one and not family.gguf.names.norms_less_one,
        )
    return found


def _hf_name(file: GgufFile, name: str, family: Architecture) -> str:
    theirs, ours = family.gguf.names, family.names
    match name.split("."):
        case [theirs.layers, layer, part, ("weight" | "bias") as kind] if field := _field(theirs.in_layer, part):
            return f"{ours.layers}.{layer}.{getattr(ours.in_layer, field)}.{kind}"
        case [part, "weight" as kind] if field := _field(theirs, part):
            return f"{getattr(ours, field)}.{kind}"
        case _:
            raise ModelUnavailable(
                f"{file.path} has a tensor {name}, which is not read: use the model's folder of safetensors"
            )


def _field(names: TensorNames | LayerNames, name: str) -> str | None:
    """Give the field of `names` that holds this name."""
    return next((each.name for each in fields(names) if getattr(names, each.name) == name), None)


def read(file: GgufFile, stored: StoredTensor) -> torch.Tensor:
    """Read a tensor and give it as Hugging Face has it."""
    tensor = file.read(stored.name)
    if stored.plus_one:
        return tensor.float() - 1.0
    return tensor if stored.heads is None else _in_order(tensor, stored.heads)


def _in_order(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Bring the rows of a Llama query or key matrix (or bias) from ggml's order back to Hugging Face's.

    ggml turns neighbouring rows into each other, Hugging Face turns row i with row i + head_dim / 2: undoes
    `LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py.
    """
    rows, *rest = tensor.shape
    return tensor.view(heads, rows // heads // 2, 2, *rest).transpose(1, 2).reshape(tensor.shape)


@dataclass(frozen=True, slots=True)
class _Said:
    """The metadata of one architecture."""

    file: GgufFile
    architecture: str

    @property
    def tensors(self) -> Container[str]:
        return self.file.tensors

    def number(self, key: str, default: float | None = None) -> float:
        value = self.file.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refused(f"its {self.architecture}.{key} is {'missing' if value is None else 'no number'}")
        return value

    def text(self, key: str, default: str) -> str:
        return str(self.file.metadata.get(f"{self.architecture}.{key}", default))

    def refused(self, why: str) -> ModelUnavailable:
        return ModelUnavailable(f"{self.file.path} cannot be used: {why}; use the model's folder of safetensors")


def _rope(said: _Said, head_dim: int) -> dict[str, Any]:
    """The rotary embedding, in the config's words."""
    if said.number("rope.dimension_count", head_dim) != head_dim:
        raise said.refused("only a part of each head is rotated")
    theta = said.number("rope.freq_base", 10000.0)
    kind = said.text("rope.scaling.type", "none")
    if _ROPE_FACTORS in said.file.tensors:
        return _llama3_rope(said, head_dim, theta)
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": said.number("rope.scaling.factor")}
    raise said.refused(f"its rotary embedding is scaled ({kind})")


def _llama3_rope(said: _Said, head_dim: int, theta: float) -> dict[str, Any]:
    """Tell Llama 3.1's scaling by its outcome: the divisor of each frequency."""
    divisors = said.file.read(_ROPE_FACTORS).float()
    factor = round(float(divisors.max()), 4)
    low, high, original = _LLAMA3_ROPE.values()
    frequencies = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    smooth = ((original * frequencies / (2 * math.pi) - low) / (high - low)).clamp(0.0, 1.0)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if divisors.shape != expected.shape or not torch.allclose(divisors, expected.float(), rtol=1e-4):
        raise said.refused("its rotary embedding is scaled in a way that is not known")
    return {"rope_type": "llama3", "rope_theta": theta, "factor": factor, **_LLAMA3_ROPE}
