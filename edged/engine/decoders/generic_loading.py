"""Models for the generic decoder: which ones transformers can run as the engine needs them, and their loading.

What cannot be run right is refused before its weights are read, in words.
"""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils.logging import disable_progress_bar

from edged.engine.decoders.generic import GenericModel, PastKind, measured_bytes_per_token
from edged.engine.decoders.interface import Span
from edged.engine.decoders.linear import compute_dtype
from edged.engine.weights.checkpoint import listed
from edged.engine.weights.formats import DenseFormat
from edged.errors import ModelUnavailable

_REMEDY = "choose another model in EDGED_MODEL__ID"
# What checkpoints hold beside their weights: it is computed from the config, or was never trained.
_HARMLESS = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias|position_ids)")
_HEADS = re.compile(r".*(ForCausalLM|LMHeadModel|ForConditionalGeneration)")
_STATE_IN_MODULE = frozenset({"recurrent_gemma"})  # sequences would disturb each other
_STEPS = 6  # tokens of the trial
_MOST_OFF = 0.1  # of the logits' spread, between a prompt at once and token by token; 16 bits have a hundredth


def refuse_other_kinds(path: Path, config: PretrainedConfig) -> None:
    """Refuse a config that is of no decoder-only language model.

    Raises:
        ModelUnavailable: it is of another kind of model; the message says of which.
    """
    named = list(config.architectures or ())
    what = f"the model at {path} ({', '.join(named) or config.model_type})"
    if config.is_encoder_decoder:
        raise ModelUnavailable(f"{what} is an encoder-decoder, and only decoder-only models are run: {_REMEDY}")
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelUnavailable(f"{what} is no language model that transformers can continue a text with: {_REMEDY}")
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise ModelUnavailable(f"{what} is an encoder, which reads texts and writes none: {_REMEDY}")
    if named and not any(_HEADS.fullmatch(name) for name in named):
        raise ModelUnavailable(
            f"{what} has no language model's head, so it writes no text (it is for embeddings or labels): {_REMEDY}"
        )


def examine(path: Path, config: PretrainedConfig) -> PastKind:
    """Build the model without memory for its weights, and see that the folder has all of them and no others.

    Raises:
        ModelUnavailable: transformers cannot build it or run it as the engine needs it, or tensors are missing,
            unknown or of another shape.
    """
    refuse_other_kinds(path, config)
    model, found = _from_folder(path, config, ignore_mismatched_sizes=True, device_map="meta")
    _refuse_other_tensors(path, found)
    return _past_kind(path, model)


def load(
    path: Path, config: PretrainedConfig, *, weight_format: DenseFormat, device: torch.device
) -> tuple[GenericModel, int]:
    """Load a folder through transformers; gives the model and its number of parameters. `accelerate` places what does
    not fit one device.

    Raises:
        ModelUnavailable: as `examine` does, or a tensor holds NaN or infinity, or the model gives other numbers
            token by token than for a prompt at once.
    """
    kind = examine(path, config)
    model, found = _from_folder(
        path, config, dtype=compute_dtype(weight_format), device_map="auto" if device.type == "cuda" else None
    )
    _refuse_other_tensors(path, found)
    model.train(mode=False)
    _refuse_odd_numbers(path, model)
    tried = GenericModel(model, kind)
    with torch.inference_mode():
        try:
            bytes_per_token = measured_bytes_per_token(tried)
            if not kind.can_be_cut:
                _refuse_other_steps(path, tried)
        except ModelUnavailable:
            raise
        except Exception as error:  # a model's forward raises whatever it likes
            raise ModelUnavailable(f"the model at {path} fails on its first tokens ({_in_a_line(error)})") from error
    loaded = GenericModel(model, kind, bytes_per_token=bytes_per_token)
    return loaded, sum(parameter.numel() for parameter in model.parameters())


def _from_folder(path: Path, config: PretrainedConfig, **how: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    if not sys.stderr.isatty():
        disable_progress_bar()  # type: ignore[no-untyped-call]  # it ships no types
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            **how,
        )
    except Exception as error:  # transformers raises whatever its parts and a model's class raise
        raise ModelUnavailable(
            f"transformers cannot load the model at {path} ({_in_a_line(error)}): {_REMEDY}"
        ) from error
    model, found = loaded
    return model, found


