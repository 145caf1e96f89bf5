"""The rotary position embeddings of a model: their frequencies, by the model's config, and the tables made of them.

Every decoder has its table from here, so that all rotate by the same numbers.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edged.engine.weights.architectures.architecture import DecoderShape
from edged.engine.weights.architectures.table import find

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Rope:
    """What layers of a model rotate by.

    Attributes:
        frequencies: fp32, (head_dim / 2,), in radians for each position.
        scale: the factor of cosine and sine.
    """

    frequencies: npt.NDArray[np.float32]
    scale: float

    def table(self, positions: int) -> npt.NDArray[np.float32]:
        """Give cosines and sines of the first positions: (2, positions, head_dim / 2).

        The angles are rounded to fp32, as the models were trained; their cosines are exact to the last bit but one, on
        every machine.
        """
        angles = np.outer(np.arange(positions, dtype=np.float32), self.frequencies).astype(np.float64)
        return (np.stack((np.cos(angles), np.sin(angles))) * self.scale).astype(np.float32)


def ropes_of(config: "PretrainedConfig", shape: DecoderShape) -> tuple[Rope, ...]:
    """Compute the rotary embeddings that a config means; `DecoderShape.layer_kinds` numbers them."""
    family = find(config)
    if family is None:
        raise ValueError(f"{config.architectures} is of no family that is known here")
    return tuple(_rope_of(config, parameters, shape) for parameters in family.kinds(config).ropes)


def _rope_of(config: "PretrainedConfig", parameters: Mapping[str, Any], shape: DecoderShape) -> Rope:
    import torch  # noqa: PLC0415 - who serves a bundle has the frequencies from there
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: PLC0415

    kind = parameters.get("rope_type", "default")
    if kind == "none":
        return Rope(frequencies=np.zeros(shape.head_dim // 2, np.float32), scale=1.0)
    if kind == "default":
        exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        return Rope(frequencies=(1.0 / parameters["rope_theta"] ** exponents).numpy(), scale=1.0)
    alone = copy(config)  # the functions read the parameters of a config that has one rotary embedding
    alone.rope_parameters = parameters
    frequencies, scale = ROPE_INIT_FUNCTIONS[kind](alone, torch.device("cpu"))
    return Rope(frequencies=frequencies.float().numpy(), scale=float(scale))
