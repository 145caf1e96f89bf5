"""A model's folder or GGUF file, opened: config, tokenizer, and tensors one at a time by Hugging Face name.

Reads safetensors and GGUF, and nothing that could run code: no pickle, no code of the model's own.
Never holds more than the tensor that is asked for; files are mapped.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from edged.engine.weights import gguf_model
from edged.engine.weights.architectures.architecture import tensors_of
from edged.engine.weights.architectures.table import decoder_shape, find
from edged.engine.weights.gguf_file import open_gguf
from edged.engine.weights.gguf_tokenizer import adds_beginning, end_tokens_of, tokenizer_of
from edged.engine.weights.other_kinds import gguf_alone, other_file, other_folder, quantised_by_others
from edged.errors import ModelUnavailable
from edged.tasks.specs import SamplingWishes

_REMEDY = "fetch it again with `edged models pull`, or name another in EDGED_MODEL__ID"
_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
_FLOATING = frozenset({"F32", "F16", "BF16"})  # safetensors' names
_NAMED = 5  # tensors in a message
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tensor:
    """A tensor that can be read."""

    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]
    is_floating: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """An opened model.

    Attributes:
        path: the folder or the GGUF file.
        end_tokens: tokens that end a reply, as the model's makers have it; empty where they do not say.
        sampling: how they sample it, as far as they say.
        always_begins: whether every prompt begins with the BOS token, also where the chat template leaves it out.
        licence: as a GGUF file names it; empty where nothing is said.
    """

    path: Path
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    end_tokens: frozenset[int]
    sampling: SamplingWishes
    always_begins: bool
    licence: str
    _tensors: Mapping[str, _Tensor]

    @property
    def parameters(self) -> int:
        """How many numbers there are, known without reading them."""
        return sum(prod(tensor.shape) for tensor in self._tensors.values())

    @property
    def vocab_size(self) -> int:
        """How many tokens the embedding has."""
        return int(self.config.get_text_config().vocab_size)

    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def has(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str) -> torch.Tensor:
        """Read a tensor. It may look into the file: copy it before changing it.

        Raises:
            ModelUnavailable: it is not there or cannot be read, or holds NaN or infinity.
        """
        if name not in self._tensors:
            raise self._broken(f"tensor {name} is missing{self._quantised_hint()}")
        try:
            tensor = self._tensors[name].read()
        except (OSError, SafetensorError) as error:
            raise self._broken(f"tensor {name} cannot be read ({_in_a_line(error)})") from error
        if tensor.dtype not in {torch.float32, torch.float16, torch.bfloat16}:
            raise self._broken(f"tensor {name} is of {tensor.dtype}{self._quantised_hint()}")
        # The extremes show NaN and infinity in one pass without a copy, 40 times as fast as isfinite().
        if tensor.numel() and not torch.stack(torch.aminmax(tensor)).isfinite().all():
            raise self._broken(f"tensor {name} holds NaN or infinity")
        return tensor

    def read_all(self) -> None:
        """Read every tensor of weights, to see that all are there and are numbers.

        Raises:
            ModelUnavailable: as `tensor` does.
        """
        for name, each in self._tensors.items():
            if each.is_floating:
                self.tensor(name)

    def expect(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Read a tensor that must have this shape.

        Raises:
            ModelUnavailable: as `tensor` does, or it has another shape.
        """
        if name in self._tensors and self._tensors[name].shape != shape:
            raise self._misshapen(name, shape)
        return self.tensor(name)

    def _misshapen(self, name: str, shape: tuple[int, ...]) -> ModelUnavailable:
        return self._broken(f"tensor {name} is {self._tensors[name].shape}, where its config means {shape}")

    def _broken(self, what: str) -> ModelUnavailable:
        return ModelUnavailable(f"the model at {self.path} cannot be used: {what}; {_REMEDY}")

    def refuse_other_tensors(self, expected: Mapping[str, tuple[int, ...]], unknown: Collection[str]) -> None:
        """Refuse a checkpoint that has not all of the expected tensors in their shapes, or has unknown ones.

        Raises:
            ModelUnavailable: as it says.
        """
        missing = [name for name in expected if name not in self._tensors]
        if missing:
            raise self._broken(f"tensor {listed(missing)} is missing{self._quantised_hint()}")
        for name, shape in expected.items():
            if self._tensors[name].shape != shape:
                raise self._misshapen(name, shape)
        if unknown:
            raise self._broken(f"tensor {listed(unknown)} is not known to its architecture")

    def refuse_quantised(self) -> None:
        """Refuse weights that another program rounded.

        Raises:
            ModelUnavailable: they are; the message says by which program, and what to take instead.
        """
        if hint := quantised_by_others(self.config):
            raise ModelUnavailable(f"the model at {self.path} cannot be used: {hint}, in EDGED_MODEL__ID")

    def _quantised_hint(self) -> str:
        hint = quantised_by_others(self.config)
        return f" ({hint})" if hint else ""


