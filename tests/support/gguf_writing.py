"""Writes GGUF files of tiny models as llama.cpp's converter does, with ggml's own writer."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel

_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}

# A byte-level vocabulary of three words.
TOKENIZER: Mapping[str, Any] = {
    "model": "gpt2",
    "pre": "gpt-2",
    "tokens": ["h", "i", "hi", "<|end|>"],
    "token_type": [1, 1, 1, 3],
    "merges": ["h i"],
    "eos_token_id": 3,
}


def write(
    path: Path,
    model: PreTrainedModel,
    architecture: str,
    *,
    tokenizer: Mapping[str, Any] = TOKENIZER,
    metadata: Mapping[str, Any] = {},
    tensors: Mapping[str, torch.Tensor] = {},
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    without: Collection[str] = (),
) -> Path:
    """Write `model`; matrices as `kind`, vectors in fp32. `metadata` and `tensors` are added as they are, tensors of
    the model `without` are left out.
    """
    config: Any = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters.get("full_attention", config.rope_parameters)["rope_theta"])
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
    for key, value in {**{f"tokenizer.ggml.{key}": value for key, value in tokenizer.items()}, **metadata}.items():
        _add(writer, key, value)
    for name, tensor in model.state_dict().items():
        if name in without or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        _add_tensor(writer, gguf_name(name, architecture), _converted(name, tensor, config, architecture), kind)
    for name, tensor in tensors.items():
        _add_tensor(writer, name, tensor, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_name(name: str, architecture: str) -> str:
    parts = _PARTS | (_GEMMA if architecture == "gemma3" else {})
    stem, kind = name.rsplit(".", 1)
    if match := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem):
        return f"blk.{match[1]}.{parts[match[2]]}.{kind}"
    return f"{_WHOLE[stem]}.{kind}"


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def _add_tensor(writer: Any, name: str, tensor: torch.Tensor, kind: gguf.GGMLQuantizationType) -> None:
    values = tensor.float().numpy()
    kind = kind if tensor.dim() > 1 else gguf.GGMLQuantizationType.F32
    writer.add_tensor(name, gguf.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)


def _converted(name: str, tensor: torch.Tensor, config: Any, architecture: str) -> torch.Tensor:
    """Llama's query and key rows as ggml rotates them (`permute` of llama.cpp's convert_hf_to_gguf.py), and Gemma's
    norms with the one that they are kept without elsewhere.
    """
    if architecture == "gemma3" and name.endswith("norm.weight"):
        return tensor + 1
    if architecture not in {"llama", "smollm3"} or not re.search(r"\.[qk]_proj\.", name):
        return tensor
    heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
    rows, *rest = tensor.shape
    return tensor.reshape(heads, 2, rows // heads // 2, *rest).swapaxes(1, 2).reshape(tensor.shape)
