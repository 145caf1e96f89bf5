"""The families of models that the lean decoders compute. A new one is a file in this folder and a row here."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edged.engine.weights.architectures.architecture import Architecture, DecoderShape, shape_of, tensors_of
from edged.engine.weights.architectures.gemma3 import GEMMA3
from edged.engine.weights.architectures.llama import LLAMA
from edged.engine.weights.architectures.qwen2 import QWEN2
from edged.engine.weights.architectures.qwen3 import QWEN3
from edged.engine.weights.architectures.smollm3 import SMOLLM3

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ARCHITECTURES: tuple[Architecture, ...] = (LLAMA, QWEN2, QWEN3, GEMMA3, SMOLLM3)

_STATIC_ROPE = frozenset({"none", "default", "linear", "llama3", "yarn"})
_HARMLESS = re.compile(r".*\.rotary_emb\.inv_freq")  # computed from the config


def find(config: "PretrainedConfig") -> Architecture | None:
    """Give the family of a config; None where it has none here."""
    name = (config.architectures or [""])[0]
    return next((each for each in ARCHITECTURES if name in each.classes), None)


def supports(config: "PretrainedConfig", *, max_context_tokens: int) -> bool:
    """Tell whether the lean decoders compute exactly what this config means."""
    family = find(config)
    if family is None or not family.is_plain(config):
        return False
    # Gemma's configs have another name for it, beside one that means nothing.
    act = getattr(config, "hidden_activation", None) or config.hidden_act
    ropes = family.kinds(config).ropes
    longest = exact_context(config)
    return (
        act == family.activation[0]
        and all(rope.get("rope_type", "default") in _STATIC_ROPE for rope in ropes)
        and (longest is None or longest >= max_context_tokens)
    )


def exact_context(config: "PretrainedConfig") -> int | None:
    """Give the longest context that the lean decoders compute exactly; None where there is no limit.

    A sliding window is computed only in the families whose layers have kinds.
    """
    family = find(config)
    if family is not None and any(kind.window for kind in family.kinds(config).layers):
        return None
    return getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None


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