def listed(names: Collection[str]) -> str:
    """The first few names, and the number of the others."""
    more = f" (and {len(names) - _NAMED} more)" if len(names) > _NAMED else ""
    return ", ".join(sorted(names)[:_NAMED]) + more


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a folder in Hugging Face's layout, or a GGUF file; reads no tensor.

    Raises:
        ModelUnavailable: what is missing or broken, and what to do.
    """
    try:
        if path.is_dir():
            alone = gguf_alone(path)
            return _open_folder(path) if alone is None else _open_file(alone)
        if path.is_file():
            if what := other_file(path):
                raise ModelUnavailable(f"{path} {what}")
            return _open_file(path)
    except OSError as error:
        raise ModelUnavailable(f"{path} cannot be read: {error.strerror or error}; {_REMEDY}") from error
    raise ModelUnavailable(f"there is no model at {path}; {_REMEDY}")


def _open_file(path: Path) -> Checkpoint:
    file = open_gguf(path)
    config = gguf_model.config_of(file)
    stored = gguf_model.tensors_of(file, config)
    tokenizer = tokenizer_of(file)
    return Checkpoint(
        path=path,
        config=config,
        tokenizer=tokenizer,
        end_tokens=end_tokens_of(file),
        sampling=SamplingWishes(),
        always_begins=adds_beginning(file),
        licence=str(file.metadata.get("general.license", "")),
        _tensors=_biases_left_out(config)
        | {
            name: _Tensor(shape=file.tensors[each.name].shape, read=partial(gguf_model.read, file, each))
            for name, each in stored.items()
        },
    )


def _biases_left_out(config: PretrainedConfig) -> dict[str, _Tensor]:
    """Give zeros for the biases that a config means, where a GGUF file may hold a part of them."""
    family = find(config)
    if family is None or not family.gguf.may_lack_biases:
        return {}
    return {
        name: _Tensor(shape=shape, read=partial(torch.zeros, shape))
        for name, shape in tensors_of(decoder_shape(config)).items()
        if name.endswith(".bias")
    }


def _open_folder(folder: Path) -> Checkpoint:
    config = _config(folder)
    generation = _generation_config(folder)
    return Checkpoint(
        path=folder,
        config=config,
        tokenizer=_tokenizer(folder),
        end_tokens=_end_tokens(folder, generation, config),
        sampling=_sampling(generation),
        always_begins=False,
        licence="",
        _tensors=_with_prefix(
            {name: tensor for file in _weight_files(folder) for name, tensor in _tensors_of(file).items()}
        ),
    )


def _with_prefix(tensors: Mapping[str, _Tensor]) -> Mapping[str, _Tensor]:
    """Give tensors of a model that was saved without its head their full names, as transformers does."""
    if "model.embed_tokens.weight" in tensors or "embed_tokens.weight" not in tensors:
        return tensors
    return {name if name.startswith("lm_head.") else f"model.{name}": each for name, each in tensors.items()}


def _config(folder: Path) -> PretrainedConfig:
    if what := other_folder(folder):
        raise ModelUnavailable(f"{folder} {what}")
    if not (folder / "config.json").is_file():
        raise ModelUnavailable(f"{folder} has no config.json, so it is no model's folder; {_REMEDY}")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers' checks raise classes that it does not export
        raise ModelUnavailable(
            f"the config.json of {folder} is not understood ({_in_a_line(error)}); {_REMEDY}"
        ) from error
    return config


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        raise ModelUnavailable(f"{folder} has no tokenizer (tokenizer.json); {_REMEDY}")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # the tokenizers library raises bare Exception for a file that it cannot parse
        raise ModelUnavailable(
            f"the tokenizer of {folder} is not understood ({_in_a_line(error)}); {_REMEDY}"
        ) from error
    return tokenizer


def _generation_config(folder: Path) -> Mapping[str, Any]:
    """How the model's makers have it write."""
    file = folder / "generation_config.json"
    said = _json(file) if file.exists() else {}
    return said if isinstance(said, dict) else {}


