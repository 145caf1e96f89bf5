"""The families of models that the lean decoders compute. A new one is a file in this folder and a row here."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edged.engine.weights.architectures.architecture import Architecture, DecoderShape, shape_of, tensors_of
from edged.engine.weights.architectures.llama import LLAMA
from edged.engine.weights.architectures.qwen2 import QWEN2
from edged.engine.weights.architectures.qwen3 import QWEN3

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ARCHITECTURES: tuple[Architecture, ...] = (LLAMA, QWEN2, QWEN3)

_STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
_HARMLESS = re.compile(r".*\.rotary_emb\.inv_freq")  # computed from the config


def find(config: "PretrainedConfig") -> Architecture | None:
    """Give the family of a config; None where it has none here."""
    name = (config.architectures or [""])[0]
    return next((each for each in ARCHITECTURES if name in each.classes), None)


def supports(config: "PretrainedConfig", *, max_context_tokens: int) -> bool:
    """Tell whether the lean decoders compute exactly what this config means."""
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return (
        find(config) is not None
        and config.hidden_act == "silu"
        and config.rope_parameters.get("rope_type", "default") in _STATIC_ROPE
        and (window is None or window >= max_context_tokens)
    )


def decoder_shape(config: "PretrainedConfig") -> DecoderShape:
    """Give the sizes of a config that `supports` accepts."""
    architecture = find(config)
    if architecture is None:
        raise ValueError(f"{config.architectures} is of no family that is known here")
    return shape_of(architecture, config)


def unknown_tensors(names: Iterable[str], shape: DecoderShape) -> list[str]:
    """Give the tensors of a checkpoint that a decoder of this shape has no use for."""
    # A tied head may be stored all the same.
    known = tensors_of(shape).keys() | {f"{shape.names.head}.weight"}
    return [name for name in names if name not in known and not _HARMLESS.fullmatch(name)]