def _refuse_other_tensors(path: Path, found: dict[str, Any]) -> None:
    unknown = sorted(name for name in found["unexpected_keys"] if not _HARMLESS.fullmatch(name))
    misshapen = [
        f"{name} is {tuple(stored)}, where its config means {tuple(meant)}"
        for name, stored, meant in sorted(found["mismatched_keys"])
    ]
    faults = [
        *([f"tensor {listed(found['missing_keys'])} is missing"] if found["missing_keys"] else ()),
        *([f"tensor {listed(misshapen)}"] if misshapen else ()),
        *([f"tensor {listed(unknown)} is not known to it"] if unknown else ()),
        *map(str, found.get("error_msgs") or ()),
    ]
    if faults:
        raise ModelUnavailable(
            f"the model at {path} cannot be used: {'; '.join(faults)}: it was saved by another program, or is not the "
            "model of its config.json; fetch it again with `edged models pull`, or name another in EDGED_MODEL__ID"
        )


def _past_kind(path: Path, model: PreTrainedModel) -> PastKind:
    arguments = inspect.signature(model.forward).parameters
    if model.config.model_type in _STATE_IN_MODULE:
        raise ModelUnavailable(
            f"the model at {path} keeps the state of a sequence in its own layers, so that sequences would disturb "
            f"each other: {_REMEDY}"
        )
    if "state" in arguments and not model._supports_default_dynamic_cache():  # type: ignore[operator]  # noqa: SLF001 - as `generate` asks
        return PastKind(argument="state", make=lambda: None, can_be_cut=False)  # RWKV
    # transformers 5.24 gave the argument another name; a call by the old one warns.
    argument = next((name for name in ("cache", "past_key_values", "cache_params") if name in arguments), None)
    if argument is None or not model._supports_default_dynamic_cache():  # type: ignore[operator]  # noqa: SLF001 - as above
        raise ModelUnavailable(
            f"the model at {path} ({type(model).__name__}) keeps the past of a sequence in a way that is not "
            f"supported: {_REMEDY}"
        )
    text_config = model.config.get_text_config(decoder=True)
    try:
        layers = DynamicCache(config=text_config).layers
    except Exception as error:  # a kind of layer that transformers' own cache does not know
        raise ModelUnavailable(f"the model at {path} has layers without a cache ({_in_a_line(error)})") from error
    if all(type(layer) in {DynamicLayer, DynamicSlidingWindowLayer, DummyLayer} for layer in layers):
        # Without the config, layers with a sliding window keep all keys too, so that a sequence can be cut anywhere;
        # the window itself is kept by the model's masks.
        return PastKind(argument=argument, make=DynamicCache, can_be_cut=True)
    return PastKind(argument=argument, make=lambda: DynamicCache(config=text_config), can_be_cut=False)


def _refuse_odd_numbers(path: Path, model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta" or not parameter.is_floating_point() or not parameter.numel():
            continue  # offloaded by accelerate
        if not torch.stack(torch.aminmax(parameter.detach())).isfinite().all():
            raise ModelUnavailable(
                f"the model at {path} cannot be used: tensor {name} holds NaN or infinity; fetch it again with "
                "`edged models pull`, or name another in EDGED_MODEL__ID"
            )


def _refuse_other_steps(path: Path, model: GenericModel) -> None:
    """Refuse a model that gives other numbers token by token, with another sequence between, than at once."""
    tokens = [(7 * i + 3) % model.vocab_size for i in range(_STEPS)]
    whole, stepped, other = (model.allocate(_STEPS) for _ in range(3))
    expected = model.forward([Span(kv=whole, tokens=tokens, wanted=(_STEPS - 1,))])[0]
    for token in tokens:
        found = model.forward([Span(kv=stepped, tokens=[token], wanted=(0,))])[0]
        model.forward([Span(kv=other, tokens=[(token + 1) % model.vocab_size], wanted=(0,))])
    off = float(np.sqrt(np.square(found - expected).mean()))
    if not off <= _MOST_OFF * float(expected.std(ddof=1)) + 1e-6:
        raise ModelUnavailable(
            f"the model at {path} gives other numbers token by token than for a text at once, so its replies could "
            f"not be trusted: {_REMEDY}"
        )


def _in_a_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]