def _end_tokens(folder: Path, generation: Mapping[str, Any], config: PretrainedConfig) -> frozenset[int]:
    """Give the tokens that end a turn, by the generation config or else the config.

    Raises:
        ModelUnavailable: one is beyond the vocabulary.
    """
    text_config = config.get_text_config()
    said, file = generation.get("eos_token_id"), "generation_config.json"
    if said is None:
        said, file = getattr(text_config, "eos_token_id", None), "config.json"
    ends = _ids(said)
    beyond = sorted(end for end in ends if end >= text_config.vocab_size)
    if beyond and '"eos_token_id"' in (folder / file).read_text(encoding="utf-8", errors="replace"):
        raise ModelUnavailable(
            f"the {file} of {folder} ends a turn with token {beyond[0]}, but the vocabulary ends at "
            f"{text_config.vocab_size}; mend its eos_token_id, or name another model in EDGED_MODEL__ID"
        )
    return ends - set(beyond)  # a value that nobody wrote is transformers' own


def _sampling(generation: Mapping[str, Any]) -> SamplingWishes:
    """The makers' values, but for those that are none. `do_sample` false is not heeded: small models repeat then."""

    def within(name: str, low: float, high: float) -> float | None:
        value: object = generation.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            return None
        return value

    top_k = within("top_k", 0, 1000)
    return SamplingWishes(
        temperature=within("temperature", 0.01, 2),
        top_p=within("top_p", 0.01, 1),
        top_k=None if top_k is None else int(top_k),
        repetition_penalty=within("repetition_penalty", 0.5, 2),
    )


def _ids(said: Any) -> frozenset[int]:
    """Token ids from a config, where one, several or none may stand."""
    listed = said if isinstance(said, list) else [said]
    return frozenset(each for each in listed if isinstance(each, int) and not isinstance(each, bool) and each >= 0)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file() and (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not index.is_file():
        if any(any(folder.glob(pattern)) for pattern in _PICKLES):
            raise ModelUnavailable(
                f"{folder} has its weights as pickle only, which can run code and is never loaded: convert it to "
                "safetensors (load and save_pretrained in transformers, where you trust it), or name another in "
                "EDGED_MODEL__ID"
            )
        raise ModelUnavailable(f"{folder} has no model.safetensors; {_REMEDY}")
    listing = _json(index)
    shards = listing.get("weight_map") if isinstance(listing, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) and "/" not in name for name in shards.values()):
        raise ModelUnavailable(f"{index} is damaged; {_REMEDY}")
    files = [folder / name for name in sorted(set(shards.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelUnavailable(f"{folder} lacks {', '.join(missing)}, which its index names; {_REMEDY}")
    return files


def _tensors_of(file: Path) -> dict[str, _Tensor]:
    try:
        mapped: Any = safe_open(file, framework="pt")
        slices = {name: mapped.get_slice(name) for name in mapped.keys()}  # noqa: SIM118 - no mapping, it has only this
        return {
            name: _Tensor(
                shape=tuple(part.get_shape()),
                read=partial(_read_tensor, file, name),
                is_floating=str(part.get_dtype()) in _FLOATING,
            )
            for name, part in slices.items()
        }
    except (OSError, SafetensorError) as error:
        raise ModelUnavailable(
            f"{file} is cut short or no safetensors file ({_in_a_line(error)}); {_REMEDY}"
        ) from error


def _read_tensor(file: Path, name: str) -> torch.Tensor:
    """Read from a mapping of its own: it ends with the tensor, else the whole file would stay in memory beside the
    model that is made of it.
    """
    mapped: Any = safe_open(file, framework="pt")
    tensor: torch.Tensor = mapped.get_tensor(name)
    return tensor


def _json(file: Path) -> object:
    try:
        content: object = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{file} is damaged ({_in_a_line(error)}); {_REMEDY}") from error
    return content


def _in_a_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]
