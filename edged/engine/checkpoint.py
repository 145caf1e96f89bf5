"""A model's folder or GGUF file: config, tokenizer, and its tensors one at a time by Hugging Face name.

Reads safetensors and GGUF; nothing that could run code (no pickle, no remote code). Never holds all tensors at once.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGUFReader, ReaderTensor
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from edged.errors import ModelUnavailable

PREPARED = ".hf"  # beside FILE.gguf, the folder FILE.gguf.hf has its config and tokenizer in Hugging Face's form
_GGUF_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor that can be read: `read` gives it with this shape."""

    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


class Checkpoint:
    """An opened model."""

    def __init__(
        self,
        path: Path,
        *,
        config: PretrainedConfig,
        tokenizer: PreTrainedTokenizerBase,
        tensors: Mapping[str, _Entry],
    ) -> None:
        self.path = path
        self.config = config
        self.tokenizer = tokenizer
        self._tensors = tensors

    @property
    def parameters(self) -> int:
        """All numbers in the file, known without reading them."""
        return sum(prod(entry.shape) for entry in self._tensors.values())

    def has(self, name: str) -> bool:
        return name in self._tensors

    def expect(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Read a tensor that must be there, of this shape and without NaN or infinity.

        Raises:
            ModelUnavailable: it is not, with what was found.
        """
        entry = self._tensors.get(name)
        if entry is None:
            raise _broken(self.path, f"tensor {name} is missing")
        if entry.shape != shape:
            raise _broken(self.path, f"tensor {name} has shape {entry.shape}, but the config means {shape}")
        try:
            tensor = entry.read()
        except (OSError, SafetensorError, ValueError) as error:
            raise _broken(self.path, f"tensor {name} cannot be read: {error}") from error
        if not bool(torch.isfinite(tensor).all()):
            raise _broken(self.path, f"tensor {name} holds NaN or infinity")
        return tensor


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a folder in Hugging Face's layout, or a GGUF file.

    Raises:
        ModelUnavailable: what is missing or broken, and what to do.
    """
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_gguf(path)
    raise ModelUnavailable(f"there is no model at {path}; fetch one with `edged models pull`")


def _broken(path: Path, what: str) -> ModelUnavailable:
    return ModelUnavailable(f"the model at {path} cannot be used: {what}; check it with `edged models verify`")


# ------------------------------------------------------------------------------------------------------- folders


def _open_folder(folder: Path) -> Checkpoint:
    if not (folder / "config.json").is_file():
        raise ModelUnavailable(f"{folder} has no config.json: it is no model folder in Hugging Face's layout")
    return Checkpoint(
        folder,
        config=_config(folder),
        tokenizer=_tokenizer(folder),
        tensors={name: entry for file in _shards(folder) for name, entry in _safetensors(file)},
    )


def _config(folder: Path) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise _broken(folder, f"its config.json is not understood: {_first_line(error)}") from error
    return config


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not (folder / "tokenizer.json").is_file():
        raise _broken(folder, "it has no tokenizer.json")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        # The tokenizers library raises bare Exceptions for files it cannot parse.
        raise _broken(folder, f"its tokenizer is not understood: {_first_line(error)}") from error
    return tokenizer


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise _broken(folder, f"{index.name} is not understood") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise _broken(folder, f"shard {missing[0]} is missing")
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise ModelUnavailable(
            f"{folder} has weights only as pickle, which can run code: convert them to safetensors "
            "(transformers' save_pretrained does)"
        )
    raise _broken(folder, "it has no model.safetensors")


def _safetensors(file: Path) -> Iterator[tuple[str, _Entry]]:
    try:
        # Mapped, not read; it stays open as long as an entry refers to it.
        mapped: Any = safe_open(file, framework="pt")
        names: list[str] = list(mapped.keys())
        shapes = {name: tuple(mapped.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError) as error:
        raise _broken(file, f"it is cut short or no safetensors file ({_first_line(error)})") from error
    for name in names:
        yield name, _Entry(shapes[name], lambda name=name: mapped.get_tensor(name))  # type: ignore[misc]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:300]


# ---------------------------------------------------------------------------------------------------------- GGUF


def _open_gguf(file: Path) -> Checkpoint:
    reader = _reader(file)
    config, tokenizer = _gguf_metadata(file)
    return Checkpoint(file, config=config, tokenizer=tokenizer, tensors=_gguf_tensors(reader, config))


def _reader(file: Path) -> GGUFReader:
    with file.open("rb") as opened:
        magic = opened.read(4)
    if magic != b"GGUF":
        raise ModelUnavailable(f"{file} is neither a model folder nor a GGUF file")
    try:
        reader = GGUFReader(file)
    except (ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
        raise _broken(file, f"it is cut short or no GGUF file ({_first_line(error)})") from error
    field = reader.fields.get("general.architecture")
    architecture = field.contents() if field is not None else None
    if architecture not in _GGUF_ARCHITECTURES:
        raise ModelUnavailable(
            f"{file} is of architecture {architecture}; GGUF files are read of {', '.join(_GGUF_ARCHITECTURES)}. "
            "Use the model's folder of safetensors instead"
        )
    return reader


def prepare_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file's config and tokenizer in Hugging Face's form: reading them from the file takes seconds.

    Raises:
        ModelUnavailable: transformers does not understand the file.
    """
    reader = _reader(file)
    architecture = _GGUF_ARCHITECTURES[reader.fields["general.architecture"].contents()]
    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, OSError, KeyError) as error:
        raise _broken(file, f"its metadata is not understood: {_first_line(error)}") from error
    config.architectures = [architecture]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)  # last: a folder with a config is whole


def prepared_folder(file: Path) -> Path:
    """Where `prepare_gguf` puts what it makes of `file`."""
    return file.with_name(file.name + PREPARED)


def _gguf_metadata(file: Path) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    folder = prepared_folder(file)
    if not (folder / "config.json").is_file():
        try:
            prepare_gguf(file, folder)
        except OSError as error:
            raise ModelUnavailable(
                f"{folder} cannot be written ({error.strerror}): copy the model to a folder of your own"
            ) from error
    return _config(folder), _tokenizer(folder)


def _gguf_tensors(reader: GGUFReader, config: PretrainedConfig) -> dict[str, _Entry]:
    architecture: Any = getattr(gguf.MODEL_ARCH, reader.fields["general.architecture"].contents().upper())
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    to_hf: dict[str, str] = {}
    for hf_name in _hf_names(config):
        stem, _, kind = hf_name.rpartition(".")
        gguf_name = names.get_name(stem)
        if gguf_name is not None:
            to_hf[f"{gguf_name}.{kind}"] = hf_name
    heads = config.num_attention_heads
    permuted = {".q_proj.": heads, ".k_proj.": config.num_key_value_heads}
    # llama.cpp stores Llama's query and key rows for its own form of rotation; the others as they are.
    is_llama = config.architectures == ["LlamaForCausalLM"]
    entries: dict[str, _Entry] = {}
    for tensor in reader.tensors:
        name = to_hf.get(tensor.name)
        if name is None:
            continue
        groups = next((count for part, count in permuted.items() if part in name), None) if is_llama else None
        shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
        entries[name] = _Entry(shape, lambda tensor=tensor, groups=groups: _dequantised(tensor, groups))  # type: ignore[misc]
    return entries


def _hf_names(config: PretrainedConfig) -> Iterator[str]:
    yield from ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    parts = ["input_layernorm", "post_attention_layernorm"]
    parts += [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")]
    parts += [f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")]
    for layer in range(config.num_hidden_layers):
        for part in parts:
            yield f"model.layers.{layer}.{part}.weight"
            yield f"model.layers.{layer}.{part}.bias"


def _dequantised(tensor: ReaderTensor, groups: int | None) -> torch.Tensor:
    """The tensor in fp32; with `groups` heads, its rows brought back from llama.cpp's order to Hugging Face's."""
    values: np.ndarray[Any, Any] = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    if groups is not None:
        rows = values.shape[0]
        values = values.reshape(groups, rows // groups // 2, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    return torch.from_numpy(np.array(values, dtype=np.float32))
