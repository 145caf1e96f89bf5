"""The rotary position embedding of a model: its frequencies, by the model's config, and the tables made of them.

Every decoder has its table from here, so that all rotate by the same numbers.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edged.engine.weights.architectures.architecture import DecoderShape

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Rope:
    """What a model rotates by.

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


def rope_of(config: "PretrainedConfig", shape: DecoderShape) -> Rope:
    """Compute the frequencies that a config means."""
    import torch  # noqa: PLC0415 - who serves a bundle has the frequencies from there
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: PLC0415

    parameters = config.rope_parameters
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        return Rope(frequencies=(1.0 / parameters["rope_theta"] ** exponents).numpy(), scale=1.0)
    frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return Rope(frequencies=frequencies.float().numpy(), scale=float(scale))
